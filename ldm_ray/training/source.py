"""Sources of a worker's treated wells: the interface, and the source that holds them in memory.

With a resident source, a worker holds some lanes of a split (`ldm_ray.data.lanes`). A global batch takes equally many
rows of each lane, in an order keyed by (seed, epoch, row), so its rows are the same for 1, 2, 4 ... workers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ldm_ray.errors import DataError, SettingsError
from ldm_ray.keys import Purpose
from ldm_ray.noise import mix
from ldm_ray.training.rows import LatentRows, ProfileRows, Rows

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class EpochPlan:
    """Steps of an epoch and the rows it drops; the same on every worker.

    Attributes:
        steps: Global batches per epoch.
        dropped: Training rows that an epoch drops, different ones each time.
    """

    steps: int
    dropped: int


class WellSource(Protocol):
    """The wells of one worker; all workers of a run have the same plan."""

    @property
    def plan(self) -> EpochPlan:
        """Steps of an epoch over `split = train`."""

    @property
    def device(self) -> torch.device:
        """Where the rows are."""

    def count(self, split: str) -> int:
        """Return this worker's number of wells in a split."""

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Rows]:
        """Yield this worker's part of each global batch of an epoch, from `first_step` on."""

    def sweep(self, split: str) -> Iterator[Rows]:
        """Yield each well of this worker once, in pieces, always in the same order."""


@dataclass(frozen=True)
class ResidentSource:
    """Wells held on the device.

    Attributes:
        rows: Wells by split, sorted by key.
        lane: Lane of each training row, (n,), int64.
        plan: See `lane_plan`.
        rows_per_lane: Rows of each lane in a batch.
        seed: Seed of the order.
    """

    rows: Mapping[str, Rows]
    lane: Tensor
    plan: EpochPlan
    rows_per_lane: int
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.lane.device

    def count(self, split: str) -> int:
        """Return how many wells of a split this worker has."""
        return len(self.rows[split])

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Rows]:
        """Yield this worker's part of each global batch of an epoch, from `first_step` on."""
        train = self.rows["train"]
        order = torch.argsort(mix(train.keys, self.seed, Purpose.ORDER, epoch), stable=True)
        order = order[torch.argsort(self.lane[order], stable=True)]
        lanes = torch.unique_consecutive(self.lane[order], return_counts=True)[1]
        starts = (torch.cumsum(lanes, 0) - lanes).tolist()
        for step in range(first_step, self.plan.steps):
            low, high = step * self.rows_per_lane, (step + 1) * self.rows_per_lane
            yield train.take(torch.cat([order[start + low : start + high] for start in starts]))

    def sweep(self, split: str) -> Iterator[Rows]:
        """Yield each well of this worker once, in pieces, by key."""
        rows = self.rows[split]
        for index in torch.arange(len(rows), device=self.device).split(ROWS_AT_ONCE):
            yield rows.take(index)

    def with_values(self, expression: Callable[[Rows], Tensor]) -> "ResidentSource":
        """Return a source whose profiles are `expression(rows)`, computed once."""
        rows = {
            split: ProfileRows(**part.ids(), expression=torch.cat([expression(piece) for piece in self.sweep(split)]))
            for split, part in self.rows.items()
        }
        return replace(self, rows=rows)

    def encoded(self, encode: Callable[[Rows], Tensor]) -> "ResidentSource":
        """Return a source of latents with moments `encode(rows)`, computed once, and without the profiles."""
        rows = {
            split: LatentRows(**part.ids(), moments=torch.cat([encode(piece) for piece in self.sweep(split)]))
            for split, part in self.rows.items()
        }
        return replace(self, rows=rows)


def lane_plan(n_rows: int, n_lanes: int, global_batch_size: int, world_size: int) -> EpochPlan:
    """Plan an epoch of resident rows; `n_rows` counts those of all workers.

    Raises:
        SettingsError: If the number of workers does not divide that of lanes, or lanes do not divide the batch.
        DataError: If there are fewer rows than a batch needs.
    """
    if n_lanes % world_size:
        raise SettingsError(f"the number of workers must divide ray.lanes = {n_lanes}; got {world_size}")
    if global_batch_size % n_lanes:
        raise SettingsError(f"global_batch_size must be a multiple of ray.lanes = {n_lanes}; got {global_batch_size}")
    return _plan((n_rows // n_lanes) // (global_batch_size // n_lanes), n_rows, global_batch_size)


def stream_plan(n_rows: int, global_batch_size: int, world_size: int) -> EpochPlan:
    """Plan an epoch of streamed rows; `n_rows` counts those of all workers.

    Raises:
        SettingsError: If the number of workers does not divide the batch.
        DataError: If there are fewer rows than a batch needs.
    """
    if global_batch_size % world_size:
        raise SettingsError(
            f"global_batch_size must be a multiple of the number of workers, {world_size}; got {global_batch_size}"
        )
    return _plan(n_rows // global_batch_size, n_rows, global_batch_size)


def check_groups(groups: int, n_lanes: int, global_batch_size: int, world_size: int) -> None:
    """Refuse a number of workers or a batch that would tear groups of lanes apart (`denoiser.norm_groups`).

    Raises:
        SettingsError: If the number of workers does not divide that of groups, lanes do not divide the batch, or a
            group would have a single well.
    """
    if groups > 1 and groups % world_size:
        raise SettingsError(f"the number of workers must divide denoiser.norm_groups = {groups}; got {world_size}")
    if groups > 1 and global_batch_size % n_lanes:
        raise SettingsError(
            f"with denoiser.norm_groups, global_batch_size must be a multiple of ray.lanes = {n_lanes};"
            f" got {global_batch_size}"
        )
    if groups > 1 and global_batch_size < 2 * groups:
        raise SettingsError(
            f"with denoiser.norm_groups = {groups}, global_batch_size must be at least {2 * groups}, two wells in each;"
            f" got {global_batch_size}"
        )


def _plan(steps: int, n_rows: int, global_batch_size: int) -> EpochPlan:
    if steps == 0:
        raise DataError(f"global_batch_size is {global_batch_size}; the training split has only {n_rows} profiles")
    return EpochPlan(steps, n_rows - steps * global_batch_size)


SPLITS = ("train", "valid")
