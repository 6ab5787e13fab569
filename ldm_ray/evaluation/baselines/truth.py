"""The planted truth of a simulated dataset at scored wells, and the best predictions that it allows."""

from dataclasses import dataclass

import numpy as np

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import Wells
from ldm_ray.data.world import World
from ldm_ray.evaluation.baselines.clouds import LowRankGaussian, keys_of_draw
from ldm_ray.evaluation.baselines.trivial import GroupMeans, cell, cell_time, everywhere
from ldm_ray.keys import Purpose
from ldm_ray.layout import TRUTH


@dataclass(frozen=True)
class Truth:
    """The planted truth of a dataset's wells.

    Attributes:
        world: The planted biology, in the dataset's gene order.
        cells: Name of each cell line of the dataset.
        parents: Parent SMILES of each compound of the dataset.
        control_wells: Number of wells that each control profile averages, (n_basal,).
        train_mean: Mean true change of training wells by cell line and time.
    """

    world: World
    cells: np.ndarray
    parents: np.ndarray
    control_wells: np.ndarray
    train_mean: GroupMeans

    def delta(self, wells: Wells) -> np.ndarray:
        """Noiseless true change of wells, log2, (n, n_genes)."""
        frame = wells.frame
        cells, parents = self.cells[frame["cell_id"].to_numpy()], self.parents[frame["compound_id"].to_numpy()]
        return self.world.true_delta(cells, parents, frame["dose_um"].to_numpy(), frame["time_h"].to_numpy())

    def mean_delta(self, wells: Wells) -> np.ndarray:
        """Training mean of the true change in each well's cell line and time, (n, n_genes)."""
        return self.train_mean.predict(wells)

    def mean(self, wells: Wells) -> np.ndarray:
        """Mean of wells over plates: the cell line's level plus the true change, log2, (n, n_genes)."""
        level = dict(zip(self.world.cell_names.tolist(), self.world.cell_basal, strict=True))
        basal = np.stack([level[str(name)] for name in self.cells[wells.frame["cell_id"].to_numpy()]])
        return np.asarray(basal + self.delta(wells), dtype=np.float32)

    def sd(self, wells: Wells) -> np.ndarray:
        """Standard deviation of wells around control plus true change, (n, n_genes).

        The control is the mean of k wells, which adds 1/k of the well noise.
        """
        world = self.world
        well = (world.noise_factor.astype(float) ** 2).sum(axis=1) + world.noise_sd.astype(float) ** 2
        plate = (world.treated_plate_factor.astype(float) ** 2).sum(axis=1)
        return np.asarray(np.sqrt(well * self._inflation(wells)[:, None] + plate))

    def draw(self, wells: Wells, seed: int, number: int = 0) -> np.ndarray:
        """Simulated wells around control plus true change, (n, n_genes), float32."""
        keys = keys_of_draw(wells.keys, number)
        well = LowRankGaussian(self.world.noise_factor.astype(float), self.world.noise_sd.astype(float))
        plate = LowRankGaussian(self.world.treated_plate_factor.astype(float), np.zeros(self.world.n_genes))
        noise = np.sqrt(self._inflation(wells))[:, None] * well.draw(keys, seed, Purpose.ORACLE_WELL)
        noise += plate.draw(keys, seed, Purpose.ORACLE_PLATE)
        return np.asarray(wells.basal + self.delta(wells) + noise, dtype=np.float32)

    def _inflation(self, wells: Wells) -> np.ndarray:
        return np.asarray(1 + 1 / self.control_wells[wells.frame["basal_id"].to_numpy()])


def planted_world(dataset: PairedDataset) -> World | None:
    """Return the planted truth of a simulated dataset, in its gene order; None for a real one."""
    if not dataset.manifest["simulated"]:
        return None
    entrez_ids = np.array([gene["entrez_id"] for gene in dataset.manifest["genes"]])
    return World.from_bytes(dataset.store.read_bytes(TRUTH)).for_genes(entrez_ids)


def open_truth(dataset: PairedDataset) -> Truth | None:
    """Return the planted truth of a simulated dataset, its training mean not yet filled; None for a real one."""
    world = planted_world(dataset)
    if world is None:
        return None
    means = GroupMeans((cell_time, cell, everywhere), dataset.n_genes)
    wells = dataset.basal["n_wells"].to_numpy()
    return Truth(world, np.array(dataset.cells), dataset.parent_smiles, wells, means)
