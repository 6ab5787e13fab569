"""The modules whose forward computes a loss; DDP wraps exactly these."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ldm_ray.config import Config
from ldm_ray.diffusion.losses import gaussian_nll_loss, hybrid_loss, marginal_nll_loss
from ldm_ray.errors import SettingsError
from ldm_ray.models.condition import Condition
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae, reparameterise, vae_loss
from ldm_ray.noise import mix, standard_normal, uniform_integers
from ldm_ray.training.rows import Rows, Tables, condition_of, target_of

LATENT, STEP, FORWARD, PREVIOUS = 10, 11, 12, 13
"""Purposes of noise, mixed into the key."""


@dataclass(frozen=True)
class StepLosses:
    """The scalar to differentiate and what else is worth plotting; scalars."""

    loss: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class VaeBatch:
    """Targets (batch, n_genes) and keys (batch,)."""

    x: Tensor
    keys: Tensor


@dataclass(frozen=True)
class DiffusionBatch:
    """Scaled latents (batch, latent_dim), their conditions, and keys (batch,)."""

    z_0: Tensor
    condition: Condition
    keys: Tensor


class VaeLossModule(nn.Module):
    """The autoencoder with its loss."""

    def __init__(self, vae: Vae, config: Config) -> None:
        super().__init__()
        self.vae, self.config = vae, config

    def forward(self, batch: VaeBatch) -> StepLosses:
        """Loss of Eq. (2) with noise keyed by row."""
        eps = standard_normal(mix(batch.keys, LATENT), self.vae.latent_dim)
        settings = self.config.vae
        loss = vae_loss(self.vae, batch.x, eps, settings.kl_weight, settings.reduction)
        return StepLosses(loss.loss, {"reconstruction": loss.reconstruction, "kl": loss.kl})


class LdmLossModule(nn.Module):
    """The latent diffusion model with its loss."""

    def __init__(self, model: LatentDiffusion, config: Config) -> None:
        super().__init__()
        self.model, self.config = model, config
        if config.denoiser.loss == "hybrid" and config.denoiser.head == "mean":
            raise SettingsError("denoiser.loss hybrid wants denoiser.head x0 or v; got mean")

    def forward(self, batch: DiffusionBatch) -> StepLosses:
        """Loss at one uniformly drawn step a row, Eq. (10)."""
        model, diffusion, settings = self.model, self.model.diffusion, self.config.denoiser
        t = uniform_integers(mix(batch.keys, STEP), diffusion.num_steps)
        eps = standard_normal(mix(batch.keys, FORWARD), model.latent_dim)
        z_t = diffusion.q_sample(batch.z_0, t, eps)
        condition = model.condition_encoder(batch.condition, batch.keys)
        step = model.reverse_step(z_t, t, condition, batch.keys)
        mu_tilde, beta_tilde = diffusion.q_posterior(batch.z_0, z_t, t)
        x0_mse = ((step.x0_hat - batch.z_0) ** 2).mean().detach()
        if settings.loss == "nll":
            z_prev = mu_tilde + torch.sqrt(beta_tilde) * standard_normal(mix(batch.keys, PREVIOUS), model.latent_dim)
            return StepLosses(gaussian_nll_loss(z_prev, step.mu, step.log_var), {"x0_mse": x0_mse})
        if settings.loss == "marginal_nll":
            loss = marginal_nll_loss(mu_tilde, beta_tilde, step.mu, step.log_var)
            return StepLosses(loss, {"x0_mse": x0_mse})
        error = (step.x0_hat - batch.z_0) ** 2
        if settings.head == "v":
            # (v_hat - v)^2 = (x0_hat - z_0)^2 / (1 - alpha_bar_t), the head being linear in x0_hat
            error = error / (1 - diffusion.schedule.alpha_bar[t])[:, None].to(error.dtype)
        nll = marginal_nll_loss(mu_tilde, beta_tilde, step.mu.detach(), step.log_var)
        loss = hybrid_loss(error.mean(), nll, settings.vlb_weight, diffusion.num_steps)
        return StepLosses(loss, {"x0_mse": x0_mse, "nll": nll.detach()})


class Task(Protocol):
    """What the training loop needs to know of a model."""

    @property
    def module(self) -> nn.Module:
        """The loss module; its forward takes what `batch` returns and gives `StepLosses`."""

    def batch(self, rows: Rows, keys: Tensor) -> object:
        """Build the loss module's input for some rows; nothing here is differentiated."""


class VaeTask:
    """Train the autoencoder on profiles or their changes."""

    def __init__(self, vae: Vae, tables: Tables, config: Config) -> None:
        self.module = VaeLossModule(vae, config)
        self.tables, self.target = tables, config.target

    def batch(self, rows: Rows, keys: Tensor) -> VaeBatch:
        """Gather targets."""
        return VaeBatch(target_of(rows, self.tables, self.target), keys)


class LdmTask:
    """Train the diffusion model on sampled latents of a fixed autoencoder."""

    def __init__(self, model: LatentDiffusion, latents: "Latents", tables: Tables, config: Config) -> None:
        self.module = LdmLossModule(model, config)
        self.model, self.latents, self.tables = model, latents, tables

    def batch(self, rows: Rows, keys: Tensor) -> DiffusionBatch:
        """Sample latents and gather conditions."""
        z = self.latents.sample(rows, keys)
        return DiffusionBatch(self.model.scale_latent(z), condition_of(rows, self.tables), keys)


class Latents:
    """Latents of rows under a fixed autoencoder: encoded now, or from moments that the rows carry already.

    Args:
        vae: The autoencoder.
        tables: What rows refer to.
        target: `absolute` or `delta`.
        encoded: The rows' `values` are moments, not profiles.
    """

    def __init__(self, vae: Vae, tables: Tables, target: str, encoded: bool = False) -> None:
        self.vae, self.tables, self.target, self.encoded = vae, tables, target, encoded

    @torch.no_grad()
    def moments(self, rows: Rows) -> Tensor:
        """Return mean and log-variance of q(z | x) side by side, (n, 2 latent_dim)."""
        if self.encoded:
            return rows.values
        return torch.cat(self.vae.encode(target_of(rows, self.tables, self.target)), dim=1)

    def sample(self, rows: Rows, keys: Tensor) -> Tensor:
        """Sample z of q(z | x) with noise keyed by row, (n, latent_dim)."""
        mu, log_var = self.moments(rows).chunk(2, dim=1)
        return reparameterise(mu, log_var, standard_normal(mix(keys, LATENT), self.vae.latent_dim))
