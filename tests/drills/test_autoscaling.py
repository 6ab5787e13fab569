"""Replicas of the sampler follow the load: one, more, and one again, with every answer right."""

import re
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
from ray import serve

from ldm_ray.bundle.bundle import save_bundle
from ldm_ray.cluster.serve.app import ServeArguments, application
from ldm_ray.cluster.serve.start import NAME, deploy
from ldm_ray.config import Config
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.serving.client import Client
from tests.bundles import SMILES, random_bundle
from tests.conftest import World
from tests.s3_server import free_port

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
CONDITION = {"smiles": SMILES, "cell": "SIMC001", "dose_um": 10.0, "time_h": 24.0}
MOST, CLIENTS, WAIT_S = 3, 12, 120.0
QUICK = {
    "min_replicas": 1,
    "max_replicas": MOST,
    "target_ongoing_requests": 2,
    "upscale_delay_s": 1,
    "downscale_delay_s": 3,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 2,
}


def replicas() -> int:
    """Number of running samplers."""
    states = serve.status().applications[NAME].deployments["sampler"].replica_states
    return sum(count for state, count in states.items() if str(getattr(state, "value", state)) == "RUNNING")


def workers() -> set[str]:
    """Number of processes whose sampler has made passes, by Prometheus."""
    deadline = time.monotonic() + 30
    while True:
        text = httpx.get(f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics").text
        found = set(re.findall(r'ldm_ray_rows_per_pass\{[^}]*WorkerId="(\w+)"[^}]*\} (?!0\.0$)', text, re.MULTILINE))
        if len(found) >= MOST or time.monotonic() > deadline:
            return found
        time.sleep(1.0)


def wait_until(n: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while replicas() != n:
        assert time.monotonic() < deadline, f"{replicas()} replicas; wanted {n}"
        time.sleep(0.2)


@pytest.mark.usefixtures("cluster")
def test_one_then_more_then_one(world: World, tmp_path: Path) -> None:
    save_bundle(random_bundle(world), str(tmp_path))
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = {name: {"ray_actor_options": {"num_cpus": 0.1}} for name in ("api", "encoder", "sampler")}
    options["sampler"] |= {"autoscaling_config": QUICK}
    deploy(
        application(ServeArguments(bundles={"main": str(tmp_path)}), Config(), options=options), placement_timeout_s=60
    )
    wanted = Predictor.from_bundle(str(tmp_path), "cpu").predict([Query(SMILES, 10.0, 24.0, "SIMC001")], 128, 50)
    ended, wrong, answers = threading.Event(), list[object](), list[int]()

    def ask() -> None:
        with Client(f"http://127.0.0.1:{port}", retries=0) as client:
            while not ended.is_set():
                try:
                    got = client.predict([CONDITION], n_samples=128, steps=50)
                    answers.append(1)
                    if not np.array_equal(got.mean, wanted.mean):
                        wrong.append("other bits")
                except Exception as error:  # reported by the test
                    wrong.append(error)

    try:
        assert replicas() == 1
        threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        wait_until(MOST)
        before = len(answers)
        while len(answers) < before + 2 * CLIENTS:
            time.sleep(0.2)
        ended.set()
        for thread in threads:
            thread.join()
        assert len(workers()) == MOST, "a replica got no work"
        wait_until(1)
        assert wrong == []
        with Client(f"http://127.0.0.1:{port}") as client:
            assert np.array_equal(client.predict([CONDITION], n_samples=128, steps=50).mean, wanted.mean)
    finally:
        ended.set()
        serve.shutdown()
