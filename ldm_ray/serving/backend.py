"""Where answers come from: a model in this process, or (in `cluster/serve`) deployments on a cluster."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ldm_ray.data.manifest import Gene
from ldm_ray.diffusion.samplers import SamplerFields
from ldm_ray.serving.schemas import CellLine, CompoundInfo, ModelInfo, PredictRequest


@dataclass(frozen=True)
class Answer:
    """Predictions of n conditions, log2; arrays as `predictor.Predictions`.

    Attributes:
        model: Name of the model.
        bundle: Checksum of the bundle's metadata.
        genes: Symbols, in the order of the arrays.
        n_samples: Latent samples a condition.
        sampler: Which sampler was used.
        parents: Parent SMILES, n.
        mean: (n, n_genes).
        std: (n, n_genes).
        basal: (n, n_genes).
        draws: (n, n_draws, n_genes).
        similarity: (n,).
        out_of_domain: (n,).
        notes: n.
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
    """What the API asks; `model` is a name or None for the first.

    All raise `RequestError` for a model that is not served, and `OverloadedError` where too much is waiting.
    """

    async def predict(self, request: PredictRequest) -> Answer:
        """Answer conditions."""

    async def model(self, model: str | None) -> ModelInfo:
        """Describe a model."""

    async def models(self) -> list[str]:
        """Names of the models."""

    async def cells(self, model: str | None) -> list[CellLine]:
        """Cell lines that a model knows."""

    async def genes(self, model: str | None) -> list[Gene]:
        """Genes of a model's profiles, in their order."""

    async def compound(self, smiles: str, model: str | None) -> CompoundInfo:
        """Describe a molecule."""

    async def ready(self) -> bool:
        """Whether queries can be answered."""
