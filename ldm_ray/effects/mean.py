"""The mean model: what a treated well is expected to be.

    x = b_p + plate effect + m(compound, cell line, dose, time) + a well's own deviation

b_p is the empirical-Bayes control. The plate effect is that of a known plate, or f D_g on a new one; it is no effect of
the compound, which is m. Reported changes are f D_g + m.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.effects.compounds import CompoundEffects
from ldm_ray.effects.control import ControlModel
from ldm_ray.effects.plates import Group, PlateEffects
from ldm_ray.effects.wells import DatasetBase, well_effects
from ldm_ray.settings import Target


@dataclass(frozen=True)
class MeanModel:
    """A fitted mean model.

    Attributes:
        control: Shrinks controls.
        control_groups: Cell line and time of each group of `control`.
        plates: Effects of plates.
        compounds: Effects of compounds.
    """

    target: ClassVar[Target] = "effects"

    control: ControlModel
    control_groups: tuple[Group, ...]
    plates: PlateEffects
    compounds: CompoundEffects

    def on(self, dataset: PairedDataset) -> DatasetBase:
        """Return the base of a dataset's wells: b_p, the effect of the plate, and m."""
        table = base_of_controls(shrunk_controls(self.control, self.control_groups, dataset), self.plates, dataset)
        change = np.stack([self.plates.of_new_batch(*group) for group in groups_of(dataset)])
        return DatasetBase(table, well_effects(self.compounds, dataset), np.asarray(table - change, np.float32))

    def of_query(self, basal: NDArray[np.float32], cell: str, time_h: float) -> NDArray[np.float32]:
        """Return a control plus the effect of a new plate, without m, (n_genes,), log2."""
        return np.asarray(basal + self.plates.of_new_batch(cell, time_h), np.float32)


def shrunk_controls(control: ControlModel, groups: tuple[Group, ...], dataset: PairedDataset) -> NDArray[np.float32]:
    """Return the empirical-Bayes control of each control profile of a dataset, (n_basal, n_genes), log2."""
    number = {group: row for row, group in enumerate(groups)}
    own = np.array([number.get(group, -1) for group in groups_of(dataset)], np.int64)
    n_wells = dataset.basal["n_wells"].to_numpy().astype(np.int64)
    return np.asarray(control.shrunk(dataset.basal_expression.astype(np.float64), n_wells, own), np.float32)


def base_of_controls(shrunk: NDArray[np.float32], plates: PlateEffects, dataset: PairedDataset) -> NDArray[np.float32]:
    """Add the effect of each control profile's plate to its shrunk control, (n_basal, n_genes), log2."""
    own = zip(groups_of(dataset), dataset.basal["plate"].to_pylist(), strict=True)
    effects = np.stack([plates.of_plate(*group, plate) for group, plate in own])
    return np.asarray(shrunk + effects, np.float32)


def groups_of(dataset: PairedDataset) -> list[Group]:
    """Return cell line and time of each control profile."""
    cells, times = dataset.basal["cell_id"].to_pylist(), dataset.basal["time_h"].to_pylist()
    return [(dataset.cells[cell], float(time_h)) for cell, time_h in zip(cells, times, strict=True)]
