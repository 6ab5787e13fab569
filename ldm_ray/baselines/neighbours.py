"""k nearest neighbours: the mean change that structurally similar training compounds made in the same cell line."""

from dataclasses import dataclass, field

import numpy as np

from ldm_ray.domain import tanimoto
from ldm_ray.evaluation.wells import Wells

NEIGHBOURS = (3, 10, 30)
Effects = dict[tuple[int, int], tuple[np.ndarray, int]]


@dataclass
class Neighbours:
    """Sums of training changes by cell line and compound, and how many neighbours to take.

    Attributes:
        fingerprints: Packed bits of each compound of the dataset, (n_compounds, n_bytes), uint8.
        k: Neighbours taken.
        effects: Sum of changes, float32, and wells of each (cell line, compound).
        errors: Squared error on validation wells for each number of neighbours.
    """

    fingerprints: np.ndarray
    k: int = NEIGHBOURS[0]
    effects: Effects = field(default_factory=dict)
    errors: dict[int, float] = field(default_factory=dict)
    _pools: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)

    def add(self, wells: Wells, delta: np.ndarray) -> None:
        """Add training wells and their changes, (n, n_genes)."""
        for key, rows in _pairs(wells).items():
            before, count = self.effects.get(key, (np.float32(0), 0))
            self.effects[key] = (np.asarray(before + delta[rows].sum(axis=0), dtype=np.float32), count + len(rows))

    def validate(self, wells: Wells) -> None:
        """Add the squared error on validation wells for each number of neighbours, and keep the best number."""
        for k in NEIGHBOURS:
            error = float(((self._predict(wells, k) - wells.y) ** 2).sum(dtype=np.float64))
            self.errors[k] = self.errors.get(k, 0.0) + error
        self.k = min(self.errors, key=lambda k: self.errors[k])

    def predict(self, wells: Wells) -> np.ndarray:
        """Return the control plus the neighbours' mean change, (n, n_genes), float32."""
        return self._predict(wells, self.k)

    def _predict(self, wells: Wells, k: int) -> np.ndarray:
        out = wells.basal.copy()
        for (cell, compound), rows in _pairs(wells).items():
            out[rows] += self._effect(cell, compound, k)
        return out

    def _effect(self, cell: int, compound: int, k: int) -> np.ndarray:
        compounds, sums, counts = self._pool(cell)
        near = tanimoto(self.fingerprints[compound], self.fingerprints[compounds])
        chosen = np.argsort(-near, kind="stable")[:k]
        return np.asarray(sums[chosen].sum(axis=0) / counts[chosen].sum(), dtype=np.float32)

    def _pool(self, cell: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compounds tested in a cell line, sums and wells of each; of all cell lines where it has none."""
        if cell not in self._pools:
            own = {compound: effect for (c, compound), effect in self.effects.items() if c == cell}
            if not own:
                for (_, compound), (total, count) in self.effects.items():
                    before, n = own.get(compound, (np.zeros_like(total), 0))
                    own[compound] = (before + total, n + count)
            compounds = np.array(sorted(own))
            sums = np.stack([own[compound][0] for compound in compounds])
            self._pools[cell] = (compounds, sums, np.array([own[compound][1] for compound in compounds]))
        return self._pools[cell]


def _pairs(wells: Wells) -> dict[tuple[int, int], np.ndarray]:
    """Rows of each cell line and compound."""
    grouped = wells.frame.groupby(["cell_id", "compound_id"], sort=True).indices
    return {(int(cell), int(compound)): rows for (cell, compound), rows in grouped.items()}
