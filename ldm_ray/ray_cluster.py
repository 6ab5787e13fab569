"""Joins the Ray cluster that is there, or starts one on this machine."""

import logging
import os
import time
from dataclasses import dataclass

import ray
from ray.util.state import list_actors

from ldm_ray.errors import SettingsError
from ldm_ray.settings import RaySettings


def connect(settings: RaySettings, dashboard: bool = False) -> None:
    """Connect to Ray: the cluster of `RAY_ADDRESS` or of this job, else a local one, quietly.

    Args:
        settings: Memory of a local cluster.
        dashboard: Start a local cluster with its dashboard; see `check_cleaning`.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # A worker's report() waits until the controller polls it; at Ray's 2 s an epoch could not be shorter.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
        return
    memory = settings.object_store_mb * 1024 * 1024
    ray.init(include_dashboard=dashboard, object_store_memory=memory, logging_level=logging.ERROR, log_to_driver=False)


def check_cleaning(wait_s: float = 60.0) -> None:
    """Refuse a cluster on which a killed run would keep its CPUs.

    When Tune ends a trial, the Ray Train run inside it is killed. Train leaves a cleaner behind that gives the CPUs of
    its workers back, but the cleaner learns of the death from Ray's state API, which the dashboard serves. Without a
    dashboard every trial stopped early keeps its CPUs, until those that go on wait for Ray Data for ever.

    Args:
        wait_s: A dashboard takes a while to start.

    Raises:
        SettingsError: If the state API does not answer.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            # Without an address it would ask whichever cluster of this machine was started last.
            list_actors(address=ray.get_runtime_context().gcs_address, limit=1)
            return
        except Exception as error:  # of many kinds while a dashboard is starting
            if time.monotonic() > until:
                raise SettingsError("a search wants a Ray cluster with its dashboard; this one has none") from error
        time.sleep(1.0)


def wait_for_train_runs(at_most_s: float = 60.0) -> None:
    """Wait until the Ray Train runs of this job have ended; those of a trial that Tune ends outlive it for a moment.

    Args:
        at_most_s: On a cluster that is too busy to end them sooner they are not waited for.
    """
    runtime, until = ray.get_runtime_context(), time.monotonic() + at_most_s
    while time.monotonic() < until:
        actors = list_actors(address=runtime.gcs_address, filters=[("job_id", "=", runtime.get_job_id())], limit=10_000)
        if not any("TrainController" in actor.class_name and actor.state != "DEAD" for actor in actors):
            return
        time.sleep(0.2)


@dataclass(frozen=True)
class Placement:
    """Where a training run's workers go.

    Attributes:
        num_workers: How many.
        use_gpu: Whether each has a GPU, or a part of one.
        cpus: Share of CPUs of each.
        gpus: Share of a GPU of each, if any.
        threads: Of torch, in each.
    """

    num_workers: int
    use_gpu: bool
    cpus: float
    gpus: float
    threads: int

    @property
    def resources(self) -> dict[str, float]:
        """Resources of one worker, as Ray Train takes them."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.use_gpu else {})


def place(settings: RaySettings) -> Placement:
    """Place the workers of one run that has the cluster for itself."""
    num_workers, use_gpu = count_workers(settings)
    threads = max(1, (os.cpu_count() or 1) // num_workers)
    return Placement(num_workers, use_gpu, cpus_per_worker(num_workers), 1.0, threads)


def share_cluster(settings: RaySettings, concurrent: int, gpus_per_run: float = 1.0) -> tuple[int, Placement]:
    """Place each of several runs at once: return how many fit, and where one run's workers go.

    Args:
        settings: `num_workers` of a run; 1 where nothing is said.
        concurrent: Runs at once; 0 for as many as fit, one CPU a worker.
        gpus_per_run: GPUs of a run's workers together, may be a fraction.
    """
    resources = ray.cluster_resources()
    gpus, cpus = float(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    workers = settings.num_workers or 1
    fit = int(gpus / gpus_per_run) if gpus else cpus // workers
    if fit < 1:
        what = f"{gpus_per_run:g} GPUs; the cluster has {gpus:g}" if gpus else f"{workers} CPUs; the cluster has {cpus}"
        raise SettingsError(f"a run wants {what}")
    runs = min(concurrent, fit) if concurrent else fit
    threads = max(1, (os.cpu_count() or 1) // (workers * runs))
    return runs, Placement(workers, bool(gpus), cpus_per_worker(workers * runs), gpus_per_run / workers, threads)


def count_workers(settings: RaySettings) -> tuple[int, bool]:
    """Return how many training workers to start, and whether each gets a GPU."""
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    wanted = settings.num_workers or gpus or min(2, cpus)
    if wanted > cpus:
        raise SettingsError(f"ray.num_workers is {wanted}; the cluster has {cpus} CPUs")
    return wanted, gpus >= wanted


def cpus_per_worker(num_workers: int) -> float:
    """Return each training worker's share of CPUs, such that Ray Data keeps one."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    return min(1.0, max(0.1, round((cpus - 1) / num_workers, 2)))
