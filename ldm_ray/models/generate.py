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
"""Rows of a pass through the network: enough to be near the peak of matrix products, no more than a query waits for."""
BLOCKS_AT_ONCE = 8


@dataclass(frozen=True)
class Sampling:
    """How profiles are sampled.

    Attributes:
        n_samples: Latent samples a condition.
        sampler: By which sampler.
        seed: Same seed, same numbers.
        n_draws: Draws wanted, at most `n_samples`.
    """

    n_samples: int
    sampler: SamplerChoice
    seed: int
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

    def direct_mean(self, condition: ConditionBatch, base: Tensor) -> Tensor:
        """Mean profile in one network pass, log2, (n, n_genes); see `ProfileGenerator.direct_mean`."""

    def sample(self, condition: ConditionBatch, base: Tensor, keys: Tensor, how: Sampling) -> Samples:
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
        own = standard_normal(mix(keys, Purpose.OBSERVATION), len(self.sd)) * self.sd
        return own + standard_normal(mix(keys, Purpose.FACTORS), self.factor.shape[1]) @ self.factor.T


class ProfileGenerator:
    """Samples profiles for conditions; the result for a row depends on its key and on nothing around it.

    Args:
        model: Trained diffusion model, in eval mode; later changes of its weights do not count.
        vae: Its autoencoder, in eval mode.
        noise: Observation noise, on the models' device.
        guidance: Weight of the compound's part of x0_hat, 1 for none (Ho & Salimans 2022, arXiv:2207.12598, Eq. (6),
            with its 1 + w written as one number).
        rows: Rows of a pass; 0: what suits the device. Other numbers change results by rounding.
    """

    def __init__(
        self, model: LatentDiffusion, vae: Vae, noise: ObservationNoise, guidance: float = 1.0, rows: int = 0
    ) -> None:
        self.model, self.vae, self.noise, self.guidance = model, vae, noise, guidance
        self.device = device = model.latent_mean.device
        self.rows = rows or (GPU_ROWS if device.type == "cuda" else CPU_ROWS)
        self.plans = PlanTable(device)
        with torch.inference_mode():
            self._prepared = prepare(model.denoiser, model.diffusion.num_steps)

    @property
    def has_direct_mean(self) -> bool:
        """False for heads `mean` and `epsilon` alone: at t = T their error is multiplied, by over 1000 and by 12."""
        return self.model.mean_head is not None or self.model.head in ("x0", "v")

    @torch.inference_mode()
    def direct_mean(self, condition: ConditionBatch, base: Tensor) -> Tensor:
        """Mean profile in one network pass, (n, n_genes): the regression head, or x0_hat at t = T from z_T = 0.

        Args:
            condition: n conditions.
            base: What the target is measured from, log2, (n, n_genes).
        """
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
            base: What the target is measured from, log2, (n, n_genes).
            keys: Key of each condition, (n,), int64.
            how: Numbers of samples and draws, and the sampler.
        """
        return self.sample_encoded(self.encode(condition), base, keys, how)

    @torch.inference_mode()
    def sample_encoded(self, encoded: DenoiserTerms, base: Tensor, keys: Tensor, how: Sampling) -> Samples:
        """Sample profiles of conditions that are encoded already; see `sample`."""
        parts = []
        for index in self._chunks(keys, how):
            profiles = self._profiles(encoded.rows(index), keys[index], how)
            mean, variance = mean_and_var(profiles)
            draws = self.with_noise(profiles[:, : how.n_draws], keys[index], how.seed)
            # The base is added last, so that averaging rounds small changes and not whole profiles.
            parts.append((mean + base[index], variance, draws + base[index][:, None]))
        means, variances, draws = (torch.cat(part) for part in zip(*parts, strict=True))
        return Samples(means, variances, draws, self.noise.total_var()[None])

    @torch.inference_mode()
    def latent_profiles(self, condition: ConditionBatch, keys: Tensor, how: Sampling) -> Tensor:
        """Decoder's mean at each latent sample, without base and observation noise, (n, n_samples, n_genes)."""
        encoded = self.encode(condition)
        return torch.cat([self._profiles(encoded.rows(index), keys[index], how) for index in self._chunks(keys, how)])

    def with_noise(self, profiles: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Add observation noise to the first samples of conditions, (n, n_draws, n_genes); keys are (n,)."""
        n, n_draws = profiles.shape[:2]
        if n_draws == 0:
            return profiles
        _, own = row_keys(keys, n_draws, seed)
        return profiles + in_blocks(self.noise.draw, self.rows, own).view(n, n_draws, -1)

    def _chunks(self, keys: Tensor, how: Sampling) -> tuple[Tensor, ...]:
        """Split conditions so that the samples of a chunk fill some passes."""
        a_chunk = max(1, BLOCKS_AT_ONCE * self.rows // how.n_samples)
        chunks: tuple[Tensor, ...] = torch.arange(len(keys), device=keys.device).split(a_chunk)
        return chunks

    def _profiles(self, encoded: DenoiserTerms, keys: Tensor, how: Sampling) -> Tensor:
        owner, own = row_keys(keys, how.n_samples, how.seed)
        passes = zip(owner.split(self.rows), own.split(self.rows), strict=True)
        decoded = [self._decoded(encoded.rows(some), some_keys, how.sampler) for some, some_keys in passes]
        return torch.cat(decoded).view(len(keys), how.n_samples, -1)

    def _decoded(self, encoded: DenoiserTerms, keys: Tensor, sampler: SamplerChoice) -> Tensor:
        """Decoder's means at sampled latents, for at most a pass of rows, each the first line of one plan."""
        rows = self.row_sampler()
        first, length = self.lines(sampler)
        slots = torch.arange(len(keys))
        rows.start(slots, encoded, keys, torch.full((len(keys),), first))
        for _ in range(length):
            rows.tick()
        return self.decode(rows.latents())[: len(keys)]

    def row_sampler(self) -> RowSampler:
        """Make empty rows."""
        return RowSampler(self.model, self._prepared, self.plans, self.rows, self.guidance)

    def lines(self, sampler: SamplerChoice) -> tuple[int, int]:
        """Return a sampler's first line in `plans`, and how many there are."""
        return self.plans.lines(sampler, lambda: build_plan(self.model.diffusion.schedule, sampler))

    @torch.inference_mode()
    def encode(self, condition: ConditionBatch) -> DenoiserTerms:
        """Encode conditions, and where guidance asks for it once more without their compounds."""
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
        """Go on from encoded controls and compounds, n rows each; of `condition` all but the control counts."""
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
        """Decode scaled latents (rows, latent_dim), without what the target is measured from."""
        return self.vae.decode(self.model.unscale_latent(latents))

    def _first_guess(self, terms: Tensor) -> Tensor:
        """x0_hat at t = T from z_T = 0."""
        model = self.model
        start = torch.zeros(len(terms), model.latent_dim, device=terms.device)
        t = torch.full((len(terms),), model.diffusion.num_steps - 1, device=terms.device)
        return model.diffusion.x0_and_s(model.head, self._prepared.output(start, t, terms), start, t)[0]


def row_keys(keys: Tensor, n_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Spread conditions, keys (n,), out to one row a sample: each row's condition and key, (n n_samples,), int64."""
    number = torch.arange(n_samples, device=keys.device).repeat(len(keys))
    owner = torch.arange(len(keys), device=keys.device).repeat_interleave(n_samples)
    return owner, mix(keys[owner], seed, number)
