"""Runs that are followed: what MLflow, TensorBoard and the record say of them afterwards."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from ldm_ray.cluster.train.run import Run, train
from ldm_ray.config import Config
from ldm_ray.errors import LdmRayError, NonFiniteError, SettingsError
from ldm_ray.storage.store import Store
from ldm_ray.tracking.record import RunRecord, read_record
from ldm_ray.tracking.revision import source_revision
from tests.conftest import World, small_config
from tests.ray.prometheus import exported
from tests.ray.test_training import train_workers

# SQLAlchemy's and pydantic's, for what MLflow does.
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


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


def test_a_run_is_in_mlflow_tensorboard_and_its_record(world: World, uri: str, tmp_path: Path) -> None:
    config = followed(uri, "plain", "train_vae.epochs=3")
    bundle = train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path / "followed"), config=config))
    assert not {"wells_per_s", "data_wait"} & bundle.metadata["history"][0].keys()  # same seed, same bundle
    losses = [row["valid_loss"] for row in bundle.metadata["history"]]
    record = read_record(Store(str(tmp_path / "followed")))
    assert (record.status, record.epochs, record.num_workers) == ("finished", 3, 1)
    assert record.best["valid_loss"] == min(losses)
    assert record.warnings == ()
    assert 0 < record.seconds < 120
    assert record.dataset_sha256 == bundle.metadata["trained_on"]["manifest_sha256"]
    client, run = only_run(uri, "plain")
    assert run.info.status == "FINISHED"
    assert record.trackers == {"tensorboard": "tensorboard", "mlflow": run.info.run_id}
    assert run.data.params["train_vae.epochs"] == "3"
    assert run.data.params["vae.encoder_widths"] == "[32, 16]"
    assert run.data.tags["dataset_sha256"] == record.dataset_sha256
    assert run.data.tags.get("git_revision", "") == record.git_revision == source_revision()
    metrics = client.get_metric_history(run.info.run_id, "valid_loss")
    assert [(metric.step, metric.value) for metric in metrics] == list(enumerate(losses, start=1))
    (events,) = (tmp_path / "followed" / "tensorboard").iterdir()
    assert events.stat().st_size > 1000
    assert run.data.metrics["wells_per_s"] == record.last["wells_per_s"] > 0
    check_prometheus(record, f"{tmp_path.name}/followed")


def check_prometheus(record: RunRecord, run: str) -> None:
    """A worker that ends tells its last figures first, so a short run is seen too; of whole epochs, as the record."""
    wanted = {
        "train_wells_per_second": record.last["wells_per_s"],
        "train_data_wait_ratio": record.last["data_wait"],
        "train_valid_loss": record.last["valid_loss"],
        "train_global_batch_wells": 64.0,
    }
    seen = exported(["train_loss", "train_checkpoint_seconds", *wanted], 'kind="vae"', f'run="{run}"')
    assert {name: seen[name] for name in wanted} == pytest.approx(wanted)
    assert 0 < seen["train_checkpoint_seconds"] < 60
    assert 0 <= seen["train_data_wait_ratio"] <= 1


def test_a_run_that_fails_is_resumed_as_the_same_run(world: World, uri: str, tmp_path: Path) -> None:
    """Its workers are killed more often than the settings allow; the epochs it had are not told twice."""
    out = tmp_path / "vae"
    long = ("train_vae.epochs=12", "train_vae.checkpoint_every_steps=7", "ray.max_failures=0")
    config, killed = followed(uri, "resumed", *long), list[int]()

    def kill_once(status: dict[str, Any]) -> None:
        if not killed and status.get("epoch", 0) >= 2:
            killed.append(train_workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(LdmRayError, match="training failed, --resume goes on"):
        train(Run(kind="vae", dataset=world.dataset, out=str(out), config=config, on_status=kill_once))
    failed = read_record(Store(str(out)))
    assert (failed.status, failed.failures) == ("failed", 1)
    assert 0 < failed.epochs < 12
    assert only_run(uri, "resumed")[1].info.status == "FAILED"
    bundle = train(Run(kind="vae", dataset=world.dataset, out=str(out), config=config, begin="resume"))
    record = read_record(Store(str(out)))
    assert (record.status, record.epochs, record.started) == ("finished", 12, failed.started)
    assert record.seconds > failed.seconds
    client, run = only_run(uri, "resumed")
    assert run.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train_loss")]
    assert steps == list(range(1, 13))
    assert record.last["valid_loss"] == pytest.approx(bundle.metadata["history"][-1]["valid_loss"], rel=1e-5)
    assert len(list((out / "tensorboard").iterdir())) == 2


def test_a_run_that_diverges_says_so_and_a_server_that_is_away_does_not_stop_it(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    explodes = ("train_vae.learning_rate=1e30", "train_vae.gradient_clip_norm=1e30", "track.tensorboard=false")
    config = small_config("ray.num_workers=1", *explodes, "track.mlflow=http://127.0.0.1:9")
    with pytest.raises(NonFiniteError, match="the training loss is"):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path / "vae"), config=config))
    assert json.loads((tmp_path / "vae" / "run.json").read_text())["status"] == "diverged"
    (said,) = (record.message for record in caplog.records if "tracking by" in record.message)
    assert "tracking by mlflow fails, the run goes on" in said
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
