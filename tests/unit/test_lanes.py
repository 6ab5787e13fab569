"""Rows to lanes, lanes to workers, workers to batches: the same global batches for any number of workers."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ldm_ray.data.lanes import keep_own, lanes_of, own_keys
from ldm_ray.errors import DataError, SettingsError
from ldm_ray.keys import keys_of
from ldm_ray.training.rows import ProfileRows
from ldm_ray.training.source import ResidentSource, lane_plan

KEYS = np.sort(keys_of([f"w{i}" for i in range(103)]))
LANES = 8


def source_of(rank: int, world_size: int) -> ResidentSource:
    table = pa.table({"profile_key": KEYS})
    keys = keep_own(table, own_keys(KEYS, LANES, rank, world_size))["profile_key"].to_numpy()
    lane = torch.from_numpy(lanes_of(keys, KEYS, LANES))
    empty = torch.zeros(len(keys))
    rows = ProfileRows(
        keys=torch.from_numpy(keys.copy()),
        expression=empty[:, None],
        basal=lane,
        compound=lane,
        dose_um=empty,
        time_h=empty,
    )
    return ResidentSource({"train": rows}, lane, lane_plan(len(KEYS), LANES, 16, world_size), 16 // LANES, 0)


def global_batches(world_size: int, epoch: int) -> list[set[int]]:
    sources = [source_of(rank, world_size) for rank in range(world_size)]
    parts = [list(source.batches(epoch)) for source in sources]
    assert {len(part) for part in parts} == {sources[0].plan.steps}
    assert {len(batch) for part in parts for batch in part} == {16 // world_size}
    return [set(torch.cat([batch.keys for batch in step]).tolist()) for step in zip(*parts, strict=True)]


def test_every_row_has_one_owner() -> None:
    for world_size in (1, 2, 4, 8):
        owned = [set(source_of(rank, world_size).rows["train"].keys.tolist()) for rank in range(world_size)]
        assert sum(len(part) for part in owned) == len(KEYS)
        assert set().union(*owned) == set(KEYS.tolist())


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_global_batches_are_the_same_for_any_number_of_workers(world_size: int) -> None:
    for epoch in (0, 1):
        assert global_batches(world_size, epoch) == global_batches(1, epoch)


def test_an_epoch_takes_each_row_at_most_once_and_drops_the_planned_number() -> None:
    batches = global_batches(1, 0)
    seen = set().union(*batches)
    plan = source_of(0, 1).plan
    assert len(seen) == sum(map(len, batches)) == len(KEYS) - plan.dropped
    assert plan.dropped < 16 + LANES
    assert batches != global_batches(1, 1)


def test_resuming_midway_gives_the_rest() -> None:
    source = source_of(0, 1)
    whole, rest = list(source.batches(3)), list(source.batches(3, first_step=4))
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(whole[4:], rest, strict=True))


def test_numbers_that_do_not_fit_are_said() -> None:
    with pytest.raises(SettingsError, match="must divide ray.lanes = 8; got 3"):
        lane_plan(100, 8, 16, 3)
    with pytest.raises(SettingsError, match="must be a multiple of ray.lanes = 8; got 20"):
        lane_plan(100, 8, 20, 1)
    with pytest.raises(DataError, match="has only 10 profiles"):
        lane_plan(10, 8, 16, 1)
