"""The treated wells that one worker holds, and how an epoch deals them into batches.

A worker holds some lanes of a split (`ldm_ray.data.lanes`). A global batch takes equally many rows of each
lane, in an order keyed by (seed, epoch, row): the batches are the same sets of rows for 1, 2, 4 ... workers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_ray.errors import DataError, SettingsError
from ldm_ray.models.condition import Condition
from ldm_ray.noise import mix

ORDER = 1


@dataclass(frozen=True)
class Rows:
    """Treated wells on a device, n of them.

    Attributes:
        keys: Key of the profile id, (n,), int64.
        lane: (n,), int64.
        expression: log2, (n, n_genes).
        basal: Row of `Tables.basal`, (n,).
        compound: Row of `Tables.embeddings`, (n,).
        dose_um: (n,).
        time_h: (n,).
    """

    keys: Tensor
    lane: Tensor
    expression: Tensor
    basal: Tensor
    compound: Tensor
    dose_um: Tensor
    time_h: Tensor

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Tables:
    """What rows refer to by number, on the same device.

    Attributes:
        basal: Control profiles, log2, (n_basal, n_genes).
        basal_input: What the model is conditioned on for each of them, log2, (n_basal, n_genes).
        embeddings: Compound embeddings, (n_compounds, embedding_dim).
    """

    basal: Tensor
    basal_input: Tensor
    embeddings: Tensor


def condition_of(rows: Rows, tables: Tables, index: Tensor) -> Condition:
    """Gather the condition of rows, from the tables on the device."""
    return Condition(
        x_basal=tables.basal_input[rows.basal[index]],
        compound=tables.embeddings[rows.compound[index]],
        dose_um=rows.dose_um[index],
        time_h=rows.time_h[index],
    )


def target_of(rows: Rows, tables: Tables, index: Tensor, target: str) -> Tensor:
    """Return what the autoencoder sees, (batch, n_genes): the profile, or its change from the control."""
    x = rows.expression[index]
    return x if target == "absolute" else x - tables.basal[rows.basal[index]]


@dataclass(frozen=True)
class EpochPlan:
    """How many steps an epoch has, and what it leaves out; the same on every worker.

    Attributes:
        steps: Global batches an epoch.
        rows_per_lane: Rows of each lane in a batch.
        dropped: Rows of the whole split that an epoch leaves out, others each time.
    """

    steps: int
    rows_per_lane: int
    dropped: int


def plan_epoch(n_rows: int, n_lanes: int, global_batch_size: int, world_size: int) -> EpochPlan:
    """Plan an epoch over `n_rows` rows of all workers together.

    Raises:
        SettingsError: If the workers do not divide the lanes, or the lanes the batch.
        DataError: If there are fewer rows than one batch takes.
    """
    if n_lanes % world_size:
        raise SettingsError(f"the number of workers must divide ray.lanes = {n_lanes}; got {world_size}")
    if global_batch_size % n_lanes:
        raise SettingsError(f"global_batch_size must be a multiple of ray.lanes = {n_lanes}; got {global_batch_size}")
    rows_per_lane = global_batch_size // n_lanes
    steps = (n_rows // n_lanes) // rows_per_lane
    if steps == 0:
        raise DataError(f"global_batch_size is {global_batch_size}; the training split has only {n_rows} profiles")
    return EpochPlan(steps, rows_per_lane, n_rows - steps * global_batch_size)


def epoch_batches(rows: Rows, plan: EpochPlan, seed: int, epoch: int, first_step: int = 0) -> Iterator[Tensor]:
    """Yield the row numbers of this worker's part of each global batch, from `first_step` on."""
    draw = mix(rows.keys, seed, ORDER, epoch)
    order = torch.argsort(draw, stable=True)
    order = order[torch.argsort(rows.lane[order], stable=True)]
    lanes = torch.unique_consecutive(rows.lane[order], return_counts=True)[1]
    starts = (torch.cumsum(lanes, 0) - lanes).tolist()
    for step in range(first_step, plan.steps):
        low, high = step * plan.rows_per_lane, (step + 1) * plan.rows_per_lane
        yield torch.cat([order[start + low : start + high] for start in starts])
