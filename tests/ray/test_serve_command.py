"""`ldm-ray serve` as people run it: started, asked, and ended by Ctrl-C or SIGTERM."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ldm_ray.bundle.bundle import save_bundle
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.serving.client import Client
from tests.bundles import SMILES, random_bundle
from tests.conftest import Command, World
from tests.processes import kill_tree, tree
from tests.s3_server import free_port

START_S, END_S = 120.0, 180.0


@pytest.fixture
def bundle(world: World, tmp_path: Path) -> str:
    save_bundle(random_bundle(world), str(tmp_path / "bundle"))
    return str(tmp_path / "bundle")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "serve.log"


@pytest.fixture
def served(bundle: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command in its own process group, as a shell starts it."""
    port = free_port()
    command = [sys.executable, "-m", "ldm_ray.cli", "serve", "--bundle", bundle, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        kill_tree(process.pid)
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_serve_answers_until_it_is_told_to_end(
    how: signal.Signals, served: tuple[subprocess.Popen[bytes], str], bundle: str, log: Path
) -> None:
    process, url = served
    wait_for(url, log, process)
    with Client(url) as client:
        condition = {"smiles": SMILES, "cell": "SIMC001", "dose_um": 10.0, "time_h": 24.0}
        got = client.predict([condition], seed=3)
    wanted = Predictor.from_bundle(bundle, "cpu").predict([Query(SMILES, 10.0, 24.0, "SIMC001")], seed=3)
    np.testing.assert_array_equal(got.mean, wanted.mean)
    below = tree(process.pid)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # Ctrl-C reaches the whole group
    else:
        process.send_signal(how)
    assert process.wait(END_S) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert f"serving bundle at {url}/" in log.read_text()
    deadline = time.monotonic() + END_S
    while (left := [pid for pid in below if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "is not a model bundle"),
        (["--port", "99999"], "serve.port"),
        (["--bundle", "other/nothing"], "models must have different names"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    more: list[str], said: str, tmp_path: Path, command: Command
) -> None:
    (line,) = command("serve", "--bundle", str(tmp_path / "nothing"), *more, code=2).stderr.strip().splitlines()
    assert said in line


def wait_for(url: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server is ready."""
    deadline = time.monotonic() + START_S
    while f"at {url}/" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    with Client(url, retries=0) as client:
        client.model()


@pytest.mark.usefixtures("cluster")
def test_a_port_that_is_taken_is_one_line(bundle: str, command: Command) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = command("serve", "--bundle", bundle, "--port", str(port), code=2)
    signal.signal(signal.SIGTERM, before)
    (line,) = said.stderr.strip().splitlines()
    assert f"error: cannot listen on 127.0.0.1:{port} (Address already in use)" in line
