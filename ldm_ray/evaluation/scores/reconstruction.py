"""Scores of profiles that were reconstructed, summed block by block."""

import numpy as np

from ldm_ray.bundle.health import Reconstruction
from ldm_ray.evaluation.scores.metrics import pearson_per_profile, r2_per_profile, squared_error_per_profile


class ReconstructionTally:
    """Sums of scores over wells.

    PCC and R2 are per profile across genes, then averaged; RMSE is pooled over wells and genes.

    Source: Kim & Yoo, section 3.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums = np.zeros(3)

    def add(self, y: np.ndarray, y_hat: np.ndarray) -> None:
        """Add measured and reconstructed profiles, log2, each (n, n_genes)."""
        scores = (pearson_per_profile, r2_per_profile, squared_error_per_profile)
        self._sums += [float(score(y, y_hat).sum()) for score in scores]
        self.count += len(y)

    def scores(self) -> Reconstruction:
        """Return the scores of all wells so far."""
        pcc, r2, squared = (float(value) for value in self._sums / self.count)
        return {"pcc": pcc, "r2": r2, "rmse": float(np.sqrt(squared))}
