"""Predictions from a model bundle, without Ray."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_ray.baselines.generate import PertditGenerator, PrnetGenerator
from ldm_ray.baselines.prnet import Prnet
from ldm_ray.chem.embedding import build_encoder
from ldm_ray.chem.smiles import parent_smiles
from ldm_ray.data.filesystem import StorageOptions
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.domain import Domain
from ldm_ray.errors import BundleError, QueryError
from ldm_ray.keys import key_of
from ldm_ray.models.condition import Condition
from ldm_ray.models.generate import ObservationNoise, ProfileGenerator, ProfileSampler, Sampling
from ldm_ray.training.bundle import Bundle, load_bundle


@dataclass(frozen=True)
class Query:
    """What would this compound, at this dose, after this time, do to these cells?

    Attributes:
        smiles: The compound; salts and spellings of one parent structure are one compound.
        dose_um: Micromolar, above 0.
        time_h: Hours, above 0.
        cell: A cell line that the bundle knows; its mean training control at the nearest time is the basal.
        basal: Or a basal profile, log2, (n_genes,), in the bundle's gene order.
    """

    smiles: str
    dose_um: float
    time_h: float
    cell: str = ""
    basal: np.ndarray | None = None


@dataclass(frozen=True)
class Predictions:
    """Predicted profiles of n queries, log2.

    Attributes:
        genes: Gene symbols, (n_genes,).
        basal: The control that each prediction starts from, (n, n_genes).
        mean: Expected expression, (n, n_genes).
        std: Standard deviation of a well around the mean, (n, n_genes): latent spread plus observation noise, times
            the per-gene scale under which validation wells are covered as they should be. With one sample the
            latent spread is unknown and only the noise is in it.
        draws: Simulated wells, (n, n_draws, n_genes).
        similarity: Tanimoto similarity of each compound to the nearest training compound, (n,).
        out_of_domain: Whether compound, cell line, dose or time lie outside of what was trained on, (n,).
        notes: What to know about each query, for instance why it is out of domain.
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
            raise BundleError("predictions want a bundle of kind 'ldm', or a rival's; got 'vae'")
        self.bundle, self.device = bundle, torch.device(device)
        self.encoder = build_encoder(bundle.config.encoder)
        stored = bundle.metadata["encoder"]
        built = {"name": self.encoder.name, "revision": self.encoder.revision, "dim": self.encoder.dim}
        if built != stored:
            raise BundleError(f"the bundle's encoder is {stored}; this version of ldm-ray builds {built}")
        self.sampler = build_sampler(bundle, self.device)
        self.sd_scale = bundle.tensors["sd_scale"].to(self.device)
        self.domain = Domain.from_bundle(bundle.metadata["domain"], bundle.tensors["train.fingerprints"].numpy())
        self._target_base = bundle.target_base()
        self._cells = bundle.metadata["cells"]
        self._cell_basal = bundle.tensors["cells.basal"].numpy()

    @staticmethod
    def from_bundle(
        url: str, device: torch.device | str | None = None, storage_options: StorageOptions | None = None
    ) -> "Predictor":
        """Load a bundle from any URL.

        Args:
            url: Folder of the bundle.
            device: Where to compute; a GPU if there is one by default.
            storage_options: fsspec's arguments by protocol, beside what the environment says.

        Raises:
            BundleError: If it is not a usable bundle.
        """
        bundle = load_bundle(url, storage_options=storage_options)
        return Predictor(bundle, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def cell_lines(self) -> list[str]:
        """Cell lines that a query may name."""
        return sorted({entry["cell"] for entry in self._cells})

    def predict(
        self,
        queries: Sequence[Query],
        n_samples: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        n_draws: int = 0,
    ) -> Predictions:
        """Predict profiles; the answer to a query does not depend on the others beside it.

        Args:
            queries: At least one.
            n_samples: Latent samples a query; more give a steadier mean.
            steps: Steps of the sampler.
            seed: Same seed, same numbers.
            n_draws: Simulated wells wanted a query, at most `n_samples`.

        Raises:
            QueryError: For the first query that cannot be answered, or for numbers out of range.
        """
        n_samples = self.bundle.config.predict.n_samples if n_samples is None else n_samples
        sampler = self.sampler_choice(steps)
        self._check_numbers(len(queries), n_samples, sampler.steps, n_draws)
        prepared = [self._prepare(query) for query in queries]
        basal = np.stack([item.basal for item in prepared])
        condition, keys = self._condition(prepared, basal)
        how = Sampling(n_samples, sampler, seed, n_draws)
        samples = self.sampler.sample(condition, self._base(queries, basal), keys, how)
        mean, spread, draws = (_checked(v) for v in (samples.mean, samples.std * self.sd_scale, samples.draws))
        similarity, outside, notes = self._judge(queries, prepared)
        genes = tuple(self.bundle.gene_symbols)
        return Predictions(genes, basal, mean, spread, draws, similarity, outside, notes)

    def direct_mean(self, queries: Sequence[Query]) -> np.ndarray:
        """Expected expression of each query without sampling, log2, (n, n_genes), where the model can; see `sampler`.

        Raises:
            QueryError: As `predict`.
        """
        prepared = [self._prepare(query) for query in queries]
        basal = np.stack([item.basal for item in prepared])
        condition, _ = self._condition(prepared, basal)
        return _checked(self.sampler.direct_mean(condition, self._base(queries, basal)))

    def _judge(
        self, queries: Sequence[Query], prepared: "list[_Prepared]"
    ) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Similarity to training, whether out of domain, and notes of each query."""
        similarity = self.domain.similarity([item.parent for item in prepared])
        outside = [
            self.domain.notes(float(near), query.cell, query.dose_um, query.time_h)
            for near, query in zip(similarity, queries, strict=True)
        ]
        notes = tuple(
            "; ".join([*([item.note] if item.note else []), *more])
            for item, more in zip(prepared, outside, strict=True)
        )
        return similarity, np.array([bool(more) for more in outside]), notes

    def used(self, n_samples: int | None, steps: int | None) -> dict[str, Any]:
        """Return the numbers that `predict` takes where none are given."""
        own = self.bundle.config.predict.n_samples
        return {"n_samples": own if n_samples is None else n_samples, **asdict(self.sampler_choice(steps))}

    def sampler_choice(self, steps: int | None = None) -> SamplerChoice:
        """Return the sampler that `predict` takes: the bundle's own, with other steps where they are given."""
        own = self.bundle.sampler_choice()
        return own if steps is None else replace(own, steps=steps)

    def _check_numbers(self, n_queries: int, n_samples: int, steps: int, n_draws: int) -> None:
        longest = self.bundle.config.schedule.num_steps
        if n_queries == 0:
            raise QueryError("at least one query is wanted; got none")
        if n_samples < 1:
            raise QueryError(f"n_samples must be at least 1; got {n_samples}")
        if not 2 <= steps <= longest:
            raise QueryError(f"steps must be between 2 and {longest}; got {steps}")
        if not 0 <= n_draws <= n_samples:
            raise QueryError(f"n_draws must be between 0 and n_samples = {n_samples}; got {n_draws}")

    def _condition(self, prepared: "list[_Prepared]", basal: np.ndarray) -> tuple[Condition, Tensor]:
        parents = [item.parent for item in prepared]
        unique = sorted(set(parents))
        vectors = self.encoder.encode(unique)
        where = {parent: i for i, parent in enumerate(unique)}
        rows = [where[parent] for parent in parents]

        def tensor(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=self.device)

        condition = Condition(
            x_basal=tensor(basal),
            compound=tensor(vectors[rows]),
            dose_um=tensor([item.dose_um for item in prepared]),
            time_h=tensor([item.time_h for item in prepared]),
        )
        keys = torch.tensor([item.key for item in prepared], dtype=torch.int64, device=self.device)
        return condition, keys

    def _base(self, queries: Sequence[Query], basal: np.ndarray) -> Tensor:
        """What the target is measured from, (n, n_genes)."""
        target, groups = self._target_base.target, [(query.cell, query.time_h) for query in queries]
        if target == "absolute":
            basal = np.zeros_like(basal)
        elif target == "residual":
            basal = basal + np.stack([self._target_base.of_group(*group) for group in groups])
        return torch.as_tensor(basal, dtype=torch.float32, device=self.device)

    def _prepare(self, query: Query) -> "_Prepared":
        for name, value in (("dose_um", query.dose_um), ("time_h", query.time_h)):
            if not (math.isfinite(value) and value > 0):
                raise QueryError(f"{name} must be a number above 0; got {value}")
        parent = parent_smiles(query.smiles)
        basal, origin, note = self._basal(query)
        key = key_of(parent, origin, f"{query.dose_um:.6g}", f"{query.time_h:.6g}")
        return _Prepared(parent, basal, query.dose_um, query.time_h, key, note)

    def _basal(self, query: Query) -> tuple[np.ndarray, str | bytes, str]:
        if query.basal is not None:
            basal = np.asarray(query.basal, dtype=np.float32)
            if basal.shape != (self.bundle.n_genes,) or not np.isfinite(basal).all():
                raise QueryError(f"basal must be {self.bundle.n_genes} finite log2 values; got shape {basal.shape}")
            return basal, basal.tobytes(), ""
        rows = [i for i, entry in enumerate(self._cells) if entry["cell"] == query.cell]
        if not rows:
            near = difflib.get_close_matches(query.cell.upper(), self.cell_lines, n=3, cutoff=0.3)
            hint = f"; near matches: {', '.join(near)}" if near else f"; known: {', '.join(self.cell_lines[:12])}"
            raise QueryError(f"cell line {query.cell!r} is not in the bundle{hint}")
        row = min(rows, key=lambda i: (abs(self._cells[i]["time_h"] - query.time_h), i))
        time_h = self._cells[row]["time_h"]
        note = "" if time_h == query.time_h else f"control of {query.cell} taken at {time_h:g} h, the nearest time"
        return self._cell_basal[row], f"{query.cell}@{time_h:g}", note


@dataclass(frozen=True)
class _Prepared:
    parent: str
    basal: np.ndarray
    dose_um: float
    time_h: float
    key: int
    note: str


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
        noise=ObservationNoise(noise.factor.to(device), noise.sd.to(device)),
        guidance=settings.guidance,
        rows=settings.rows_per_batch,
    )


def _checked(value: Tensor) -> np.ndarray:
    """Return a result as numpy; a NaN is an error, never an answer."""
    array: np.ndarray = value.cpu().numpy()
    if not np.isfinite(array).all():
        raise BundleError("the model predicts NaN or infinite values; its bundle is damaged or badly trained")
    return array
