"""Writes the parts of a prepare as Ray tasks.

Tasks rather than Ray Data: each part ends up in a file, so blocks in the object store would only be copies.
"""

from collections.abc import Iterator
from typing import Any

import ray

from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.pool import placed_pool
from ldm_ray.config import Config
from ldm_ray.data.manifest import FileEntry
from ldm_ray.data.parts import Part, PartRunner, PartWriter, in_turn
from ldm_ray.errors import LdmRayError

PARTS_WORTH_RAY = 16


def part_runner(config: Config) -> PartRunner:
    """Return a function that writes the parts: in Ray tasks, or in this process if starting Ray would take longer."""

    def run(writer: PartWriter, parts: list[Part]) -> Iterator[FileEntry]:
        if config.prepare.workers == 1 or (config.prepare.workers == 0 and len(parts) < PARTS_WORTH_RAY):
            yield from in_turn(writer, parts)
            return
        connect(config.ray)
        yield from _on_ray(writer, parts, _at_once(config, len(parts)))

    return run


def _at_once(config: Config, n_parts: int) -> int:
    """Return how many tasks to run at once; some may wait for nodes that an autoscaler has yet to start."""
    room = placed_pool(config.ray, n_parts, 1.0, can_use_gpus=False)
    return config.prepare.workers or room.actors


def _on_ray(writer: PartWriter, parts: list[Part], at_once: int) -> Iterator[FileEntry]:
    """Keep `at_once` parts in flight, so that memory is bounded by their number and size."""
    task = ray.remote(PartWriter.write).options(num_cpus=1, max_retries=2)
    shared = ray.put(writer)
    waiting: list[Any] = []
    queue = list(reversed(parts))
    try:
        while queue or waiting:
            while queue and len(waiting) < at_once:
                waiting.append(task.remote(shared, queue.pop()))
            (done, *_), waiting = ray.wait(waiting)
            yield ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LdmRayError):
            raise error.cause from None
        raise
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
