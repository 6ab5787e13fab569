"""Compares the cloud of predicted wells with the cloud of measured wells.

Pairwise distances are within cell line and time, on a sub-sample named in the notes; gene-gene correlations are on all
wells, from moments. Only draws can do well here: a mean always has too little spread.

Source: docs/evaluation.md, third table.
"""

from functools import cached_property

import numpy as np

from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.scores.correlation import compare_correlations, top_overlap
from ldm_ray.evaluation.scores.metrics import distances, median_distance, pairwise
from ldm_ray.evaluation.scores.moments import GeneMoments
from ldm_ray.evaluation.scores.record import DistributionScores, RealAgainstReal
from ldm_ray.keys import Purpose, generator

MIN_WELLS = 8
WITHIN, POOLED = True, False


class DistributionJudge:
    """Compares predicted clouds with the measured one.

    Args:
        wells: Sampled wells.
        halves: Moments of two random halves of all measured wells.
        max_wells: Most wells per group for the pairwise distances, a seeded sub-sample.
        seed: Seed of sub-samples and halves.
    """

    def __init__(self, wells: Wells, halves: tuple[GeneMoments, GeneMoments], max_wells: int, seed: int) -> None:
        self.wells, self.max_wells, self.seed = wells, max_wells, seed
        self._halves = halves
        group = wells.group("cell_id", "time_h")
        rng = generator(seed, Purpose.DISTRIBUTION_SAMPLE)
        self.samples = []
        for number in np.unique(group):
            rows = np.flatnonzero(group == number)
            if len(rows) >= 2 * MIN_WELLS:
                self.samples.append(np.sort(rng.permutation(rows)[:max_wells]))

    def score(self, y_hat: np.ndarray, moments: GeneMoments) -> DistributionScores:
        """Return energy distance and MMD of predictions for the sampled wells, and scores of their moments."""
        y = self.wells.y
        pairs = [distances(y_hat[rows], y[rows], own) for rows, own in zip(self.samples, self._within, strict=True)]
        sides = (WITHIN, POOLED)
        within, pooled = (compare_correlations(moments.correlation(within=side), *self.real[side]) for side in sides)
        return {
            "energy_distance": self._average([pair.energy() for pair in pairs]),
            "mmd": self._average([pair.mmd(width) for pair, width in zip(pairs, self._widths, strict=True)]),
            "correlation_error": within.error,
            "correlation_spearman": within.spearman,
            "top30_overlap": within.top30_overlap,
            "correlation_error_pooled": pooled.error,
            "correlation_spearman_pooled": pooled.spearman,
            "top30_overlap_pooled": pooled.top30_overlap,
        }

    def real_against_real(self) -> RealAgainstReal:
        """Return the same scores between halves of the measured wells."""
        pairs = []
        for rows in self.samples:
            order = generator(self.seed, Purpose.HALVES, len(rows)).permutation(rows)
            first, second = order[: len(rows) // 2], order[len(rows) // 2 :]
            pairs.append(distances(self.wells.y[first], self.wells.y[second]))
        sides = (WITHIN, POOLED)
        within, pooled = (top_overlap(*(half.correlation(within=side) for half in self._halves)) for side in sides)
        return {
            "energy_distance_real": self._average([pair.energy() for pair in pairs]),
            "mmd_real": self._average([pair.mmd(width) for pair, width in zip(pairs, self._widths, strict=True)]),
            "top30_overlap_half_half": within,
            "top30_overlap_half_half_pooled": pooled,
        }

    def note(self) -> str:
        """State how many wells were compared."""
        sizes = [len(rows) for rows in self.samples]
        return (
            f"energy dist and MMD: within {len(sizes)} groups of cell line and time, {sum(sizes)} wells in total,"
            f" at most {self.max_wells} per group, seed {self.seed}"
        )

    @cached_property
    def real(self) -> dict[bool, tuple[np.ndarray, float]]:
        """Measured correlation matrix, and the distance between the halves' matrices; within groups and pooled."""
        whole = GeneMoments(self._halves[0].n_groups, self._halves[0].n_genes)
        for half in self._halves:
            whole.merge(half)
        result = {}
        for within in (WITHIN, POOLED):
            first, second = (half.correlation(within=within) for half in self._halves)
            result[within] = (whole.correlation(within=within), float(np.linalg.norm(first - second)))
        return result

    @cached_property
    def _within(self) -> list[np.ndarray]:
        return [pairwise(y, y) for y in (self.wells.y[rows] for rows in self.samples)]

    @cached_property
    def _widths(self) -> list[float]:
        return [median_distance(within) for within in self._within]

    def _average(self, values: list[float]) -> float | None:
        """Average over groups, weighted by wells."""
        return float(np.average(values, weights=[len(rows) for rows in self.samples])) if values else None
