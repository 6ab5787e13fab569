"""Starts the endpoint: on this machine, or on the cluster of `RAY_ADDRESS`."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from ldm_ray.bundle.bundle import load_bundle
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.serve.app import ServeArguments, application
from ldm_ray.config import Config
from ldm_ray.errors import LdmRayError
from ldm_ray.storage.filesystem import StorageOptions

NAME = "ldm_ray"
BESIDE = 0.1
"""CPUs counted for the API and the encoder each, so that the sampler fits beside them on any machine."""
POLL_S = 0.2
NO_PLACE = "to be scheduled"
"""Part of Serve's message about replicas that wait for resources; loading a large bundle is not limited."""


def check_bundles(bundles: Mapping[str, str], storage_options: StorageOptions) -> None:
    """Refuse bundles that cannot be served, before anything is started.

    Raises:
        BundleError: If one is no bundle, or of another kind.
    """
    for url in bundles.values():
        load_bundle(url, "ldm", storage_options)


@contextmanager
def serving(bundles: Mapping[str, str], config: Config) -> Iterator[None]:
    """Serve while the block runs; SIGTERM raises KeyboardInterrupt in it, as Ctrl-C does.

    Raises:
        LdmRayError: If the port is taken, or a deployment does not start; gives the reason.
    """
    connect(config.ray)
    # Ray's own handler aborts, which leaves Serve no time to shut down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    there = serve.status()
    if NAME in there.applications:
        raise LdmRayError(f"this cluster already serves {NAME}; use `serve deploy` to change it")
    if not there.proxies:  # else the running Serve has the port
        _check_port(config.serve.host, config.serve.port)
    serve.start(http_options={"host": config.serve.host, "port": config.serve.port})
    try:
        deploy(application(ServeArguments(bundles=dict(bundles)), config, shares()), config.serve.placement_timeout_s)
        yield
    finally:
        serve.delete(NAME) if there.proxies else serve.shutdown()  # others may have applications on it
        ray.shutdown()


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is in use; Serve would say so much later, in a traceback."""
    try:
        socket.create_server((host, port), reuse_port=False).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise LdmRayError(f"cannot listen on {host}:{port} ({why}); choose another with --port") from None


def shares() -> dict[str, dict[str, Any]]:
    """Divide the resources: the sampler gets most of a machine, and a GPU if there is one."""
    there = ray.cluster_resources()
    cpus = min(1.0, float(there.get("CPU", 1.0)) - 2 * BESIDE)
    sampler = {"num_cpus": cpus} | ({"num_gpus": 1.0} if there.get("GPU", 0) >= 1 else {})
    beside = {"num_cpus": BESIDE}
    of_each = {"api": beside, "encoder": beside, "sampler": sampler}
    return {name: {"ray_actor_options": resources} for name, resources in of_each.items()}


def deploy(built: serve.Application, placement_timeout_s: float) -> None:
    """Deploy at / and wait until it runs, or until replicas could not be placed in time.

    Raises:
        LdmRayError: If a deployment does not start; gives the reason.
    """
    # Serve itself would wait forever.
    serve.run_many([serve.RunTarget(built, NAME, "/")], wait_for_applications_running=False)
    patient_until = time.monotonic() + placement_timeout_s
    while True:
        status = serve.status().applications[NAME]
        if status.status == ApplicationStatus.RUNNING:
            return
        said = [deployment.message for deployment in status.deployments.values() if deployment.message]
        failed = status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
        unplaced = any(NO_PLACE in message for message in said)
        if failed or (unplaced and time.monotonic() > patient_until):
            raise LdmRayError(f"the endpoint does not start: {_last_line(said or [status.message])}")
        time.sleep(POLL_S)


def _last_line(messages: list[str]) -> str:
    """Return the last line, which names the error of a traceback."""
    return messages[0].strip().splitlines()[-1].strip()
