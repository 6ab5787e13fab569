"""Trivial baselines, which every model must beat: group means of training wells, added block by block, log2."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from ldm_ray.data.wells import Wells

Labels = Callable[[Wells], Sequence[Hashable]]
"""Returns the group of each well."""


def cell_time(wells: Wells) -> list[Hashable]:
    """Cell line and time."""
    return list(zip(wells.frame["cell_id"].tolist(), wells.frame["time_h"].tolist(), strict=True))


def cell(wells: Wells) -> list[Hashable]:
    """Cell line."""
    return list(wells.frame["cell_id"].tolist())


def plate(wells: Wells) -> list[Hashable]:
    """Plate."""
    return list(wells.frame["plate"].tolist())


def everywhere(wells: Wells) -> list[Hashable]:
    """One group for all wells."""
    return [0] * len(wells)


class GroupMeans:
    """Means of training wells by the finest group with any, falling back to coarser groups.

    Args:
        levels: Groupings from fine to coarse; the last one must hold every well.
        n_genes: Length of a profile.
    """

    def __init__(self, levels: Sequence[Labels], n_genes: int) -> None:
        self._levels, self._n_genes = levels, n_genes
        self._sums: list[dict[Hashable, np.ndarray]] = [{} for _ in levels]
        self._counts: list[dict[Hashable, int]] = [{} for _ in levels]

    def add(self, wells: Wells, values: np.ndarray) -> None:
        """Add values of training wells, (n, n_genes)."""
        for labels_of, sums, counts in zip(self._levels, self._sums, self._counts, strict=True):
            labels = labels_of(wells)
            for label, rows in rows_by_label(labels).items():
                part = values[rows].sum(axis=0, dtype=np.float64)
                sums[label] = sums.get(label, 0.0) + part
                counts[label] = counts.get(label, 0) + len(rows)

    def predict(self, wells: Wells) -> np.ndarray:
        """Return each well's group mean, (n, n_genes), float32."""
        out = np.empty((len(wells), self._n_genes), np.float32)
        found = np.zeros(len(wells), dtype=bool)
        for labels_of, sums, counts in zip(self._levels, self._sums, self._counts, strict=True):
            for label, members in rows_by_label(labels_of(wells)).items():
                rows = members[~found[members]]
                if len(rows) and label in sums:
                    out[rows] = sums[label] / counts[label]
                    found[rows] = True
        return out


def rows_by_label(labels: Sequence[Hashable]) -> dict[Hashable, np.ndarray]:
    """Return the rows with each label, in order of first appearance."""
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return {label: np.array(places) for label, places in rows.items()}
