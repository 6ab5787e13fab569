"""The latent diffusion model: condition encoder, denoiser and diffusion process."""

import torch
from torch import Tensor, nn

from ldm_ray.config import Config
from ldm_ray.diffusion.gaussian import GaussianDiffusion, ReverseStep
from ldm_ray.diffusion.losses import Objective
from ldm_ray.diffusion.schedule import build_schedule
from ldm_ray.keys import Purpose
from ldm_ray.models.batch_norm import normalise_in_groups
from ldm_ray.models.blocks import KeyedDropout
from ldm_ray.models.condition import ConditionBatch, ConditionEncoder
from ldm_ray.models.denoiser import build_denoiser

SMALLEST_EIGENVALUE = 1e-4
"""Of the correlation of latents; dimensions that carry nothing are not blown up further."""


class LatentDiffusion(nn.Module):
    """Predicts the reverse step of a scaled latent, given a condition.

    Source: Kim & Yoo, section 2.4.
    """

    latent_mean: Tensor
    latent_scale: Tensor
    whitening: Tensor
    colouring: Tensor

    def __init__(self, n_genes: int, embedding_dim: int, config: Config) -> None:
        super().__init__()
        schedule, latent_dim, settings = config.schedule, config.vae.n_latents, config.denoiser
        self.condition_encoder = ConditionEncoder(n_genes, embedding_dim, settings)
        condition_dim = self.condition_encoder.width
        self.denoiser = build_denoiser(latent_dim, condition_dim, schedule.num_steps, settings)
        self.mean_head = (
            MeanHead(embedding_dim, condition_dim, latent_dim, settings.compound_dropout)
            if settings.mean_head
            else None
        )
        normalise_in_groups(self, settings.norm_groups, config.ray.lanes)
        self.head, self._settings = settings.head, settings
        self._schedule = build_schedule(
            schedule.kind,
            schedule.num_steps,
            schedule.beta_first,
            schedule.beta_last,
            zero_terminal_snr=schedule.zero_terminal_snr,
        )
        self.diffusion = GaussianDiffusion(self._schedule)
        self.latent_dim = latent_dim
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_scale", torch.ones(latent_dim))
        if settings.whiten:
            self.register_buffer("whitening", torch.eye(latent_dim))
            self.register_buffer("colouring", torch.eye(latent_dim))

    def set_latent_scaling(self, mean: Tensor, scale: Tensor) -> None:
        """Store the moments of the sampled training latents, each (latent_dim,)."""
        self.latent_mean.copy_(mean)
        self.latent_scale.copy_(scale)

    def set_whitening(self, correlation: Tensor) -> None:
        """Store the symmetric roots of the correlation of the sampled training latents, (latent_dim, latent_dim)."""
        values, vectors = torch.linalg.eigh(correlation.double())
        root = torch.sqrt(values.clamp_min(SMALLEST_EIGENVALUE))
        self.whitening.copy_(vectors / root @ vectors.T)
        self.colouring.copy_(vectors * root @ vectors.T)

    def scale_latent(self, z: Tensor) -> Tensor:
        """Scale VAE latents to zero mean and unit variance; with `whiten` also to no correlation."""
        scaled = (z - self.latent_mean) / self.latent_scale
        return scaled @ self.whitening if self._settings.whiten else scaled

    def unscale_latent(self, z_0: Tensor) -> Tensor:
        """Undo `scale_latent`."""
        scaled = z_0 @ self.colouring if self._settings.whiten else z_0
        return scaled * self.latent_scale + self.latent_mean

    def reverse_step(self, z_t: Tensor, t: Tensor, condition: Tensor, keys: Tensor | None = None) -> ReverseStep:
        """Mean and variance of p(z_prev | z_t, c).

        Args:
            z_t: Scaled noised latent, (batch, latent_dim).
            t: Zero-based step, (batch,), int64.
            condition: Encoded condition, (batch, condition_dim).
            keys: Keys of dropout in training, (batch,), int64.
        """
        output = self.denoiser(z_t, t, condition, keys)
        return self.diffusion.p_step(self.head, output, z_t, t)

    def mean_latent(self, condition: ConditionBatch, encoded: Tensor, keys: Tensor | None = None) -> Tensor:
        """Mean of the scaled latent by the regression head, (batch, latent_dim); 0 without a head.

        Keys, (batch,), int64, are those of dropout in training.
        """
        if self.mean_head is None:
            return torch.zeros(len(encoded), self.latent_dim, device=encoded.device, dtype=encoded.dtype)
        out: Tensor = self.mean_head(condition.compound, encoded, keys)
        return out

    @property
    def objective(self) -> Objective:
        """The loss of a step, on the schedule's device."""
        settings = self._settings
        return Objective(self.diffusion, self.head, settings.loss, settings.vlb_weight, settings.min_snr_gamma)

    def to_device(self, device: torch.device) -> "LatentDiffusion":
        """Move weights and schedule."""
        self.diffusion = GaussianDiffusion(self._schedule, device)
        return self.to(device)


class MeanHead(nn.Module):
    """Regression of the scaled latent on the condition: linear in the compound plus linear in the encoded condition.

    Note:
        With weight decay, the compound's part is a ridge regression: with few compounds it is the part that generalises
        to new ones. Both parts start at 0, the mean over all training wells.
    """

    def __init__(self, embedding_dim: int, condition_dim: int, latent_dim: int, compound_dropout: float) -> None:
        super().__init__()
        self.dropout = KeyedDropout(compound_dropout, salt=Purpose.DROPOUT_MEAN_HEAD)
        self.of_compound = nn.Linear(embedding_dim, latent_dim, bias=False)
        self.of_condition = nn.Linear(condition_dim, latent_dim)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, compound: Tensor, encoded: Tensor, keys: Tensor | None = None) -> Tensor:
        """Return (batch, latent_dim) for embeddings (batch, embedding_dim) and encodings (batch, condition_dim)."""
        out: Tensor = self.of_compound(self.dropout(compound, keys)) + self.of_condition(encoded)
        return out
