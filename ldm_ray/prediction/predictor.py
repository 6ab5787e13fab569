"""Predictions from a model bundle, without Ray."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_ray.bundle.bundle import LARGEST_LATENT, Bundle, load_bundle
from ldm_ray.bundle.draw_range import explodes, range_note
from ldm_ray.chem.embedding import build_encoder
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.errors import BundleError, QueryError
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ObservationNoise, ProfileGenerator, ProfileSampler, Samples, Sampling
from ldm_ray.models.rivals.generate import PertditGenerator, PrnetGenerator
from ldm_ray.models.rivals.prnet import Prnet
from ldm_ray.prediction.compound_means import CompoundMeans
from ldm_ray.prediction.encodings import Encodings
from ldm_ray.prediction.queries import PreparedQuery, Query, QueryReader
from ldm_ray.storage.filesystem import StorageOptions

__all__ = ["Predictions", "Predictor", "Query"]


@dataclass(frozen=True)
class Predictions:
    """Predicted profiles of n queries, log2.

    Attributes:
        genes: Gene symbols, (n_genes,).
        basal: The control that each prediction starts from, (n, n_genes).
        mean: Expected expression, (n, n_genes).
        std: Standard deviation of a well around the mean, (n, n_genes): latent spread plus observation noise, times a
            scale per gene that was calibrated on validation wells. With one sample the latent spread is unknown, and
            only the noise is included.
        draws: Simulated wells, (n, n_draws, n_genes).
        similarity: Tanimoto similarity of each compound to the nearest training compound, (n,).
        out_of_domain: Whether compound, cell line, dose, time or the draws lie outside of training, (n,).
        notes: Notes on each query, for instance why it is out of domain.
    """

    genes: tuple[str, ...]
    basal: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    draws: np.ndarray
    similarity: np.ndarray
    out_of_domain: np.ndarray
    notes: tuple[str, ...]

    @property
    def delta(self) -> np.ndarray:
        """Expected change from the control, log2, (n, n_genes)."""
        return np.asarray(self.mean - self.basal)


class Predictor:
    """Answers queries with a trained model: the diffusion model, or one of its rivals."""

    def __init__(self, bundle: Bundle, device: torch.device | str = "cpu") -> None:
        if bundle.kind == "vae":
            raise BundleError("predictions need a bundle of kind 'ldm' or of a rival; got 'vae'")
        self.bundle, self.device = bundle, torch.device(device)
        self.encoder = build_encoder(bundle.config.encoder)
        stored = bundle.metadata["encoder"]
        built = {"name": self.encoder.name, "revision": self.encoder.revision, "dim": self.encoder.dim}
        if built != stored:
            raise BundleError(f"the bundle's encoder is {stored}; this version of ldm-ray builds {built}")
        self.sampler = build_sampler(bundle, self.device)
        self.reader = QueryReader(bundle)
        self.encodings = Encodings(self.encoder, self.sampler) if isinstance(self.sampler, ProfileGenerator) else None
        effects = self.reader.target_base.compounds
        self.compound_means = CompoundMeans(effects.to(self.device)) if effects else None
        self.sd_scale = bundle.tensors["sd_scale"].to(self.device)

    @staticmethod
    def from_bundle(
        url: str, device: torch.device | str | None = None, storage_options: StorageOptions | None = None
    ) -> "Predictor":
        """Load a bundle from any URL.

        Args:
            url: Folder of the bundle.
            device: Device to compute on; by default a GPU if there is one.
            storage_options: fsspec's arguments by protocol, besides the environment's.

        Raises:
            BundleError: If it is not a usable bundle.
        """
        bundle = load_bundle(url, storage_options=storage_options)
        return Predictor(bundle, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def cell_lines(self) -> list[str]:
        """The cell lines that a query may name."""
        return self.reader.cell_lines

    def predict(
        self,
        queries: Sequence[Query],
        n_samples: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        n_draws: int = 0,
    ) -> Predictions:
        """Predict profiles; the answer to a query does not depend on the other queries, to the last bit.

        Args:
            queries: At least one.
            n_samples: Latent samples per query; more give a steadier mean; default: the bundle's.
            steps: Sampling steps; default: the bundle's.
            seed: Same seed, same numbers.
            n_draws: Simulated wells per query, at most `n_samples`.

        Raises:
            QueryError: If a query cannot be answered, or a number is out of range.
        """
        how = self.sampling(n_samples, steps, seed, n_draws)
        if not queries:
            raise QueryError("there must be at least one query; got none")
        prepared = self.reader.prepare_all(queries)
        return self.predictions(prepared, self.sample(prepared, how))

    def direct_mean(self, queries: Sequence[Query]) -> np.ndarray:
        """Return expected expression without sampling, log2, (n, n_genes), if the model can; see `sampler`.

        Raises:
            QueryError: As `predict`.
        """
        prepared = self.reader.prepare_all(queries)
        return _checked(self.sampler.direct_mean(self._condition(prepared), self.base(prepared)))

    def sample(self, prepared: Sequence[PreparedQuery], how: Sampling) -> Samples:
        """Sample prepared queries; no query affects another's samples, bit for bit."""
        base, keys = self.base(prepared), self.keys(prepared)
        if isinstance(self.sampler, ProfileGenerator) and self.encodings is not None:
            return self.sampler.sample_encoded(self.encodings.encode(prepared), base, keys, how)
        return self.sampler.sample(self._condition(prepared), base, keys, how)

    def base(self, prepared: Sequence[PreparedQuery]) -> Tensor:
        """Return the base of each query's target, log2, (n, n_genes), on the device."""
        base = torch.as_tensor(self.reader.base(prepared), device=self.device)
        return base if self.compound_means is None else base + self.compound_means.of(prepared)

    def keys(self, prepared: Sequence[PreparedQuery]) -> Tensor:
        """Return the key of each query's noise, (n,), int64, on the device."""
        return torch.tensor([item.key for item in prepared], dtype=torch.int64, device=self.device)

    def sampling(
        self, n_samples: int | None = None, steps: int | None = None, seed: int = 0, n_draws: int = 0
    ) -> Sampling:
        """Return how to sample; missing numbers come from the bundle.

        Raises:
            QueryError: If a number is out of range.
        """
        longest = self.bundle.config.schedule.num_steps
        how = Sampling(
            self.bundle.config.predict.n_samples if n_samples is None else n_samples,
            self.sampler_choice(steps),
            seed,
            n_draws,
        )
        if how.n_samples < 1:
            raise QueryError(f"n_samples must be at least 1; got {how.n_samples}", field="n_samples")
        if not 2 <= how.sampler.steps <= longest:
            raise QueryError(f"steps must be between 2 and {longest}; got {how.sampler.steps}", field="steps")
        if not 0 <= n_draws <= how.n_samples:
            raise QueryError(
                f"n_draws must be between 0 and n_samples = {how.n_samples}; got {n_draws}", field="n_draws"
            )
        return how

    def predictions(self, prepared: Sequence[PreparedQuery], samples: Samples) -> Predictions:
        """Turn samples of prepared queries into predictions."""
        mean, spread, draws = (_checked(v) for v in (samples.mean, samples.std * self.sd_scale, samples.draws))
        far = self._out_of_range(samples)
        similarity, outside, notes = self.reader.judge(prepared)
        notes = tuple("; ".join(filter(None, pair)) for pair in zip(far, notes, strict=True))
        outside = outside | np.array([bool(note) for note in far])
        basal = np.stack([item.basal for item in prepared])
        return Predictions(tuple(self.bundle.gene_symbols), basal, mean, spread, draws, similarity, outside, notes)

    def _out_of_range(self, samples: Samples) -> list[str]:
        """Say for each query whether its draws leave the range of training; an empty text if not."""
        training = self.bundle.tensors.get(LARGEST_LATENT)
        if training is None:
            return [""] * len(samples.reach)
        own = None if explodes(self.bundle.metadata.get("health", {})) else self.bundle.sampler_choice()
        return [range_note(reach, float(training), own) for reach in samples.reach.tolist()]

    def used(self, n_samples: int | None, steps: int | None) -> dict[str, Any]:
        """Return the sampling numbers that `predict` would use."""
        how = self.sampling(n_samples, steps)
        return {"n_samples": how.n_samples, **asdict(how.sampler)}

    def sampler_choice(self, steps: int | None = None) -> SamplerChoice:
        """Return the sampler that `predict` uses: the bundle's, with other steps if given."""
        own = self.bundle.sampler_choice()
        return own if steps is None else replace(own, steps=steps)

    def _condition(self, prepared: Sequence[PreparedQuery]) -> ConditionBatch:
        parents = [item.parent for item in prepared]
        unique = sorted(set(parents))
        vectors = self.encoder.encode(unique)
        where = {parent: i for i, parent in enumerate(unique)}

        def tensor(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=self.device)

        return ConditionBatch(
            x_basal=tensor(np.stack([item.basal for item in prepared])),
            compound=tensor(vectors[[where[parent] for parent in parents]]),
            dose_um=tensor([item.query.dose_um for item in prepared]),
            time_h=tensor([item.query.time_h for item in prepared]),
        )


def build_sampler(bundle: Bundle, device: torch.device) -> ProfileSampler:
    """Rebuild the networks of a bundle on a device, ready to sample."""
    settings = bundle.config.predict
    if bundle.kind != "ldm":
        model = bundle.build_baseline().to(device)
        if isinstance(model, Prnet):
            return PrnetGenerator(model, settings.rows_per_batch)
        return PertditGenerator(model, bundle.config.pertdit, settings.rows_per_batch)
    noise = bundle.observation_noise()
    return ProfileGenerator(
        model=bundle.build_ldm().to_device(device),
        vae=bundle.build_vae().to(device),
        noise=ObservationNoise(noise.factor.to(device), noise.sd.to(device), noise.mean_square_size),
        guidance=settings.guidance,
        rows=settings.rows_per_batch,
        mean_is_base=bundle.config.target == "effects",
    )


def _checked(value: Tensor) -> np.ndarray:
    """Return a result as numpy; NaN or infinity is an error, never an answer."""
    array: np.ndarray = value.cpu().numpy()
    if not np.isfinite(array).all():
        raise BundleError(
            "the model predicts NaN or infinite values; its bundle is damaged, badly trained or needs its own sampler"
        )
    return array
