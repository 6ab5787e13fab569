"""The loss modules, which DDP wraps: their forward computes a loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ldm_ray.config import Config
from ldm_ray.diffusion.deciles import count_deciles, decile_of
from ldm_ray.keys import Purpose
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.latent_use import latent_means, latent_use
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae, reparameterise, vae_loss
from ldm_ray.noise import keep_mask, mix, standard_normal
from ldm_ray.training.monitor import MeanMonitor
from ldm_ray.training.rows import LatentRows, Rows, Tables, condition_of, target_of
from ldm_ray.training.step_sampling import StepSampler


@dataclass(frozen=True)
class StepLosses:
    """The loss to differentiate and what else a batch tells.

    Attributes:
        loss: Its loss, a scalar.
        parts: Other values worth plotting, scalars.
        means: Averages over the batch, of any shape, which the loop averages over the validation wells for
            `Task.monitor`; empty in training.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    means: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class VaeBatch:
    """Targets (batch, n_genes) and keys (batch,)."""

    x: Tensor
    keys: Tensor


@dataclass(frozen=True)
class DiffusionBatch:
    """Scaled latents (batch, latent_dim), their conditions, and keys (batch,)."""

    z_0: Tensor
    condition: ConditionBatch
    keys: Tensor


class VaeLossModule(nn.Module):
    """The autoencoder with its loss."""

    steps_taken: Tensor

    def __init__(self, vae: Vae, config: Config) -> None:
        super().__init__()
        self.vae, self.settings = vae, config.vae
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: VaeBatch) -> StepLosses:
        """Loss of Eq. (2) with noise keyed by row; k rises and free bits apply in training only."""
        eps = standard_normal(mix(batch.keys, Purpose.LATENT), self.vae.latent_dim)
        settings = self.settings
        kl_weight: float | Tensor = settings.kl_weight
        if self.training and settings.kl_warmup_steps:
            self.steps_taken += 1
            kl_weight = kl_weight * (self.steps_taken / (settings.kl_warmup_steps + 1)).clamp_max(1.0)
        # In validation, a bound on a mean would depend on how rows are cut into pieces.
        free_bits = settings.free_bits if self.training else 0.0
        loss = vae_loss(self.vae, batch.x, eps, kl_weight, settings.reduction, free_bits, batch.keys)
        parts = {"reconstruction": loss.reconstruction, "kl": loss.kl}
        return StepLosses(loss.loss, parts, {} if self.training else {"latent": latent_means(loss.mu, loss.log_var)})


class LdmLossModule(nn.Module):
    """The latent diffusion model with its loss."""

    def __init__(self, model: LatentDiffusion, config: Config) -> None:
        super().__init__()
        self.model, self.guidance_dropout = model, config.denoiser.guidance_dropout
        self.steps = StepSampler(model.diffusion.num_steps, importance=config.denoiser.step_sampling == "importance")

    def forward(self, batch: DiffusionBatch) -> StepLosses:
        """Loss at one drawn step per row, Eq. (10); in validation also the error of x0_hat by decile of the chain.

        With a regression head it is the loss of the head's residual plus the head's squared error.
        """
        model, diffusion, keys = self.model, self.model.diffusion, batch.keys
        encoded = model.condition_encoder(batch.condition, keys, self._without_compound(keys))
        mean = model.mean_latent(batch.condition, encoded, keys)
        z_0 = batch.z_0 - mean.detach()
        t, weight = self.steps.draw(mix(keys, Purpose.STEP))
        z_t = diffusion.q_sample(z_0, t, standard_normal(mix(keys, Purpose.FORWARD), model.latent_dim))
        step = model.reverse_step(z_t, t, encoded, keys)
        eps_prev = standard_normal(mix(keys, Purpose.PREVIOUS), model.latent_dim)
        rows = model.objective.rows(step, z_0, z_t, t, eps_prev)
        self.steps.update(t, rows.kl)
        parts = {"x0_mse": rows.x0_error.mean(), "vlb": rows.vlb.mean()}
        loss = (weight * rows.loss).mean()
        if model.mean_head is not None:
            regression = ((mean - batch.z_0) ** 2).mean()
            loss, parts["mean_mse"] = loss + regression, regression.detach()
        return StepLosses(loss, parts, {} if self.training else {"x0": self._x0_by_decile(rows.x0_error, z_0, t)})

    def _x0_by_decile(self, error: Tensor, z_0: Tensor, t: Tensor) -> Tensor:
        """Squared error of x0_hat, and that of predicting nothing, in each decile, (deciles, 2).

        Both are means over the batch in which rows of other deciles count as 0; this cancels in the quotient.
        """
        num_steps = self.model.diffusion.num_steps
        members = nn.functional.one_hot(decile_of(t, num_steps), count_deciles(num_steps)).double()
        return members.T @ torch.stack([error, (z_0**2).mean(dim=1)], dim=1).double() / len(t)

    def _without_compound(self, keys: Tensor) -> Tensor | None:
        """Mask of the rows trained without their compound, (batch,), bool."""
        if not (self.training and self.guidance_dropout):
            return None
        return ~keep_mask(mix(keys, Purpose.WITHOUT_COMPOUND), 1, 1.0 - self.guidance_dropout)[:, 0]


class Task(Protocol):
    """A model as the training loop sees it."""

    @property
    def module(self) -> nn.Module:
        """The loss module; its forward maps the result of `batch` to `StepLosses`."""

    def batch(self, rows: Rows, keys: Tensor) -> object:
        """Build the loss module's input for rows, without gradients."""

    def monitor(self, means: Mapping[str, Tensor]) -> dict[str, float]:
        """Measure the model on validation wells besides its losses; called on all workers after each epoch.

        Args:
            means: Losses and `StepLosses.means`, averaged over the validation wells of all workers.
        """


class VaeTask:
    """Train the autoencoder on profiles or their changes."""

    def __init__(self, vae: Vae, tables: Tables, config: Config) -> None:
        self.module = VaeLossModule(vae, config).to(vae.gene_mean.device)
        self.tables = tables

    def batch(self, rows: Rows, keys: Tensor) -> VaeBatch:
        """Gather targets."""
        return VaeBatch(target_of(rows, self.tables), keys)

    def monitor(self, means: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the number of active latent dimensions, and the divergence of all together in nats."""
        use = latent_use(means["latent"])
        return {"active_units": float(use.active_units), "kl_nats": float(use.kl_nats.sum())}


class LdmTask:
    """Train the diffusion model on sampled latents of a fixed autoencoder."""

    def __init__(
        self,
        model: LatentDiffusion,
        latents: "Latents",
        tables: Tables,
        config: Config,
        monitor: MeanMonitor | None = None,
    ) -> None:
        self.module = LdmLossModule(model, config).to(model.latent_mean.device)
        self.model, self.latents, self.tables, self._monitor = model, latents, tables, monitor

    def batch(self, rows: Rows, keys: Tensor) -> DiffusionBatch:
        """Sample latents and gather conditions."""
        z = self.latents.sample(rows, keys)
        return DiffusionBatch(self.model.scale_latent(z), condition_of(rows, self.tables), keys)

    def monitor(self, means: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the error of x0_hat by decile of the chain, and squared error and delta correlation of the mean."""
        errors = {f"x0_error_d{number}": float(part / whole) for number, (part, whole) in enumerate(means["x0"], 1)}
        return errors | (self._monitor.measure(self.model, self.latents.vae) if self._monitor else {})


class Latents:
    """Latents of rows under a fixed autoencoder: encoded here, or from the moments that rows already carry.

    Args:
        vae: The autoencoder.
        tables: Tables that the rows refer to.
    """

    def __init__(self, vae: Vae, tables: Tables) -> None:
        self.vae, self.tables = vae, tables

    @torch.no_grad()
    def moments(self, rows: Rows) -> Tensor:
        """Return mean and log-variance of q(z | x) side by side, (n, 2 latent_dim)."""
        if isinstance(rows, LatentRows):
            return rows.moments
        return torch.cat(self.vae.encode(target_of(rows, self.tables)), dim=1)

    def sample(self, rows: Rows, keys: Tensor) -> Tensor:
        """Sample z from q(z | x) with noise keyed by row, (n, latent_dim)."""
        mu, log_var = self.moments(rows).chunk(2, dim=1)
        return reparameterise(mu, log_var, standard_normal(mix(keys, Purpose.LATENT), self.vae.n_latents))
