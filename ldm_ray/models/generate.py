"""From a condition to profiles: the diffusion model, the decoder and the observation noise together.

A *draw* is the decoder's mean at a sampled latent plus observation noise. A *mean* averages decoder means over
sampled latents, without observation noise; the *direct mean* decodes the model's own estimate of the mean
latent, made in one pass at t = T. Everything is in log2 expression; for target `delta` the basal profile is
added back.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm_ray.diffusion.samplers import Respacing, ancestral_sample, respace, spaced_steps
from ldm_ray.models.condition import Condition
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.noise import mix, standard_normal

START, REVERSE, OBSERVATION, FACTORS = 20, 21, 22, 23
"""Purposes of noise, mixed into the key."""


@dataclass(frozen=True)
class Samples:
    """Sampled profiles of n conditions, log2.

    Attributes:
        mean: Mean over latent samples of the decoder's mean, (n, n_genes).
        latent_var: Variance over latent samples of the decoder's mean, unbiased, (n, n_genes); 0 for one sample.
        draws: The first `n_draws` draws, with observation noise, (n, n_draws, n_genes).
        noise_var: Variance that a draw has beside that, (n or 1, n_genes).
    """

    mean: Tensor
    latent_var: Tensor
    draws: Tensor
    noise_var: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of draws, (n, n_genes)."""
        return torch.sqrt(self.latent_var + self.noise_var)


class ProfileSampler(Protocol):
    """What makes profiles for conditions: the latent diffusion model, or a rival."""

    @property
    def has_direct_mean(self) -> bool:
        """Whether the mean can be had without sampling."""

    def direct_mean(self, condition: Condition, base: Tensor) -> Tensor:
        """Mean profile in one network pass, log2, (n, n_genes); see `ProfileGenerator.direct_mean`."""

    def sample(
        self,
        condition: Condition,
        base: Tensor,
        keys: Tensor,
        n_samples: int,
        steps: int,
        seed: int,
        rows_per_batch: int,
        n_draws: int = 0,
    ) -> Samples:
        """Sample profiles; see `ProfileGenerator.sample`."""


@dataclass(frozen=True)
class ObservationNoise:
    """What the decoder leaves out, as a zero-mean Gaussian of covariance factor factor^T + diag(sd^2).

    Attributes:
        factor: (n_genes, rank).
        sd: (n_genes,).
    """

    factor: Tensor
    sd: Tensor

    def total_var(self) -> Tensor:
        """Variance of each gene, (n_genes,)."""
        return (self.factor**2).sum(dim=1) + self.sd**2

    def draw(self, keys: Tensor) -> Tensor:
        """Draw noise for each key, (n, n_genes)."""
        own = standard_normal(mix(keys, OBSERVATION), len(self.sd)) * self.sd
        return own + standard_normal(mix(keys, FACTORS), self.factor.shape[1]) @ self.factor.T


class ProfileGenerator:
    """Samples profiles for conditions; the result for a row depends on its key and on nothing around it.

    Args:
        model: Trained diffusion model, in eval mode.
        vae: Its autoencoder, in eval mode.
        noise: Observation noise, on the models' device.
        adds_basal: True for target `delta`.
    """

    def __init__(self, model: LatentDiffusion, vae: Vae, noise: ObservationNoise, adds_basal: bool) -> None:
        self.model, self.vae, self.noise, self.adds_basal = model, vae, noise, adds_basal

    @property
    def has_direct_mean(self) -> bool:
        """False for head `mean`: there x0_hat at t = T is the output's error times 1 / A_T, over a thousand."""
        return self.model.head != "mean"

    @torch.inference_mode()
    def direct_mean(self, condition: Condition, base: Tensor) -> Tensor:
        """Mean profile in one network pass, (n, n_genes): the x0-estimate at t = T from z_T = 0.

        Args:
            condition: n conditions.
            base: The control that target `delta` is added to, log2, (n, n_genes).
        """
        encoded = self.model.condition_encoder(condition)
        z_t = torch.zeros(len(encoded), self.model.latent_dim, device=encoded.device)
        t = torch.full((len(encoded),), self.model.diffusion.num_steps - 1, device=encoded.device)
        decoded = self.vae.decode(self.model.unscale_latent(self.model.reverse_step(z_t, t, encoded).x0_hat))
        return decoded + base if self.adds_basal else decoded

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        base: Tensor,
        keys: Tensor,
        n_samples: int,
        steps: int,
        seed: int,
        rows_per_batch: int,
        n_draws: int = 0,
    ) -> Samples:
        """Sample profiles.

        Args:
            condition: n conditions.
            base: The control that target `delta` is added to, log2, (n, n_genes).
            keys: Key of each condition, (n,), int64.
            n_samples: Latent samples a condition.
            steps: Steps of the respaced chain, between 2 and its full length.
            seed: Same seed, same numbers.
            rows_per_batch: Network rows at once.
            n_draws: Draws wanted, at most `n_samples`.
        """
        respacing = respace(self.model.diffusion.schedule, spaced_steps(self.model.diffusion.num_steps, steps))
        per_chunk = max(1, rows_per_batch // n_samples)
        parts = [
            self._sample_chunk(condition.rows(index), base[index], keys[index], n_samples, respacing, seed, n_draws)
            for index in torch.arange(len(keys), device=keys.device).split(per_chunk)
        ]
        means, variances, draws = (torch.cat(part) for part in zip(*parts, strict=True))
        return Samples(means, variances, draws, self.noise.total_var()[None])

    def _sample_chunk(
        self,
        condition: Condition,
        base: Tensor,
        keys: Tensor,
        n_samples: int,
        respacing: Respacing,
        seed: int,
        n_draws: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n = len(keys)
        encoded = self.model.condition_encoder(condition).repeat_interleave(n_samples, dim=0)
        number = torch.arange(n_samples, device=keys.device).repeat(n)
        keys = mix(keys.repeat_interleave(n_samples), seed, number)
        latent_dim = self.model.latent_dim

        def denoise(z_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
            step = self.model.reverse_step(z_t, torch.full((len(z_t),), t, device=z_t.device), encoded)
            return step.x0_hat, step.s

        start = standard_normal(mix(keys, START), latent_dim)
        z_0 = ancestral_sample(denoise, respacing, start, lambda t: standard_normal(mix(keys, REVERSE, t), latent_dim))
        decoded = self.vae.decode(self.model.unscale_latent(z_0))
        grouped = decoded.view(n, n_samples, -1)
        mean = grouped.mean(dim=1)
        variance = grouped.var(dim=1) if n_samples > 1 else torch.zeros_like(mean)
        noise = self.noise.draw(keys[number < n_draws]).view(n, n_draws, decoded.shape[1])
        # The base is added last, so that averaging rounds small changes and not whole profiles.
        start = base if self.adds_basal else torch.zeros_like(base)
        return mean + start, variance, grouped[:, :n_draws] + noise + start[:, None]
