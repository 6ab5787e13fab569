"""Predicted wells, the input of every score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldm_ray.evaluation.scores.record import MetricsRow


@dataclass(frozen=True)
class PredictedWells:
    """Predictions of one row of the table for some wells.

    Attributes:
        model: Row name (docs/evaluation.md).
        kind: `mean`, `one_draw`, `mean_of_N` or `mean_direct`; for the oracle also `true_mean`, which does not know
            the plate.
        y_hat: Predicted profiles, log2, (n, n_genes).
        sd: Predicted standard deviation of a well around `y_hat`, (n, n_genes), or None.
        latent_var: For a mean of N, variance over samples averaged over genes, (n,); else None.
        n_samples: N for a mean of N; else 1.
        more_draws: Further draws of the same wells, each as `y_hat`, which only scores of clouds use.
        start: Profiles from which the model reports the compounds' effects, log2, (n, n_genes); None for the wells'
            controls.
    """

    model: str
    kind: str
    y_hat: np.ndarray
    sd: np.ndarray | None = None
    latent_var: np.ndarray | None = None
    n_samples: int = 1
    more_draws: Sequence[np.ndarray] = ()
    start: np.ndarray | None = None


def row_name(row: MetricsRow) -> str:
    """Return a readable name of a row; a plain `mean` is not mentioned."""
    return row["model"] if row["prediction"] == "mean" else f"{row['model']}, {row['prediction'].replace('_', ' ')}"
