"""The source of answers: a model in this process, or (in `cluster/serve`) deployments on a cluster."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ldm_ray.data.manifest import Gene
from ldm_ray.diffusion.samplers import SamplerFields
from ldm_ray.serving.schemas import CellLine, CompoundInfo, ModelInfo, PredictRequest


@dataclass(frozen=True)
class Answer:
    """Predictions for n conditions, log2; arrays as in `predictor.Predictions`.

    Attributes:
        model: Name of the model.
        bundle: Checksum of the bundle's metadata.
        genes: Gene symbols, in the order of the arrays.
        n_samples: Latent samples per condition.
        sampler: The sampler that was used.
        parents: Parent SMILES of each condition, n.
        mean: Expected expression, (n, n_genes).
        std: Standard deviation of a well around the mean, (n, n_genes).
        basal: The control, (n, n_genes).
        draws: Simulated wells, (n, n_draws, n_genes).
        similarity: Tanimoto similarity to the nearest training compound, (n,).
        out_of_domain: Whether the condition lies outside of training, (n,).
        notes: Notes on each condition, n.
    """

    model: str
    bundle: str
    genes: list[str]
    n_samples: int
    sampler: SamplerFields
    parents: list[str]
    mean: np.ndarray
    std: np.ndarray
    basal: np.ndarray
    draws: np.ndarray
    similarity: np.ndarray
    out_of_domain: np.ndarray
    notes: tuple[str, ...]


class Backend(Protocol):
    """What the API calls; `model` is a name, or None for the first model.

    All raise `RequestError` if the model is not served, and `OverloadedError` if too much is waiting.
    """

    async def predict(self, request: PredictRequest) -> Answer:
        """Answer conditions."""

    async def model(self, model: str | None) -> ModelInfo:
        """Describe a model."""

    async def models(self) -> list[str]:
        """Return the names of the models."""

    async def cells(self, model: str | None) -> list[CellLine]:
        """Return the cell lines that a model knows."""

    async def genes(self, model: str | None) -> list[Gene]:
        """Return the genes of a model's profiles, in order."""

    async def compound(self, smiles: str, model: str | None) -> CompoundInfo:
        """Describe a molecule."""

    async def ready(self) -> bool:
        """Tell whether queries can be answered."""
