"""Untreated cells: mean training controls, and the control profile that a model is conditioned on.

A treated well's matched control carries the noise of a few wells and the shift of its plate. A model conditioned on
it can tell plates apart and learns to undo that noise, which is not an effect of the compound. With
`basal_input: cell_time` the model sees the mean training control of the cell line and time instead; the change is
still measured from, and added to, the matched control.
"""

from typing import Literal, TypedDict

import numpy as np
import pandas as pd

from ldm_ray.data.dataset import PairedDataset


class MeanControl(TypedDict):
    """Cell line and time of a mean control, and the number of wells it averages."""

    cell: str
    time_h: float
    n_wells: int


def training_controls(dataset: PairedDataset) -> np.ndarray:
    """Return the `basal_id`s paired with training wells, sorted."""
    return np.unique(dataset.profiles(["basal_id"], "train")["basal_id"].to_numpy())


def mean_controls(dataset: PairedDataset) -> tuple[list[MeanControl], np.ndarray]:
    """Mean training control per cell line and time, weighted by wells.

    Returns:
        Cell line and time of each, and their profiles, (entries, n_genes), float32, log2.
    """
    means = _means(dataset, training_controls(dataset))
    entries: list[MeanControl] = [
        {"cell": dataset.cells[cell], "time_h": time_h, "n_wells": int(wells)}
        for (cell, time_h), (wells, _) in means.items()
    ]
    return entries, np.asarray([profile for _, profile in means.values()], dtype=np.float32)


def basal_input(dataset: PairedDataset, mode: Literal["cell_time", "matched"]) -> np.ndarray:
    """Return the profile that stands in for each control as a model's input, (n_basal, n_genes), float32, log2.

    Args:
        dataset: The paired dataset.
        mode: `matched`: the control profile itself. `cell_time`: the mean training control of its cell line
            and time, or the mean of all its input controls if training has no such control.
    """
    if mode == "matched":
        return dataset.basal_expression
    table = _controls(dataset)
    inputs = table.index[table["role"] == "input"].to_numpy()
    means = _means(dataset, inputs) | _means(dataset, training_controls(dataset))
    keys = zip(table["cell_id"], table["time_h"], strict=True)
    return np.asarray([means[int(cell), float(time)][1] for cell, time in keys], dtype=np.float32)


def _controls(dataset: PairedDataset) -> pd.DataFrame:
    frame: pd.DataFrame = dataset.basal.select(["cell_id", "time_h", "n_wells", "role"]).to_pandas()
    return frame


def _means(dataset: PairedDataset, basal_ids: np.ndarray) -> dict[tuple[int, float], tuple[float, np.ndarray]]:
    """Number of wells and mean profile of the given controls, by (cell_id, time_h)."""
    means = {}
    chosen = _controls(dataset).loc[basal_ids]
    for (cell, time_h), part in chosen.groupby(["cell_id", "time_h"], sort=True):
        wells = part["n_wells"].to_numpy(dtype=float)
        profile = np.average(dataset.basal_expression[part.index], axis=0, weights=wells)
        means[int(cell), float(time_h)] = (float(wells.sum()), profile)
    return means
