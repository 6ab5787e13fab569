"""A trained model's predictions for scored wells: draws, means, and ablations."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.draw_range import explodes
from ldm_ray.chem.embedding import build_encoder, load_embeddings
from ldm_ray.data.controls import basal_input
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import Wells
from ldm_ray.effects.wells import NO_COMPOUND, DatasetBase
from ldm_ray.errors import DataError
from ldm_ray.evaluation.baselines.residuals import ResidualClouds
from ldm_ray.evaluation.scores.predicted import PredictedWells
from ldm_ray.keys import Purpose, generator
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import Samples, Sampling
from ldm_ray.prediction.predictor import Predictor
from ldm_ray.settings import EncoderSettings

CUT = 1e6
"""log2; where the values of a model that is known to explode are cut off, so that its rows can be scored and read."""
ABLATIONS = ("-no-compound", "-shuffled-compound", "-no-dose", "-no-time")
"""Suffixes of the rows of ablations, in which a model lacks one input."""


@dataclass(frozen=True)
class ModelInputs:
    """Everything that a bundle needs to predict a dataset's wells; small enough to send to another process.

    Attributes:
        name: Name of its rows.
        bundle: The trained model.
        basal: Input profile for each control, (n_basal, n_genes).
        base: What the target is measured from.
        compounds: Ids of the wells' compounds, sorted, (n,).
        embeddings: Their embeddings, (n, dim).
        cells: Names of the dataset's cell lines, by number.
    """

    name: str
    bundle: Bundle
    basal: np.ndarray
    base: DatasetBase
    compounds: np.ndarray
    embeddings: np.ndarray
    cells: list[str]


def model_inputs(dataset: PairedDataset, bundle: Bundle, compound_ids: np.ndarray, name: str) -> ModelInputs:
    """Gather what a bundle needs to predict wells of these compounds."""
    compounds = np.unique(compound_ids)
    embeddings = _embeddings(dataset, bundle.config.encoder, dataset.parent_smiles[compounds].tolist())
    base = bundle.target_base().on(dataset)
    return ModelInputs(
        name, bundle, basal_input(dataset, bundle.basal_input), base, compounds, embeddings, dataset.cells
    )


@dataclass(frozen=True)
class Treatment:
    """What n wells were treated with, or what an ablation says they were.

    Attributes:
        compound: Compound ids of the dataset, (n,), or `NO_COMPOUND`.
        dose_um: Micromolar, (n,).
        time_h: Hours, (n,).
    """

    compound: np.ndarray
    dose_um: np.ndarray
    time_h: np.ndarray


def treatment_of(wells: Wells) -> Treatment:
    """Return the wells' own treatment."""
    frame = wells.frame
    amounts = (frame[name].to_numpy(np.float32) for name in ("dose_um", "time_h"))
    return Treatment(frame["compound_id"].to_numpy(), *amounts)


class Model:
    """A bundle, ready to predict wells.

    Args:
        inputs: From `model_inputs`.
        n_samples: Latent samples of each `mean_of_N` row; a rival uses only the first number.
        seed: Seed of samples and of the shuffled compounds.
        n_draws: Draws of each well, at most the first of `n_samples`.
    """

    def __init__(self, inputs: ModelInputs, n_samples: tuple[int, ...], seed: int, n_draws: int = 1) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name, self.seed, self._inputs = inputs.name, seed, inputs
        self.predictor = Predictor(inputs.bundle, device)
        self.is_rival = inputs.bundle.kind != "ldm"
        self._explodes = explodes(inputs.bundle.metadata.get("health", {}))
        self.n_samples = n_samples[:1] if self.is_rival else n_samples
        self._n_draws = min(n_draws, self.n_samples[0])
        residuals = inputs.bundle.residuals()
        self._clouds = None if residuals is None else ResidualClouds(residuals, seed)

    def predict(self, wells: Wells) -> Iterator[PredictedWells]:
        """Yield the model's draw, means and direct mean, then its ablations.

        Ablations are direct means if the model has one, else means of N. Rivals have no ablations.
        """
        treatment, start = treatment_of(wells), self._inputs.base.start
        start = None if start is None else start[wells.frame["basal_id"].to_numpy()]
        for number, n_samples in enumerate(self.n_samples):
            samples = self.sample(wells, n_samples, n_draws=self._n_draws if number == 0 else 0)
            if number == 0:
                first, *more = (self._scored(draw) for draw in samples.draws.unbind(1))
                yield PredictedWells(self.name, "one_draw", first, more_draws=more, start=start)
            sd = self._scored(samples.std * self.predictor.sd_scale)
            spread, mean = self._scored(samples.latent_var.mean(dim=1)), self._scored(samples.mean)
            yield PredictedWells(self.name, f"mean_of_{n_samples}", mean, sd, spread, n_samples, start=start)
        if self.predictor.sampler.has_direct_mean:
            yield PredictedWells(self.name, *self._mean(wells, treatment), start=start)
        if self._clouds is not None:
            yield from self._without_diffusion(wells, treatment, start)
        if not self.is_rival:
            for what, changed in self._ablations(treatment):
                yield PredictedWells(self.name + what, *self._mean(wells, changed), start=start)

    def _without_diffusion(
        self, wells: Wells, treatment: Treatment, start: np.ndarray | None
    ) -> Iterator[PredictedWells]:
        """Yield clouds around the model's mean that need no diffusion."""
        assert self._clouds is not None
        cells = [self._inputs.cells[cell] for cell in wells.frame["cell_id"]]
        groups = list(zip(cells, wells.frame["time_h"].astype(float), strict=True))
        mean, numbers = self._mean(wells, treatment)[1], range(self._n_draws)
        replayed = [self._clouds.random_residual(mean, groups, wells.keys, number) for number in numbers]
        gaussian = [self._clouds.gaussian_size(mean, wells.keys, number) for number in numbers]
        for what, (first, *more) in (("-random-residual", replayed), ("-gaussian-size", gaussian)):
            yield PredictedWells(self.name + what, "one_draw", first, more_draws=more, start=start)

    def condition(self, wells: Wells, treatment: Treatment | None = None) -> ConditionBatch:
        """Gather the model's input for wells, treated as they were or with something else."""
        given = treatment or treatment_of(wells)
        none = given.compound == NO_COMPOUND
        known = np.where(none, self._inputs.compounds[0], given.compound)
        embeddings = self._inputs.embeddings[np.searchsorted(self._inputs.compounds, known)]
        return ConditionBatch(
            x_basal=self._tensor(self._inputs.basal[wells.frame["basal_id"].to_numpy()]),
            compound=self._tensor(np.where(none[:, None], np.float32(0), embeddings)),
            dose_um=self._tensor(given.dose_um),
            time_h=self._tensor(given.time_h),
        )

    def sample(
        self, wells: Wells, n_samples: int, n_draws: int = 0, n_latents: int = 0, treatment: Treatment | None = None
    ) -> Samples:
        """Sample wells, treated as they were or with something else, keyed by their profile ids."""
        condition, base = self.condition(wells, treatment), self.base(wells, treatment)
        how = Sampling(n_samples, self.predictor.sampler_choice(), self.seed, n_draws, n_latents)
        return self.predictor.sampler.sample(condition, base, self._tensor(wells.keys), how)

    def _mean(self, wells: Wells, treatment: Treatment) -> tuple[str, np.ndarray]:
        if self.predictor.sampler.has_direct_mean:
            condition, base = self.condition(wells, treatment), self.base(wells, treatment)
            return "mean_direct", self.predictor.sampler.direct_mean(condition, base).cpu().numpy()
        n_samples = self.n_samples[0]
        return f"mean_of_{n_samples}", self._scored(self.sample(wells, n_samples, treatment=treatment).mean)

    def _scored(self, values: Tensor) -> np.ndarray:
        """Return values to score, all finite if the model is known to explode."""
        array: np.ndarray = values.cpu().numpy()
        return np.nan_to_num(array.clip(-CUT, CUT), nan=CUT) if self._explodes else array

    def _ablations(self, treatment: Treatment) -> Iterator[tuple[str, Treatment]]:
        """Remove one input at a time: the model sees none or another compound instead."""
        compounds = self._inputs.compounds
        order = generator(self.seed, Purpose.SHUFFLED_COMPOUND).permutation(len(compounds))
        shuffled = compounds[order[np.searchsorted(compounds, treatment.compound)]]
        raw = self.predictor.bundle.config.denoiser.raw_inputs
        none, one = np.zeros_like(treatment.dose_um), np.ones_like(treatment.dose_um)
        changes = (
            replace(treatment, compound=np.full_like(treatment.compound, NO_COMPOUND)),
            replace(treatment, compound=shuffled),
            replace(treatment, dose_um=none if raw else one),  # log10 of 1 um is 0
            replace(treatment, time_h=none),
        )
        yield from zip(ABLATIONS, changes, strict=True)

    def base(self, wells: Wells, treatment: Treatment | None = None) -> Tensor:
        """Gather the profiles that the target is measured from, log2, (n, n_genes)."""
        given, basal = treatment or treatment_of(wells), wells.frame["basal_id"].to_numpy()
        return self._tensor(self._inputs.base.of(basal, given.compound, given.dose_um, given.time_h))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values)).to(self.predictor.device)


def _embeddings(dataset: PairedDataset, settings: EncoderSettings, parents: list[str]) -> np.ndarray:
    """Use the dataset's embeddings, or compute them if it has none."""
    encoder = build_encoder(settings)
    try:
        return load_embeddings(dataset.store, encoder, parents)
    except DataError:
        return encoder.encode(parents)
