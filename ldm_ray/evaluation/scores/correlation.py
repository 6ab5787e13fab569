"""Gene-gene correlations: how predictions differ from measurements, and the paper's Fig. 3."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

TOP = 30


@dataclass(frozen=True)
class CorrelationScores:
    """Scores of predicted gene-gene correlations.

    Attributes:
        error: |R_pred - R_real|_F / |R_half - R_other_half|_F of the measurements.
        spearman: Rank correlation of the upper triangles.
        top30_overlap: How many of the 30 most correlated genes are the same.
    """

    error: float
    spearman: float
    top30_overlap: int


def top_genes(matrix: np.ndarray, count: int = TOP) -> np.ndarray:
    """Genes with the largest mean absolute correlation with all others, best first, (count,).

    Source: Kim & Yoo, Fig. 3.
    """
    score = (np.abs(matrix).sum(axis=1) - 1.0) / (len(matrix) - 1)
    return np.argsort(-score, kind="stable")[:count]


def top_overlap(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many of the 30 most correlated genes two matrices share."""
    return len(set(top_genes(first).tolist()) & set(top_genes(second).tolist()))


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
    error = float(np.linalg.norm(predicted - real) / max(half_distance, 1e-12))
    return CorrelationScores(error, rank, top_overlap(predicted, real))
