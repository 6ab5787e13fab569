"""How much of an autoencoder's latent says anything about a well."""

from dataclasses import dataclass

import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class LatentUse:
    """What each latent dimension carries, over many wells.

    Attributes:
        variance: Variance of the mean latent over wells, (latent_dim,).
        kl_nats: Divergence of q(z | x) from N(0, 1), averaged over wells, nats, (latent_dim,).
    """

    variance: Tensor
    kl_nats: Tensor

    @property
    def active_units(self) -> int:
        """Number of dimensions whose mean varies over wells, with a variance above 0.01.

        Source: Burda et al. 2016 (arXiv:1509.00519), section 4.1.2.
        """
        return int((self.variance > ACTIVE_VARIANCE).sum())


def kl_per_dimension(mu: Tensor, log_var: Tensor) -> Tensor:
    """Divergence of N(mu, sigma^2) from N(0, 1) in nats, (batch, latent_dim).

        (mu^2 + sigma^2 - log sigma^2 - 1) / 2

    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
    """
    return 0.5 * (mu**2 + torch.exp(log_var) - log_var - 1.0)


def latent_means(mu: Tensor, log_var: Tensor) -> Tensor:
    """Average mu, mu^2 and the divergence over wells; (3, latent_dim), float64, which `latent_use` takes."""
    mu, log_var = mu.double(), log_var.double()
    return torch.stack([mu.mean(0), (mu**2).mean(0), kl_per_dimension(mu, log_var).mean(0)])


def latent_use(means: Tensor) -> LatentUse:
    """Return the use of the latent from `latent_means` over all wells, (3, latent_dim)."""
    mean, square, kl_nats = means
    return LatentUse((square - mean**2).clamp_min(0), kl_nats)
