"""From a condition to profiles: the diffusion model, the decoder and the observation noise together.

A *draw* is the decoder's mean at a sampled latent plus observation noise. A *mean* averages decoder means over
sampled latents, without observation noise; the *direct mean* decodes the model's own estimate of the mean
latent, made in one pass: the regression head where there is one, else x0_hat at t = T. Everything is in log2
expression; what the target is measured from (`base`) is added back.
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
class Sampling:
    """How profiles are sampled.

    Attributes:
        n_samples: Latent samples a condition.
        steps: Steps of the respaced chain, between 2 and its full length.
        seed: Same seed, same numbers.
        rows_per_batch: Network rows at once.
        n_draws: Draws wanted, at most `n_samples`.
    """

    n_samples: int
    steps: int
    seed: int
    rows_per_batch: int
    n_draws: int = 0


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

    def sample(self, condition: Condition, base: Tensor, keys: Tensor, how: Sampling) -> Samples:
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
        guidance: Weight of the compound's part of x0_hat, 1 for none (Ho & Salimans 2022, arXiv:2207.12598, Eq. (6),
            with its 1 + w written as one number).
    """

    def __init__(self, model: LatentDiffusion, vae: Vae, noise: ObservationNoise, guidance: float = 1.0) -> None:
        self.model, self.vae, self.noise, self.guidance = model, vae, noise, guidance

    @property
    def has_direct_mean(self) -> bool:
        """False for heads `mean` and `epsilon` alone: at t = T their error is multiplied, by over 1000 and by 12."""
        return self.model.mean_head is not None or self.model.head in ("x0", "v")

    @torch.inference_mode()
    def direct_mean(self, condition: Condition, base: Tensor) -> Tensor:
        """Mean profile in one network pass, (n, n_genes): the regression head, or x0_hat at t = T from z_T = 0.

        Args:
            condition: n conditions.
            base: What the target is measured from, log2, (n, n_genes).
        """
        told = self._tell(condition)
        mean = told.mean
        if self.model.mean_head is None:
            start = torch.zeros_like(mean)
            mean = self._denoise(start, self.model.diffusion.num_steps - 1, told)[0]
        return self.vae.decode(self.model.unscale_latent(mean)) + base

    @torch.inference_mode()
    def sample(self, condition: Condition, base: Tensor, keys: Tensor, how: Sampling) -> Samples:
        """Sample profiles.

        Args:
            condition: n conditions.
            base: What the target is measured from, log2, (n, n_genes).
            keys: Key of each condition, (n,), int64.
            how: Numbers of samples, steps and draws.
        """
        respacing = respace(self.model.diffusion.schedule, spaced_steps(self.model.diffusion.num_steps, how.steps))
        per_chunk = max(1, how.rows_per_batch // how.n_samples)
        parts = [
            self._sample_chunk(condition.rows(index), base[index], keys[index], respacing, how)
            for index in torch.arange(len(keys), device=keys.device).split(per_chunk)
        ]
        means, variances, draws = (torch.cat(part) for part in zip(*parts, strict=True))
        return Samples(means, variances, draws, self.noise.total_var()[None])

    def _sample_chunk(
        self, condition: Condition, base: Tensor, keys: Tensor, respacing: Respacing, how: Sampling
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, n_samples, latent_dim = len(keys), how.n_samples, self.model.latent_dim
        told = self._tell(condition).repeated(n_samples)
        number = torch.arange(n_samples, device=keys.device).repeat(n)
        keys = mix(keys.repeat_interleave(n_samples), how.seed, number)
        z_0 = ancestral_sample(
            lambda z_t, t: self._denoise(z_t, t, told),
            respacing,
            standard_normal(mix(keys, START), latent_dim),
            lambda t: standard_normal(mix(keys, REVERSE, t), latent_dim),
        )
        decoded = self.vae.decode(self.model.unscale_latent(told.mean + z_0))
        grouped = decoded.view(n, n_samples, -1)
        mean = grouped.mean(dim=1)
        variance = grouped.var(dim=1) if n_samples > 1 else torch.zeros_like(mean)
        noise = self.noise.draw(keys[number < how.n_draws]).view(n, how.n_draws, decoded.shape[1])
        # The base is added last, so that averaging rounds small changes and not whole profiles.
        return mean + base, variance, grouped[:, : how.n_draws] + noise + base[:, None]

    def _tell(self, condition: Condition) -> "_Told":
        """Encode conditions, and where guidance asks for it once more without their compounds."""
        model = self.model
        encoded = model.condition_encoder(condition)
        mean, untold = model.mean_latent(condition, encoded), None
        if self.guidance != 1.0:
            without = torch.ones(len(encoded), dtype=torch.bool, device=encoded.device)
            untold = model.condition_encoder(condition, untold=without)
        return _Told(encoded, mean, untold)

    def _denoise(self, z_t: Tensor, t: int, told: "_Told") -> tuple[Tensor, Tensor]:
        """x0_hat and s at one step of the whole chain."""
        steps = torch.full((len(z_t),), t, device=z_t.device)
        step = self.model.reverse_step(z_t, steps, told.encoded)
        if told.untold is None:
            return step.x0_hat, step.s
        without = self.model.reverse_step(z_t, steps, told.untold).x0_hat
        return without + self.guidance * (step.x0_hat - without), step.s


@dataclass(frozen=True)
class _Told:
    """Encoded conditions (n, condition_dim), their regressed latents (n, latent_dim), and both without compounds."""

    encoded: Tensor
    mean: Tensor
    untold: Tensor | None

    def repeated(self, times: int) -> "_Told":
        """Repeat each row."""
        untold = None if self.untold is None else self.untold.repeat_interleave(times, dim=0)
        return _Told(self.encoded.repeat_interleave(times, dim=0), self.mean.repeat_interleave(times, dim=0), untold)
