"""Rows to lanes, lanes to workers, workers to batches: the same global batches for any number of workers."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ldm_ray.data.lanes import keep_lanes, lanes_of
from ldm_ray.errors import DataError, SettingsError
from ldm_ray.keys import keys_of
from ldm_ray.training.rows import Rows, epoch_batches, plan_epoch

NAMES = [f"w{i}" for i in range(103)]
KEYS = np.sort(keys_of(NAMES))
LANES = 8


def rows_of(rank: int, world_size: int) -> Rows:
    table = pa.table({"profile_id": NAMES, "split": ["train"] * len(NAMES)})
    kept = keep_lanes(table, {"train": KEYS}, LANES, rank, world_size)
    keys = np.sort(kept["key"].to_numpy())
    lane = torch.from_numpy(lanes_of(keys, KEYS, LANES))
    empty = torch.zeros(len(keys))
    return Rows(torch.from_numpy(keys), lane, empty[:, None], lane, lane, empty, empty)


def global_batches(world_size: int, epoch: int) -> list[set[int]]:
    plan = plan_epoch(len(NAMES), LANES, 16, world_size)
    workers = [rows_of(rank, world_size) for rank in range(world_size)]
    parts = [list(epoch_batches(rows, plan, 0, epoch)) for rows in workers]
    assert len({len(part) for part in parts}) == 1
    assert {len(index) for part in parts for index in part} == {16 // world_size}
    return [
        {int(key) for rows, part in zip(workers, parts, strict=True) for key in rows.keys[part[step]]}
        for step in range(plan.steps)
    ]


def test_every_row_has_one_owner() -> None:
    for world_size in (1, 2, 4, 8):
        owned = [set(rows_of(rank, world_size).keys.tolist()) for rank in range(world_size)]
        assert sum(len(part) for part in owned) == len(NAMES)
        assert set().union(*owned) == set(KEYS.tolist())


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_global_batches_are_the_same_for_any_number_of_workers(world_size: int) -> None:
    for epoch in (0, 1):
        assert global_batches(world_size, epoch) == global_batches(1, epoch)


def test_an_epoch_takes_each_row_at_most_once_and_drops_the_planned_number() -> None:
    batches = global_batches(1, 0)
    seen = set().union(*batches)
    plan = plan_epoch(len(NAMES), LANES, 16, 1)
    assert len(seen) == sum(map(len, batches)) == len(NAMES) - plan.dropped
    assert plan.dropped < 16 + LANES
    assert batches != global_batches(1, 1)


def test_resuming_midway_gives_the_rest() -> None:
    rows, plan = rows_of(0, 1), plan_epoch(len(NAMES), LANES, 16, 1)
    whole = list(epoch_batches(rows, plan, 0, 3))
    rest = list(epoch_batches(rows, plan, 0, 3, first_step=4))
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_numbers_that_do_not_fit_are_said() -> None:
    with pytest.raises(SettingsError, match="must divide ray.lanes = 8; got 3"):
        plan_epoch(100, 8, 16, 3)
    with pytest.raises(SettingsError, match="must be a multiple of ray.lanes = 8; got 20"):
        plan_epoch(100, 8, 20, 1)
    with pytest.raises(DataError, match="has only 10 profiles"):
        plan_epoch(10, 8, 16, 1)
