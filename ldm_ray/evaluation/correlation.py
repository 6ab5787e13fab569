"""Gene-gene correlation structure: how it differs between predictions and measurements, and the paper's Fig. 3."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

TOP = 30


@dataclass(frozen=True)
class CorrelationScores:
    """How a predicted correlation structure compares.

    Attributes:
        error: |R_pred - R_real|_F / |R_half - R_other_half|_F of the measurements.
        spearman: Rank correlation of the upper triangles.
        top30_overlap: How many of the 30 most correlated genes are the same.
    """

    error: float
    spearman: float
    top30_overlap: int


def centre_within(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Subtract each group's mean profile, (n, n_genes), float64.

    Source: docs/evaluation.md, `corr error`.
    """
    _, number = np.unique(group, return_inverse=True)
    sums = np.zeros((number.max() + 1, values.shape[1]))
    np.add.at(sums, number, values.astype(np.float64))
    return np.asarray(values - (sums / np.bincount(number)[:, None])[number])


def correlation_matrix(values: np.ndarray) -> np.ndarray:
    """Correlation of genes over wells, (n_genes, n_genes); genes that do not vary have correlation 0.

    Source: Pearson's correlation, as in Kim & Yoo, Fig. 3.
    """
    centred = values - values.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    scaled = centred / np.where(norm > 1e-9, norm, np.inf)
    matrix = scaled.T @ scaled
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(matrix)


def top_genes(matrix: np.ndarray, count: int = TOP) -> np.ndarray:
    """Genes with the largest mean absolute correlation with all others, best first, (count,).

    Source: Kim & Yoo, Fig. 3.
    """
    n = len(matrix)
    score = (np.abs(matrix).sum(axis=1) - 1.0) / (n - 1)
    return np.argsort(-score, kind="stable")[:count]


def compare_correlations(predicted: np.ndarray, real: np.ndarray, half_distance: float) -> CorrelationScores:
    """Compare two correlation matrices.

    Source: docs/evaluation.md, `corr error`.

    Args:
        predicted: (n_genes, n_genes).
        real: (n_genes, n_genes).
        half_distance: Frobenius distance between the matrices of two halves of the measurements.
    """
    upper = np.triu_indices(len(real), 1)
    a, b = predicted[upper], real[upper]
    rank = float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0
    overlap = len(set(top_genes(predicted).tolist()) & set(top_genes(real).tolist()))
    error = float(np.linalg.norm(predicted - real) / max(half_distance, 1e-12))
    return CorrelationScores(error, rank, overlap)


def split_halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split row numbers into two random halves."""
    order = np.random.default_rng([seed, n]).permutation(n)
    return order[: n // 2], order[n // 2 :]
