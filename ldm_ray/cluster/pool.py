"""Pools of actors for Ray Data: as many as the cluster is good for, once one of them is sure of a place."""

from dataclasses import dataclass
from typing import Any

from ldm_ray.cluster.connect import cpus_and_gpus
from ldm_ray.cluster.placement import wait_for_room
from ldm_ray.settings import RaySettings


@dataclass(frozen=True)
class Pool:
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


def pool(settings: RaySettings, at_most: int, cpus: float, *, can_use_gpus: bool = True) -> Pool:
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
        return Pool(min(settings.actors or max(1, gpus_now), at_most), 0.0, 1)
    return Pool(min(settings.actors or max(1, cpus_now), at_most), cpus, 0)


def placed_pool(settings: RaySettings, at_most: int, cpus: float, *, can_use_gpus: bool = True) -> Pool:
    """Return a pool once there is room for one of its actors; Ray Data itself would wait for it for ever.

    Args:
        settings: As `pool`, and how long to wait.
        at_most: As `pool`.
        cpus: As `pool`.
        can_use_gpus: As `pool`.

    Raises:
        SettingsError: If there is none in time.
    """
    one = pool(settings, 1, cpus, can_use_gpus=can_use_gpus)
    what = f"an actor of {one.gpus} GPU" if one.gpus else f"an actor of {one.cpus:g} CPU"
    wait_for_room([{"CPU": one.cpus, "GPU": one.gpus}], what, settings.placement_timeout_s)
    return pool(settings, at_most, cpus, can_use_gpus=can_use_gpus)  # of the nodes that were started for it, too
