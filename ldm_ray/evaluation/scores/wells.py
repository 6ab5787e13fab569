"""Scores of single wells, and of wells relative to the other wells of their plate."""

from dataclasses import dataclass

import numpy as np

from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.scores.metrics import (
    explained_share,
    pearson_per_profile,
    plate_centred_pearson,
    r2_per_profile,
    require_finite,
    squared_error_per_profile,
)
from ldm_ray.evaluation.scores.predicted import PredictedWells
from ldm_ray.evaluation.scores.spread import LEVELS, covered, crps_gaussian


@dataclass(frozen=True)
class Planted:
    """True change of wells, and its training mean in their cell line and time, each (n, n_genes)."""

    delta: np.ndarray
    train_mean: np.ndarray


def score_wells(
    wells: Wells, prediction: PredictedWells, planted: Planted | None, min_compounds_per_plate: int
) -> dict[str, np.ndarray]:
    """Score a block of whole plates.

    Args:
        wells: The wells.
        prediction: Predictions for these wells.
        planted: Planted truth, for simulated data.
        min_compounds_per_plate: Plates with fewer are not plate-centred.

    Returns:
        Arrays (n,), float64; NaN where a score does not apply.

    Raises:
        NonFiniteError: If a prediction is NaN or infinite.
    """
    y, y_hat = wells.y, prediction.y_hat
    require_finite(y_hat, y, f"{prediction.model} {prediction.kind}")
    delta = pearson_per_profile(y_hat - wells.basal, y - wells.reserved)
    compound, plate = wells.frame["group_id"].to_numpy(), wells.group("plate")
    scores = {
        "squared": squared_error_per_profile(y, y_hat),
        "pcc": pearson_per_profile(y, y_hat),
        "r2": r2_per_profile(y, y_hat),
        "delta_pcc": np.where(wells.has_reserved, delta, np.nan),
        "systematic_pcc": plate_centred_pearson(y, y_hat, plate, compound, min_compounds_per_plate),
    }
    if prediction.latent_var is not None:
        scores["latent_var"] = prediction.latent_var.astype(np.float64)
    if prediction.sd is not None:
        scores["crps"] = crps_gaussian(y, y_hat, prediction.sd)
        for level in LEVELS:
            scores[f"coverage_{round(100 * level)}"] = covered(y, y_hat, prediction.sd, level)
    if planted is not None:
        effect = y_hat - (wells.basal if prediction.start is None else prediction.start)
        scores["missed"], scores["explainable"] = explained_share(effect, planted.delta, planted.train_mean)
    return scores
