"""Sums of rows by number, and how much of a noisy deviation is kept."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


def sum_by(values: Floats, number: Numbers, count: int) -> Floats:
    """Sum the rows with the same number, (count, width)."""
    out = np.zeros((count, values.shape[1]))
    np.add.at(out, number, values)
    return out


def kept(signal: Floats, noise: Floats) -> Floats:
    """Return signal / (signal + noise), given two variances; 0 where there is no signal."""
    total = signal + noise
    return np.divide(signal, total, out=np.zeros_like(total), where=total > 0)
