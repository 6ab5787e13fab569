"""Losses of one diffusion step, elementwise or per row; training averages over batch and dimensions."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ldm_ray.diffusion.gaussian import GaussianDiffusion, Head, ReverseStep

Loss = Literal["nll", "paired_nll", "marginal_nll", "hybrid"]


def gaussian_nll(z_prev: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Negative log-likelihood of a sampled z_prev, without the constant, elementwise.

        1/2 [ (z_prev - mu)^2 / Sigma + log Sigma ]

    Source: Kim & Yoo, Eq. (8) and (10). Minimised at the true mean and variance of z_prev given z_t.
    """
    return 0.5 * ((z_prev - mu) ** 2 * torch.exp(-log_var) + log_var)


def marginal_nll(mu_tilde: Tensor, beta_tilde: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """`gaussian_nll` averaged in closed form over z_prev ~ N(mu_tilde, beta_tilde).

        1/2 [ ((mu_tilde - mu)^2 + beta_tilde) / Sigma + log Sigma ]

    Source: the expectation of Kim & Yoo, Eq. (8), under Eq. (9); same optimum, less noise.
    """
    return 0.5 * (((mu_tilde - mu) ** 2 + beta_tilde) * torch.exp(-log_var) + log_var)


@dataclass(frozen=True)
class RowLosses:
    """Losses of each row, averaged over latent dimensions, (batch,).

    Attributes:
        loss: The minimised loss.
        kl: Divergence of p(z_prev | z_t) from q(z_prev | z_t, z_0), nats per dimension; at t = 0, where q is a point,
            the negative log-likelihood of z_0 beyond that of an error of variance beta_1.
        vlb: The row's estimate of the variational bound on -log p(z_0), nats per dimension; comparable between heads,
            losses, schedules and chain lengths on the same latents.
        x0_error: Squared error of x0_hat.
    """

    loss: Tensor
    kl: Tensor
    vlb: Tensor
    x0_error: Tensor


@dataclass(frozen=True)
class Objective:
    """The minimised loss.

    Attributes:
        diffusion: The process.
        head: What the network predicts.
        loss: `nll` is the paper's, on a sampled z_prev; `paired_nll` its mean over two z_prev with opposite noise;
            `marginal_nll` its expectation; `hybrid` the head's squared error plus lambda times the variational bound,
            whose gradient reaches only the variance.
        vlb_weight: lambda of `hybrid`, 0.001 in the source.
        min_snr_gamma: gamma of `hybrid`: the squared error of x0_hat is weighted by min(SNR_t, gamma) for every head.

    Source: Kim & Yoo, Eq. (8) and (10); Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. (16); Hang et al. 2023
    (arXiv:2303.09556), Eq. (9).
    """

    diffusion: GaussianDiffusion
    head: Head
    loss: Loss
    vlb_weight: float = 0.001
    min_snr_gamma: float | None = None

    def rows(self, step: ReverseStep, z_0: Tensor, z_t: Tensor, t: Tensor, eps_prev: Tensor) -> RowLosses:
        """Compute the losses of each row.

        Args:
            step: The network's prediction from z_t.
            z_0: Clean latents, (batch, latent_dim).
            z_t: Noised latents, (batch, latent_dim).
            t: Zero-based steps, (batch,).
            eps_prev: N(0, 1) noise for sampling z_prev, (batch, latent_dim); used by `nll` and `paired_nll`.
        """
        mu_tilde, beta_tilde = self.diffusion.q_posterior(z_0, z_t, t)
        x0_error = (step.x0_hat - z_0) ** 2
        noise = torch.sqrt(beta_tilde) * eps_prev
        if self.loss == "nll":
            loss = gaussian_nll(mu_tilde + noise, step.mu, step.log_var)
        elif self.loss == "paired_nll":
            loss = marginal_nll(mu_tilde, noise**2, step.mu, step.log_var)
        elif self.loss == "marginal_nll":
            loss = marginal_nll(mu_tilde, beta_tilde, step.mu, step.log_var)
        else:
            bound = marginal_nll(mu_tilde, beta_tilde, step.mu.detach(), step.log_var)
            loss = self._weight(t, z_0) * x0_error + self.vlb_weight * self.diffusion.num_steps * bound
        with torch.no_grad():
            nll = marginal_nll(mu_tilde, beta_tilde, step.mu, step.log_var)
            kl = nll - self._entropy(t, z_0, 0.5 * (1 + torch.log(self.diffusion.schedule.beta[0])))
            bound = nll - self._entropy(t, z_0, self.diffusion.schedule.beta.new_tensor(-LOG_ROOT_TWO_PI))
            vlb = self.diffusion.num_steps * bound + self._prior(z_0)
        return RowLosses(loss.mean(dim=1), kl.mean(dim=1), vlb.mean(dim=1), x0_error.mean(dim=1).detach())

    def _weight(self, t: Tensor, like: Tensor) -> Tensor:
        """Weight of the squared error of x0_hat: it turns it into the head's own, or is min(SNR_t, gamma)."""
        schedule = self.diffusion.schedule
        if self.min_snr_gamma is not None:
            return self.diffusion.at(schedule.snr.clamp_max(self.min_snr_gamma), t, like)
        table = {"v": 1 / (1 - schedule.alpha_bar), "epsilon": schedule.snr}.get(self.head)
        return self.diffusion.at(torch.ones_like(schedule.snr) if table is None else table, t, like)

    def _prior(self, z_0: Tensor) -> Tensor:
        """Divergence of q(z_T | z_0) from N(0, I), where sampling starts; without it no noise would be best."""
        last = self.diffusion.schedule.alpha_bar[-1].to(z_0.dtype)
        return 0.5 * (last * z_0**2 - last - torch.log1p(-last))

    def _entropy(self, t: Tensor, like: Tensor, at_first: Tensor) -> Tensor:
        """Entropy of q(z_prev | z_t, z_0) without the constant; at t = 0, where q is a point, `at_first`, a scalar."""
        lower = self.diffusion.at(0.5 * (1 + self.diffusion.schedule.log_beta_tilde_clipped), t, like)
        return torch.where(t[:, None] == 0, at_first.to(lower.dtype), lower)


LOG_ROOT_TWO_PI = 0.9189385332046727
