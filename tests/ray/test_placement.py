"""Workers and actor pools on clusters of all sizes; a place that never comes is an error, soon."""

import os
import subprocess
import sys
import time

import pytest

from ldm_ray import ray_cluster, ray_placement
from ldm_ray.config import load_config
from ldm_ray.errors import SettingsError
from ldm_ray.ray_cluster import pool_size
from ldm_ray.ray_placement import Placement, count_workers, place
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
    monkeypatch.setattr(ray_placement, "cpus_and_gpus", lambda: (cpus, gpus))
    workers, use_gpu, why = count_workers(RaySettings(), batch)
    assert (workers, use_gpu) == wanted
    assert f"{cpus} CPUs and {gpus} GPUs" in why
    assert ("stay free" in why) == (use_gpu and workers < gpus)


def test_what_is_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_placement, "cpus_and_gpus", lambda: (512, 64))
    assert count_workers(RaySettings(num_workers=16), 256) == (16, True, "ray.num_workers")
    assert count_workers(RaySettings(use_gpu=False), 256)[:2] == (2, False)
    monkeypatch.setattr(ray_placement, "cpus_and_gpus", lambda: (8, 0))  # a cluster that has yet to start its GPUs
    assert count_workers(RaySettings(num_workers=4, use_gpu=True), 256)[:2] == (4, True)
    with pytest.raises(SettingsError, match="ray.num_workers is 64; the cluster has 8 CPUs"):
        count_workers(RaySettings(num_workers=64), 256)


def test_one_line_says_what_a_run_does_with_the_cluster() -> None:
    line = Placement(2, False, 0.5, 1.0, 1, "the cluster has 2 CPUs and 0 GPUs").described(256, resident=True)
    assert line == (
        "2 worker(s), each 0.5 CPU, 1 thread(s) and 128 of 256 rows a batch (the cluster has 2 CPUs and 0 GPUs);"
        " wells are kept in memory"
    )


@pytest.mark.usefixtures("cluster")
def test_workers_that_never_find_a_place_are_an_error_that_says_so() -> None:
    settings = load_config(None, ["ray.num_workers=3", "ray.use_gpu=true", "ray.placement_timeout_s=2"]).ray
    began = time.monotonic()
    with pytest.raises(SettingsError, match=r"3 workers of .* CPU and 1 GPU found no place in 2 s .* and 0 GPUs"):
        place(settings, 256)
    assert time.monotonic() - began < 30
    assert place(RaySettings(), 256).num_workers == 2


def test_a_cluster_that_is_not_there_is_one_line_at_once() -> None:
    """Ray itself tries for minutes."""
    environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{free_port()}"}
    code = "from ldm_ray.ray_cluster import connect; from ldm_ray.settings import RaySettings; connect(RaySettings())"
    began = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode != 0
    assert run.stderr.splitlines()[-1].startswith("ldm_ray.errors.LdmRayError: the cluster at 127.0.0.1:")
    assert "(RAY_ADDRESS) cannot be reached: [Errno 111]" in run.stderr
    assert time.monotonic() - began < 60


def test_a_pool_on_a_head_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "cpus_and_gpus", lambda: (0, 0))
    with pytest.raises(SettingsError, match="no CPU to work on"):
        pool_size(4)
    monkeypatch.setattr(ray_cluster, "cpus_and_gpus", lambda: (16, 2))
    assert (pool_size(8), pool_size(8, use_gpus=False), pool_size(1)) == ((2, 1), (8, 0), (1, 1))
