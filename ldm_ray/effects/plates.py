"""The effects of cell lines and times, batches and plates on treated wells, by name."""

from dataclasses import dataclass, field

import numpy as np

from ldm_ray.data.pairing import batch_name
from ldm_ray.data.wells import Wells
from ldm_ray.effects.nested import NestedEffects, PlateSums, fit_nested
from ldm_ray.effects.pooling import Floats

Group = tuple[str, float]
"""Cell line and time in hours."""
Place = tuple[str, float, str]
"""A group, and the name of a batch or a plate."""


@dataclass(frozen=True)
class PlateEffects:
    """Fitted effects, log2.

    Attributes:
        factor: f, the share of D_g that a new batch is given.
        everywhere: Mean of D_g, (n_genes,).
        groups: D_g by cell line and time, (n_genes,) each.
        batches: D_g + batch_b by cell line, time and batch.
        plates: D_g + batch_b + plate_p by cell line, time and plate.
        well_var: Variance of wells within a plate, (n_genes,).
    """

    factor: float
    everywhere: Floats
    groups: dict[Group, Floats]
    batches: dict[Place, Floats]
    plates: dict[Place, Floats]
    well_var: Floats

    def of_plate(self, cell: str, time_h: float, plate: str) -> Floats:
        """Return the effect of a plate, (n_genes,): its own, else its batch's, else that of a new batch.

        Args:
            cell: Cell line.
            time_h: Hours.
            plate: The plate's name, the batch's for a well without a plate of its own, or empty.
        """
        known = self.plates.get((cell, time_h, plate))
        if known is None:
            known = self.batches.get((cell, time_h, batch_name(plate)))
        return self.of_new_batch(cell, time_h) if known is None else known

    def of_new_batch(self, cell: str, time_h: float) -> Floats:
        """Return f D_g of the cell line at the nearest training time, (n_genes,); of all cell lines for a new one."""
        times = [time for name, time in self.groups if name == cell]
        if not times:
            return np.asarray(self.factor * self.everywhere)
        nearest = min(times, key=lambda time: (abs(time - time_h), time))
        return np.asarray(self.factor * self.groups[cell, nearest])


@dataclass
class PlateCounter:
    """Sums over training wells, added block by block.

    Attributes:
        cells: Names of the cell lines by number.
    """

    cells: list[str]
    totals: dict[Place, Floats] = field(default_factory=dict)
    counts: dict[Place, int] = field(default_factory=dict)
    batch_of: dict[Place, str] = field(default_factory=dict)
    squares: Floats = field(default_factory=lambda: np.zeros(()))

    def add(self, wells: Wells, change: Floats) -> None:
        """Add wells and their changes from the control, (n, n_genes)."""
        self.squares = self.squares + (change**2).sum(axis=0)
        groups = wells.frame.groupby(["cell_id", "time_h", "plate", "batch"], sort=True).indices
        for (cell, time_h, plate, batch), rows in groups.items():
            place = (self.cells[int(cell)], float(time_h), str(plate))
            self.totals[place] = self.totals.get(place, 0.0) + change[rows].sum(axis=0)
            self.counts[place] = self.counts.get(place, 0) + len(rows)
            self.batch_of[place] = str(batch)

    def fit(self) -> PlateEffects:
        """Fit the effects of the wells so far."""
        places = sorted(self.totals)
        groups = sorted({place[:2] for place in places})
        batches = sorted({(*place[:2], self.batch_of[place]) for place in places})
        group_row = {group: row for row, group in enumerate(groups)}
        batch_row = {batch: row for row, batch in enumerate(batches)}
        nested = fit_nested(
            PlateSums(
                total=np.stack([self.totals[place] for place in places]),
                count=np.array([self.counts[place] for place in places]),
                squares=self.squares,
                group=np.array([group_row[place[:2]] for place in places]),
                batch=np.array([batch_row[(*place[:2], self.batch_of[place])] for place in places]),
            )
        )
        return _named(nested, groups, batches, places)


def _named(nested: NestedEffects, groups: list[Group], batches: list[Place], places: list[Place]) -> PlateEffects:
    return PlateEffects(
        factor=nested.factor,
        everywhere=nested.everywhere,
        groups=dict(zip(groups, nested.group, strict=True)),
        batches=dict(zip(batches, nested.batch, strict=True)),
        plates=dict(zip(places, nested.plate, strict=True)),
        well_var=nested.components.well,
    )
