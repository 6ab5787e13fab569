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
from ldm_ray.errors import DataError
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
        base: Profile that the target is measured from, for each control, (n_basal, n_genes).
        compounds: Ids of the wells' compounds, sorted, (n,).
        embeddings: Their embeddings, (n, dim).
    """

    name: str
    bundle: Bundle
    basal: np.ndarray
    base: np.ndarray
    compounds: np.ndarray
    embeddings: np.ndarray


def model_inputs(dataset: PairedDataset, bundle: Bundle, compound_ids: np.ndarray, name: str) -> ModelInputs:
    """Gather what a bundle needs to predict wells of these compounds."""
    compounds = np.unique(compound_ids)
    embeddings = _embeddings(dataset, bundle.config.encoder, dataset.parent_smiles[compounds].tolist())
    base = bundle.target_base().of_controls(dataset)
    return ModelInputs(name, bundle, basal_input(dataset, bundle.basal_input), base, compounds, embeddings)


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

    def predict(self, wells: Wells) -> Iterator[PredictedWells]:
        """Yield the model's draw, means and direct mean, then its ablations.

        Ablations are direct means if the model has one, else means of N. Rivals have no ablations.
        """
        condition = self.condition(wells)
        for number, n_samples in enumerate(self.n_samples):
            samples = self.sample(wells, condition, n_samples, n_draws=self._n_draws if number == 0 else 0)
            if number == 0:
                first, *more = (self._scored(draw) for draw in samples.draws.unbind(1))
                yield PredictedWells(self.name, "one_draw", first, more_draws=more)
            sd = self._scored(samples.std * self.predictor.sd_scale)
            spread, mean = self._scored(samples.latent_var.mean(dim=1)), self._scored(samples.mean)
            yield PredictedWells(self.name, f"mean_of_{n_samples}", mean, sd, spread, n_samples)
        if self.predictor.sampler.has_direct_mean:
            yield PredictedWells(self.name, *self._mean(wells, condition))
        if not self.is_rival:
            for what, changed in self._ablations(wells, condition):
                yield PredictedWells(self.name + what, *self._mean(wells, changed))

    def condition(self, wells: Wells) -> ConditionBatch:
        """Gather the model's input for wells."""
        frame = wells.frame
        return ConditionBatch(
            x_basal=self._tensor(self._inputs.basal[frame["basal_id"].to_numpy()]),
            compound=self._tensor(self._inputs.embeddings[self._places(frame["compound_id"].to_numpy())]),
            dose_um=self._tensor(frame["dose_um"].to_numpy(np.float32)),
            time_h=self._tensor(frame["time_h"].to_numpy(np.float32)),
        )

    def sample(
        self, wells: Wells, condition: ConditionBatch, n_samples: int, n_draws: int = 0, n_latents: int = 0
    ) -> Samples:
        """Sample wells, keyed by their profile ids."""
        base, keys = self.base(wells), self._tensor(wells.keys)
        how = Sampling(n_samples, self.predictor.sampler_choice(), self.seed, n_draws, n_latents)
        return self.predictor.sampler.sample(condition, base, keys, how)

    def _mean(self, wells: Wells, condition: ConditionBatch) -> tuple[str, np.ndarray]:
        if self.predictor.sampler.has_direct_mean:
            mean = self.predictor.sampler.direct_mean(condition, self.base(wells))
            return "mean_direct", mean.cpu().numpy()
        n_samples = self.n_samples[0]
        return f"mean_of_{n_samples}", self._scored(self.sample(wells, condition, n_samples).mean)

    def _scored(self, values: Tensor) -> np.ndarray:
        """Return values to score, all finite if the model is known to explode."""
        array: np.ndarray = values.cpu().numpy()
        return np.nan_to_num(array.clip(-CUT, CUT), nan=CUT) if self._explodes else array

    def _ablations(self, wells: Wells, condition: ConditionBatch) -> Iterator[tuple[str, ConditionBatch]]:
        """Remove one input at a time: the encoder sees 0 or another compound instead."""
        order = generator(self.seed, Purpose.SHUFFLED_COMPOUND).permutation(len(self._inputs.compounds))
        shuffled = self._inputs.embeddings[order[self._places(wells.frame["compound_id"].to_numpy())]]
        raw = self.predictor.bundle.config.denoiser.raw_inputs
        none, one = torch.zeros_like(condition.dose_um), torch.ones_like(condition.dose_um)
        changes = (
            replace(condition, compound=torch.zeros_like(condition.compound)),
            replace(condition, compound=self._tensor(shuffled)),
            replace(condition, dose_um=none if raw else one),  # log10 of 1 um is 0
            replace(condition, time_h=none),
        )
        yield from zip(ABLATIONS, changes, strict=True)

    def base(self, wells: Wells) -> Tensor:
        """Gather the profiles that the target is measured from, log2, (n, n_genes)."""
        return self._tensor(self._inputs.base[wells.frame["basal_id"].to_numpy()])

    def _places(self, compound_ids: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._inputs.compounds, compound_ids)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values)).to(self.predictor.device)


def _embeddings(dataset: PairedDataset, settings: EncoderSettings, parents: list[str]) -> np.ndarray:
    """Use the dataset's embeddings, or compute them if it has none."""
    encoder = build_encoder(settings)
    try:
        return load_embeddings(dataset.store, encoder, parents)
    except DataError:
        return encoder.encode(parents)
