"""Tells log2 intensities from everything else that a matrix can hold, by looking at its values.

Level 3 of L1000 is log2 of a calibrated intensity: 0 to 15, median about 7 or 8, hardly ever exactly 0. Counts,
z-scores (Levels 4 and 5), linear intensities and log1p of counts would train without an error, and mean nothing.
"""

from dataclasses import dataclass

import numpy as np

from ldm_ray.data.releases.join import matrices
from ldm_ray.data.releases.release import ProfileReader, Release
from ldm_ray.errors import DataError

STRETCHES, STRETCH_ROWS, BLOCK_MB = 16, 64, 64
HIGHEST = 20.0
"""The 99th percentile of log2 intensities is lower; that of linear ones is in the thousands."""
LOWEST_TOP = 11.0
"""The 99th percentile of log2 intensities is higher, 13 or 14 in any 64 wells; that of natural logarithms is 10.4."""
LOWEST = -1.0
MEDIANS = (3.5, 13.0)
MOST_ZEROS = 0.05
MOST_INTEGERS = 0.9
COUNT_LIMIT = 1000.0
"""Larger counts cannot be told from other numbers once their logarithm is rounded to float32."""
LOG2_WANTED = "expression must be log2 intensities (Level 3), about 2 to 15"


@dataclass(frozen=True)
class Scale:
    """What the values of a sample look like."""

    low: float
    median: float
    high: float
    negative: float
    zeros: float
    integers: float

    def __str__(self) -> str:
        return (
            f"98% of the values lie in {self.low:.3g} to {self.high:.3g}, median {self.median:.3g};"
            f" {self.negative:.0%} are negative, {self.zeros:.0%} zero, {self.integers:.0%} whole numbers"
        )


def measure(values: np.ndarray) -> Scale:
    """Describe finite values of any shape."""
    low, median, high = np.quantile(values, [0.01, 0.5, 0.99])
    return Scale(
        float(low),
        float(median),
        float(high),
        float(np.mean(values < 0)),
        float(np.mean(values == 0)),
        float(np.mean(values == np.round(values))),
    )


def not_log2(values: np.ndarray) -> str:
    """Return what values are if they are not log2 intensities, with the evidence; empty if they may be.

    Args:
        values: Finite expression values, any shape.
    """
    if not values.size:
        return ""
    scale = measure(values)
    what = _what(scale, values)
    return f"{what}: {scale}" if what else ""


def _what(scale: Scale, values: np.ndarray) -> str:
    if scale.negative > 0.02 and abs(scale.median) < 2:
        return "these are z-scores or changes (Level 4 or 5, or log fold changes)"
    if scale.integers > MOST_INTEGERS:
        return "these are counts"
    if scale.high > HIGHEST:
        return "these are linear intensities; take log2 of them"
    if scale.zeros > MOST_ZEROS or _is_log_of_counts(values):
        return "these are log1p of counts"
    if scale.high < LOWEST_TOP and MEDIANS[0] <= scale.median:
        return "these are natural logarithms, or others that are not log2"
    if scale.low < LOWEST or not MEDIANS[0] <= scale.median <= MEDIANS[1]:
        return "these are on another scale"
    return ""


def _is_log_of_counts(values: np.ndarray) -> bool:
    """Tell whether undoing log1p, in base e or 2, gives whole numbers."""
    for undone in (np.expm1(np.clip(values, 0, 12, dtype=np.float64)), np.exp2(np.clip(values, 0, 17)) - 1):
        small = undone[(undone > 0.5) & (undone < COUNT_LIMIT)]
        if small.size > max(100, 0.2 * values.size) and np.mean(np.abs(small - np.round(small)) < 0.02) > MOST_INTEGERS:
            return True
    return False


def scale_problem(reader: ProfileReader, rows: np.ndarray, genes: np.ndarray) -> str:
    """Look at some stretches of wells, spread over the matrix, each for itself: some plates may be on another scale.

    Args:
        reader: The matrix.
        rows: Rows to choose from, increasing.
        genes: Positions of the wanted genes.

    Returns:
        What is wrong with the first stretch that is not log2, with the evidence; empty if nothing is.
    """
    for start in np.unique(np.linspace(0, max(0, len(rows) - STRETCH_ROWS), STRETCHES).astype(int)):
        blocks = [block for _, block in reader.blocks(rows[start : start + STRETCH_ROWS], genes, BLOCK_MB)]
        if blocks and (what := not_log2(np.concatenate(blocks))):
            return what
    return ""


def require_log2(release: Release, rows: np.ndarray) -> None:
    """Check the scale of the wells that are to be used, before anything is written.

    Args:
        release: An opened release.
        rows: Rows of its matrix that are used, increasing.

    Raises:
        DataError: If the values of one of its matrices are not log2 intensities, with the evidence.
    """
    for reader, own, genes in matrices(release.reader, rows, release.genes.columns):
        if what := scale_problem(reader, own, genes):
            raise DataError(f"{reader.source}: {LOG2_WANTED}; {what}")
