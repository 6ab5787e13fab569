"""The record of a run, the table of runs, TensorBoard's events, and failing trackers."""

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from ldm_ray.cli.app import main
from ldm_ray.config import dump_config
from ldm_ray.errors import DataError, SettingsError
from ldm_ray.layout import RUN_RECORD, TENSORBOARD
from ldm_ray.settings import TrackSettings
from ldm_ray.storage.store import Store
from ldm_ray.tracking import trackers
from ldm_ray.tracking.mlflow import absolute_uri
from ldm_ray.tracking.record import (
    RunRecord,
    RunStatus,
    begin_record,
    changed_settings,
    read_record,
    resumed_record,
    runs_table,
    with_epoch,
    write_record,
)
from ldm_ray.tracking.revision import source_revision
from ldm_ray.tracking.tensorboard import TensorBoardTracker
from ldm_ray.tracking.trackers import Guarded, check_trackers
from tests.conftest import World, small_config


def a_run(folder: str = "/runs/vae", **changes: object) -> RunRecord:
    run = RunRecord(
        name=folder.rsplit("/", 1)[-1],
        kind="vae",
        folder=folder,
        status="finished",
        started="2026-11-22T10:00:00+00:00",
        dataset="/runs/data",
        dataset_sha256="0123456789abcdef" * 4,
        git_revision="f" * 40,
        num_workers=2,
        host="here",
        settings=small_config().model_dump(mode="json"),
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def test_a_record_says_where_code_and_data_came_from(world: World, tmp_path: Path) -> None:
    options = {"s3": {"key": "AKIA", "secret": "hush"}}
    config = small_config("ray.num_workers=2").model_copy(update={"storage_options": options})
    run = begin_record(str(tmp_path / "vae"), "vae", world.dataset, config, 2)
    assert (run.name, run.kind, run.status, run.num_workers) == ("vae", "vae", "running", 2)
    assert run.dataset_sha256 == sha256((Path(world.dataset.url) / "manifest.json").read_bytes()).hexdigest()
    assert run.started.endswith("+00:00")
    store = Store(str(tmp_path / "vae"))
    write_record(store, run)
    assert read_record(store) == run
    written = store.read_json(RUN_RECORD)
    del written["health"]  # as an older version wrote it
    store.write_json(RUN_RECORD, written)
    assert read_record(store) == run
    assert "hush" not in (tmp_path / "vae" / "run.json").read_text()


def test_last_and_best_epoch(tmp_path: Path) -> None:
    run = a_run()
    for epoch, loss in enumerate((0.5, 0.3, 0.4), start=1):
        run = with_epoch(run, epoch, {"valid_loss": loss, "step": 10.0 * epoch})
    assert (run.epochs, run.last["valid_loss"], run.best) == (3, 0.4, {"valid_loss": 0.3, "step": 20.0})
    again = resumed_record(replace(run, seconds=7.5, trackers={"mlflow": "abc"}), a_run(started="2026-11-23", host="b"))
    assert (again.started, again.seconds, again.epochs, again.trackers) == (run.started, 7.5, 3, {"mlflow": "abc"})
    assert again.host == "b"


def test_the_table_finds_all_runs_and_no_others(tmp_path: Path) -> None:
    for number, name in enumerate(("a/vae", "a/ldm", "b/seed0/prnet")):
        write_record(Store(str(tmp_path / name)), a_run(f"/elsewhere/{name}", started=f"2026-11-2{number}T00:00:00"))
    write_record(Store(str(tmp_path)), a_run(started="2026-11-19T00:00:00"))
    for name, text in {
        "foreign": '{"status": "ok"}',
        "list": "[]",
        "broken": "{",
        "newer": '{"format_version": 2}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    runs = runs_table(Store(str(tmp_path)))
    assert [Path(run.folder) for run in runs] == [
        tmp_path / "b/seed0/prnet",
        tmp_path / "a/ldm",
        tmp_path / "a/vae",
        tmp_path,
    ]


def test_a_table_of_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        runs_table(Store(str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="holds no training run"):
        runs_table(Store(str(tmp_path)))


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (("train_vae.epochs=7",), {"train_vae.epochs": 7}),
        (("preset=paper", "vae.kl_weight=0.5"), {"preset": "paper", "vae.kl_weight": 0.5}),
        ((), {}),
    ],
)
def test_settings_that_are_not_their_preset_s(overrides: tuple[str, ...], changed: dict[str, object]) -> None:
    from ldm_ray.config import load_config

    assert changed_settings(a_run(settings=load_config(None, overrides).model_dump(mode="json"))) == changed


def test_the_command_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {
        "autoencoder_active_units": 7.0,
        "autoencoder_latent_dim": 8.0,
        "autoencoder_decoder_r2": 0.821,
        "autoencoder_pca_r2": 0.854,
    }
    run = a_run(best={"valid_loss": 0.25}, epochs=2, git_revision="f" * 40 + "-dirty", health=measured)
    write_record(Store(str(tmp_path / "a" / "vae")), run)
    write_record(Store(str(tmp_path / "b")), a_run(status="running", started="2026-11-23T10:00:00+00:00"))

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ldm-ray", "runs", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return str(stopped.value.code)

    assert command(str(tmp_path), "--json") == "0"
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["status"] for run in runs] == ["running", "finished"]
    assert runs[1]["changed"]["vae.latent_dim"] == 8
    assert runs[1]["health"] == measured
    assert command(str(tmp_path)) == "0"
    newest, oldest = (line for line in capsys.readouterr().err.splitlines() if "2026-11-2" in line)
    assert "running" in newest
    for word in (
        "a/vae",
        "2026-11-22 10:00",
        "finished",
        "0.2500",
        "units 7/8, R2 0.82 (PCA 0.85)",
        "ffffffff+",
        "01234567",
        "vae.latent_dim=8",
    ):
        assert word in oldest
    assert "simulate" not in oldest
    assert command(str(tmp_path / "none")) == "2"
    assert "does not exist" in capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one package and a package that an environment inside it holds."""
    for name in ("package", "venv/installed"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / ".gitignore").write_text("venv\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "First")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_revision_of_a_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    revision = head.stdout.strip()
    assert source_revision(checkout / "package") == revision
    (checkout / "package" / "new.py").touch()
    assert source_revision(checkout / "package") == revision
    (checkout / "package" / "__init__.py").write_text("changed = True\n")
    assert source_revision(checkout / "package") == revision + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert source_revision(checkout / "package") == ""


def test_an_installed_package_has_no_revision(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert source_revision(checkout / "venv" / "installed") == ""
    assert source_revision(tmp_path_factory.mktemp("plain")) == ""


@pytest.mark.parametrize(("setting", "package"), [("mlflow", "mlflow.tracking"), ("wandb", "wandb")])
def test_a_missing_extra_is_said(setting: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    track = TrackSettings(**{setting: "sqlite:///mlflow.db"})
    with pytest.raises(SettingsError, match=rf"track.{setting} needs the extra '{setting}'") as error:
        check_trackers(track)
    assert str(error.value).endswith(f"pip install --constraint constraints.txt --editable '.[{setting}]'")


def test_sqlite_wants_its_packages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", sys)
    monkeypatch.setitem(sys.modules, "alembic", None)
    with pytest.raises(SettingsError, match="needs the extra 'mlflow'"):
        check_trackers(TrackSettings(mlflow="sqlite:///mlflow.db"))
    check_trackers(TrackSettings(mlflow="http://localhost:5000"))


@pytest.mark.parametrize(
    "uri", ["runs/mlflow.db", "sqlite:///", "sqlite://mlflow.db", "ftp://host", "http://", "file:///x"]
)
def test_a_bad_uri_is_refused(uri: str) -> None:
    with pytest.raises(SettingsError, match=r"track.mlflow must be sqlite:///FILE or http\(s\)://HOST; got"):
        check_trackers(TrackSettings(mlflow=uri))


def test_a_password_is_refused_since_settings_are_saved() -> None:
    with pytest.raises(SettingsError, match="must hold no password") as error:
        check_trackers(TrackSettings(mlflow="https://user:hush@host"))
    assert "hush" not in str(error.value)


def test_a_relative_database_is_the_same_file_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert absolute_uri(absolute_uri("sqlite:///runs/mlflow.db")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert absolute_uri("https://host") == "https://host"


def read_events(content: bytes) -> list[Event]:
    """Parse an event file: length, its checksum, the event, its checksum."""
    events, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        events.append(Event.FromString(content[at + 12 : at + 12 + length]))
        at += 12 + length + 4
    return events


def test_tensorboard_events_lie_at_any_url() -> None:
    store = Store("memory://tensorboard-test/vae")
    tracker = TensorBoardTracker(store)
    tracker.start(a_run())
    for epoch in (1, 2):
        tracker.log(epoch, {"train_loss": 0.5 / epoch, "valid_loss": 0.25})
        (name,) = store.names(TENSORBOARD)
        scalars = {
            (event.step, value.tag): value.simple_value
            for event in read_events(store.read_bytes(f"{TENSORBOARD}/{name}"))
            for value in event.summary.value
            if value.tag.endswith("_loss")
        }
        assert scalars == {
            (step, tag): value
            for step in range(1, epoch + 1)
            for tag, value in (("train_loss", 0.5 / step), ("valid_loss", 0.25))
        }
    tracker.finish("finished")
    assert name.startswith("events.out.tfevents.")
    texts = [value for event in read_events(store.read_bytes(f"{TENSORBOARD}/{name}")) for value in event.summary.value]
    assert dump_config(small_config()).splitlines()[0] in texts[0].tensor.string_val[0].decode()


class Flaky:
    """A tracker that fails on demand."""

    name = "flaky"

    def __init__(self) -> None:
        self.down, self.calls, self.told = True, 0, list[object]()

    def _call(self, what: object) -> None:
        self.calls += 1
        if self.down:
            raise ConnectionError("connection\nrefused")
        self.told.append(what)

    def start(self, run: RunRecord) -> str:
        self._call("start")
        return "its id"

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._call(epoch)

    def conclude(self, epochs: int, figures: Mapping[str, float]) -> None:
        self._call((epochs, figures))

    def finish(self, status: RunStatus) -> None:
        self._call(status)


def test_a_tracker_that_fails_is_said_once_and_caught_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "RETRY_AFTER_S", 0.0)
    flaky = Flaky()
    guarded = Guarded(flaky, a_run())
    guarded.start()
    for epoch in (1, 2):
        guarded.log(epoch, {})
    assert [record.message for record in caplog.records] == [guarded.warning]
    assert guarded.warning == "tracking by flaky fails, the run continues: connection refused"
    assert Guarded(flaky, a_run(warnings=(guarded.warning,))).warning == guarded.warning
    flaky.down = False
    guarded.log(3, {})
    guarded.finish("finished")
    assert flaky.told == ["start", 1, 2, 3, "finished"]
    assert guarded.run_id == "its id"


def test_a_tracker_that_fails_is_left_alone_for_a_while() -> None:
    flaky = Flaky()
    guarded = Guarded(flaky, a_run())
    for epoch in range(1, 100):
        guarded.log(epoch, {})
    assert flaky.calls == 1
    flaky.down = False
    guarded.finish("failed")
    assert flaky.told == ["start", *range(1, 100), "failed"]
