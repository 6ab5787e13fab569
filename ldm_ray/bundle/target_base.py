"""What the target is measured from: nothing, the control, the control plus a shrunk mean change, or a mean model.

    base = x_b + f * mean change of the cell line and time        (target `residual`)

What a cell line's treated wells have in common is then given and need not be learnt. The factor f is the one that
best predicts, by least squares, the wells of a plate from the mean change of the *other* plates: a mean over few plates
contains their own shifts, which other plates do not share. With target `effects` the base is that of a `MeanModel`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import open_wells
from ldm_ray.effects.fit import fit_mean_model
from ldm_ray.effects.mean import MeanModel
from ldm_ray.effects.wells import DatasetBase
from ldm_ray.settings import Target

Group = tuple[str, float]
"""Cell line and time in hours."""
ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class TargetBase:
    """What to add to the matched control.

    Attributes:
        target: Models see expression minus the base.
        factor: f, between 0 and 1.
        shift: f times the mean training change by cell line and time, log2, (n_genes,) each.
        everywhere: The same over all training wells, for cell lines that are not in training.
    """

    target: Target
    factor: float
    shift: dict[Group, NDArray[np.float32]]
    everywhere: NDArray[np.float32]
    compounds: ClassVar[None] = None

    def on(self, dataset: PairedDataset) -> DatasetBase:
        """Return the base of a dataset's wells."""
        return DatasetBase(self.of_controls(dataset))

    def of_query(self, basal: NDArray[np.float32], cell: str, time_h: float) -> NDArray[np.float32]:
        """Return the base of a query with this control, (n_genes,), log2."""
        if self.target == "absolute":
            return np.zeros_like(basal)
        return basal + self.of_group(cell, time_h) if self.target == "residual" else basal

    def of_controls(self, dataset: PairedDataset) -> NDArray[np.float32]:
        """Return the base of each control profile of a dataset, (n_basal, n_genes), log2."""
        if self.target == "absolute":
            return np.zeros_like(dataset.basal_expression)
        if self.target == "delta":
            return dataset.basal_expression
        table = dataset.basal.select(["cell_id", "time_h"]).to_pandas()
        groups = zip(table["cell_id"], table["time_h"], strict=True)
        shifts = [self.of_group(dataset.cells[int(cell)], float(time_h)) for cell, time_h in groups]
        return dataset.basal_expression + np.asarray(shifts, dtype=np.float32)

    def of_group(self, cell: str, time_h: float) -> NDArray[np.float32]:
        """Return the shift of a cell line at the nearest training time, (n_genes,)."""
        times = [time for name, time in self.shift if name == cell]
        if not times:
            return self.everywhere
        return self.shift[cell, min(times, key=lambda time: (abs(time - time_h), time))]


Base = TargetBase | MeanModel


def fit_base(
    dataset: PairedDataset, config: Config, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Base:
    """Fit what the target is measured from on training wells; a mean model tells of the wells that it has read."""
    if config.target == "effects":
        return fit_mean_model(dataset, config.effects, config.seed, on_progress)
    return fit_target_base(dataset, config.target)


def fit_target_base(dataset: PairedDataset, target: Target) -> TargetBase:
    """Fit the base of a target on training wells, block by block; only `residual` reads wells.

    Source: leave-one-out least squares of one factor,
    f = sum_p <D_-p, S_p> / sum_p n_p |D_-p|^2, where S_p and n_p are the sum and number of changes on plate p, and D_-p
    is the mean change of its cell line and time without plate p; clipped to [0, 1].
    """
    none = np.zeros(dataset.n_genes, np.float32)
    if target != "residual":
        return TargetBase(target, 0.0, {}, none)
    sums: dict[tuple[Group, str], NDArray[np.float64]] = {}
    counts: dict[tuple[Group, str], int] = {}
    for wells in open_wells(dataset, "train").stream(ROWS_PER_BLOCK):
        delta = (wells.y - wells.basal).astype(np.float64)
        for (cell, time_h, plate), rows in wells.frame.groupby(["cell_id", "time_h", "plate"]).indices.items():
            key = ((dataset.cells[int(cell)], float(time_h)), str(plate))
            sums[key] = sums.get(key, 0.0) + delta[rows].sum(axis=0)
            counts[key] = counts.get(key, 0) + len(rows)
    total, number = _by_group(sums), _by_group(counts)
    factor = _leave_plate_out(sums, counts, total, number)
    shift = {group: (factor * total[group] / number[group]).astype(np.float32) for group in sorted(total)}
    everywhere = factor * sum(total.values()) / sum(number.values())
    return TargetBase(target, factor, shift, np.asarray(everywhere, np.float32))


def _by_group(values: dict) -> dict:  # type: ignore[type-arg]
    """Sum over plates."""
    out: dict = {}  # type: ignore[type-arg]
    for (group, _), value in values.items():
        out[group] = out[group] + value if group in out else value
    return out


def _leave_plate_out(
    sums: dict[tuple[Group, str], NDArray[np.float64]],
    counts: dict[tuple[Group, str], int],
    total: dict[Group, NDArray[np.float64]],
    number: dict[Group, int],
) -> float:
    """Return f; 0 if no cell line and time has two plates."""
    above = below = 0.0
    for (group, plate), own in sums.items():
        own_count = counts[group, plate]
        if number[group] == own_count:
            continue
        others = (total[group] - own) / (number[group] - own_count)
        above += float(others @ own)
        below += own_count * float(others @ others)
    return min(1.0, max(0.0, above / below)) if below else 0.0
