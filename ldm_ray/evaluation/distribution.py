"""How the cloud of predicted wells compares with the cloud of measured ones.

Everything is compared within cell line and time; real-against-real values come from random halves of the
measured wells. Only predictions that are draws can do well here: a mean has too little spread by nature.

Source: docs/evaluation.md, third table.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from ldm_ray.evaluation.correlation import (
    CorrelationScores,
    centre_within,
    compare_correlations,
    correlation_matrix,
    split_halves,
)
from ldm_ray.evaluation.metrics import energy_distance, median_distance, mmd_rbf
from ldm_ray.evaluation.wells import Wells

MIN_WELLS = 8


class DistributionJudge:
    """Compares predicted clouds with the measured one.

    Args:
        wells: The judged wells.
        max_wells: Wells a group at most, a seeded sub-sample, for the pairwise distances.
        seed: Of sub-samples and halves.
    """

    def __init__(self, wells: Wells, max_wells: int, seed: int) -> None:
        self.wells, self.max_wells, self.seed = wells, max_wells, seed
        self.group = wells.group("cell_id", "time_h")
        rng = np.random.default_rng([seed, 7])
        self.samples = []
        for number in np.unique(self.group):
            rows = np.flatnonzero(self.group == number)
            if len(rows) >= 2 * MIN_WELLS:
                self.samples.append(np.sort(rng.permutation(rows)[:max_wells]))

    def score(self, y_hat: np.ndarray) -> dict[str, float | int | None]:
        """Return energy distance, MMD and correlation scores of one prediction."""
        y = self.wells.y
        scores: dict[str, float | int | None] = {
            "energy_distance": self._over_groups(lambda rows, _: energy_distance(y_hat[rows], y[rows])),
            "mmd": self._over_groups(lambda rows, width: mmd_rbf(y_hat[rows], y[rows], width)),
        }
        for suffix, centre in (("", True), ("_pooled", False)):
            result = self._correlation(y_hat, centre)
            scores[f"correlation_error{suffix}"] = result.error
            scores[f"correlation_spearman{suffix}"] = result.spearman
            scores[f"top30_overlap{suffix}"] = result.top30_overlap
        return scores

    def real_against_real(self) -> dict[str, float | int | None]:
        """Return the same scores between halves of the measured wells."""
        y = self.wells.y

        def halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            first, second = split_halves(len(rows), self.seed)
            return y[rows[first]], y[rows[second]]

        overlaps = []
        for centre in (True, False):
            first, second = (correlation_matrix(part) for part in self._halves(centre))
            overlaps.append(compare_correlations(first, second, half_distance=1.0).top30_overlap)
        return {
            "energy_distance_real": self._over_groups(lambda rows, _: energy_distance(*halves(rows))),
            "mmd_real": self._over_groups(lambda rows, width: mmd_rbf(*halves(rows), width)),
            "top30_overlap_half_half": overlaps[0],
            "top30_overlap_half_half_pooled": overlaps[1],
        }

    def note(self) -> str:
        """Say how many wells were compared."""
        sizes = [len(rows) for rows in self.samples]
        return (
            f"distribution: within {len(sizes)} groups of cell line and time, {sum(sizes)} wells in all,"
            f" at most {self.max_wells} a group"
        )

    def _over_groups(self, distance: Callable[[np.ndarray, float], float]) -> float | None:
        """Average over groups, weighted by wells."""
        if not self.samples:
            return None
        values = [distance(rows, width) for rows, width in zip(self.samples, self._widths, strict=True)]
        return float(np.average(values, weights=[len(rows) for rows in self.samples]))

    @cached_property
    def _widths(self) -> list[float]:
        return [median_distance(self.wells.y[rows]) for rows in self.samples]

    def _correlation(self, y_hat: np.ndarray, centre: bool) -> CorrelationScores:
        predicted = correlation_matrix(centre_within(y_hat, self.group) if centre else y_hat.astype(np.float64))
        real, half_distance = self._real[centre]
        return compare_correlations(predicted, real, half_distance)

    @cached_property
    def _real(self) -> dict[bool, tuple[np.ndarray, float]]:
        result = {}
        for centre in (True, False):
            values = self._values(centre)
            first, second = (correlation_matrix(part) for part in self._halves(centre))
            result[centre] = (correlation_matrix(values), float(np.linalg.norm(first - second)))
        return result

    def _halves(self, centre: bool) -> tuple[np.ndarray, np.ndarray]:
        values = self._values(centre)
        first, second = split_halves(len(values), self.seed)
        return values[first], values[second]

    def _values(self, centre: bool) -> np.ndarray:
        y = self.wells.y
        return centre_within(y, self.group) if centre else y.astype(np.float64)
