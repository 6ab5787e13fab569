"""k nearest neighbours: the mean change of structurally similar training compounds in the same cell line.

A group of compounds (stereoisomers) is one neighbour.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ldm_ray.chem.similarity import tanimoto
from ldm_ray.data.wells import Wells

NEIGHBOURS = (3, 10, 30)
ANY_CELL = -1
Effects = dict[tuple[int, int], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class CompoundPool:
    """A cell line's training compounds: group ids (n,), summed changes (n, n_genes), float32, numbers of wells (n,)."""

    compounds: np.ndarray
    sums: np.ndarray
    counts: np.ndarray


@dataclass
class Neighbours:
    """Training changes by cell line and group of compounds, and the number of neighbours.

    Attributes:
        fingerprints: Packed bits of each compound of the dataset, (n_compounds, n_bytes), uint8.
        k: Number of neighbours.
        effects: Summed changes and number of wells by (cell line, group), while training wells are added.
        pools: The same by cell line, after `finish`.
        errors: Squared error on validation wells by number of neighbours.
    """

    fingerprints: np.ndarray
    k: int = NEIGHBOURS[0]
    effects: Effects = field(default_factory=dict)
    pools: dict[int, CompoundPool] = field(default_factory=dict)
    errors: dict[int, float] = field(default_factory=dict)

    def add(self, wells: Wells, delta: np.ndarray) -> None:
        """Add training wells and their changes, (n, n_genes)."""
        for key, rows in _pairs(wells, "group_id").items():
            before, count = self.effects.get(key, (np.float32(0), 0))
            self.effects[key] = (np.asarray(before + delta[rows].sum(axis=0), dtype=np.float32), count + len(rows))

    def finish(self) -> None:
        """Pool what was added by cell line, and over all cell lines for cell lines unseen in training."""
        everywhere: dict[int, tuple[np.ndarray, int]] = {}
        cells: dict[int, dict[int, tuple[np.ndarray, int]]] = {}
        for (cell, compound), (total, count) in self.effects.items():
            cells.setdefault(cell, {})[compound] = (total, count)
            before, n = everywhere.get(compound, (np.float32(0), 0))
            everywhere[compound] = (np.asarray(before + total), n + count)
        self.pools = {cell: _pool(own) for cell, own in cells.items()}
        self.pools[ANY_CELL] = _pool(everywhere)
        self.effects = {}

    def validate(self, wells: Wells) -> None:
        """Add the squared error of each number of neighbours on validation wells, and keep the best number."""
        for k, predicted in zip(NEIGHBOURS, self._predict(wells, NEIGHBOURS), strict=True):
            self.errors[k] = self.errors.get(k, 0.0) + float(((predicted - wells.y) ** 2).sum(dtype=np.float64))
        self.k = min(self.errors, key=lambda k: self.errors[k])

    def predict(self, wells: Wells) -> np.ndarray:
        """Return the control plus the neighbours' mean change, (n, n_genes), float32."""
        return self._predict(wells, (self.k,))[0]

    def _predict(self, wells: Wells, numbers: Sequence[int]) -> list[np.ndarray]:
        out = [wells.basal.copy() for _ in numbers]
        for (cell, compound), rows in _pairs(wells, "compound_id").items():
            pool = self.pools.get(cell, self.pools[ANY_CELL])
            near = tanimoto(self.fingerprints[compound], self.fingerprints[pool.compounds])
            nearest = np.argsort(-near, kind="stable")
            for values, k in zip(out, numbers, strict=True):
                values[rows] += pool.sums[nearest[:k]].sum(axis=0) / pool.counts[nearest[:k]].sum()
        return out


def _pool(effects: dict[int, tuple[np.ndarray, int]]) -> CompoundPool:
    compounds = np.array(sorted(effects))
    sums = np.stack([effects[compound][0] for compound in compounds])
    return CompoundPool(compounds, sums, np.array([effects[compound][1] for compound in compounds]))


def _pairs(wells: Wells, unit: str) -> dict[tuple[int, int], np.ndarray]:
    """Rows of each cell line and compound, or group of compounds."""
    grouped = wells.frame.groupby(["cell_id", unit], sort=True).indices
    return {(int(cell), int(compound)): rows for (cell, compound), rows in grouped.items()}
