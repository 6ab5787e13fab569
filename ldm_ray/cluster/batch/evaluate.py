"""Scores blocks of wells in a pool of Ray actors, streamed by Ray Data and merged in order."""

from collections.abc import Callable, Iterator

import pyarrow as pa
import ray
import ray.data

from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.pool import map_in_pool, placed_pool
from ldm_ray.config import Config
from ldm_ray.evaluation.scoring import BlockRunner, Scoring, in_turn
from ldm_ray.evaluation.tally import Tally, merge
from ldm_ray.settings import RaySettings

BLOCKS_WORTH_RAY = 8
BLOCKS_PER_TASK = 4
"""Merged where they are scored, since a tally is as large as its gene-gene moments, however few its wells."""
CPUS_PER_ACTOR = 0.5


def block_runner(config: Config) -> BlockRunner:
    """Return a function that scores the blocks: on Ray Data, or in this process if starting Ray would take longer."""

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
    """Yield tallies in the order of the blocks, so that sums do not depend on the number of actors."""
    actors = placed_pool(settings, min(workers or len(starts), len(starts)), CPUS_PER_ACTOR)
    early: dict[int, Tally] = {}
    waiting = iter(starts)
    wanted = next(waiting)
    for table in map_in_pool(_ScoreBlocks, (ray.put(scoring),), starts, actors):
        for start, tally in zip(table["item"].to_pylist(), table["tally"].to_pylist(), strict=True):
            early[start] = Tally.from_bytes(tally)
        while wanted in early:
            yield early.pop(wanted)
            wanted = next(waiting, -1)


class _ScoreBlocks:
    """Scores a few blocks per call; builds the networks once."""

    def __init__(self, scoring: "ray.ObjectRef[Scoring]") -> None:
        self._scoring: Scoring = ray.get(scoring)
        self._blocks, self._models = self._scoring.blocks(), self._scoring.open_models()

    def work(self, item: int) -> pa.Table:
        """Score `BLOCKS_PER_TASK` blocks, the first of which is `item`, and merge their tallies."""
        blocks = self._blocks[item : item + BLOCKS_PER_TASK]
        tally = merge(self._scoring.tally(rows, self._models) for rows in blocks)
        return pa.table({"tally": pa.array([tally.to_bytes()], pa.large_binary())})
