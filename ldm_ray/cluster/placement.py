"""Where the workers of training runs go: how many there are, and what each has of the cluster."""

import os
from dataclasses import dataclass

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from ldm_ray.cluster.connect import cpus_and_gpus
from ldm_ray.console import say
from ldm_ray.errors import SettingsError
from ldm_ray.settings import RaySettings

SILENT_S = 5.0
"""So long a run waits for its place before it says so."""
ROWS_WORTH_A_GPU = 32
"""Rows of a batch below which one more GPU costs more in talk than it saves."""


@dataclass(frozen=True)
class Placement:
    """Where a training run's workers go.

    Attributes:
        num_workers: How many.
        use_gpu: Whether each has a GPU, or a part of one.
        cpus: Share of CPUs of each.
        gpus: Share of a GPU of each, if any.
        threads: Of torch, in each.
        why: How the number came about.
    """

    num_workers: int
    use_gpu: bool
    cpus: float
    gpus: float
    threads: int
    why: str = ""

    @property
    def resources(self) -> dict[str, float]:
        """Resources of one worker, as Ray Train takes them."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.use_gpu else {})

    def described(self, global_batch_size: int, *, resident: bool) -> str:
        """Say in a line what a run does with the cluster."""
        each = f"{self.gpus:g} GPU" if self.use_gpu else f"{self.cpus:g} CPU, {self.threads} thread(s)"
        wells = "kept in memory" if resident else "streamed"
        return (
            f"{self.num_workers} worker(s), each {each} and {global_batch_size // self.num_workers} of"
            f" {global_batch_size} rows a batch ({self.why}); wells are {wells}"
        )


def place(settings: RaySettings, global_batch_size: int) -> Placement:
    """Place the workers of one run that has the cluster for itself, and wait until there is room for them.

    Raises:
        SettingsError: If they find no place within `ray.placement_timeout_s`, with what the cluster has.
    """
    num_workers, use_gpu, why = count_workers(settings, global_batch_size)
    threads = max(1, (os.cpu_count() or 1) // num_workers)
    placement = Placement(num_workers, use_gpu, cpus_per_worker(num_workers), 1.0, threads, why)
    wanted = " and ".join(f"{value:g} {name}" for name, value in placement.resources.items())
    what = f"{num_workers} workers of {wanted} (and {CPUS_PER_READ:g} CPU to read with)"
    wait_for_room([placement.resources] * num_workers + [{"CPU": CPUS_PER_READ}], what, settings.placement_timeout_s)
    return placement


def wait_for_room(bundles: list[dict[str, float]], what: str, timeout_s: float) -> None:
    """Wait until the cluster has room for all of these resources; a cluster that grows is asked to.

    Ray itself would wait for ever, and in silence.

    Args:
        bundles: Resources, each to be found on one node.
        what: They are for.
        timeout_s: It may take so long.

    Raises:
        SettingsError: If it has none in time.
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
        f"{what} found no place in {timeout_s:g} s (ray.placement_timeout_s);"
        f" the cluster has {cpus} CPUs and {gpus} GPUs, {free['CPU']:g} and {free['GPU']:g} of them free"
    )


def share_cluster(settings: RaySettings, concurrent: int, gpus_per_run: float = 1.0) -> tuple[int, Placement]:
    """Place each of several runs at once: return how many fit, and where one run's workers go.

    Args:
        settings: `num_workers` of a run; 1 where nothing is said.
        concurrent: Runs at once; 0 for as many as fit, one CPU a worker.
        gpus_per_run: GPUs of a run's workers together, may be a fraction.
    """
    cpus, gpus = cpus_and_gpus()
    workers = settings.num_workers or 1
    fit = int(gpus / gpus_per_run) if gpus else cpus // workers
    if fit < 1:
        what = f"{gpus_per_run:g} GPUs; the cluster has {gpus:g}" if gpus else f"{workers} CPUs; the cluster has {cpus}"
        raise SettingsError(f"a run wants {what}")
    runs = min(concurrent, fit) if concurrent else fit
    threads = max(1, (os.cpu_count() or 1) // (workers * runs))
    share = gpus_per_run / workers
    return runs, Placement(workers, bool(gpus), cpus_per_worker(workers * runs), share, threads, f"{runs} runs at once")


def count_workers(settings: RaySettings, global_batch_size: int) -> tuple[int, bool, str]:
    """Return how many training workers to start, whether each gets a GPU, and why.

    Where nothing is set: on GPUs as many as divide the batch into parts that are worth a GPU, else two, or one on a
    single core.
    """
    cpus, gpus = cpus_and_gpus()
    has = f"the cluster has {cpus} CPUs and {gpus} GPUs"
    use_gpu = bool(gpus) if settings.use_gpu is None else settings.use_gpu
    if settings.num_workers:
        short = settings.num_workers > (gpus if use_gpu else cpus)
        if short and settings.use_gpu is None:
            hint = "; ray.use_gpu=true waits for more, false takes CPUs" if use_gpu else ""
            kind = f"{gpus} GPUs" if use_gpu else f"{cpus} CPUs"
            raise SettingsError(f"ray.num_workers is {settings.num_workers}; the cluster has {kind}{hint}")
        return settings.num_workers, use_gpu, "ray.num_workers"
    if not use_gpu:
        return min(2, max(1, cpus)), False, has
    most = max(1, min(gpus, global_batch_size // ROWS_WORTH_A_GPU))
    workers = next(number for number in range(most, 0, -1) if global_batch_size % number == 0)
    unused = f"; {gpus - workers} stay free: more want a larger global_batch_size" if workers < gpus else ""
    return workers, True, has + unused


def cpus_per_worker(num_workers: int) -> float:
    """Return each training worker's share of CPUs, such that Ray Data keeps one."""
    cpus = cpus_and_gpus()[0]
    return min(1.0, max(0.1, round((cpus - 1) / num_workers, 2)))


CPUS_PER_READ = 0.5
