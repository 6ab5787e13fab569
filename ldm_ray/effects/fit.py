"""Fits the mean model on training wells, in two passes: one for plates, one for compounds."""

from collections.abc import Callable

import numpy as np

from ldm_ray.data.controls import training_controls
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import open_wells
from ldm_ray.data_settings import EffectsSettings
from ldm_ray.effects.control import ControlModel, ControlProfiles, fit_controls
from ldm_ray.effects.fit_compounds import fit_compounds
from ldm_ray.effects.mean import MeanModel, base_of_controls, shrunk_controls
from ldm_ray.effects.plates import Group, PlateCounter

ROWS_PER_BLOCK = 4096


def fit_mean_model(
    dataset: PairedDataset,
    settings: EffectsSettings,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> MeanModel:
    """Fit controls, plates and compounds; wells of other splits and reserved controls are not read.

    Args:
        dataset: The paired dataset.
        settings: Number of landmarks.
        seed: Decides which conditions are landmarks.
        on_progress: Called with wells read and in total, of both passes.
    """
    train = open_wells(dataset, "train")
    control, groups = fit_dataset_controls(dataset)
    shrunk = shrunk_controls(control, groups, dataset)
    counter, done = PlateCounter(dataset.cells), 0
    for wells in train.stream(ROWS_PER_BLOCK):
        counter.add(wells, wells.y.astype(np.float64) - shrunk[wells.frame["basal_id"]])
        on_progress(done := done + len(wells), 2 * len(train))
    plates = counter.fit()
    base = base_of_controls(shrunk, plates, dataset)
    compounds = fit_compounds(
        dataset, train, base, settings, seed, lambda read: on_progress(done + read, 2 * len(train))
    )
    return MeanModel(control, groups, plates, compounds)


def fit_dataset_controls(dataset: PairedDataset) -> tuple[ControlModel, tuple[Group, ...]]:
    """Fit the empirical-Bayes control on the controls of training wells; return it with the names of its groups."""
    rows = training_controls(dataset)
    table = dataset.basal.select(["cell_id", "time_h", "n_wells"]).to_pandas().iloc[rows]
    names = [(dataset.cells[cell], float(time)) for cell, time in zip(table["cell_id"], table["time_h"], strict=True)]
    groups = sorted(set(names))
    number = {group: row for row, group in enumerate(groups)}
    profiles = ControlProfiles(
        mean=dataset.basal_expression[rows].astype(np.float64),
        variance=dataset.basal_variance[rows].astype(np.float64),
        n_wells=table["n_wells"].to_numpy(np.int64),
        group=np.array([number[name] for name in names], np.int64),
    )
    return fit_controls(profiles), tuple(groups)
