"""Pools of actors for Ray Data: as many as the cluster has room for, each with a worker that is built once."""

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
"""Pools that may lose an actor before the loss counts as an error."""


@dataclass(frozen=True)
class ActorPool:
    """How many actors work side by side, and what each has of the cluster.

    Attributes:
        actors: How many.
        cpus: Share of CPUs of each.
        gpus: GPUs of each, 0 or 1.
    """

    actors: int
    cpus: float
    gpus: int

    @property
    def options(self) -> dict[str, Any]:
        """As `ray.data.Dataset.map_batches` takes them."""
        return {"concurrency": self.actors, "num_cpus": self.cpus, "num_gpus": self.gpus}


class PoolWorker(Protocol):
    """What an actor of a pool works with."""

    def work(self, item: int) -> pa.Table | None:
        """Work on one item; return at least one row, or None where there is nothing to return."""


def map_in_pool(
    build: Callable[..., PoolWorker], arguments: tuple[Any, ...], items: Sequence[int], pool: ActorPool
) -> Iterator[pa.Table]:
    """Work on numbered items in a pool of actors; results come as they are done.

    An actor that dies is not restarted by Ray: the items that it leaves undone are given to a new pool. Ray's own
    restarts want their arguments to be there for good, and print an error about it where a user looks.

    Args:
        build: Makes an actor's worker from the arguments; called once an actor.
        arguments: Small values, or references to what lies in the object store.
        items: What to work on, each once.
        pool: How many actors, and what each has of the cluster.

    Yields:
        Results, of one item or of several one after the other: the rows that `work` returned, and their `item`.

    Raises:
        LdmRayError: The first error of ours that a worker raised.
        ray.exceptions.RayError: If actors died in `POOLS` pools one after the other.
    """
    left = list(dict.fromkeys(items))
    for attempt in range(POOLS):
        with warnings.catch_warnings():
            # Ray 2.60 has no named parameter for restarts yet, and warns of the only way there is.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            data = ray.data.from_items(left, override_num_blocks=len(left)).map_batches(
                _PoolActor,
                fn_constructor_args=(build, arguments),
                batch_size=1,
                batch_format="pyarrow",
                max_restarts=0,
                **pool.options,
            )
        try:
            for block in data.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
                raise_reported(block)
                table = pa.table(block)
                done = set(table["item"].to_pylist())
                left = [item for item in left if item not in done]
                yield table
            return
        except ray.exceptions.RayError as error:
            if not left or attempt + 1 == POOLS or not _actor_died(error):
                raise
            log.warning("an actor died; a new pool works on the %d items that are left", len(left))


def pool_of(settings: RaySettings, at_most: int, cpus: float, *, can_use_gpus: bool = True) -> ActorPool:
    """Return a pool with an actor a GPU, or else one a CPU, of the nodes that run.

    How many nodes an autoscaler may yet start, Ray does not tell. Where `ray.actors` asks for more actors than there is
    room for, those that wait are what makes it start some.

    Args:
        settings: How many actors are asked for, and whether GPUs are used.
        at_most: As many actors as there is work for.
        cpus: Share of CPUs of an actor that has no GPU.
        can_use_gpus: Whether the work is any faster there.
    """
    cpus_now, gpus_now = cpus_and_gpus()
    use_gpus = gpus_now > 0 if settings.use_gpu is None else settings.use_gpu
    if can_use_gpus and use_gpus:
        return ActorPool(min(settings.actors or max(1, gpus_now), at_most), 0.0, 1)
    return ActorPool(min(settings.actors or max(1, cpus_now), at_most), cpus, 0)


def placed_pool(settings: RaySettings, at_most: int, cpus: float, *, can_use_gpus: bool = True) -> ActorPool:
    """Return a pool once there is room for one of its actors; Ray Data itself would wait for it for ever.

    Args:
        settings: As `pool_of`, and how long to wait.
        at_most: As `pool_of`.
        cpus: As `pool_of`.
        can_use_gpus: As `pool_of`.

    Raises:
        SettingsError: If there is none in time.
    """
    one = pool_of(settings, 1, cpus, can_use_gpus=can_use_gpus)
    what = f"an actor of {one.gpus} GPU" if one.gpus else f"an actor of {one.cpus:g} CPU"
    wait_for_room([{"CPU": one.cpus, "GPU": one.gpus}], what, settings.placement_timeout_s)
    return pool_of(settings, at_most, cpus, can_use_gpus=can_use_gpus)  # of the nodes that were started for it, too


class _PoolActor:
    """Builds its worker once and works on one item a call."""

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
    """Tell whether an error comes from the loss of an actor or of its node, and not from its work."""
    while error is not None:
        if isinstance(error, (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError)):
            return True
        error = error.__cause__ or getattr(error, "cause", None)
    return False
