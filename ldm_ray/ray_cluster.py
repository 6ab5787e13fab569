"""Joins the Ray cluster that is there, or starts one on this machine."""

import logging
import os

import ray

from ldm_ray.errors import SettingsError
from ldm_ray.settings import RaySettings


def connect(settings: RaySettings) -> None:
    """Connect to Ray: the cluster of `RAY_ADDRESS` or of this job, else a local one, quietly."""
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
    ray.init(include_dashboard=False, object_store_memory=memory, logging_level=logging.ERROR, log_to_driver=False)


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
