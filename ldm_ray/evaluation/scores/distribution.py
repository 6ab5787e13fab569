"""Compares the cloud of predicted wells with the cloud of measured wells.

Pairwise distances are within cell line and time, on a sub-sample named in the notes; gene-gene correlations are on all
wells, from moments. Only draws can do well here: a mean always has too little spread. Scores of a draw are averaged
over several draws of every well.

Source: docs/evaluation.md, third table.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.scores.bootstrap import Bootstrap, Interval, ResampledPairs
from ldm_ray.evaluation.scores.correlation import compare_correlations, top_overlap
from ldm_ray.evaluation.scores.correlation_interval import CorrelationSpread, spread_of
from ldm_ray.evaluation.scores.metrics import Distances, PairMean, distances, median_distance, pairwise
from ldm_ray.evaluation.scores.moments import Cloud, GeneMoments
from ldm_ray.evaluation.scores.record import DistributionScores, RealAgainstReal, add_score
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
        boot: Resamples of compounds.
    """

    def __init__(
        self, wells: Wells, halves: tuple[GeneMoments, GeneMoments], max_wells: int, seed: int, boot: Bootstrap
    ) -> None:
        self.wells, self.max_wells, self.seed = wells, max_wells, seed
        self._halves = halves
        self._group = wells.group("cell_id", "time_h")
        rng = generator(seed, Purpose.DISTRIBUTION_SAMPLE)
        self.samples = []
        for number in np.unique(self._group):
            rows = np.flatnonzero(self._group == number)
            if len(rows) >= 2 * MIN_WELLS:
                self.samples.append(np.sort(rng.permutation(rows)[:max_wells]))
        compound = wells.frame["group_id"].to_numpy()
        self._resampled = [ResampledPairs.of(boot, compound[rows]) for rows in self.samples]
        self._weights = boot.weights(compound)

    def score(self, clouds: Sequence[Cloud]) -> DistributionScores:
        """Return the scores of a prediction's clouds, averaged, with intervals over compounds where they have them."""
        pairs = [self._pairs(cloud.sampled) for cloud in clouds]
        energy = [self._over_groups([pair.energies(mean) for pair, mean, _ in own]) for own in pairs]
        mmd = [self._over_groups([pair.mmds(width, mean) for pair, mean, width in own]) for own in pairs]
        sides = (WITHIN, POOLED)
        within, pooled = (
            [compare_correlations(cloud.moments.correlation(within=side), *self.real[side]) for cloud in clouds]
            for side in sides
        )
        spread = self._spread.of(clouds[0].sampled)
        scores: DistributionScores = {}
        add_score(scores, "energy_distance", _interval(np.mean(energy, axis=0)))
        add_score(scores, "mmd", _interval(np.mean(mmd, axis=0)))
        error, rank = (float(np.mean([getattr(own, name) for own in within])) for name in ("error", "spearman"))
        add_score(scores, "correlation_error", spread.error_around(error))
        add_score(scores, "correlation_spearman", spread.spearman_around(rank))
        scores["top30_overlap"] = float(np.mean([own.top30_overlap for own in within]))
        scores["correlation_error_pooled"] = float(np.mean([own.error for own in pooled]))
        scores["correlation_spearman_pooled"] = float(np.mean([own.spearman for own in pooled]))
        scores["top30_overlap_pooled"] = float(np.mean([own.top30_overlap for own in pooled]))
        return scores

    def real_against_real(self) -> RealAgainstReal:
        """Return the same scores between halves of the measured wells."""
        pairs = []
        for rows in self.samples:
            order = generator(self.seed, Purpose.HALVES, len(rows)).permutation(rows)
            first, second = order[: len(rows) // 2], order[len(rows) // 2 :]
            pairs.append(distances(self.wells.y[first], self.wells.y[second]))
        energy = [np.array([pair.energy()]) for pair in pairs]
        mmd = [np.array([pair.mmd(width)]) for pair, width in zip(pairs, self._widths, strict=True)]
        sides = (WITHIN, POOLED)
        within, pooled = (top_overlap(*(half.correlation(within=side) for half in self._halves)) for side in sides)
        return {
            "energy_distance_real": float(self._over_groups(energy)[0]) if pairs else None,
            "mmd_real": float(self._over_groups(mmd)[0]) if pairs else None,
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

    def _pairs(self, y_hat: np.ndarray) -> list[tuple[Distances, PairMean, float]]:
        """Return the distances of each group of wells, their mean in each resample, and the group's bandwidth."""
        y = self.wells.y
        return [
            (distances(y_hat[rows], y[rows], own), resampled.mean, width)
            for rows, own, resampled, width in zip(
                self.samples, self._within, self._resampled, self._widths, strict=True
            )
        ]

    @cached_property
    def _within(self) -> list[np.ndarray]:
        return [pairwise(y, y) for y in (self.wells.y[rows] for rows in self.samples)]

    @cached_property
    def _widths(self) -> list[float]:
        return [median_distance(within) for within in self._within]

    @cached_property
    def _spread(self) -> CorrelationSpread:
        return spread_of(self.wells.y, self._group, self._weights[1:], self.seed)

    def _over_groups(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Average over groups, weighted by wells; values and result are (draws,), NaN without groups."""
        if not values:
            return np.full(1, np.nan)
        sizes = np.array([len(rows) for rows in self.samples], dtype=float)
        present = np.isfinite(values)
        total = (np.where(present, values, 0.0) * sizes[:, None]).sum(axis=0)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / (present * sizes[:, None]).sum(axis=0))


def _interval(values: np.ndarray) -> Interval | None:
    """Return the score and its interval, from the score and its resamples; None if undefined."""
    return Interval.of(values) if np.isfinite(values[0]) else None
