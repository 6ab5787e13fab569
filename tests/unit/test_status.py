"""The status of folders of every kind, each as the code itself leaves it, and of other folders."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ldm_ray.bundle.bundle import save_bundle
from ldm_ray.cli import status as status_command
from ldm_ray.cli.app import main
from ldm_ray.config import load_config
from ldm_ray.data.parts import Part, PartWriter
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.errors import DataError, LdmRayError, StoreError
from ldm_ray.layout import CONDITIONS, DRIVER, MANIFEST, PAGE
from ldm_ray.prediction.bulk.conditions import SCHEMA
from ldm_ray.prediction.bulk.parts import PartPredictor
from ldm_ray.prediction.bulk.run import BulkRun, described_run
from ldm_ray.prediction.bulk.staging import stage
from ldm_ray.storage.store import Store, written_at
from ldm_ray.tracking.record import with_epoch, write_record
from ldm_ray.tuning.state import begin_search
from ldm_ray.workflows.folder import SILENT_S, FolderStatus
from ldm_ray.workflows.pipeline_state import PipelineState
from ldm_ray.workflows.reproduce import Campaign
from ldm_ray.workflows.status import read_status
from tests.bundles import random_bundle
from tests.conftest import World, small_config
from tests.s3_server import BUCKET, S3Server
from tests.unit.test_tracking import a_run
from tests.unit.test_tuning_state import Driver, config_of

EPOCH = {"step": 40.0, "train_loss": 0.5, "valid_loss": 0.4, "wells_per_s": 1234.5, "data_wait": 0.25}


def later(url: str, seconds: float = SILENT_S + 60) -> FolderStatus:
    """Read the status as if that much time had passed."""
    return read_status(url, now=datetime.now(UTC) + timedelta(seconds=seconds))


def test_the_papers_section_3(world: World, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "paper"))
    Campaign(store, world.dataset, load_config()).stage("folds", lambda: None)
    found = read_status(store.url)
    assert (found.kind, found.state, found.done) == ("reproduction", "running", 1)
    assert "ended: folds" in found.what
    assert later(store.url, 3660.0).go_on == "run the same command again"
    store.write_bytes(PAGE, b"")
    assert read_status(store.url).state == "finished"


@pytest.mark.parametrize(
    ("recorded", "state", "said", "goes_on"),
    [
        ("running", "running", "", False),
        ("finished", "finished", "", False),
        ("failed", "failed", "ended with an error or Ctrl-C", True),
        ("diverged", "failed", "the loss became NaN or infinite: lower the learning rate", False),
        ("stopped", "finished", "stopped early by its search", False),
    ],
)
def test_a_training_run(recorded: str, state: str, said: str, goes_on: bool, tmp_path: Path) -> None:
    run = with_epoch(with_epoch(a_run(status=recorded), 1, EPOCH), 2, EPOCH | {"valid_loss": 0.6})
    write_record(Store(str(tmp_path)), run)
    found = read_status(str(tmp_path))
    assert (found.kind, found.what, found.state, found.said) == ("training", "vae", state, said)
    assert (found.done, found.total, found.unit) == (2, small_config().train_vae.epochs, "epochs")
    assert found.figures == {
        "step": 40.0,
        "train_loss": 0.5,
        "valid_loss": 0.6,
        "data_wait": 0.25,
        "best_valid_loss": 0.4,
    }
    assert found.rows_per_s == 1234.5
    assert found.age_s is not None
    assert found.age_s < 60
    assert bool(found.go_on) == goes_on


def test_a_killed_run_is_told_by_its_silence(tmp_path: Path) -> None:
    """A run with long epochs may be silent for longer."""
    store = Store(str(tmp_path))
    write_record(store, with_epoch(a_run(status="running", seconds=60.0), 1, EPOCH))
    found = later(store.url)
    assert (found.state, found.go_on) == ("interrupted", "run the same command with --resume")
    assert found.age_s == pytest.approx(SILENT_S + 60, abs=30)
    write_record(store, with_epoch(a_run(status="running", seconds=600.0), 1, EPOCH))
    assert later(store.url).state == "running"
    assert later(store.url, 2000).state == "interrupted"
    store.write_json("run/checkpoint.json", {})
    os.utime(tmp_path / "run" / "checkpoint.json", (4e9, 4e9))
    assert later(store.url, 2000).state == "running"  # its checkpoints are signs of life


def test_a_bundle_without_a_record(world: World, tmp_path: Path) -> None:
    save_bundle(random_bundle(world), str(tmp_path))
    found = read_status(str(tmp_path))
    assert (found.kind, found.what, found.state) == ("training", "ldm", "finished")


def test_a_search(tmp_path: Path) -> None:
    store, config = Store(str(tmp_path)), config_of("tune.trials=3")
    begin_search(store, "data", "vae", config)
    driver = Driver(store, config)
    driver.run("a", [0.1, 0.2], {"delta_pcc": 0.2, "mse": 1.0})
    driver.run("b", [0.05], stop=True)
    driver.run("c", [0.3])
    found = read_status(str(tmp_path))
    assert (found.kind, found.state, found.done, found.total, found.unit) == ("search", "running", 2, 3, "trials")
    counts = {"complete": 1, "stopped": 1, "failed": 0, "running": 1}
    assert found.figures == counts | {"best": "best delta_pcc 0.2000, trial 0"}
    assert later(str(tmp_path), 1e6).state == "running"  # its process is alive, however long it writes nothing
    written = store.read_json(DRIVER)
    store.write_json(DRIVER, written | {"host": "elsewhere"})
    assert (read_status(str(tmp_path)).state, later(str(tmp_path)).state) == ("running", "interrupted")
    store.write_json(DRIVER, written | {"host": socket.gethostname(), "pid": 2**22 + 1})
    killed = read_status(str(tmp_path))
    assert (killed.state, killed.said) == ("interrupted", "its process, 4194305, is gone")
    assert killed.go_on == "run the same command again"
    store.write_json(DRIVER, written)
    driver.search.on_trial_complete("c", {"final": True, "epoch": 1.0, "delta_pcc": 0.3})
    assert read_status(str(tmp_path)).state == "finished"


def test_a_bulk_prediction(world: World, tmp_path: Path) -> None:
    bundle, store = str(tmp_path / "bundle"), Store(str(tmp_path / "out"))
    save_bundle(random_bundle(world), bundle)
    rows = [("CCO" if i < 10 else "C1CC", "SIMC001", "1", "24") for i in range(25)]
    table = pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=SCHEMA)
    stage([table], store, CONDITIONS, 10)
    assert read_status(store.url).what == "staging conditions"
    assert later(store.url).state == "interrupted"
    run = BulkRun(bundle, "id", store.url, "many.csv", 25, 10, 2, 3, 0, ("mean",))
    assert described_run(run.described()) == run
    store.write_json(MANIFEST, run.described() | {"done": False})
    parts = PartPredictor(run, {})
    for part in range(3):
        found = read_status(store.url)
        assert (found.kind, found.state, found.done, found.total) == ("bulk prediction", "running", part, 3)
        assert found.figures == {"rows": 10 * part, "rows_of": 25}
        parts.write(part)
    assert read_status(store.url).figures["rows"] == 25  # parts without a good row are done too
    assert later(store.url).go_on == "run the same command again"
    store.write_json(MANIFEST, run.described() | {"done": True, "n_predicted": 10, "n_errors": 15})
    ended = read_status(store.url)
    assert (ended.state, ended.figures["n_errors"]) == ("finished", 15)
    assert ended.look == (store.path("part-*.parquet"), store.path("errors/"))


def test_the_pace_of_a_bulk_prediction_is_that_of_its_last_parts(tmp_path: Path) -> None:
    """Parts 0 to 3 ended every 20 s, hours after part 4, which another attempt wrote."""
    store = Store(str(tmp_path))
    run = BulkRun("ldm", "id", store.url, "many.csv", 1000, 100, 2, 3, 0, ("mean",))
    store.write_json(MANIFEST, run.described() | {"done": False})
    end = datetime.now(UTC).timestamp()
    for part in range(5):
        file = tmp_path / f"part-{part:06d}.parquet"
        file.touch()
        ended = end - 10_000 if part == 4 else end - 20 * part
        os.utime(file, (ended, ended))
    assert read_status(store.url).rows_per_s == 5.0


def test_a_dataset(world: World, tmp_path: Path) -> None:
    found = read_status(world.dataset.url)
    assert (found.kind, found.state) == ("dataset", "finished")
    assert found.figures["n_profiles"] == world.dataset.manifest["n_profiles"]

    def run_two(writer: PartWriter, parts: list[Part]) -> Iterator[dict[str, Any]]:
        yield from map(writer.write, parts[:2])
        raise StoreError("the disk is full")

    files, out = world.files, str(tmp_path / "data")
    release = read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info)
    with pytest.raises(StoreError, match="--resume continues"):
        prepare(release, out, small_config("prepare.rows_per_file=200"), run=run_two)
    unfinished = read_status(out)
    assert (unfinished.kind, unfinished.state, unfinished.done, unfinished.total) == ("dataset", "running", 2, None)
    assert later(out).go_on == "run the same command with --resume"


def test_a_pipeline(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    steps = PipelineState(store, [(name, store.path(name)) for name in ("data", "vae", "ldm")])
    steps.skip("data")
    with steps.running("vae"):
        write_record(Store(store.path("vae")), with_epoch(a_run(status="running"), 1, EPOCH))
        found = read_status(store.url)
        assert (found.kind, found.state, found.what, found.done, found.total) == ("pipeline", "running", "vae", 1, 3)
        assert found.within is not None
        assert (found.within.kind, found.within.done) == ("training", 1)
        assert later(store.url).state == "interrupted"
    between = read_status(store.url)
    assert (between.state, between.done) == ("running", 2)
    assert later(store.url).state == "interrupted"

    def fail() -> None:
        with steps.running("ldm"):
            assert later(store.url).state == "running"  # a step that writes at its end only may be silent for longer
            assert later(store.url, 4000).state == "interrupted"
            raise DataError("no\nwells")

    with pytest.raises(DataError):
        fail()
    failed = read_status(store.url)
    assert (failed.state, failed.what, failed.said) == ("failed", "ldm", "no wells")
    assert failed.go_on == "run the same command again"
    steps.skip("ldm")
    assert read_status(store.url).state == "finished"


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_status(str(tmp_path / "nowhere"))
    for name, text in {"run.json": "[]", "metadata.json": "{}", "manifest.json": '{"name": "an app"}'}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"reproduction or dataset$"):
        read_status(str(tmp_path))
    write_record(Store(str(tmp_path / "a" / "vae")), a_run())
    with pytest.raises(DataError, match=rf"for the 1 training runs below it: ldm-ray runs {tmp_path}"):
        read_status(str(tmp_path))
    (tmp_path / "manifest.json").write_text('{"rows_per_part": 3}')
    with pytest.raises(DataError, match="must have 'bundle'"):
        read_status(str(tmp_path))


def test_a_run_on_s3_has_an_age(s3: S3Server) -> None:
    store = Store(f"s3://{BUCKET}/status/vae", s3.options)
    write_record(store, a_run(status="running"))
    found = read_status(store.url, s3.options)
    assert found.state == "running"
    assert found.age_s is not None
    assert found.age_s < 60
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert read_status(store.url, s3.options, tomorrow).state == "interrupted"


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"mtime": 0.0, "created": 9.0}, "1970-01-01T00:00:00+00:00"),
        ({"LastModified": datetime(2026, 11, 23, tzinfo=UTC)}, "2026-11-23T00:00:00+00:00"),
        ({"updated": "2026-11-23T01:02:03Z"}, "2026-11-23T01:02:03+00:00"),
        ({"created": datetime(2026, 11, 23)}, "2026-11-23T00:00:00+00:00"),
    ],
)
def test_when_a_file_was_written(entry: dict[str, object], wanted: str) -> None:
    found = written_at(entry)
    assert found is not None
    assert found.isoformat() == wanted
    assert written_at({"size": 3}) is None


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["ldm-ray", "status", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return str(stopped.value.code)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_epoch(a_run(status="failed", warnings=("tracking by mlflow fails",)), 1, EPOCH)
    write_record(Store(str(tmp_path)), run)
    assert command(monkeypatch, str(tmp_path)) == "0"
    shown = capsys.readouterr().err
    for text in (
        "training (vae): failed",
        "1 of at most 2 epochs",
        "1,234",
        "s ago",
        "same command with --resume",
        "mlflow fails",
    ):
        assert text in shown
    assert command(monkeypatch, str(tmp_path), "--json") == "0"
    assert json.loads(capsys.readouterr().out)["figures"]["valid_loss"] == 0.4
    assert command(monkeypatch, str(tmp_path / "none")) == "2"
    assert capsys.readouterr().err.strip().endswith("none does not exist")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_watching_ends_with_the_run(
    form: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run, looks = Store(str(tmp_path)), a_run(status="running"), list[float]()
    write_record(store, run)

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        write_record(store, with_epoch(a_run(status="finished" if len(looks) == 3 else "running"), len(looks), EPOCH))

    monkeypatch.setattr(status_command.time, "sleep", sleep)
    assert command(monkeypatch, store.url, "--watch", "--every-s", "7", *form) == "0"
    assert looks == [7.0, 7.0, 7.0]
    out, err = capsys.readouterr()
    if form:
        assert [json.loads(line)["done"] for line in out.splitlines()] == [0, 1, 2, 3]
    else:
        assert (out, "training (vae): finished" in err) == ("", True)


def test_ages() -> None:
    assert [status_command.age(seconds) for seconds in (0, 119, 120, 7199, 7200, 86400, 200_000)] == [
        *("0 s", "119 s", "2 min", "120 min", "2 h", "24 h", "2 d"),
    ]


def test_every_failure_is_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "search.json").write_text("[]")
    with pytest.raises(LdmRayError):
        read_status(str(tmp_path))
