"""The latent diffusion model: condition encoder, denoiser and diffusion process together."""

import torch
from torch import Tensor, nn

from ldm_ray.config import Config
from ldm_ray.diffusion.gaussian import GaussianDiffusion, ReverseStep
from ldm_ray.diffusion.schedule import linear_schedule
from ldm_ray.models.condition import ConditionEncoder
from ldm_ray.models.denoiser import Denoiser


class LatentDiffusion(nn.Module):
    """Predicts the reverse step of a scaled latent, given a condition.

    Source: Kim & Yoo, section 2.4.
    """

    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, n_genes: int, embedding_dim: int, config: Config) -> None:
        super().__init__()
        schedule, latent_dim = config.schedule, config.vae.latent_dim
        self.condition_encoder = ConditionEncoder(n_genes, embedding_dim, config.denoiser)
        self.denoiser = Denoiser(latent_dim, self.condition_encoder.width, schedule.num_steps, config.denoiser)
        self.head = config.denoiser.head
        self._schedule = linear_schedule(schedule.num_steps, schedule.beta_first, schedule.beta_last)
        self.diffusion = GaussianDiffusion(self._schedule)
        self.latent_dim = latent_dim
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_scale", torch.ones(latent_dim))

    def set_latent_scaling(self, mean: Tensor, scale: Tensor) -> None:
        """Store the moments of the sampled training latents, each (latent_dim,)."""
        self.latent_mean.copy_(mean)
        self.latent_scale.copy_(scale)

    def scale_latent(self, z: Tensor) -> Tensor:
        """Bring VAE latents to zero mean and unit variance."""
        return (z - self.latent_mean) / self.latent_scale

    def unscale_latent(self, z_0: Tensor) -> Tensor:
        """Undo `scale_latent`."""
        return z_0 * self.latent_scale + self.latent_mean

    def reverse_step(self, z_t: Tensor, t: Tensor, condition: Tensor, keys: Tensor | None = None) -> ReverseStep:
        """Mean and variance of p(z_prev | z_t, c).

        Args:
            z_t: Scaled noised latent, (batch, latent_dim).
            t: Zero-based step, (batch,), int64.
            condition: Encoded condition, (batch, condition_dim).
            keys: Decide dropout in training, (batch,), int64.
        """
        output = self.denoiser(z_t, t, condition, keys)
        return self.diffusion.p_step(self.head, output, z_t, t)

    def to_device(self, device: torch.device) -> "LatentDiffusion":
        """Move weights and schedule."""
        self.diffusion = GaussianDiffusion(self._schedule, device)
        return self.to(device)
