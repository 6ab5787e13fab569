"""The variational autoencoder of expression profiles or their changes."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ldm_ray.errors import ShapeError
from ldm_ray.keys import Purpose
from ldm_ray.models.blocks import Mlp, ResidualBlock, mean_over_global_batch
from ldm_ray.settings import VaeSettings

SMALLEST_SIZE = 1e-6


@dataclass(frozen=True)
class VaeLoss:
    """The loss to differentiate and its parts, scalars; and mean and log-variance of q(z | x), (batch, latent_dim)."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    mu: Tensor
    log_var: Tensor


class Vae(nn.Module):
    """Encoder to (mu, log_var) and decoder to the profile's mean.

    Inputs and outputs are in the target's units (log2 expression or its change). If the settings say so, genes are
    centred and scaled inside by the training split's moments.

    Real wells differ in how loud they are. With `size` the network sees a well's shape x / s, and log s is a latent of
    its own, the last one, known exactly:

        s = sqrt(mean over genes of (x_j / unit_j)^2)

    Source: Kim & Yoo, section 2.3, with the layers of the authors' public code.
    """

    gene_mean: Tensor
    gene_scale: Tensor
    unit: Tensor

    def __init__(self, n_genes: int, settings: VaeSettings) -> None:
        super().__init__()
        self.n_genes, self.latent_dim, self.sized = n_genes, settings.latent_dim, settings.size
        self.n_latents = settings.n_latents
        self.encoder = Mlp(
            n_genes, settings.encoder_widths, norm="layer", dropout=settings.dropout, salt=Purpose.DROPOUT_ENCODER
        )
        self.mu_head = nn.Linear(self.encoder.width, settings.latent_dim)
        self.log_var_head = nn.Linear(self.encoder.width, settings.latent_dim)
        self.decoder = (
            _paper_decoder(settings.latent_dim, n_genes)
            if settings.residual_decoder
            else _plain_decoder(settings.latent_dim, settings.decoder_widths, n_genes)
        )
        self.register_buffer("gene_mean", torch.zeros(n_genes))
        self.register_buffer("gene_scale", torch.ones(n_genes))
        if self.sized:
            self.register_buffer("unit", torch.ones(n_genes))

    def set_scaling(self, mean: Tensor, scale: Tensor) -> None:
        """Store per-gene moments of the training split, each (n_genes,)."""
        self.gene_mean.copy_(mean)
        self.gene_scale.copy_(scale)

    def size_of(self, x: Tensor) -> Tensor:
        """Return the sizes of profiles (batch, n_genes), (batch, 1); 1 without `size`."""
        if not self.sized:
            return torch.ones_like(x[:, :1])
        return torch.sqrt(((x / self.unit) ** 2).mean(dim=1, keepdim=True)).clamp_min(SMALLEST_SIZE)

    def size_at(self, z: Tensor) -> Tensor:
        """Return the sizes that latents (batch, n_latents) stand for, (batch, 1); 1 without `size`."""
        return torch.exp(z[:, self.latent_dim :]) if self.sized else torch.ones_like(z[:, :1])

    def encode(self, x: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (mu, log_var) of q(z | x), each (batch, n_latents), for profiles (batch, n_genes).

        The log-variance of the size is -infinity.

        Keys, (batch,), int64, are those of dropout in training.

        Raises:
            ShapeError: If x has the wrong number of genes.
        """
        if x.ndim != 2 or x.shape[1] != self.n_genes:
            raise ShapeError(f"x must be (batch, {self.n_genes}); got {tuple(x.shape)}")
        size = self.size_of(x)
        mu, log_var = self.encode_shape(x / size, keys)
        if not self.sized:
            return mu, log_var
        return torch.cat([mu, torch.log(size)], dim=1), torch.cat([log_var, torch.full_like(size, -torch.inf)], dim=1)

    def encode_shape(self, shape: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (mu, log_var) of q(z | shape), each (batch, latent_dim), for shapes (batch, n_genes)."""
        hidden = self.encoder((shape - self.gene_mean) / self.gene_scale, keys)
        return self.mu_head(hidden), self.log_var_head(hidden).clamp(-20.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean profiles, (batch, n_genes), of latents (batch, n_latents)."""
        if not self.sized:
            return self.decode_shape(z)
        return self.decode_shape(z[:, : self.latent_dim]) * self.size_at(z)

    def decode_shape(self, z: Tensor) -> Tensor:
        """Return the mean shapes, (batch, n_genes), of latents (batch, latent_dim)."""
        out: Tensor = self.decoder(z) * self.gene_scale + self.gene_mean
        return out


def reparameterise(mu: Tensor, log_var: Tensor, eps: Tensor) -> Tensor:
    """Sample z = mu + sigma eps.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), section 2.4.
    """
    return mu + torch.exp(0.5 * log_var) * eps


def vae_loss(
    vae: Vae,
    x: Tensor,
    eps: Tensor,
    kl_weight: float | Tensor,
    reduction: Literal["mean", "sum"],
    free_bits: float = 0.0,
    keys: Tensor | None = None,
) -> VaeLoss:
    """Reconstruction plus k times the divergence from N(0, I).

        |x - x_hat|^2 + k (mu^2 + sigma^2 - log sigma^2 - 1)

    With `size` it is that of the shapes.

    Source: Kim & Yoo, Eq. (2), without the usual 1/2.

    Args:
        vae: The autoencoder.
        x: Profiles, (batch, n_genes).
        eps: N(0, 1), (batch, latent_dim).
        kl_weight: k.
        reduction: `mean` averages over genes and over latent dimensions, as is common practice; `sum` is the literal
            equation divided by the number of genes, so that learning rates carry over; it weights the divergence
            latent_dim / n_genes times as much as `mean`.
        free_bits: Divergence of each latent dimension, averaged over the global batch, that is not penalised; in bits
            of the divergence with its 1/2 (Kingma et al. 2016, arXiv:1606.04934, Eq. (15)).
        keys: Keys of dropout in training, (batch,), int64.
    """
    shape = x / vae.size_of(x)
    mu, log_var = vae.encode_shape(shape, keys)
    error = (vae.decode_shape(reparameterise(mu, log_var, eps)) - shape) / vae.gene_scale
    reconstruction = (error**2).mean()
    divergence = mu**2 + torch.exp(log_var) - log_var - 1.0
    unit = 1.0 if reduction == "mean" else vae.latent_dim / vae.n_genes
    kl = unit * divergence.mean()
    if not free_bits:
        return VaeLoss(reconstruction + kl_weight * kl, reconstruction, kl, mu, log_var)
    # The bound applies to the mean over the global batch, so it does not depend on the number of workers.
    a_dimension = mean_over_global_batch(divergence)
    penalty = unit * a_dimension.clamp_min(2 * math.log(2) * free_bits).mean()
    return VaeLoss(reconstruction + kl_weight * penalty, reconstruction, kl, mu, log_var)


def _paper_decoder(latent_dim: int, n_genes: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(latent_dim, 512), nn.LeakyReLU(0.01), ResidualBlock(512)]
    layers += [nn.Linear(512, 512), nn.LeakyReLU(0.01), ResidualBlock(512)]
    for a, b in ((512, 256), (256, 512)):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, nn.Linear(512, n_genes))


def _plain_decoder(latent_dim: int, widths: tuple[int, ...], n_genes: int) -> nn.Sequential:
    hidden = Mlp(latent_dim, widths, norm="layer")
    return nn.Sequential(hidden, nn.Linear(hidden.width, n_genes))
