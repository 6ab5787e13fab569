"""The endpoint on a real Ray Serve: same bits, reload and death under load, and replicas that come and go.

The order matters: whenever other bundles are served, three replicas are started, at five seconds each.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from ldm_ray.bundle.bundle import save_bundle
from ldm_ray.cluster.serve.app import Sampler, ServeArguments, application
from ldm_ray.cluster.serve.start import deploy as start
from ldm_ray.config import Config
from ldm_ray.errors import LdmRayError
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.serving.client import Client, ServerError
from ldm_ray.serving.served import ServedModel
from tests.bundles import SMILES, random_bundle
from tests.conftest import World
from tests.processes import name_of, tree
from tests.s3_server import free_port

ROOT = Path(__file__).parents[2]
CONDITION = {"smiles": SMILES, "cell": "SIMC001", "dose_um": 10.0, "time_h": 24.0}
QUERY = Query(SMILES, 10.0, 24.0, "SIMC001")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def bundles(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two bundles that answer differently."""
    folder = tmp_path_factory.mktemp("bundles")
    first, second = random_bundle(world), random_bundle(world)
    second.tensors["ldm.denoiser.output.bias"] += 1.0
    for name, bundle in (("first", first), ("second", second)):
        save_bundle(bundle, str(folder / name))
    return str(folder / "first"), str(folder / "second")


@pytest.fixture(scope="module")
def url(cluster: None, bundles: tuple[str, str]) -> Iterator[str]:
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deploy(bundles[0])
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def deploy(*urls: str) -> None:
    """Serve bundles as `main` and `other`, with replicas small enough to share two cores."""
    names = dict(zip(("main", "other"), urls, strict=False))
    little = {name: {"ray_actor_options": {"num_cpus": 0.1}} for name in ("api", "encoder", "sampler")}
    start(application(ServeArguments(bundles=names), Config(), options=little), placement_timeout_s=60)


class Load:
    """Clients that send queries without pause while the block runs."""

    def __init__(self, url: str, ask: Callable[[Client], object], clients: int = 4, retries: int = 0) -> None:
        self._url, self._ask, self._retries = url, ask, retries
        self.answers, self.errors = list[object](), list[Exception]()
        self._ended, self._threads = threading.Event(), [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with Client(self._url, retries=self._retries) as client:
            while not self._ended.is_set():
                try:
                    self.answers.append(self._ask(client))
                except Exception as error:  # reported by the test
                    self.errors.append(error)


def test_the_same_bits_as_python(url: str, bundles: tuple[str, str]) -> None:
    with Client(url) as client:
        got = client.predict([CONDITION, CONDITION | {"dose_um": 1.0}], n_samples=5, seed=3, wanted="draws")
        wanted = Predictor.from_bundle(bundles[0], "cpu").predict(
            [QUERY, Query(SMILES, 1.0, 24.0, "SIMC001")], n_samples=5, seed=3, n_draws=5
        )
        for name in ("mean", "std", "basal", "draws"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name), err_msg=name)
        assert client.model()["model"] == "main"
        with pytest.raises(ServerError, match=r"conditions.1.dose_um: Input should be greater than 0") as caught:
            client.predict([CONDITION, CONDITION | {"dose_um": 0}])
        assert (caught.value.status, caught.value.errors[0]["field"]) == (422, "conditions.1.dose_um")
        with pytest.raises(ServerError, match="cell line 'A' is not in the bundle"):
            client.predict([CONDITION | {"cell": "A"}])
    with pytest.raises(ServerError, match="cannot be reached"), Client("http://127.0.0.1:9", retries=1) as nobody:
        nobody.model()
    assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}
    assert httpx.get(url).text.startswith("<!doctype html>")


def test_serves_proxy_and_the_api_answer_with_one_request_id(url: str) -> None:
    """The proxy puts the id into every answer; a second header of ours would differ where it is too long for us."""
    for given in ({}, {"x-request-id": "mine-7"}, {"x-request-id": "x" * 101}):
        for method, path, status in (
            ("HEAD", "/readyz", 200), ("GET", "/v1/cells", 200), ("GET", "/v2", 404), ("GET", "/v1/predict", 405),
            ("POST", "/v1/predict/", 422), ("GET", "/-/routes", 200),
        ):  # fmt: skip
            response = httpx.request(method, f"{url}{path}", headers=given)
            assert response.status_code == status
            (own,) = response.headers.get_list("x-request-id")
            assert own == given.get("x-request-id", own)
            if status >= 400:
                assert response.json()["request_id"] == own


def test_a_new_bundle_is_taken_without_a_failed_request(url: str, bundles: tuple[str, str]) -> None:
    """Under load every answer is the old bundle's or the new one's, and none fails."""
    own = [Predictor.from_bundle(bundle, "cpu").predict([QUERY], n_samples=4).mean[0] for bundle in bundles]
    with Load(url, lambda client: client.predict([CONDITION], n_samples=4).mean[0]) as load:
        time.sleep(1.0)
        deploy(bundles[1])
        time.sleep(1.0)
    assert load.errors == []
    which = [[np.array_equal(np.asarray(answer), mean) for mean in own] for answer in load.answers]
    assert all(sum(row) == 1 for row in which)
    assert which[0] == [True, False]
    assert which[-1] == [False, True]


def test_the_shipped_settings_deploy_and_a_change_of_bundle_reconfigures(url: str, bundles: tuple[str, str]) -> None:
    """Like `serve deploy`; if a bundle cannot be loaded, the old one keeps serving, in the same process."""
    own = [Predictor.from_bundle(bundle, "cpu").predict([QUERY], n_samples=4).mean for bundle in bundles]
    settings = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    (served,) = settings["applications"]
    for deployment in served["deployments"]:
        deployment |= {"ray_actor_options": {"num_cpus": 0.1}}

    def deploy_config(bundle: str) -> int:
        """Deploy, and return the process of the API."""
        served["args"]["bundles"] = {"default": bundles[0]}
        api = next(d for d in served["deployments"] if d["name"] == "api")
        api["user_config"]["bundles"] = {"default": bundle}
        _get_global_client().deploy_apps(ServeDeploySchema(**settings), _blocking=True)
        (pid,) = [own for own in tree(os.getpid()) if name_of(own).startswith("ray::ServeReplica:ldm_ray:api")]
        return pid

    first = deploy_config(bundles[0])
    for bundle, wanted in ((f"{bundles[0]}-misspelt", own[0]), (bundles[1], own[1])):
        assert deploy_config(bundle) == first
        with Client(url) as client:
            np.testing.assert_array_equal(client.predict([CONDITION], n_samples=4).mean, wanted)


def test_several_bundles_are_served_by_name(url: str, bundles: tuple[str, str]) -> None:
    deploy(*bundles)
    with Client(url) as client:
        assert httpx.get(f"{url}/v1/models").json() == ["main", "other"]
        found = [client.predict([CONDITION], n_samples=4, model=name).mean for name in ("main", "other", None)]
        np.testing.assert_array_equal(found[0], found[2])
        assert not np.array_equal(found[0], found[1])
        with pytest.raises(ServerError, match="model 'third' is not one of main, other"):
            client.predict([CONDITION], model="third")


def test_a_killed_replica_is_hidden_by_the_client(url: str) -> None:
    with Client(url) as client:
        wanted = client.predict([CONDITION], n_samples=8).mean
    with Load(url, lambda client: client.predict([CONDITION], n_samples=8).mean, retries=8) as load:
        time.sleep(1.0)
        before = len(load.answers)
        (pid,) = [own for own in tree(os.getpid()) if name_of(own).startswith("ray::ServeReplica:ldm_ray:sampler")]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(load.answers) < before + 40 and time.monotonic() < deadline:
            time.sleep(0.2)
    assert load.errors == []
    assert len(load.answers) >= before + 40
    assert all(np.array_equal(np.asarray(answer), wanted) for answer in load.answers)


def test_prometheus_is_told(url: str) -> None:
    """Ray exports the metrics of the replicas at a port of its own."""
    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = [
        'ldm_ray_request_seconds_count{.*route="/v1/predict",.*status="200"',
        'ldm_ray_rows_per_pass{.*model="main"',
        'ldm_ray_compound_cache_hits{.*model="main"',
        'ldm_ray_passes_waiting{.*model="main"',
        "ldm_ray_rows_busy",
        'ldm_ray_profiles_finished_total{.*model="main"',
    ]
    with Client(url) as client:
        client.predict([CONDITION])
    deadline = time.monotonic() + 60
    while missing := [
        line for line in wanted if not re.search(line, httpx.get(f"http://127.0.0.1:{port}/metrics").text)
    ]:
        assert time.monotonic() < deadline, missing
        time.sleep(1.0)


def test_replicas_that_find_no_place_are_an_error_that_says_so(url: str, bundles: tuple[str, str]) -> None:
    huge = {"sampler": {"ray_actor_options": {"num_cpus": 1000}}}
    with pytest.raises(LdmRayError, match="the endpoint does not start: .*1000"):
        start(application(ServeArguments(bundles={"main": bundles[0]}), Config(), options=huge), placement_timeout_s=1)
    deploy(bundles[0])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_replica_whose_sampler_has_ended_says_that_it_is_ill(
    bundles: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedModel.load("main", bundles[0], 10**9, {})
    replica = object.__new__(Sampler.func_or_class)
    replica._served = {"main": served}
    replica.check_health()

    def fail() -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(served.engine._rows, "tick", fail)
    prepared = [served.predictor.reader.prepare(QUERY)]
    with pytest.raises(MemoryError):
        served.engine.submit(prepared, served.predictor.sampling(1, 2, 0)).result(timeout=30)
    with pytest.raises(RuntimeError, match="the sampler of main has ended"):
        replica.check_health()


def test_ray_is_still_there(url: str) -> None:
    assert ray.is_initialized()
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
