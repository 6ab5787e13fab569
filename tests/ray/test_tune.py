"""A small search and folds of the autoencoder, by the command line, on a real local Ray cluster."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldm_ray.bundle.bundle import load_bundle, save_bundle
from ldm_ray.cluster.connect import check_cleaning
from ldm_ray.config import Config, dump_config
from ldm_ray.data.dataset import open_dataset
from ldm_ray.data.folds import fold_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.errors import SettingsError
from ldm_ray.evaluation.reconstruction import score_reconstruction
from ldm_ray.storage.store import Store
from ldm_ray.tracking.record import read_record
from ldm_ray.tuning.state import load_search
from ldm_ray.tuning.trials import Trial
from tests.bundles import random_autoencoder
from tests.conftest import Command, World, small_config
from tests.processes import kill_driver

COMMAND = [sys.executable, "-m", "ldm_ray.cli"]
SEARCH = (
    "train_ldm.epochs=6", "tune.trials=2", "tune.random_trials=1", "tune.grace_epochs=1",
    "tune.space={train_ldm.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true},"
    " train_ldm.gradient_clip_norm: {choices: [1.0, 1.0e+30]}, denoiser.hidden_widths: {choices: [[16], [32, 32]]}}",
)  # fmt: skip


def begun(out: Path) -> bool:
    """Whether a trial has shown an epoch."""
    return (out / "search.json").exists() and any(trial.curve for trial in load_search(str(out)).trials)


def settings_file(tmp_path: Path, config: Config) -> str:
    path = tmp_path / "settings.yaml"
    path.write_text(dump_config(config))
    return str(path)


def search_command(world: World, tmp_path: Path, out: Path) -> list[str]:
    """A small search on a random autoencoder."""
    vae = tmp_path / "vae"
    save_bundle(random_autoencoder(world), str(vae))
    file = settings_file(tmp_path, small_config(*SEARCH))
    return [*COMMAND, "tune", "--data", world.dataset.url, "--vae", str(vae), "--out", str(out), "--config", file]


def check_search(out: Path, before: dict[int, Trial]) -> None:
    """Both trials are there, each with every epoch once, and as they were before the driver was killed."""
    search = load_search(str(out))
    assert [trial.number for trial in search.trials] == [0, 1]
    assert {trial.state for trial in search.trials} <= {"complete", "stopped", "failed"}
    for trial in search.trials:
        assert [epoch for epoch, _ in trial.curve] == list(range(1, len(trial.curve) + 1))
        if trial.number in before:
            assert dict(trial.params) == dict(before[trial.number].params)
            assert trial.curve[: len(before[trial.number].curve)] == before[trial.number].curve
        if trial.state == "stopped":
            folder = Store(str(out / "trials" / f"{trial.number:05d}"))
            assert read_record(folder).status == "stopped"
            assert not folder.exists("run")
    assert {"report.html", "trials.csv"} <= {path.name for path in out.iterdir()}


def check_export(out: Path, best_folder: Path, command: Command) -> None:
    """The best trial's bundle is exported, and not over another one."""
    export = ["tune", "export", str(out), "--out", str(best_folder)]
    command(*export)
    bundle = load_bundle(str(best_folder), "ldm")
    best = max((t for t in load_search(str(out)).trials if t.state == "complete"), key=lambda t: t.metrics["delta_pcc"])
    assert bundle.metadata["search"]["trial"] == best.number
    assert bundle.config.train_ldm.learning_rate == best.params["train_ldm.learning_rate"]
    assert "already holds a bundle; --overwrite replaces it" in command(*export, code=2).stderr


@pytest.mark.usefixtures("cluster")
def test_without_its_dashboard_ray_keeps_the_cpus_of_a_killed_run(world: World) -> None:
    """Train's cleaner asks the state API whether a run is alive, and the dashboard serves it.

    This is why a search stalled after an early stop. When this fails because no error is raised, Ray answers without a
    dashboard and `check_cleaning` can go.
    """
    with pytest.raises(SettingsError, match="needs a Ray cluster with a dashboard"):
        check_cleaning(wait_s=0.0)


def test_a_search_ends_in_a_page_and_a_bundle(world: World, tmp_path: Path, command: Command) -> None:
    """Every trial once; the best one's bundle is exported once. `make test-full` also kills the driver midway."""
    out = tmp_path / "search"
    tune = search_command(world, tmp_path, out)
    run = subprocess.run([*tune, "--json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(json.loads(run.stdout)["trials"]) == 2
    check_search(out, {})
    check_export(out, tmp_path / "best", command)


@pytest.mark.full
def test_a_search_killed_midway_goes_on(world: World, tmp_path: Path, command: Command) -> None:
    """The driver alone is killed; started again it ends with every trial once, a page, and a bundle to export."""
    out = tmp_path / "search"
    tune = search_command(world, tmp_path, out)
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(tune, start_new_session=True, stderr=log)
    deadline = time.monotonic() + 240
    while not begun(out):
        assert first.poll() is None, (tmp_path / "first.log").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    kill_driver(first)
    before = {t.number: t for t in load_search(str(out)).trials}
    again = subprocess.run([*tune, "--json"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    check_search(out, before)
    check_export(out, tmp_path / "best", command)


def test_a_fold_holds_out_its_compounds_and_leaves_the_test_side(world: World, tmp_path: Path) -> None:
    original = world.dataset.profiles(["profile_id", "fold", "split"]).to_pandas().set_index("profile_id")
    fold = fold_dataset(world.dataset, 2, Store(str(tmp_path / "fold")))
    own = fold.profiles(["profile_id", "split"]).to_pandas().set_index("profile_id")["split"]
    assert len(own) == len(original)
    for side, rows in (("test", original["fold"] == -1), ("valid", original["fold"] == 2)):
        assert set(own.index[own == side]) == set(original.index[rows])
    assert (original["split"][original["fold"] == -1] == "test").all()


@pytest.mark.usefixtures("cluster")
def test_folds_are_trained_side_by_side(world: World, tmp_path: Path, command: Command) -> None:
    """Two folds at once on two cores; the table's mean is that of bundles scored again; finished folds are kept.

    One epoch is asked for, and `min_steps` makes it two.
    """
    config = small_config("train_vae.epochs=1", "train_vae.min_steps=7", "splits.n_folds=2")
    data, files = str(tmp_path / "data"), world.files
    prepare(read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info), data, config)
    file, out = settings_file(tmp_path, config), tmp_path / "folds"
    folds = ["train", "vae", "--data", data, "--out", str(out), "--config", file, "--folds"]
    run = subprocess.run([*COMMAND, *folds, "all", "--json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    table = json.loads(run.stdout)
    assert table["at_once"] == min(2, os.cpu_count() or 1)
    assert [row["fold"] for row in table["folds"]] == [0, 1]
    assert load_bundle(str(out / "fold0")).config.train_vae.epochs == 2
    values = [row["pcc"] for row in table["folds"]]
    assert table["mean"]["pcc"] == pytest.approx(sum(values) / 2)
    assert len(set(values)) == 2
    scored = score_reconstruction(load_bundle(str(out / "fold1")), open_dataset(data))
    assert scored["pcc"] == pytest.approx(values[1], abs=1e-6)
    assert not (out / "data").exists() or not any((out / "data").iterdir())
    written = {path: path.stat().st_mtime_ns for path in out.glob("fold*/weights.safetensors")}
    (out / "fold1" / "metadata.json").unlink()
    again = command(*folds, "all", "--json")
    repeated = {path.parent.name for path, when in written.items() if path.stat().st_mtime_ns != when}
    assert repeated == {"fold1"}
    assert json.loads(again.stdout)["mean"]["pcc"] == pytest.approx(table["mean"]["pcc"], abs=1e-4)
    assert "--folds must be all; got '3'" in command(*folds, "3", code=2).stderr
