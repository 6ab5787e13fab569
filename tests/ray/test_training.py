"""Real Ray Train runs of the autoencoder: tracked, killed, resumed, and errors of runs that cannot start."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from ldm_ray.bundle.bundle import Bundle, load_bundle
from ldm_ray.bundle.run_folder import Begin, as_begun
from ldm_ray.cluster.train.run import Run, train
from ldm_ray.config import Config, dump_config
from ldm_ray.data.dataset import open_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.errors import BundleError, DataError, LdmRayError, NonFiniteError, SettingsError
from ldm_ray.evaluation.health.figures import health_figures
from ldm_ray.storage.store import Store
from ldm_ray.tracking.record import RunRecord, read_record
from ldm_ray.tracking.revision import source_revision
from ldm_ray.training.status import TrainingStatus
from tests.conftest import World, small_config
from tests.processes import name_of, tree
from tests.ray.prometheus import Scraper, scraping

# SQLAlchemy's and pydantic's, for what MLflow does.
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

LONG = ("train_vae.epochs=24", "train_vae.checkpoint_every_steps=7", "train_vae.early_stopping_epochs=24")


def difference(a: Bundle, b: Bundle) -> float:
    """Largest relative difference of any tensor, by norm."""
    assert a.tensors.keys() == b.tensors.keys()
    return max(float((a.tensors[n] - b.tensors[n]).norm() / b.tensors[n].norm().clamp_min(1e-6)) for n in a.tensors)


def train_workers() -> list[int]:
    """Process ids of this test's own Ray Train workers."""
    return [pid for pid in tree(os.getpid()) if name_of(pid).startswith("ray::") and "RayTrainWorker" in name_of(pid)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow database for all tests, since making its tables takes seconds; each has an experiment of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def followed(uri: str, experiment: str, *overrides: str) -> Config:
    return small_config("ray.num_workers=1", f"track.mlflow={uri}", f"track.experiment={experiment}", *overrides)


def only_run(uri: str, name: str) -> tuple[MlflowClient, MlflowRun]:
    """Return the one run of an experiment."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


@pytest.fixture(scope="module")
def undisturbed(world: World, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = str(tmp_path_factory.mktemp("undisturbed") / "vae")
    return train(Run(kind="vae", dataset=world.dataset, out=out, config=small_config(*LONG, "ray.num_workers=2")))


def test_a_run_ends_in_a_bundle_that_learnt_something(undisturbed: Bundle) -> None:
    history = undisturbed.metadata["history"]
    assert history[-1]["best_loss"] < 0.97 * history[0]["valid_loss"]
    assert history[-1]["step"] == 24 * history[0]["step"]


def test_one_ray_worker_equals_two_and_is_followed(world: World, undisturbed: Bundle, uri: str, tmp_path: Path) -> None:
    """The whole path through Ray Data and Ray Train, over 24 epochs; the first steps are held to 1e-5 elsewhere.

    It is in MLflow, TensorBoard, its record and Prometheus, and none of them leaves a trace in the bundle.
    """
    config = followed(uri, "plain", *LONG, "ray.num_workers=1")
    with scraping() as scraper:
        bundle = train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path / "followed"), config=config))
        check_prometheus(scraper, read_record(Store(str(tmp_path / "followed"))), f"{tmp_path.name}/followed")
    assert difference(bundle, undisturbed) < 1e-3
    losses, of_two = ([row["valid_loss"] for row in b.metadata["history"]] for b in (bundle, undisturbed))
    assert losses == pytest.approx(of_two, rel=1e-4)
    assert not {"wells_per_s", "data_wait"} & bundle.metadata["history"][0].keys()  # same seed, same bundle
    record = read_record(Store(str(tmp_path / "followed")))
    assert (record.status, record.epochs, record.num_workers) == ("finished", 24, 1)
    assert record.best["valid_loss"] == min(losses)
    assert record.warnings == ()
    assert 0 < record.seconds < 400
    assert record.dataset_sha256 == bundle.metadata["trained_on"]["manifest_sha256"]
    client, run = only_run(uri, "plain")
    assert run.info.status == "FINISHED"
    assert record.trackers == {"tensorboard": "tensorboard", "mlflow": run.info.run_id}
    assert run.data.params["train_vae.epochs"] == "24"
    assert run.data.params["vae.encoder_widths"] == "[32, 16]"
    assert run.data.tags["dataset_sha256"] == record.dataset_sha256
    assert run.data.tags.get("git_revision", "") == record.git_revision == source_revision()
    metrics = client.get_metric_history(run.info.run_id, "valid_loss")
    assert [(metric.step, metric.value) for metric in metrics] == list(enumerate(losses, start=1))
    check_health(bundle, record, run)
    events = list((tmp_path / "followed" / "tensorboard").iterdir())  # epochs from Train's controller, health from here
    assert len(events) == 2
    assert max(file.stat().st_size for file in events) > 1000
    assert run.data.metrics["wells_per_s"] == record.last["wells_per_s"] > 0


def check_health(bundle: Bundle, record: RunRecord, run: MlflowRun) -> None:
    """Each epoch shows how many dimensions are active; the finished autoencoder's figures are everywhere."""
    health = bundle.metadata["health"]
    assert health["failed"] == []
    assert health["autoencoder"]["active_units"] == 8 == bundle.metadata["history"][-1]["valid_active_units"]
    assert record.health == health_figures(health)
    logged = {name.removeprefix("health/"): value for name, value in run.data.metrics.items() if "health/" in name}
    assert logged == pytest.approx(record.health)


def check_prometheus(scraper: Scraper, record: RunRecord, run: str) -> None:
    """A worker reports its last figures before it ends, so short runs are seen; of whole epochs, as in the record.

    Ray may export an epoch in the middle first.
    """
    wanted = {
        "train_wells_per_second": record.last["wells_per_s"],
        "train_data_wait_ratio": record.last["data_wait"],
        "train_valid_loss": record.last["valid_loss"],
        "train_global_batch_wells": 64.0,
    }
    seen = scraper.wait_for(
        ["train_loss", "train_checkpoint_seconds", *wanted],
        'kind="vae"',
        f'run="{run}"',
        enough=lambda seen: {name: seen[name] for name in wanted} == pytest.approx(wanted),
    )
    assert 0 < seen["train_checkpoint_seconds"] < 60
    assert 0 <= seen["train_data_wait_ratio"] <= 1


def test_killed_workers_leave_the_result_alone(
    world: World, undisturbed: Bundle, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of one rank, more often than the settings allow: the run fails and is resumed as the same run.

    Then another rank is killed, and both restart from the checkpoint and end with the same weights. Ray's watcher of
    nodes is on, as it is for users. Epochs are not reported twice.
    """
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")
    out, killed = tmp_path / "vae", list[int]()

    def run(begin: Begin, epoch: int, *overrides: str) -> Run:
        """Return the run; when it has come to an epoch, one of its workers is killed, once."""
        before = len(killed)

        def kill(status: TrainingStatus) -> None:
            if len(killed) == before and status.get("epoch", 0) >= epoch:
                killed.append(train_workers()[0])
                os.kill(killed[-1], signal.SIGKILL)

        config = followed(uri, "resumed", *LONG, "ray.num_workers=2", *overrides)
        return Run(kind="vae", dataset=world.dataset, out=str(out), config=config, begin=begin, on_status=kill)

    with pytest.raises(LdmRayError, match="training failed; --resume continues from the last checkpoint"):
        train(run("fresh", 2, "ray.max_failures=0"))
    failed = read_record(Store(str(out)))
    assert (failed.status, failed.failures, len(killed)) == ("failed", 1, 1)
    assert 0 < failed.epochs < 24
    assert only_run(uri, "resumed")[1].info.status == "FAILED"
    bundle = train(run("resume", 8))
    assert len(set(killed)) == 2
    assert difference(bundle, undisturbed) < 1e-5
    losses, wanted = ([row["valid_loss"] for row in b.metadata["history"]] for b in (bundle, undisturbed))
    assert losses == pytest.approx(wanted, rel=1e-5)
    record = read_record(Store(str(out)))
    assert (record.status, record.epochs, record.failures, record.started) == ("finished", 24, 2, failed.started)
    assert record.seconds > failed.seconds
    client, tracked = only_run(uri, "resumed")
    assert tracked.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(tracked.info.run_id, "train_loss")]
    assert steps == list(range(1, 25))
    assert record.last["valid_loss"] == pytest.approx(losses[-1], rel=1e-5)
    assert len(list((out / "tensorboard").iterdir())) == 3


@pytest.mark.full  # a pipeline's driver is stopped in tests/drills/test_jobs.py, a search's killed in test_tune.py
def test_a_killed_driver_is_resumed(world: World, undisturbed: Bundle, tmp_path: Path) -> None:
    """The whole process tree is killed after a checkpoint; `--resume` ends with the same weights."""
    config, out = small_config(*LONG, "ray.num_workers=2"), tmp_path / "vae"
    settings = tmp_path / "settings.yaml"
    settings.write_text(dump_config(config))
    command = [sys.executable, "-m", "ldm_ray.cli", "train", "vae", "--data", world.dataset.url]
    command += ["--out", str(out), "--config", str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((out / "run").glob("checkpoint_*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "metadata.json").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "holds an unfinished run; --resume continues it" in again.stderr
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert difference(load_bundle(str(out)), undisturbed) < 1e-5
    assert not (out / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("ray.num_workers=64",), SettingsError, "ray.num_workers is 64; the cluster has"),
        (
            ("train_vae.global_batch_size=60", "ingest.mode=resident"),
            SettingsError,
            "must be a multiple of ray.lanes = 16",
        ),
        (
            ("train_vae.global_batch_size=61", "ray.num_workers=2"),
            SettingsError,
            "must be a multiple of the number of workers, 2; got 61",
        ),
        (("train_vae.global_batch_size=100000",), DataError, "the training split has only"),
    ],
)
def test_settings_that_cannot_run_are_said_before_anything_starts(
    world: World, tmp_path: Path, overrides: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path / "vae"), config=small_config(*overrides)))


def interrupted(folder: Path, config: Config, share: dict[str, Any]) -> Store:
    """Leave the files of a killed run; `share` says how its wells were shared."""
    store = Store(str(folder))
    store.write_bytes("settings.yaml", dump_config(config).encode())
    store.write_json("run/x.json", {})
    store.write_json("workers.json", share)
    return store


def test_a_stream_is_resumed_by_as_many_workers_only(world: World, tmp_path: Path) -> None:
    """A step of a streamed epoch has other wells with another number of workers."""
    config = small_config("ingest.mode=stream", "ray.num_workers=2")
    store = interrupted(tmp_path, config, {"num_workers": 1, "mode": "stream"})
    with pytest.raises(SettingsError, match="started with ray.num_workers=1 and ingest.mode=stream; got 2, stream"):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path), config=config, begin="resume"))
    # Without a requested number, the run's number of workers counts, not the cluster's.
    derived = config.model_copy(update={"ray": config.ray.model_copy(update={"num_workers": 0})})
    assert as_begun(derived.ray, store).num_workers == 1
    assert as_begun(config.ray, store).num_workers == 2


def test_wells_in_memory_are_resumed_in_the_same_lanes(world: World, tmp_path: Path) -> None:
    """Lanes, not workers, decide which wells meet in a batch."""
    config = small_config("ingest.mode=resident", "ray.lanes=4")
    interrupted(tmp_path, config, {"num_workers": 1, "mode": "resident", "lanes": 8})
    with pytest.raises(SettingsError, match="was started with ray.lanes=8; got 4"):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path), config=config, begin="resume"))


def test_a_dataset_without_validation_wells_is_said(world: World, tmp_path: Path) -> None:
    files = world.files
    config = small_config("splits.valid_fraction=0", "ingest.mode=stream")
    prepare(read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info), str(tmp_path / "data"), config)
    with pytest.raises(DataError, match="validation split must have a profile for each of 2 workers; got 0"):
        train(Run(kind="vae", dataset=open_dataset(str(tmp_path / "data")), out=str(tmp_path / "vae"), config=config))


def test_what_is_there_already_is_kept(world: World, undisturbed: Bundle, tmp_path: Path) -> None:
    config: Config = small_config()
    from ldm_ray.bundle.bundle import save_bundle

    out = str(tmp_path / "vae")
    with pytest.raises(BundleError, match="holds no unfinished run to resume"):
        train(Run(kind="vae", dataset=world.dataset, out=out, config=config, begin="resume"))
    save_bundle(undisturbed, out)
    with pytest.raises(BundleError, match="already holds a bundle; --overwrite"):
        train(Run(kind="vae", dataset=world.dataset, out=out, config=config))
    other = small_config("target=absolute")
    with pytest.raises(BundleError, match="trained with target 'delta'; got 'absolute'"):
        train(Run(kind="ldm", dataset=world.dataset, vae=undisturbed, out=str(tmp_path / "ldm"), config=other))


def test_a_run_that_diverges_says_so_and_a_server_that_is_away_does_not_stop_it(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    explodes = ("train_vae.learning_rate=1e30", "train_vae.gradient_clip_norm=1e30", "track.tensorboard=false")
    config = small_config("ray.num_workers=1", *explodes, "track.mlflow=http://127.0.0.1:9")
    with pytest.raises(NonFiniteError, match="^the training loss is (nan|inf) in epoch[^\n]*$"):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path / "vae"), config=config))
    assert json.loads((tmp_path / "vae" / "run.json").read_text())["status"] == "diverged"
    (said,) = (record.message for record in caplog.records if "tracking by" in record.message)
    assert "tracking by mlflow fails, the run continues" in said
    assert not (tmp_path / "vae" / "tensorboard").exists()


def test_a_tracker_that_cannot_work_is_refused_before_anything_is_removed(world: World, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "vae"))
    store.write_json("metadata.json", {})
    with pytest.raises(SettingsError, match="track.mlflow must be"):
        train(
            Run(
                kind="vae",
                dataset=world.dataset,
                out=store.url,
                config=small_config("track.mlflow=mlflow.db"),
                begin="overwrite",
            )
        )
    assert store.names() == ["metadata.json"]
