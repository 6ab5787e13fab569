"""What a mean model leaves of training wells, out of fold: a sample, kept in a bundle for the rivals of its draws."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import load_wells
from ldm_ray.effects.mean import MeanModel
from ldm_ray.effects.plates import Group

KEPT_WELLS = 4096
VALUES, GROUP = "residuals.values", "residuals.group"


@dataclass(frozen=True)
class Residuals:
    """Residuals of n training wells.

    Attributes:
        values: Measured minus expected expression, log2, (n, n_genes).
        groups: Cell line and time of each.
    """

    values: NDArray[np.float32]
    groups: list[Group]


def residual_parts(
    base: MeanModel, dataset: PairedDataset, seed: int
) -> tuple[list[list[str | float]], dict[str, Tensor]]:
    """Return a seeded sample of residuals as a bundle stores it: its groups, and tensors in half precision.

    Args:
        base: The mean model, with its folds.
        dataset: Its dataset.
        seed: Seed of the sample of training wells.
    """
    wells = load_wells(dataset, "train", KEPT_WELLS, seed)
    left = wells.y - base.on(dataset).of_wells(wells)
    own = [
        (dataset.cells[cell], float(time))
        for cell, time in zip(wells.frame["cell_id"], wells.frame["time_h"], strict=True)
    ]
    groups = sorted(set(own))
    number = {group: row for row, group in enumerate(groups)}
    tensors = {VALUES: torch.from_numpy(left).half(), GROUP: torch.tensor([number[group] for group in own])}
    return [list(group) for group in groups], tensors


def restored_residuals(groups: list[list[str | float]], tensors: dict[str, Tensor]) -> Residuals:
    """Rebuild what `residual_parts` returned."""
    names = [(str(cell), float(time_h)) for cell, time_h in groups]
    return Residuals(tensors[VALUES].float().numpy(), [names[row] for row in tensors[GROUP].tolist()])
