"""Pools of actors for Ray Data: as many as the cluster has room for; each builds its worker once."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.data

from ldm_ray.cluster.connect import cpus_and_gpus
from ldm_ray.cluster.placement import wait_for_room
from ldm_ray.cluster.reported import raise_reported, reported
from ldm_ray.errors import LdmRayError
from ldm_ray.settings import RaySettings

log = logging.getLogger(__name__)

POOLS = 4
"""How many pools in a row may lose an actor without a result before the loss is an error."""


@dataclass(frozen=True)
class ActorPool:
    """How many actors work side by side, and the resources of each.

    Attributes:
        actors: Number of actors.
        cpus: CPUs per actor, may be a fraction.
        gpus: GPUs per actor, 0 or 1.
    """

    actors: int
    cpus: float
    gpus: int

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `ray.data.Dataset.map_batches`."""
        return {"concurrency": self.actors, "num_cpus": self.cpus, "num_gpus": self.gpus}


class PoolWorker(Protocol):
    """What an actor of a pool runs."""

    def work(self, item: int) -> pa.Table | None:
        """Process one item; return at least one row, or None if there is nothing to return."""


def map_in_pool(
    build: Callable[..., PoolWorker], arguments: tuple[Any, ...], items: Sequence[int], pool: ActorPool
) -> Iterator[pa.Table]:
    """Process numbered items in a pool of actors; yield results as they are ready.

    Ray does not restart an actor that dies: a new pool takes the items that are left. Ray's own restarts need the
    actor's arguments to outlive it, and print an error about that on the user's terminal.

    Args:
        build: Builds an actor's worker from the arguments; called once per actor.
        arguments: Small values, or references to the object store.
        items: Items to process; duplicates are processed once.
        pool: Number of actors and their resources.

    Yields:
        Results of one or more items: the rows that `work` returned, with their `item`.

    Raises:
        LdmRayError: The first error of ours that a worker raised.
        ray.exceptions.RayError: If actors died in `POOLS` pools in a row without a result.
    """
    left, losses = list(dict.fromkeys(items)), 0
    while left:
        try:
            for table in _results(build, arguments, left, pool):
                done, losses = set(table["item"].to_pylist()), 0
                left = [item for item in left if item not in done]
                yield table
        except ray.exceptions.RayError as error:
            losses += 1
            if losses == POOLS or not _actor_died(error):
                raise
            log.warning("an actor died; a new pool takes the %d items that are left", len(left))
        else:
            return


def _results(
    build: Callable[..., PoolWorker], arguments: tuple[Any, ...], items: Sequence[int], pool: ActorPool
) -> Iterator[pa.Table]:
    """Process items in one pool, whose actors are not restarted."""
    with warnings.catch_warnings():
        # Ray 2.60 has no named parameter for restarts yet, and warns of the only way there is.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        data = ray.data.from_items(list(items), override_num_blocks=len(items)).map_batches(
            _PoolActor,
            fn_constructor_args=(build, arguments),
            batch_size=1,
            batch_format="pyarrow",
            max_restarts=0,
            **pool.options,
        )
    for block in data.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
        raise_reported(block)
        yield pa.table(block)


def pool_of(settings: RaySettings, at_most: int, cpus: float, *, can_use_gpus: bool = True) -> ActorPool:
    """Return a pool with one actor per GPU of the running nodes, or else one per CPU.

    Ray does not say how many nodes an autoscaler could still start. If `ray.actors` asks for more actors than fit, the
    waiting ones make it start some.

    Args:
        settings: Actors asked for, and whether to use GPUs.
        at_most: Most actors that there is work for.
        cpus: CPUs of an actor without a GPU, may be a fraction.
        can_use_gpus: Whether a GPU makes the work faster.
    """
    cpus_now, gpus_now = cpus_and_gpus()
    use_gpus = gpus_now > 0 if settings.use_gpu is None else settings.use_gpu
    if can_use_gpus and use_gpus:
        return ActorPool(min(settings.actors or max(1, gpus_now), at_most), 0.0, 1)
    return ActorPool(min(settings.actors or max(1, cpus_now), at_most), cpus, 0)


def placed_pool(settings: RaySettings, at_most: int, cpus: float, *, can_use_gpus: bool = True) -> ActorPool:
    """Return a pool once one of its actors can be placed; Ray Data itself would wait forever.

    Args:
        settings: As in `pool_of`, and how long to wait.
        at_most: As in `pool_of`.
        cpus: As in `pool_of`.
        can_use_gpus: As in `pool_of`.

    Raises:
        SettingsError: If it cannot be placed in time.
    """
    one = pool_of(settings, 1, cpus, can_use_gpus=can_use_gpus)
    what = f"an actor of {one.gpus} GPU" if one.gpus else f"an actor of {one.cpus:g} CPU"
    wait_for_room([{"CPU": one.cpus, "GPU": one.gpus}], what, settings.placement_timeout_s)
    return pool_of(settings, at_most, cpus, can_use_gpus=can_use_gpus)  # again, since nodes may have started for it


class _PoolActor:
    """Builds its worker once; each call processes one item."""

    def __init__(self, build: Callable[..., PoolWorker], arguments: tuple[Any, ...]) -> None:
        self._worker = build(*arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        item = batch["item"][0].as_py()
        try:
            result = self._worker.work(item)
        except LdmRayError as error:
            return reported(error)
        if result is None:
            return batch
        return result.append_column("item", pa.array([item] * len(result), pa.int64()))


def _actor_died(error: BaseException | None) -> bool:
    """Tell whether an error comes from losing an actor or its node, and not from its work."""
    while error is not None:
        if isinstance(error, (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError)):
            return True
        error = error.__cause__ or getattr(error, "cause", None)
    return False
