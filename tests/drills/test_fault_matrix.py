"""Processes killed with -9 while a two-node cluster prepares, trains, predicts and serves (docs/faults.md).

Every cell either continues on its own, or fails with one line and continues when asked to; the result equals that of an
undisturbed run. `-s` prints the table.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from ldm_ray.bundle.bundle import load_bundle, save_bundle
from ldm_ray.config import Config, dump_config
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.simulate import ReleaseFiles, simulate_release
from ldm_ray.layout import CHECKPOINT_STATE
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.schema import profiles_schema
from ldm_ray.serving.client import Client
from tests.bundles import SMILES, random_bundle
from tests.conftest import World, small_config
from tests.head import Head
from tests.processes import name_of, tree
from tests.s3_server import free_port

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

HEAD_CPUS, NODE_CPUS = 1, 2
WAIT_S = 500.0
DRIVER, RAYLET, NODE = "driver", "second raylet", "second raylet, and no node in its place"
TRAIN = ("ingest.mode=stream", "ingest.shuffle_window_rows=128", "ray.num_workers=2", "train_vae.epochs=15",
         "train_vae.early_stopping_epochs=15", "train_vae.checkpoint_every_steps=20")  # fmt: skip


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with Head({}, cpus=HEAD_CPUS) as own:
        yield own


@dataclass
class Job:
    """A command on the cluster.

    Attributes:
        head: Head of the cluster.
        command: Arguments of `ldm-ray`.
        resume: Additional arguments to resume.
        begun: Whether it is midway.
    """

    head: Head
    command: list[str]
    resume: list[str]
    begun: Callable[[], object]

    def start(self, *more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "ldm_ray.cli", *self.command, *more],
            env=self.head.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def disturbed(self, victim: str, title: str) -> str:
        """Run, kill the victim midway, resume; return what happened."""
        with ExitStack() as ends:
            with self.head.node(NODE_CPUS) as node:
                driver = self.start()
                ends.callback(driver.kill)
                wait_for(self.begun, driver)
                killed = kill(victim, title, self.head, node, driver)
                assert killed, f"no {victim} to be killed"
                if victim not in (RAYLET, NODE):
                    return self._ended(driver)
            if victim == NODE:
                driver.wait(WAIT_S)
            with self.head.node(NODE_CPUS):  # as a cluster that replaces what it loses
                return self._ended(driver)

    def _ended(self, driver: "subprocess.Popen[str]") -> str:
        _, said = driver.communicate(timeout=WAIT_S)
        if driver.returncode == 0:
            return "survived"
        if driver.returncode != -signal.SIGKILL:
            assert driver.returncode == 2, said
            assert "Traceback" not in said
        again = self.start(*self.resume)
        _, said_again = again.communicate(timeout=WAIT_S)
        assert again.returncode == 0, said_again
        if driver.returncode == -signal.SIGKILL:
            return "resumed"
        return f"resumed, after: {said.strip().splitlines()[-1]}"


def kill(victim: str, title: str, head: Head, node: int, driver: "subprocess.Popen[str]") -> list[int]:
    """Kill with -9: the driver, the second node's raylet, or a process by its title."""
    if victim == DRIVER:
        found = [driver.pid]
    elif victim in (RAYLET, NODE):
        found = [pid for pid in tree(node) if "/raylet/raylet" in name_of(pid).split(" ")[0]]
    else:
        until = time.monotonic() + 30
        while not (found := processes(title, head, node)) and time.monotonic() < until:
            assert driver.poll() is None, f"it ended before a {victim} was seen"
    for pid in found[:1]:
        os.kill(pid, signal.SIGKILL)
    return found[:1]


def processes(title: str, head: Head, node: int) -> list[int]:
    both = [*tree(node), *tree(head.pid)]
    return [pid for pid in both if name_of(pid).startswith("ray::") and title in name_of(pid)]


def wait_for(reached: Callable[[], object], driver: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + WAIT_S
    while not reached():
        assert driver.poll() is None, driver.stderr.read() if driver.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.05)


def written(config: Config, path: Path) -> str:
    path.write_text(dump_config(config))
    return str(path)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReleaseFiles, Config, PairedDataset]:
    """A release that takes a while, and its dataset, prepared in this process."""
    folder = tmp_path_factory.mktemp("large")
    sizes = ("simulate.n_profiles=12000", "simulate.n_compounds=300", "prepare.rows_per_file=64")
    config = small_config(*sizes, "prepare.workers=2")
    files = simulate_release(config.simulate, folder / "release", config.seed)
    release = read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info)
    prepare(release, str(folder / "data"), config)
    return files, config, open_dataset(str(folder / "data"))


@pytest.mark.parametrize(("victim", "title"), [("data worker", "write"), (RAYLET, ""), (DRIVER, "")])
def test_prepare(
    head: Head, large: tuple[ReleaseFiles, Config, PairedDataset], tmp_path: Path, victim: str, title: str
) -> None:
    files, config, undisturbed = large
    out = tmp_path / "data"
    command = ["prepare", "--out", str(out), "--config", written(config, tmp_path / "settings.yaml")]
    command += ["--gctx", str(files.gctx), "--inst-info", str(files.inst_info)]
    command += ["--pert-info", str(files.pert_info), "--gene-info", str(files.gene_info)]

    def begun() -> bool:
        return len(list((out / ".unfinished").glob("part-*.json"))) >= 8

    outcome = Job(head, command, ["--resume"], begun).disturbed(victim, title)
    made = open_dataset(str(out))
    columns = profiles_schema(1).names
    assert made.profiles(columns).equals(undisturbed.profiles(columns))
    assert made.basal.equals(undisturbed.basal)
    assert made.manifest == undisturbed.manifest
    print(f"\n| prepare | {victim} | {outcome} |")


@pytest.fixture(scope="module")
def trained(head: Head, world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = written(small_config(*TRAIN), folder / "settings.yaml")
    command = ["train", "vae", "--data", world.dataset.url, "--out", str(folder / "vae"), "--config", settings]
    with head.node(NODE_CPUS):
        run = Job(head, command, [], lambda: True).start()
        _, said = run.communicate(timeout=WAIT_S)
    assert run.returncode == 0, said
    return load_bundle(str(folder / "vae")).tensors


@pytest.mark.parametrize(
    ("victim", "title"),
    [("train worker", "RayTrainWorker"), ("data worker", "ReadWells"), (RAYLET, ""), (NODE, ""), (DRIVER, "")],
)
def test_train(
    head: Head, world: World, trained: dict[str, torch.Tensor], tmp_path: Path, victim: str, title: str
) -> None:
    out = tmp_path / "vae"
    settings = written(small_config(*TRAIN), tmp_path / "settings.yaml")
    command = ["train", "vae", "--data", world.dataset.url, "--out", str(out), "--config", settings]
    command += ["--set", f"ray.replacement_timeout_s={10 if victim == NODE else 300}"]
    outcome = Job(head, command, ["--resume"], lambda: list(out.rglob(CHECKPOINT_STATE))).disturbed(victim, title)
    bundle = load_bundle(str(out))
    assert len(bundle.metadata["history"]) == 15
    for name, value in trained.items():
        assert float((bundle.tensors[name] - value).norm() / value.norm().clamp_min(1e-6)) < 1e-5, name
    print(f"\n| train | {victim} | {outcome} |")


@pytest.mark.parametrize(("victim", "title"), [("data worker", "_Predict"), (RAYLET, ""), (DRIVER, "")])
def test_predict(head: Head, world: World, tmp_path: Path, victim: str, title: str) -> None:
    bundle, table, out = tmp_path / "bundle", tmp_path / "many.parquet", tmp_path / "out"
    save_bundle(random_bundle(world), str(bundle))
    n = 4000
    frame = pd.DataFrame({"smiles": ["C" * (1 + i % 20) for i in range(n)], "cell": "SIMC001"})
    frame["dose_um"], frame["time_h"] = np.arange(n) + 1.0, 24.0
    frame.to_parquet(table)
    command = ["predict", "--bundle", str(bundle), "--conditions", str(table), "--out", str(out), "--steps", "20"]
    command += ["--n-samples", "16", "--set", "predict.rows_per_part=50"]
    job = Job(head, command, [], lambda: len(list(out.glob("part-*.parquet"))) >= 6)
    outcome = job.disturbed(victim, title)
    rows = pd.concat([pq.read_table(path).to_pandas() for path in sorted(out.glob("part-*.parquet"))])
    assert rows["row"].tolist() == list(range(n))
    queries = [Query(*row) for row in frame[["smiles", "dose_um", "time_h", "cell"]][:100].itertuples(False, None)]
    wanted = Predictor.from_bundle(str(bundle), "cpu").predict(queries, 16, 20).mean
    assert np.array_equal(np.stack(rows["mean"][:100].tolist()), wanted)
    print(f"\n| predict | {victim} | {outcome} |")


@pytest.mark.parametrize(
    ("victim", "title"),
    [("sampler", "ServeReplica:ldm_ray:sampler"), ("controller", "ServeController"), (RAYLET, ""), (DRIVER, "")],
)
def test_serve(head: Head, world: World, tmp_path: Path, victim: str, title: str) -> None:
    """Answers are right and resume; the endpoint outlives the command that started it."""
    bundle, port = tmp_path / "bundle", free_port()
    save_bundle(random_bundle(world), str(bundle))
    command = ["serve", "--bundle", str(bundle), "--port", str(port)]
    wanted = Predictor.from_bundle(str(bundle), "cpu").predict([Query(SMILES, 10.0, 24.0, "SIMC001")], 8).mean
    condition = {"smiles": SMILES, "cell": "SIMC001", "dose_um": 10.0, "time_h": 24.0}
    job = Job(head, command, [], lambda: None)

    def answers(within_s: float = 0.0) -> bool:
        until = time.monotonic() + within_s
        while True:
            try:
                with Client(f"http://127.0.0.1:{port}", retries=0, timeout_s=10) as client:
                    got = client.predict([condition], n_samples=8).mean
            except Exception:  # of many kinds while it is down
                if time.monotonic() > until:
                    return False
                time.sleep(0.2)
                continue
            assert np.array_equal(np.asarray(got), wanted)
            return True

    with head.node(NODE_CPUS) as node:
        driver = job.start()
        wait_for(answers, driver)
        began = time.monotonic()
        assert kill(victim, title, head, node, driver), f"no {victim} to be killed"
        time.sleep(0.5)
        if victim != RAYLET:
            assert answers(WAIT_S)
            outcome = f"survived, answers after {time.monotonic() - began:.1f} s"
            finish(job, driver, victim)
    if victim == RAYLET:
        with head.node(NODE_CPUS):
            assert answers(WAIT_S)
            outcome = f"survived, answers after {time.monotonic() - began:.1f} s"
            finish(job, driver, victim)
    print(f"\n| serve | {victim} | {outcome} |")


def finish(job: Job, driver: "subprocess.Popen[str]", victim: str) -> None:
    """End the endpoint; if its command was killed, it keeps running, and the command says so when run again."""
    if victim != DRIVER:
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=WAIT_S)
        return
    driver.communicate(timeout=WAIT_S)
    again = job.start()
    _, said = again.communicate(timeout=WAIT_S)
    assert again.returncode == 2
    assert "this cluster already serves" in said
    stop = [str(Path(sys.executable).parent / "serve"), "shutdown", "--yes", "--address", job.head.address]
    assert subprocess.run(stop, env=job.head.environment, capture_output=True).returncode == 0
