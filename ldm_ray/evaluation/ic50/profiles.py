"""Bundles as predictors of expected profiles for any cells, for the IC50 benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.chem.embedding import CompoundEncoder, build_encoder
from ldm_ray.evaluation.ic50.benchmark import ProfileModel
from ldm_ray.evaluation.suite import row_names
from ldm_ray.prediction.predictor import Predictor, Query

N_SAMPLES = 4
"""Samples per mean of a model without a direct mean; few, because there are about 15,000 conditions."""


@dataclass(frozen=True)
class BundleProfiles:
    """Expected profiles of a bundle: its direct mean, or a mean of a few samples."""

    predictor: Predictor
    seed: int

    def predict_profiles(self, smiles: Sequence[str], basal: np.ndarray, dose_um: float, time_h: float) -> np.ndarray:
        """Predict expression, log2, (n, n_genes), for n parent structures and n basal profiles (n, n_genes)."""
        queries = [Query(text, dose_um, time_h, basal=profile) for text, profile in zip(smiles, basal, strict=True)]
        if self.predictor.sampler.has_direct_mean:
            return self.predictor.direct_mean(queries)
        return self.predictor.predict(queries, n_samples=N_SAMPLES, seed=self.seed).mean


def profile_models(
    bundles: Sequence[Bundle], seed: int, names: Sequence[str] = ()
) -> tuple[CompoundEncoder, dict[str, ProfileModel]]:
    """Return the first bundle's compound encoder, and all bundles as predictors of profiles by name.

    Names are the bundles' kinds if none are given.

    Raises:
        BundleError: If the bundles' genes differ.
    """
    for bundle in bundles[1:]:
        bundle.check_genes(bundles[0].metadata["genes"], "the first bundle")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = names or row_names([bundle.kind for bundle in bundles])
    models: dict[str, ProfileModel] = {
        name: BundleProfiles(Predictor(bundle, device), seed) for name, bundle in zip(names, bundles, strict=True)
    }
    return build_encoder(bundles[0].config.encoder), models
