"""Scores of one well, of one condition and of a whole set, in numpy only.

Every function states its axis and pooling; nothing is averaged per batch. A non-finite prediction is an error. A vector
with a norm below 1e-6 sqrt(n_genes) has correlation 0.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ldm_ray.errors import NonFiniteError, ShapeError

SMALL = 1e-6


def require_finite(y_hat: np.ndarray, like: np.ndarray, name: str) -> None:
    """Refuse predictions of the wrong shape, or with NaN or infinite values.

    Raises:
        ShapeError: If the shape differs from the measured profiles'.
        NonFiniteError: If values are not finite; states the number of bad wells.
    """
    if y_hat.shape != like.shape:
        raise ShapeError(f"predictions of {name} must be {like.shape}; got {y_hat.shape}")
    bad = int((~np.isfinite(y_hat)).any(axis=1).sum())
    if bad:
        raise NonFiniteError(f"predictions of {name} hold NaN or infinite values in {bad} of {len(like)} wells")


def squared_error_per_profile(y: np.ndarray, y_hat: np.ndarray) -> np.ndarray:
    """Mean over genes of the squared error, (n,); the square root of its mean is the pooled RMSE.

    Source: Kim & Yoo, section 3 (RMSE pooled over wells and genes).
    """
    return np.asarray(np.mean((y.astype(np.float64) - y_hat) ** 2, axis=1))


def pearson_per_profile(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation across genes of each profile, (n,).

    Source: Kim & Yoo, section 3 (PCC per profile, then averaged).
    """
    a = a.astype(np.float64) - a.mean(axis=1, keepdims=True, dtype=np.float64)
    b = b.astype(np.float64) - b.mean(axis=1, keepdims=True, dtype=np.float64)
    norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    limit = SMALL * np.sqrt(a.shape[1])
    scored = (norm_a > limit) & (norm_b > limit)
    return np.where(scored, (a * b).sum(axis=1) / np.where(scored, norm_a * norm_b, 1.0), 0.0)


def r2_per_profile(y: np.ndarray, y_hat: np.ndarray) -> np.ndarray:
    """Coefficient of determination across genes of each profile, (n,).

    Source: Kim & Yoo, section 3 (R2 per profile, then averaged).
    """
    residual = squared_error_per_profile(y, y_hat)
    return np.asarray(1.0 - residual / np.maximum(y.astype(np.float64).var(axis=1), SMALL**2))


def plate_centred_pearson(
    y: np.ndarray, y_hat: np.ndarray, plate: np.ndarray, compound: np.ndarray, min_compounds: int
) -> np.ndarray:
    """Correlation of truth and prediction after subtracting the mean of the plate's other compounds from both.

        corr(y_hat - m_hat, y - m)

    m is the mean of the plate's wells with other compounds, m_hat the mean of the predictions for those wells.

    Source: docs/evaluation.md, `plate-centred`; the idea of removing systematic effects from
    Vinas Torne et al. 2025, doi:10.1038/s41587-025-02777-8.

    Note:
        Both means are over the scored wells of the plate only.

    Returns:
        (n,), NaN for wells of plates with fewer than `min_compounds` compounds.
    """
    scores = np.full(len(y), np.nan)
    for number in np.unique(plate):
        rows = np.flatnonzero(plate == number)
        codes, wells = np.unique(compound[rows], return_inverse=True)
        if len(codes) < min_compounds:
            continue
        sizes = np.bincount(wells)
        left = [_minus_others(values[rows].astype(np.float64), wells, sizes) for values in (y_hat, y)]
        scores[rows] = pearson_per_profile(*left)
    return scores


def per_condition(
    scores: np.ndarray, condition: np.ndarray, compound: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average scores per condition.

    Source: docs/evaluation.md, `delta corr`.

    Args:
        scores: (n,), no NaN.
        condition: (n,), int.
        compound: (n,), int.
        cell: (n,), int.

    Returns:
        Mean, compound and cell line of each condition.
    """
    _, first, number = np.unique(condition, return_index=True, return_inverse=True)
    means = np.bincount(number, scores) / np.bincount(number)
    return np.asarray(means), compound[first], cell[first]


def explained_share(
    effect: np.ndarray, true_delta: np.ndarray, mean_true_delta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the share of explainable delta, per well, each (n,).

        share = 1 - sum |D_hat - D|^2 / sum |D - Dbar|^2

    Source: docs/evaluation.md, `share of delta`: the true training mean change scores 0, the truth 1.

    Returns:
        Numerators and denominators; sum each, then divide.
    """
    left = ((effect.astype(np.float64) - true_delta) ** 2).sum(axis=1)
    return left, ((true_delta.astype(np.float64) - mean_true_delta) ** 2).sum(axis=1)


class PairMean(Protocol):
    """Mean over pairs of profiles."""

    def __call__(self, values: np.ndarray, *, off_diagonal: bool = False) -> np.ndarray:
        """Mean of values (n, m) in each resample, (draws,); if asked, without those on the diagonal."""


def plain_mean(values: np.ndarray, *, off_diagonal: bool = False) -> np.ndarray:
    """Mean over pairs of profiles that all count once, (1,)."""
    if not off_diagonal:
        return np.array([values.mean()])
    n = len(values)
    return np.array([(values.sum() - np.trace(values)) / (n * (n - 1))])


@dataclass(frozen=True)
class Distances:
    """Euclidean distances between and within samples x of n and y of m profiles: (n, m), (n, n) and (m, m)."""

    between: np.ndarray
    within_x: np.ndarray
    within_y: np.ndarray

    def energy(self) -> float:
        """Energy distance: 2 E|x - y| - E|x - x'| - E|y - y'|, without pairs of a profile with itself.

        Source: Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018 (unbiased form).
        """
        return float(self.energies(plain_mean)[0])

    def energies(self, mean: PairMean) -> np.ndarray:
        """Energy distance of each resample, (draws,)."""
        within = mean(self.within_x, off_diagonal=True) + mean(self.within_y, off_diagonal=True)
        return np.asarray(2 * mean(self.between) - within)

    def mmd(self, bandwidth: float) -> float:
        """Unbiased squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

        Source: Gretton et al. 2012, JMLR 13:723, Eq. (3).
        """
        return float(self.mmds(bandwidth, plain_mean)[0])

    def mmds(self, bandwidth: float, mean: PairMean) -> np.ndarray:
        """Maximum mean discrepancy of each resample, (draws,)."""
        k_xy, k_xx, k_yy = (np.exp(-(d**2) / (2 * bandwidth**2)) for d in (self.between, self.within_x, self.within_y))
        return np.asarray(mean(k_xx, off_diagonal=True) + mean(k_yy, off_diagonal=True) - 2 * mean(k_xy))


def distances(x: np.ndarray, y: np.ndarray, within_y: np.ndarray | None = None) -> Distances:
    """Compute all distances between and within two samples of at least 2 each; pass `within_y` if already known."""
    between, within_x = pairwise(x, y), pairwise(x, x)
    return Distances(between, within_x, pairwise(y, y) if within_y is None else within_y)


def pairwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances between rows, (len(x), len(y)), float64; exactly 0 between a row and itself."""
    centre = y.mean(axis=0, dtype=np.float64)  # so that the products below lose no digits to the level
    a, b = x - centre, y - centre
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    if x is y:
        np.fill_diagonal(squared, 0.0)
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def median_distance(within_y: np.ndarray) -> float:
    """Median distance between different rows, the usual bandwidth of an MMD."""
    return float(np.median(within_y[np.triu_indices(len(within_y), 1)]))


def _minus_others(values: np.ndarray, group: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Subtract from each row the mean of the rows of other groups."""
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, group, values)
    others = (sums.sum(axis=0) - sums[group]) / (len(values) - sizes[group])[:, None]
    return np.asarray(values - others)
