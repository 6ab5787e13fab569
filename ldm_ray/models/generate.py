"""From conditions to profiles: diffusion model, decoder and observation noise.

A *draw* is the decoder's mean at a sampled latent plus observation noise. A *mean* averages the decoder's means over
sampled latents, without observation noise. The *direct mean* decodes the model's own estimate of the mean latent, made
in one pass: that of the regression head if there is one, else x0_hat at t = T. Everything is log2 expression; the
profile that the target is measured from (`base`) is added back.
"""

import threading
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm_ray.diffusion.samplers import SamplerChoice, build_plan
from ldm_ray.keys import Purpose
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.in_blocks import in_blocks, mean_and_var
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.prepared import prepare
from ldm_ray.models.row_sampler import DenoiserTerms, PlanTable, RowSampler
from ldm_ray.models.vae import Vae
from ldm_ray.noise import mix, standard_normal

CPU_ROWS, GPU_ROWS = 128, 8192
"""Rows per pass through the network: enough for fast matrix products, few enough for a single query."""
BLOCKS_AT_ONCE = 8


@dataclass(frozen=True)
class Sampling:
    """How profiles are sampled.

    Attributes:
        n_samples: Latent samples per condition.
        sampler: The sampler.
        seed: Same seed, same numbers.
        n_draws: Draws to return, at most `n_samples`.
        n_latents: Latent samples to return, at most `n_samples`.
    """

    n_samples: int
    sampler: SamplerChoice
    seed: int
    n_draws: int = 0
    n_latents: int = 0


@dataclass(frozen=True)
class Samples:
    """Sampled profiles of n conditions, log2.

    Attributes:
        mean: Mean over latent samples of the decoder's mean, (n, n_genes).
        latent_var: Variance over latent samples of the decoder's mean, unbiased, (n, n_genes); 0 for one sample.
        draws: The first `n_draws` draws, with observation noise, (n, n_draws, n_genes).
        noise_var: Additional variance of a draw, (n or 1, n_genes).
        reach: Largest absolute value of a scaled latent sample, (n,); 0 for models without latents.
        latents: The first `n_latents` scaled latent samples, (n, n_latents, latent_dim).
    """

    mean: Tensor
    latent_var: Tensor
    draws: Tensor
    noise_var: Tensor
    reach: Tensor
    latents: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of draws, (n, n_genes)."""
        return torch.sqrt(self.latent_var + self.noise_var)


class ProfileSampler(Protocol):
    """Samples profiles for conditions: the latent diffusion model or a rival."""

    @property
    def has_direct_mean(self) -> bool:
        """Whether the model has a mean without sampling."""

    def direct_mean(self, condition: ConditionBatch, base: Tensor) -> Tensor:
        """Mean profile in one network pass, log2, (n, n_genes); see `ProfileGenerator.direct_mean`."""

    def sample(self, condition: ConditionBatch, base: Tensor, keys: Tensor, how: Sampling) -> Samples:
        """Sample profiles; see `ProfileGenerator.sample`."""


@dataclass(frozen=True)
class ObservationNoise:
    """Residual of the decoder, as a zero-mean Gaussian with covariance factor factor^T + diag(sd^2).

    Attributes:
        factor: Shared factors, (n_genes, rank).
        sd: Standard deviation of the rest, (n_genes,).
        mean_square_size: Mean squared size of wells, by which the noise of a well is multiplied; 1 if all are alike.
    """

    factor: Tensor
    sd: Tensor
    mean_square_size: float = 1.0

    def total_var(self) -> Tensor:
        """Variance of each gene over wells, (n_genes,)."""
        return self.mean_square_size * ((self.factor**2).sum(dim=1) + self.sd**2)

    def draw(self, keys: Tensor) -> Tensor:
        """Draw noise for each key, (n, n_genes)."""
        own = standard_normal(mix(keys, Purpose.OBSERVATION), len(self.sd)) * self.sd
        return own + standard_normal(mix(keys, Purpose.FACTORS), self.factor.shape[1]) @ self.factor.T


class ProfileGenerator:
    """Samples profiles for conditions; a row's result depends only on its condition and key, not on other rows.

    Args:
        model: Trained diffusion model, in eval mode; later changes of its weights have no effect.
        vae: Its autoencoder, in eval mode.
        noise: Observation noise, on the models' device.
        guidance: Weight of the compound's part of x0_hat; 1 means no guidance (the 1 + w of Ho & Salimans 2022,
            arXiv:2207.12598, Eq. (6)).
        rows: Rows per pass; 0 suits the device. Other numbers change results by rounding.
        mean_is_base: Whether the base is the mean already, so that the model only scatters wells around it.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        vae: Vae,
        noise: ObservationNoise,
        guidance: float = 1.0,
        rows: int = 0,
        *,
        mean_is_base: bool = False,
    ) -> None:
        self.model, self.vae, self.noise, self.guidance = model, vae, noise, guidance
        self._mean_is_base = mean_is_base and model.mean_head is None
        self.device = device = model.latent_mean.device
        self.rows = rows or (GPU_ROWS if device.type == "cuda" else CPU_ROWS)
        self.plans, self._thread = PlanTable(device), threading.local()
        with torch.inference_mode():
            self._prepared = prepare(model.denoiser, model.diffusion.num_steps)

    @property
    def has_direct_mean(self) -> bool:
        """False for heads `mean` and `epsilon` alone, as their error at t = T is multiplied by over 1000 and by 12."""
        return self._mean_is_base or self.model.mean_head is not None or self.model.head in ("x0", "v")

    @torch.inference_mode()
    def direct_mean(self, condition: ConditionBatch, base: Tensor) -> Tensor:
        """Mean profile in at most one network pass, (n, n_genes).

        It is the base if that is the mean, else that of the regression head, or x0_hat at t = T from z_T = 0.

        Args:
            condition: n conditions.
            base: Profiles that the target is measured from, log2, (n, n_genes).
        """
        if self._mean_is_base:
            return base
        encoded = self.encode(condition)
        mean = encoded.mean
        if self.model.mean_head is None:
            mean = in_blocks(self._first_guess, self.rows, encoded.terms)
            if encoded.without_compound is not None:
                without = in_blocks(self._first_guess, self.rows, encoded.without_compound)
                mean = without + self.guidance * (mean - without)
        return in_blocks(self.decode, self.rows, mean) + base

    @torch.inference_mode()
    def sample(self, condition: ConditionBatch, base: Tensor, keys: Tensor, how: Sampling) -> Samples:
        """Sample profiles.

        Args:
            condition: n conditions.
            base: Profiles that the target is measured from, log2, (n, n_genes).
            keys: Key of each condition, (n,), int64.
            how: Numbers of samples and draws, sampler and seed.
        """
        return self.sample_encoded(self.encode(condition), base, keys, how)

    @torch.inference_mode()
    def sample_encoded(self, encoded: DenoiserTerms, base: Tensor, keys: Tensor, how: Sampling) -> Samples:
        """Sample profiles for encoded conditions; see `sample`."""
        parts = []
        for index in self._chunks(keys, how):
            latents = self._latents(encoded.rows(index), keys[index], how)
            profiles = self._decoded(latents)
            mean, variance = mean_and_var(profiles)
            drawn = profiles[:, : how.n_draws], self.sizes(latents[:, : how.n_draws])
            draws = self.with_noise(*drawn, keys[index], how.seed)
            # The base is added last, so that averages round small changes and not whole profiles.
            shifted = (mean + base[index], variance, draws + base[index][:, None])
            parts.append((*shifted, reach_of(latents), latents[:, : how.n_latents]))
        means, variances, draws, reach, kept = (torch.cat(part) for part in zip(*parts, strict=True))
        return Samples(means, variances, draws, self.noise.total_var()[None], reach, kept)

    @torch.inference_mode()
    def latent_profiles(self, condition: ConditionBatch, keys: Tensor, how: Sampling) -> Tensor:
        """Decoder's mean at each latent sample, without base and observation noise, (n, n_samples, n_genes)."""
        encoded = self.encode(condition)
        chunks = self._chunks(keys, how)
        return torch.cat([self._decoded(self._latents(encoded.rows(index), keys[index], how)) for index in chunks])

    @torch.inference_mode()
    def sizes(self, latents: Tensor) -> Tensor:
        """Return the sizes of sampled scaled latents (..., n_latents), (...,); 1 for an autoencoder without sizes."""
        return self.vae.size_at(self.model.unscale_latent(latents.reshape(-1, latents.shape[-1]))).view(
            latents.shape[:-1]
        )

    def with_noise(self, profiles: Tensor, sizes: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Add observation noise to each condition's first samples.

        Args:
            profiles: Decoder's means, (n, n_draws, n_genes).
            sizes: Their sizes, (n, n_draws).
            keys: Key of each condition, (n,), int64.
            seed: Seed of the noise.
        """
        n, n_draws = profiles.shape[:2]
        if n_draws == 0:
            return profiles
        _, own = row_keys(keys, n_draws, seed)
        noise = in_blocks(self.noise.draw, self.rows, own).view(n, n_draws, -1)
        return profiles + (noise * sizes[..., None] if self.vae.sized else noise)

    def _chunks(self, keys: Tensor, how: Sampling) -> tuple[Tensor, ...]:
        """Split conditions into chunks whose samples fill a few passes."""
        a_chunk = max(1, BLOCKS_AT_ONCE * self.rows // how.n_samples)
        chunks: tuple[Tensor, ...] = torch.arange(len(keys), device=keys.device).split(a_chunk)
        return chunks

    def _latents(self, encoded: DenoiserTerms, keys: Tensor, how: Sampling) -> Tensor:
        """Sample scaled latents, (n, n_samples, latent_dim)."""
        owner, own = row_keys(keys, how.n_samples, how.seed)
        passes = zip(owner.split(self.rows), own.split(self.rows), strict=True)
        sampled = [self._one_pass(encoded.rows(some), some_keys, how.sampler) for some, some_keys in passes]
        return torch.cat(sampled).view(len(keys), how.n_samples, -1)

    def _decoded(self, latents: Tensor) -> Tensor:
        """Decode sampled latents, (n, n_samples, n_genes)."""
        return in_blocks(self.decode, self.rows, latents.flatten(0, 1)).view(*latents.shape[:2], -1)

    def _one_pass(self, encoded: DenoiserTerms, keys: Tensor, sampler: SamplerChoice) -> Tensor:
        """Sample scaled latents of at most one pass of rows, all on the same plan."""
        rows = self._own_rows()
        first, length = self.lines(sampler)
        slots = torch.arange(len(keys))
        rows.start(slots, encoded, keys, torch.full((len(keys),), first))
        for _ in range(length):
            rows.tick()
        return rows.latents()[: len(keys)]

    def _own_rows(self) -> RowSampler:
        """Return this thread's sampler; it is kept, since on a GPU its first ticks are slow."""
        if not hasattr(self._thread, "rows"):
            self._thread.rows = self.row_sampler()
        rows: RowSampler = self._thread.rows
        return rows

    def row_sampler(self) -> RowSampler:
        """Build a sampler with empty rows."""
        return RowSampler(self.model, self._prepared, self.plans, self.rows, self.guidance)

    def lines(self, sampler: SamplerChoice) -> tuple[int, int]:
        """Return a sampler's first line in `plans`, and its number of lines."""
        return self.plans.lines(sampler, lambda: build_plan(self.model.diffusion.schedule, sampler))

    @torch.inference_mode()
    def encode(self, condition: ConditionBatch) -> DenoiserTerms:
        """Encode conditions, and with guidance also without their compounds."""
        basal, compound = self.encode_basal(condition.x_basal), self.encode_compound(condition.compound)
        return self.encode_parts(basal, compound, condition)

    @torch.inference_mode()
    def encode_basal(self, x_basal: Tensor) -> Tensor:
        """Encode controls (n, n_genes)."""
        return in_blocks(self.model.condition_encoder.encode_basal, self.rows, x_basal)

    @torch.inference_mode()
    def encode_compound(self, compound: Tensor) -> Tensor:
        """Encode compound embeddings (n, embedding_dim)."""
        return in_blocks(self.model.condition_encoder.encode_compound, self.rows, compound)

    @torch.inference_mode()
    def encode_parts(self, basal: Tensor, compound: Tensor, condition: ConditionBatch) -> DenoiserTerms:
        """Encode conditions from encoded controls and compounds, n rows each; `condition.x_basal` is not used."""
        model, encoder, rows = self.model, self.model.condition_encoder, self.rows
        own = (condition.dose_um, condition.time_h)
        encoded = in_blocks(encoder.join, rows, basal, compound, *own)
        mean = torch.zeros(len(encoded), model.latent_dim, device=encoded.device)
        if model.mean_head is not None:
            mean = in_blocks(model.mean_head, rows, condition.compound, encoded)
        without_compound = None
        if self.guidance != 1.0:
            assert encoder.no_compound is not None
            nothing = encoder.no_compound.expand(len(encoded), -1)
            without = in_blocks(encoder.join, rows, basal, nothing, *own)
            without_compound = in_blocks(self._prepared.condition_terms, rows, without)
        return DenoiserTerms(in_blocks(self._prepared.condition_terms, rows, encoded), mean, without_compound)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (rows, latent_dim), without adding the base."""
        return self.vae.decode(self.model.unscale_latent(latents))

    def _first_guess(self, terms: Tensor) -> Tensor:
        """x0_hat at t = T from z_T = 0."""
        model = self.model
        start = torch.zeros(len(terms), model.latent_dim, device=terms.device)
        t = torch.full((len(terms),), model.diffusion.num_steps - 1, device=terms.device)
        return model.diffusion.x0_and_s(model.head, self._prepared.output(start, t, terms), start, t)[0]


def reach_of(latents: Tensor) -> Tensor:
    """Largest absolute value of each condition's latent samples, (n,), from (n, n_samples, latent_dim)."""
    return latents.abs().amax(dim=(1, 2))


def row_keys(keys: Tensor, n_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return condition and key of each sample, (n n_samples,), int64, for conditions with keys (n,)."""
    number = torch.arange(n_samples, device=keys.device).repeat(len(keys))
    owner = torch.arange(len(keys), device=keys.device).repeat_interleave(n_samples)
    return owner, mix(keys[owner], seed, number)
