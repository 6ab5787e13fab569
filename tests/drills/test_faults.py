"""Slow campaigns, run by `make test-full`: processes and servers are killed for real."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.cluster.train.run import Run, train
from ldm_ray.config import Config, dump_config
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.simulate import ReleaseFiles, simulate_release
from ldm_ray.errors import LdmRayError
from ldm_ray.schema import profiles_schema
from tests.conftest import small_config
from tests.processes import kill_tree
from tests.s3_server import BUCKET, S3Server, free_port

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
OUTAGE_S = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A separate server, because these tests kill it."""
    with S3Server(tmp_path_factory.mktemp("s3"), free_port()) as own:
        yield own


def config_for(server: S3Server, *overrides: str) -> Config:
    sizes = ("simulate.n_profiles=12000", "simulate.n_compounds=300", "prepare.rows_per_file=128")
    return small_config(*sizes, *overrides).model_copy(update={"storage_options": server.options})


@pytest.fixture(scope="module")
def release(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> ReleaseFiles:
    config = config_for(server)
    return simulate_release(config.simulate, tmp_path_factory.mktemp("release"), config.seed)


@pytest.fixture(scope="module")
def dataset(server: S3Server, release: ReleaseFiles) -> PairedDataset:
    """A dataset prepared without interruption."""
    files = read_l1000(release.gctx, release.inst_info, release.pert_info, release.gene_info)
    prepare(files, f"s3://{BUCKET}/undisturbed", config_for(server))
    return open_dataset(f"s3://{BUCKET}/undisturbed", server.options)


def test_prepare_killed_five_times(
    server: S3Server, release: ReleaseFiles, dataset: PairedDataset, tmp_path: Path
) -> None:
    """SIGKILL of the whole process tree at random moments; finished parts are never written again."""
    root = f"s3://{BUCKET}/killed"
    settings = tmp_path / "settings.yaml"
    settings.write_text(dump_config(config_for(server, "prepare.workers=2")))
    command = [sys.executable, "-m", "ldm_ray.cli", "prepare", "--config", str(settings), "--out", root]
    command += ["--gctx", str(release.gctx), "--inst-info", str(release.inst_info)]
    command += ["--pert-info", str(release.pert_info), "--gene-info", str(release.gene_info)]
    environment = os.environ | server.environment
    draw, kills, finished = random.Random(3), [], {}
    fs = s3fs.S3FileSystem(**server.options["s3"], use_listings_cache=False)

    def parts() -> dict[str, str]:
        """Finished parts (those with a record), and when their files were written."""
        records = {Path(path).stem for path in fs.glob(f"{BUCKET}/killed/.unfinished/part-*.json")}
        files = fs.ls(f"{BUCKET}/killed/profiles", detail=True) if fs.exists(f"{BUCKET}/killed/profiles") else []
        return {file["name"]: str(file["LastModified"]) for file in files if Path(file["name"]).stem in records}

    while len(kills) < 5:
        resume = ["--resume"] if kills else []
        process = subprocess.Popen(
            [*command, *resume], env=environment, start_new_session=True, stderr=subprocess.DEVNULL
        )
        before, goal = len(finished), len(finished) + draw.randint(1, 15)
        while len(parts()) < goal and process.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.random() * 0.2)
        assert process.poll() is None, "it ended before it was killed five times"
        kill_tree(process.pid)
        process.wait()
        now = parts()
        assert all(now[path] == written for path, written in finished.items()), "a finished part was written again"
        kills.append((before, len(now)))
        finished = now
        assert not fs.exists(f"{BUCKET}/killed/manifest.json")
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = open_dataset(root, server.options)
    columns = profiles_schema(1).names
    assert again.profiles(columns).equals(dataset.profiles(columns))
    assert again.basal.equals(dataset.basal)
    assert again.compounds.equals(dataset.compounds)
    assert again.manifest == dataset.manifest
    print(f"parts finished before and after each kill: {kills} of {len(again.manifest['files'])}")


STREAM = (
    "ingest.mode=stream", "ingest.shuffle_window_rows=1024", "ray.num_workers=2", "train_vae.epochs=12",
    "train_vae.early_stopping_epochs=12", "train_vae.checkpoint_every_steps=100",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(dataset: PairedDataset, server: S3Server, cluster: None) -> Bundle:
    return train(Run(kind="vae", dataset=dataset, out=f"s3://{BUCKET}/vae", config=config_for(server, *STREAM)))


class Outage:
    """Kills the server once training is under way, and starts it again after a while."""

    def __init__(self, server: S3Server, seconds: float) -> None:
        self.server, self.seconds, self.threads = server, seconds, []  # type: ignore[var-annotated]

    def __call__(self, status: dict[str, Any]) -> None:
        if not self.threads and status.get("epoch", 0) >= 2:
            self.server.kill()
            self.threads.append(threading.Timer(self.seconds, self.server.start))
            self.threads[0].start()

    def over(self) -> None:
        for thread in self.threads:
            thread.join()


@pytest.mark.usefixtures("cluster")
def test_a_server_that_is_gone_for_a_while_costs_time_only(
    dataset: PairedDataset, server: S3Server, undisturbed: Bundle
) -> None:
    """Wells are read from it and checkpoints go to it; the weights are those of the undisturbed run."""
    outage = Outage(server, OUTAGE_S)
    bundle = train(
        Run(
            kind="vae",
            dataset=dataset,
            out=f"s3://{BUCKET}/vae-outage",
            config=config_for(server, *STREAM),
            on_status=outage,
        )
    )
    assert outage.threads
    outage.over()
    for name, value in undisturbed.tensors.items():
        assert float((bundle.tensors[name] - value).norm() / value.norm().clamp_min(1e-6)) < 1e-5, name
    assert (
        json.dumps(bundle.metadata["history"][-1]["valid_loss"])[:6]
        == json.dumps(undisturbed.metadata["history"][-1]["valid_loss"])[:6]
    )


@pytest.mark.usefixtures("cluster")
def test_or_it_fails_with_one_clear_line(dataset: PairedDataset, server: S3Server, tmp_path: Path) -> None:
    config = config_for(server, *STREAM, "ingest.wait_for_storage_s=0")
    outage = Outage(server, OUTAGE_S)
    with pytest.raises(LdmRayError) as caught:
        train(Run(kind="vae", dataset=dataset, out=str(tmp_path / "vae"), config=config, on_status=outage))
    outage.over()
    message = str(caught.value)
    assert "could not be read for 0 s (ingest.wait_for_storage_s)" in message
    assert "--resume continues from the last checkpoint" in message
    assert "\n" not in message
    bundle = train(Run(kind="vae", dataset=dataset, out=str(tmp_path / "vae"), config=config, begin="resume"))
    assert len(bundle.metadata["history"]) == 12
