"""Intervals by resampling compounds: all wells of a compound, in all its spellings, are drawn together."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ldm_ray.keys import Purpose, generator


@dataclass(frozen=True)
class Interval:
    """A value with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: np.ndarray) -> "Interval":
        """Return the interval of a value and its resamples, (1 + draws,); NaN among these is left out."""
        low, high = np.nanquantile(values[1:], [0.025, 0.975])
        return Interval(float(values[0]), float(low), float(high))

    def as_list(self) -> list[float]:
        """Return [low, high], for JSON."""
        return [self.low, self.high]


def _identity(values: np.ndarray) -> np.ndarray:
    return values


@dataclass(frozen=True)
class Bootstrap:
    """How often each compound was drawn in each resample.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile intervals), with compounds as the units.

    Attributes:
        compounds: The compounds, sorted, (n_compounds,).
        counts: Draws of each compound, (draws, n_compounds).
    """

    compounds: np.ndarray
    counts: np.ndarray

    def ratio(
        self,
        compound: np.ndarray,
        numerator: np.ndarray,
        denominator: np.ndarray,
        then: Callable[[np.ndarray], np.ndarray] = _identity,
    ) -> Interval:
        """Interval of a ratio of sums; for a mean the denominators are 1.

        Args:
            compound: Compound of each unit (a well, a condition), (n,).
            numerator: (n,).
            denominator: (n,).
            then: Applied to the ratios.
        """
        return self.mean_of_ratios(compound, np.zeros(len(compound), dtype=int), numerator, denominator, then)

    def mean_of_ratios(
        self,
        compound: np.ndarray,
        part: np.ndarray,
        numerator: np.ndarray,
        denominator: np.ndarray,
        then: Callable[[np.ndarray], np.ndarray] = _identity,
    ) -> Interval:
        """Interval of the mean over parts (e.g. cell lines) of ratios of sums; parts without weight are left out.

        Args:
            compound: See `ratio`.
            part: Part of each unit, (n,).
            numerator: See `ratio`.
            denominator: See `ratio`.
            then: See `ratio`.
        """
        place = np.searchsorted(self.compounds, compound)
        parts, number = np.unique(part, return_inverse=True)
        shape = (len(parts), len(self.compounds))
        flat = number * shape[1] + place
        above, below = (
            np.bincount(flat, values, minlength=shape[0] * shape[1]).reshape(shape)
            for values in (numerator, denominator)
        )
        weights = np.concatenate([np.ones((1, shape[1])), self.counts])
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (weights @ above.T) / (weights @ below.T)
        scored = np.isfinite(ratios)
        sums, counts = np.where(scored, ratios, 0.0).sum(axis=1), scored.sum(axis=1)
        means = then(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
        # A resample without any scored well is left out.
        return Interval.of(means)

    def weights(self, compound: np.ndarray) -> np.ndarray:
        """Return how often each unit counts, (1 + draws, n): once in the sample, then in each resample."""
        place = np.searchsorted(self.compounds, compound)
        return np.concatenate([np.ones((1, len(place))), self.counts[:, place]])


def by_compound(compound: np.ndarray, draws: int, seed: int) -> Bootstrap:
    """Draw compounds with replacement.

    Args:
        compound: Compound of each well, (n,).
        draws: Number of resamples.
        seed: Same seed, same resamples.
    """
    unique = np.unique(compound)
    rng = generator(seed, Purpose.BOOTSTRAP)
    counts = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=draws)
    return Bootstrap(unique, counts.astype(np.float64))


@dataclass(frozen=True)
class ResampledPairs:
    """Means over pairs of wells when compounds are drawn with replacement.

    Two wells of one compound count as often as the compound was drawn; of two compounds, as often as both were. Pairs
    across copies of a compound do not count: like pairs of a well with itself, no other sample would have them.

    Attributes:
        compound: Number of each well's compound, 0 to n_compounds - 1, (n,).
        counts: Draws of each compound, first once each, (1 + draws, n_compounds).
    """

    compound: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(boot: Bootstrap, compound: np.ndarray) -> "ResampledPairs":
        """Set up for the wells of these compounds, (n,)."""
        present, number = np.unique(compound, return_inverse=True)
        counts = boot.counts[:, np.searchsorted(boot.compounds, present)]
        return ResampledPairs(number, np.concatenate([np.ones((1, len(present))), counts]))

    def mean(self, values: np.ndarray, *, off_diagonal: bool = False) -> np.ndarray:
        """Mean of values (n, n) in each resample, (1 + draws,); if asked, without pairs of a well with itself."""
        pairs = np.ones_like(values)
        if off_diagonal:
            np.fill_diagonal(pairs, 0.0)
        member = np.eye(self.counts.shape[1])[self.compound]
        above, below = (self._sums(member.T @ part @ member) for part in (values * pairs, pairs))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(above / below)

    def _sums(self, by_compound: np.ndarray) -> np.ndarray:
        own = by_compound.diagonal()
        return np.asarray(
            ((self.counts @ by_compound) * self.counts).sum(axis=1) + (self.counts - self.counts**2) @ own
        )
