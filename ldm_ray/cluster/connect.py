"""Joins the running Ray cluster, or starts one on this machine."""

import logging
import os
import socket
import time
from typing import Any

import ray
from ray.util.state import list_actors

from ldm_ray.errors import LdmRayError, SettingsError
from ldm_ray.loopback import keep_from_proxies
from ldm_ray.settings import RaySettings

KNOCK_S = 10.0


def connect(settings: RaySettings, *, dashboard: bool = False) -> None:
    """Connect to Ray without log output: the cluster of `RAY_ADDRESS`, of this job or this machine, else a new one.

    Args:
        settings: Memory of a local cluster.
        dashboard: Whether a local cluster gets a dashboard; see `check_cleaning`.

    Raises:
        LdmRayError: If the cluster cannot be reached, or does not start.
    """
    if ray.is_initialized():
        return
    keep_from_proxies()
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # A worker's report() waits until the controller polls it: with Ray's 2 s no epoch could be shorter.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised too; a lost actor is made good
    address = os.environ.get("RAY_ADDRESS", "")
    local: dict[str, Any] = {}
    if not address:
        local = {"include_dashboard": dashboard, "object_store_memory": settings.object_store_mb * 1024 * 1024}
    try:
        _knock(address)
        try:
            ray.init(**local, logging_level=logging.ERROR, log_to_driver=False)
        except ValueError:  # this machine runs a cluster (`ray start --head`), whose memory is not ours to set
            if address:  # never fall back to a cluster that was not named
                raise
            ray.init("auto", logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # of many kinds, bare Exception included
        reason = " ".join(str(error).split()).partition(". ")[0]
        if not address:
            raise LdmRayError(f"Ray does not start here: {reason}") from error
        wanted = "wanted the HOST:PORT that ray start prints, or auto"
        raise LdmRayError(f"the cluster at {address} (RAY_ADDRESS) cannot be reached: {reason}; {wanted}") from error
    # Ray's gRPC ignores proxies, but its state API is HTTP on the head's node.
    keep_from_proxies(ray.get_runtime_context().gcs_address.rpartition(":")[0])


def _knock(address: str) -> None:
    """Raise an OSError if nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


def check_cleaning(wait_s: float = 60.0) -> None:
    """Refuse a cluster on which a killed run would keep its CPUs.

    When Tune ends a trial, it kills the Ray Train run inside. Train leaves a cleaner behind that returns the workers'
    CPUs, but the cleaner learns of the death from Ray's state API, which the dashboard serves. Without a dashboard
    every trial stopped early keeps its CPUs, until the remaining trials wait for Ray Data forever.

    Args:
        wait_s: Seconds that the dashboard may take to start.

    Raises:
        SettingsError: If the state API does not answer.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            # Without an address it would ask the cluster that was started last on this machine.
            list_actors(address=ray.get_runtime_context().gcs_address, limit=1)
            return
        except Exception as error:  # of many kinds while a dashboard is starting
            if time.monotonic() > until:
                raise SettingsError("a search needs a Ray cluster with a dashboard; this one has none") from error
        time.sleep(1.0)


def wait_for_train_runs(at_most_s: float = 60.0) -> None:
    """Wait until the Ray Train runs of this job have ended; they outlive the trials that Tune ends for a moment.

    Args:
        at_most_s: Seconds after which to stop waiting, on a busy cluster.
    """
    runtime, until = ray.get_runtime_context(), time.monotonic() + at_most_s
    while time.monotonic() < until:
        actors = list_actors(address=runtime.gcs_address, filters=[("job_id", "=", runtime.get_job_id())], limit=10_000)
        if not any("TrainController" in actor.class_name and actor.state != "DEAD" for actor in actors):
            return
        time.sleep(0.2)


def cpus_and_gpus() -> tuple[int, int]:
    """Return the cluster's CPUs and GPUs; with an autoscaler there may be more later."""
    resources = ray.cluster_resources()
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
