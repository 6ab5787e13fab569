"""Scores blocks of wells in a pool of Ray actors, streamed by Ray Data and merged in order."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data

from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.pool import placed_pool
from ldm_ray.cluster.reported import raise_reported, reported
from ldm_ray.config import Config
from ldm_ray.errors import LdmRayError
from ldm_ray.evaluation.scoring import Runner, Scoring, in_turn
from ldm_ray.evaluation.tally import Tally, merge
from ldm_ray.settings import RaySettings

BLOCKS_WORTH_RAY = 8
BLOCKS_PER_TASK = 4
"""Merged where they are scored: a tally is as large as its gene-gene moments, however few its wells."""
CPUS_PER_ACTOR = 0.5


def block_runner(config: Config) -> Runner:
    """Return what scores the blocks: Ray Data, or this process where starting Ray would take longer."""

    def run(scoring: Scoring, on_progress: Callable[[int, int], None]) -> Iterator[Tally]:
        blocks, workers = scoring.blocks(), config.evaluate.workers
        if workers == 1 or (workers == 0 and len(blocks) < BLOCKS_WORTH_RAY):
            yield from in_turn(scoring, on_progress)
            return
        connect(config.ray)
        starts = list(range(0, len(blocks), BLOCKS_PER_TASK))
        for start, tally in zip(starts, _on_ray(scoring, starts, workers, config.ray), strict=True):
            yield tally
            done = blocks[min(start + BLOCKS_PER_TASK, len(blocks)) - 1][-1] + 1
            on_progress(int(done), len(scoring.reader))

    return run


def _on_ray(scoring: Scoring, starts: list[int], workers: int, settings: RaySettings) -> Iterator[Tally]:
    actors = placed_pool(settings, min(workers or len(starts), len(starts)), CPUS_PER_ACTOR)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    data = ray.data.from_items(starts, override_num_blocks=len(starts)).map_batches(
        _Score,
        fn_constructor_args=(ray.put(scoring),),
        batch_size=1,
        batch_format="pyarrow",
        **actors.options,
    )
    for table in data.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
        raise_reported(table)
        yield from map(Tally.from_bytes, pa.table(table)["tally"].to_pylist())


class _Score:
    """An actor of the pool; the networks are built once."""

    def __init__(self, scoring: "ray.ObjectRef[Scoring]") -> None:
        self._scoring: Scoring = ray.get(scoring)
        self._blocks, self._models = self._scoring.blocks(), self._scoring.open_models()

    def __call__(self, batch: pa.Table) -> Any:
        try:
            tallies = [self._merged(start) for start in batch["item"].to_pylist()]
        except LdmRayError as error:
            return reported(error)
        return pa.table({"tally": pa.array([tally.to_bytes() for tally in tallies], pa.large_binary())})

    def _merged(self, start: int) -> Tally:
        blocks = self._blocks[start : start + BLOCKS_PER_TASK]
        return merge(self._scoring.tally(rows, self._models) for rows in blocks)
