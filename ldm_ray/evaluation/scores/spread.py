"""Scores of predicted spreads (coverage of intervals, CRPS), and the per-gene scale that calibrates them."""

import numpy as np
from scipy.special import ndtr, ndtri

LEVELS = (0.5, 0.8, 0.95)
SMALLEST_SD = 1e-3


def covered(y: np.ndarray, mean: np.ndarray, sd: np.ndarray, level: float) -> np.ndarray:
    """Share of each well's genes inside mean +- z sd, (n,).

    Args:
        y: Measured profiles, (n, n_genes).
        mean: Predicted means, (n, n_genes).
        sd: Predicted standard deviations, (n, n_genes).
        level: Expected share if errors are Gaussian.
    """
    z = float(ndtri(0.5 + level / 2))
    return np.asarray((np.abs(y - mean) <= z * sd).mean(axis=1, dtype=np.float64))


def crps_gaussian(y: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of N(mean, sd^2), averaged over each well's genes, (n,).

    Source: Gneiting & Raftery 2007, doi:10.1198/016214506000001437, Eq. (21); its limit for sd = 0 is |y - mean|.
    """
    error, sd = y.astype(np.float64) - mean, np.maximum(sd, 1e-12)
    z = error / sd
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray((sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))).mean(axis=1))


def fit_sd_scale(y: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Per-gene factor on the standard deviation that gives standardised errors a mean square of 1, (n_genes,).

    Source: the maximum of the Gaussian likelihood in the factor; cf. Kuleshov et al. 2018, arXiv:1807.00263.

    Note:
        It is 1 where predictions are not finite.
    """
    finite = np.isfinite(mean).all(axis=0) & np.isfinite(sd).all(axis=0)
    z = (y.astype(np.float64) - np.where(finite, mean, 0)) / np.maximum(np.where(finite, sd, 1), SMALLEST_SD)
    return np.where(finite, np.sqrt((z**2).mean(axis=0)), 1).astype(np.float32)
