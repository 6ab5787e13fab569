"""How far scores of gene-gene correlations depend on which compounds were measured.

A resample needs a new matrix, so the resamples use a seeded sub-sample of genes. A resample has fewer different wells,
so its matrix is noisier and its score worse. So only the resamples' spread about their median is used, and put around
the score of all genes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from ldm_ray.evaluation.scores.bootstrap import Interval
from ldm_ray.keys import Purpose, generator

GENES, RESAMPLES = 150, 50


@dataclass(frozen=True)
class ScoreSpread:
    """Scores of a prediction on the sub-sample of genes, of each resample."""

    error: np.ndarray
    spearman: np.ndarray

    def error_around(self, value: float) -> Interval:
        """Return the interval of a correlation error; its spread is proportional to it."""
        low, high = np.quantile(self.error / max(float(np.median(self.error)), 1e-12), [0.025, 0.975])
        return Interval(value, float(value * low), float(value * high))

    def spearman_around(self, value: float) -> Interval:
        """Return the interval of a rank correlation."""
        low, high = np.quantile(self.spearman - np.median(self.spearman), [0.025, 0.975])
        return Interval(value, float(value + low), float(value + high))


@dataclass(frozen=True)
class CorrelationSpread:
    """Measured correlations of some genes in each resample.

    Attributes:
        genes: The genes, (g,).
        group: Group of each well, (n,).
        weights: How often each well counts, (resamples, n).
        real: Measured correlations of each resample, upper triangle, (resamples, g (g - 1) / 2).
        rank: Ranks of `real` within each line.
    """

    genes: np.ndarray
    group: np.ndarray
    weights: np.ndarray
    real: np.ndarray
    rank: np.ndarray

    def of(self, y_hat: np.ndarray) -> ScoreSpread:
        """Score predictions for the wells, (n, n_genes), in each resample."""
        own = _correlations(y_hat[:, self.genes], self.group, self.weights)
        error = np.linalg.norm(own - self.real, axis=1)
        return ScoreSpread(error, _pearson(rankdata(own, axis=1), self.rank))


def spread_of(y: np.ndarray, group: np.ndarray, weights: np.ndarray, seed: int) -> CorrelationSpread:
    """Set up for measured wells.

    Args:
        y: Measured profiles, (n, n_genes).
        group: Group of each well, (n,); correlations are within groups.
        weights: How often each well counts in each resample, (draws, n).
        seed: Seed of the sub-sample of genes.
    """
    order = generator(seed, Purpose.CORRELATION_GENES).permutation(y.shape[1])
    genes, weights = np.sort(order[:GENES]), weights[:RESAMPLES]
    real = _correlations(y[:, genes], group, weights)
    return CorrelationSpread(genes, group, weights, real, rankdata(real, axis=1))


def _correlations(x: np.ndarray, group: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlations of genes over wells within groups, in each resample, (resamples, pairs); 0 for constant genes."""
    numbers, member = np.unique(group, return_inverse=True)
    one_hot = np.eye(len(numbers))[member]
    upper = np.triu_indices(x.shape[1], 1)
    lines = []
    for weight in weights:
        count = np.maximum(one_hot.T @ weight, 1e-12)
        centred = x - ((one_hot.T * weight) @ x / count[:, None])[member]
        covariance = (centred * weight[:, None]).T @ centred
        scale = np.sqrt(np.maximum(covariance.diagonal(), 1e-12))
        lines.append((covariance / scale[:, None] / scale)[upper])
    return np.asarray(lines)


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of each line of a with that of b, 0 where one is constant."""
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    below = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.where(below > 0, below, 1.0))
