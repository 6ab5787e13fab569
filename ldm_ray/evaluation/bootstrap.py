"""Intervals by resampling compounds: wells of one compound come and go together."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A value with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """Return [low, high], for JSON."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Bootstrap:
    """Weights of wells under resampled compounds.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile intervals), with compounds as the units.

    Attributes:
        weights: (draws, n), how often the well's compound was drawn.
    """

    weights: np.ndarray

    def interval(self, statistic: Callable[[np.ndarray], float]) -> Interval:
        """Compute a statistic of weights at equal weights and over the draws (2.5 and 97.5%)."""
        value = statistic(np.ones(self.weights.shape[1]))
        draws = [statistic(weights) for weights in self.weights]
        # A resample may hold no scored well at all; it says nothing about the score.
        low, high = np.nanquantile(draws, [0.025, 0.975])
        return Interval(float(value), float(low), float(high))


def by_compound(compound: np.ndarray, draws: int, seed: int) -> Bootstrap:
    """Draw compounds with replacement.

    Args:
        compound: Compound of each well, (n,).
        draws: Number of resamples.
        seed: Same seed, same resamples.
    """
    unique, number = np.unique(compound, return_inverse=True)
    rng = np.random.default_rng([seed, 5])
    counts = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=draws)
    return Bootstrap(counts[:, number].astype(np.float64))


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Mean of values under weights; NaN if they are all 0."""
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else float("nan")
