"""Where the workers of training runs go: how many there are, and the resources of each."""

import os
from dataclasses import dataclass

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from ldm_ray.cluster.connect import cpus_and_gpus
from ldm_ray.console import say
from ldm_ray.errors import SettingsError
from ldm_ray.settings import RaySettings

SILENT_S = 5.0
"""Seconds that a run waits to be placed before it says so."""
ROWS_WORTH_A_GPU = 32
"""Rows per GPU below which communication costs more than another GPU saves."""


@dataclass(frozen=True)
class Placement:
    """Where a training run's workers go.

    Attributes:
        num_workers: Number of workers.
        use_gpu: Whether each worker has a GPU, or a part of one.
        cpus: CPUs per worker, may be a fraction.
        gpus: GPUs per worker if `use_gpu`, may be a fraction.
        threads: Torch threads in each worker.
        why: Reason for the number of workers, for the log.
    """

    num_workers: int
    use_gpu: bool
    cpus: float
    gpus: float
    threads: int
    why: str = ""

    @property
    def resources(self) -> dict[str, float]:
        """Resources of one worker, in Ray Train's form."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.use_gpu else {})

    def described(self, global_batch_size: int, *, resident: bool) -> str:
        """Describe in one line how a run uses the cluster."""
        each = f"{self.gpus:g} GPU" if self.use_gpu else f"{self.cpus:g} CPU, {self.threads} thread(s)"
        wells = "kept in memory" if resident else "streamed"
        return (
            f"{self.num_workers} worker(s), each {each} and {global_batch_size // self.num_workers} of"
            f" {global_batch_size} rows per batch ({self.why}); wells are {wells}"
        )


def place(settings: RaySettings, global_batch_size: int) -> Placement:
    """Place the workers of one run that has the cluster to itself, and wait until there is room for them.

    Raises:
        SettingsError: If they cannot be placed within `ray.placement_timeout_s`; names the cluster's resources.
    """
    num_workers, use_gpu, why = count_workers(settings, global_batch_size)
    threads = threads_per_worker(num_workers)
    placement = Placement(num_workers, use_gpu, cpus_per_worker(num_workers), 1.0, threads, why)
    wanted = " and ".join(f"{value:g} {name}" for name, value in placement.resources.items())
    what = f"{num_workers} workers of {wanted} (and {CPUS_PER_READ:g} CPU for reading)"
    wait_for_room([placement.resources] * num_workers + [{"CPU": CPUS_PER_READ}], what, settings.placement_timeout_s)
    return placement


def threads_per_worker(num_workers: int) -> int:
    """Return torch's threads in each of as many workers as share a machine.

    Neither the cores that this process may not use count (`taskset`, a container's cpuset), nor more than the cluster
    has: two threads that take turns on one core are many times slower than one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(cpus_and_gpus()[0])) // num_workers)


def wait_for_room(bundles: list[dict[str, float]], what: str, timeout_s: float) -> None:
    """Wait until the cluster has room for all these resources; an autoscaler starts nodes for them.

    Ray itself would wait forever, in silence.

    Args:
        bundles: Resources; each bundle must fit on one node.
        what: Their purpose, named in messages.
        timeout_s: Seconds to wait.

    Raises:
        SettingsError: If they cannot be placed in time.
    """
    group = placement_group(bundles)
    silent_s = min(SILENT_S, timeout_s)
    try:
        if group.wait(silent_s):
            return
        if silent_s < timeout_s:
            say(f"waiting up to {timeout_s:g} s (ray.placement_timeout_s) for room: {what}")
            if group.wait(timeout_s - silent_s):
                return
    finally:
        remove_placement_group(group)
    cpus, gpus = cpus_and_gpus()
    free = {name: ray.available_resources().get(name, 0.0) for name in ("CPU", "GPU")}
    raise SettingsError(
        f"{what} could not be placed in {timeout_s:g} s (ray.placement_timeout_s);"
        f" the cluster has {cpus} CPUs and {gpus} GPUs, {free['CPU']:g} and {free['GPU']:g} of them free"
    )


def share_cluster(settings: RaySettings, concurrent: int, gpus_per_run: float = 1.0) -> tuple[int, Placement]:
    """Share the cluster between several runs: return how many fit at once, and the placement of each.

    Args:
        settings: `num_workers` of a run; 0 means 1.
        concurrent: Runs at once; 0 for as many as fit, with one CPU per worker.
        gpus_per_run: GPUs of all workers of a run together, may be a fraction.
    """
    cpus, gpus = cpus_and_gpus()
    workers = settings.num_workers or 1
    fit = int(gpus / gpus_per_run) if gpus else cpus // workers
    if fit < 1:
        what = f"{gpus_per_run:g} GPUs; the cluster has {gpus:g}" if gpus else f"{workers} CPUs; the cluster has {cpus}"
        raise SettingsError(f"a run needs {what}")
    runs = min(concurrent, fit) if concurrent else fit
    threads = threads_per_worker(workers * runs)
    share = gpus_per_run / workers
    return runs, Placement(workers, bool(gpus), cpus_per_worker(workers * runs), share, threads, f"{runs} runs at once")


def count_workers(settings: RaySettings, global_batch_size: int) -> tuple[int, bool, str]:
    """Return how many training workers to start, whether each gets a GPU, and the reason.

    By default: on GPUs, as many workers as divide the batch into parts worth a GPU; else two, or one on a single core.
    """
    cpus, gpus = cpus_and_gpus()
    has = f"the cluster has {cpus} CPUs and {gpus} GPUs"
    use_gpu = bool(gpus) if settings.use_gpu is None else settings.use_gpu
    if settings.num_workers:
        short = settings.num_workers > (gpus if use_gpu else cpus)
        if short and settings.use_gpu is None:
            hint = "; ray.use_gpu=true waits for more, ray.use_gpu=false takes CPUs" if use_gpu else ""
            kind = f"{gpus} GPUs" if use_gpu else f"{cpus} CPUs"
            raise SettingsError(f"ray.num_workers is {settings.num_workers}; the cluster has {kind}{hint}")
        return settings.num_workers, use_gpu, "ray.num_workers"
    if not use_gpu:
        return min(2, max(1, cpus)), False, has
    most = max(1, min(gpus, global_batch_size // ROWS_WORTH_A_GPU))
    workers = next(number for number in range(most, 0, -1) if global_batch_size % number == 0)
    unused = f"; {gpus - workers} stay free: using more needs a larger global_batch_size" if workers < gpus else ""
    return workers, True, has + unused


def cpus_per_worker(num_workers: int) -> float:
    """Return the CPUs of each training worker, such that one is left for Ray Data."""
    cpus = cpus_and_gpus()[0]
    return min(1.0, max(0.1, round((cpus - 1) / num_workers, 2)))


CPUS_PER_READ = 0.5
