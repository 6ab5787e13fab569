"""Workers and actor pools on clusters of all sizes; if they cannot be placed, that is an error, soon."""

import json
import subprocess
import sys
import time

import pytest

from ldm_ray.cluster import placement
from ldm_ray.cluster import pool as pools
from ldm_ray.cluster.placement import Placement, count_workers, place
from ldm_ray.cluster.pool import ActorPool, placed_pool, pool_of
from ldm_ray.config import load_config
from ldm_ray.errors import SettingsError
from ldm_ray.settings import RaySettings
from tests.s3_server import free_port


@pytest.mark.parametrize(
    ("cpus", "gpus", "batch", "wanted"),
    [
        (1, 0, 256, (1, False)),
        (2, 0, 256, (2, False)),
        (16, 0, 256, (2, False)),
        (16, 1, 256, (1, True)),
        (32, 3, 256, (2, True)),  # three do not divide the batch
        (512, 64, 256, (8, True)),  # 32 rows each
        (512, 64, 4096, (64, True)),
    ],
)
def test_workers_follow_the_cluster_and_the_batch(
    cpus: int, gpus: int, batch: int, wanted: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "cpus_and_gpus", lambda: (cpus, gpus))
    workers, use_gpu, why = count_workers(RaySettings(), batch)
    assert (workers, use_gpu) == wanted
    assert f"{cpus} CPUs and {gpus} GPUs" in why
    assert ("stay free" in why) == (use_gpu and workers < gpus)


def test_what_is_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cpus_and_gpus", lambda: (512, 64))
    assert count_workers(RaySettings(num_workers=16), 256) == (16, True, "ray.num_workers")
    assert count_workers(RaySettings(use_gpu=False), 256)[:2] == (2, False)
    monkeypatch.setattr(placement, "cpus_and_gpus", lambda: (8, 0))  # a cluster that has yet to start its GPUs
    assert count_workers(RaySettings(num_workers=4, use_gpu=True), 256)[:2] == (4, True)
    with pytest.raises(SettingsError, match="ray.num_workers is 64; the cluster has 8 CPUs"):
        count_workers(RaySettings(num_workers=64), 256)
    monkeypatch.setattr(placement, "cpus_and_gpus", lambda: (32, 2))  # never silently on CPUs beside GPUs
    with pytest.raises(SettingsError, match=r"num_workers is 4; the cluster has 2 GPUs; ray.use_gpu=true waits"):
        count_workers(RaySettings(num_workers=4), 256)
    assert count_workers(RaySettings(num_workers=4, use_gpu=False), 256)[:2] == (4, False)


def test_one_line_says_what_a_run_does_with_the_cluster() -> None:
    line = Placement(2, False, 0.5, 1.0, 1, "the cluster has 2 CPUs and 0 GPUs").described(256, resident=True)
    assert line == (
        "2 worker(s), each 0.5 CPU, 1 thread(s) and 128 of 256 rows per batch (the cluster has 2 CPUs and 0 GPUs);"
        " wells are kept in memory"
    )


@pytest.mark.usefixtures("cluster")
def test_workers_that_never_find_a_place_are_an_error_that_says_so() -> None:
    settings = load_config(None, ["ray.num_workers=3", "ray.use_gpu=true", "ray.placement_timeout_s=2"]).ray
    began = time.monotonic()
    with pytest.raises(
        SettingsError, match=r"3 workers of .* CPU and 1 GPU .* could not be placed in 2 s .* and 0 GPUs"
    ):
        place(settings, 256)
    assert time.monotonic() - began < 30
    assert place(RaySettings(), 256).num_workers == 2


KNOCK = """
import json, os, sys
from ldm_ray.cluster.connect import connect
from ldm_ray.errors import LdmRayError
from ldm_ray.settings import RaySettings

said = []
for os.environ["RAY_ADDRESS"] in sys.argv[1:]:
    try:
        connect(RaySettings())
    except LdmRayError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_a_cluster_that_is_not_there_is_one_line_at_once() -> None:
    """Ray itself tries for minutes to reach the first, and a cluster of this machine is never joined instead."""
    reasons = {
        f"127.0.0.1:{free_port()}": "[Errno 111] Connection refused",
        "127.0.0.1": "Invalid address format: 127.0.0.1",
        "http://127.0.0.1:8265": "Invalid Ray address: 'http://127.0.0.1:8265'",
    }
    began = time.monotonic()
    run = subprocess.run([sys.executable, "-c", KNOCK, *reasons], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [
        f"the cluster at {address} (RAY_ADDRESS) cannot be reached: {reason};"
        " wanted the HOST:PORT that ray start prints, or auto"
        for address, reason in reasons.items()
    ]
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("cpus", "gpus", "settings", "wanted"),
    [
        (16, 0, RaySettings(), ActorPool(8, 0.5, 0)),  # no more than the work needs
        (4, 0, RaySettings(), ActorPool(4, 0.5, 0)),
        (16, 2, RaySettings(), ActorPool(2, 0.0, 1)),
        (16, 2, RaySettings(use_gpu=False), ActorPool(8, 0.5, 0)),
        (4, 0, RaySettings(actors=6), ActorPool(6, 0.5, 0)),  # two wait for nodes that an autoscaler starts
        (0, 0, RaySettings(), ActorPool(1, 0.5, 0)),  # needs a new node first
        (4, 0, RaySettings(use_gpu=True), ActorPool(1, 0.0, 1)),
        (4, 1, RaySettings(use_gpu=True, actors=4), ActorPool(4, 0.0, 1)),
    ],
)
def test_pools_follow_the_cluster_and_what_is_set(
    cpus: int, gpus: int, settings: RaySettings, wanted: ActorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "cpus_and_gpus", lambda: (cpus, gpus))
    assert pool_of(settings, 8, 0.5) == wanted
    assert pool_of(settings, 1, 0.5, can_use_gpus=False) == ActorPool(1, 0.5, 0)


@pytest.mark.usefixtures("cluster")
def test_a_pool_whose_cluster_is_taken_is_an_error_that_says_so() -> None:
    assert placed_pool(RaySettings(), 8, 0.5).actors == 2
    with pytest.raises(
        SettingsError, match=r"an actor of 64 CPU could not be placed in 1 s \(ray.placement_timeout_s\)"
    ):
        placed_pool(RaySettings(placement_timeout_s=1), 8, 64.0)
