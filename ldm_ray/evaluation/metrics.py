"""Scores of one well, of one condition and of a whole set. Numpy only.

Every function says its axis and pooling; nothing is averaged per batch. A prediction that is not finite is an
error. A vector whose norm is below 1e-6 sqrt(n_genes) has correlation 0.
"""

import numpy as np
from scipy.spatial.distance import cdist

from ldm_ray.errors import NonFiniteError, ShapeError

SMALL = 1e-6


def require_finite(y_hat: np.ndarray, like: np.ndarray, name: str) -> None:
    """Refuse predictions of another shape, or with NaN or infinite values.

    Raises:
        ShapeError: For another shape than the measured profiles.
        NonFiniteError: With the number of bad wells.
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
    """Correlation of what is left of truth and prediction after subtracting the plate's other compounds.

        corr(y_hat - m_hat, y - m)

    m is the mean of the plate's wells that hold other compounds, m_hat of the predictions for those wells.

    Source: docs/evaluation.md, `plate-centred`; the idea of removing systematic effects from
    Vinas Torne et al. 2025, doi:10.1038/s41587-025-02777-8.

    Note:
        Both means run over the judged wells of the plate, those that have a prediction.

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


def mean_per_condition_then_cell(
    scores: np.ndarray, condition: np.ndarray, cell: np.ndarray, weights: np.ndarray | None = None
) -> dict[int, float]:
    """Average scores per condition, then over the conditions of each cell line.

    Source: docs/evaluation.md, `delta corr`.

    Args:
        scores: (n,), no NaN.
        condition: (n,), int.
        cell: (n,), int.
        weights: Weight of each well's condition, (n,), for the bootstrap; equal if None.

    Returns:
        The mean of each cell line that has some weight.
    """
    _, first, number = np.unique(condition, return_index=True, return_inverse=True)
    per_condition = np.bincount(number, scores) / np.bincount(number)
    weight = np.ones(len(first)) if weights is None else weights[first]
    cells = cell[first]
    means = {}
    for name in np.unique(cells):
        rows = cells == name
        total = weight[rows].sum()
        if total > 0:
            means[int(name)] = float((weight[rows] * per_condition[rows]).sum() / total)
    return means


def explained_share(
    x_hat: np.ndarray, basal: np.ndarray, true_delta: np.ndarray, mean_true_delta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Parts of the share of explainable delta, per well, each (n,).

        share = 1 - sum |x_hat - b - D|^2 / sum |D - Dbar|^2

    Source: docs/evaluation.md, `share of delta`: the true training mean change scores 0, the truth 1.

    Returns:
        Numerators and denominators; sum each, then divide.
    """
    left = ((x_hat.astype(np.float64) - basal - true_delta) ** 2).sum(axis=1)
    return left, ((true_delta.astype(np.float64) - mean_true_delta) ** 2).sum(axis=1)


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Energy distance of two samples: 2 E|x - y| - E|x - x'| - E|y - y'|, pairs with oneself left out.

    Source: Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018 (unbiased form).

    Args:
        x: (n, n_genes), n at least 2.
        y: (m, n_genes), m at least 2.
    """
    n, m = len(x), len(y)
    between = cdist(x, y).mean()
    return float(2 * between - cdist(x, x).sum() / (n * (n - 1)) - cdist(y, y).sum() / (m * (m - 1)))


def mmd_rbf(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    Source: Gretton et al. 2012, JMLR 13:723, Eq. (3).
    """
    n, m = len(x), len(y)
    k_xx, k_yy, k_xy = (np.exp(-(cdist(a, b, "sqeuclidean")) / (2 * bandwidth**2)) for a, b in ((x, x), (y, y), (x, y)))
    within_x = (k_xx.sum() - np.trace(k_xx)) / (n * (n - 1))
    within_y = (k_yy.sum() - np.trace(k_yy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * k_xy.mean())


def median_distance(y: np.ndarray) -> float:
    """Median distance between different rows, the usual bandwidth of `mmd_rbf`."""
    return float(np.median(cdist(y, y)[np.triu_indices(len(y), 1)]))


def _minus_others(values: np.ndarray, group: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Subtract from each row the mean of the rows of other groups."""
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, group, values)
    others = (sums.sum(axis=0) - sums[group]) / (len(values) - sizes[group])[:, None]
    return np.asarray(values - others)
