"""The commands of the README, small, as a user types them: exit codes, files, JSON and one-line errors."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ldm_ray.config import dump_config
from tests.conftest import Command, World, small_config

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DEMO = small_config(
    "evaluate.min_compounds_per_plate=2", "evaluate.bootstrap_draws=20", "predict.n_samples=4", "evaluate.n_samples=[4]"
)


def as_typed(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line in its own process, which starts its own cluster if it needs one."""
    run = subprocess.run([sys.executable, "-m", "ldm_ray.cli", *arguments], capture_output=True, text=True, timeout=400)
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    return run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo itself, on a small world."""
    folder = tmp_path_factory.mktemp("demo")
    settings = folder / "settings.yaml"
    settings.write_text(dump_config(DEMO))
    run = as_typed("demo", "--out", str(folder / "demo"), "--config", str(settings), "--json")
    rows = json.loads(run.stdout)["rows"]
    assert {(row["model"], row["prediction"]) for row in rows} == {
        ("control", "mean"), ("train_mean", "mean"), ("mean_delta", "mean"), ("plate_mean", "mean"), ("ridge", "mean"),
        ("knn", "mean"), ("random_train_well", "one_draw"), ("random_train_delta", "one_draw"),
        ("gaussian_residual", "one_draw"), ("ldm", "one_draw"), ("ldm", "mean_of_4"), ("ldm", "mean_direct"),
        ("ldm-no-compound", "mean_direct"), ("ldm-shuffled-compound", "mean_direct"),
        ("ldm-no-dose", "mean_direct"), ("ldm-no-time", "mean_direct"),
        ("oracle", "one_draw"), ("oracle", "mean"), ("oracle", "true_mean"),
    }  # fmt: skip
    assert "try next:" in run.stderr
    return folder / "demo"


def test_demo_leaves_a_table_and_pictures(demo: Path) -> None:
    report = demo / "report"
    metrics = json.loads((report / "metrics.json").read_text())
    assert {"dataset", "split", "n_profiles", "rows", "ceiling"} <= metrics.keys()
    for row in metrics["rows"]:
        for key in ("rmse", "pcc", "r2", "delta_pcc", "systematic_pcc", "energy_distance", "correlation_error",
                    "top30_overlap"):  # fmt: skip
            assert row[key] is not None, (row["model"], key)
    for name in ("scores", "learning_curves", "predicted_against_measured", "correlation_heatmaps", "calibration"):
        assert (report / f"{name}.png").stat().st_size > 10_000
    page = (report / "report.html").read_text()
    assert "Simulated data: the genes are made up" in page
    assert "The autoencoder of ldm" in page
    assert (report / "parts.png").is_file()
    assert len(pd.read_csv(report / "table.csv")) == len(metrics["rows"])
    for folder in ("vae", "ldm", "report"):
        assert (demo / folder / "settings.yaml").is_file()
    assert json.loads((demo / "predictions" / "manifest.json").read_text())["n_predicted"] == 141
    assert "Trained on simulated data" in (demo / "ldm" / "README.md").read_text()


def test_demo_goes_on_where_it_was_and_gives_the_same_numbers(demo: Path, command: Command) -> None:
    """Nothing is trained twice, and evaluating again gives the same numbers."""
    metrics = demo / "report" / "metrics.json"
    before = json.loads(metrics.read_text())
    metrics.unlink()  # as if it had been interrupted there
    weights = (demo / "ldm" / "weights.safetensors").stat().st_mtime_ns
    run = command("demo", "--out", str(demo), "--config", str(demo / "settings.yaml"))
    for done in ("simulate", "prepare", "train vae", "train ldm"):
        assert f"{done}: {demo}" in run.stderr
    assert (demo / "ldm" / "weights.safetensors").stat().st_mtime_ns == weights
    assert json.loads(metrics.read_text()) == before
    assert {step["state"] for step in json.loads((demo / "pipeline.json").read_text())["steps"]} == {"done"}
    refused = command("demo", "--out", str(demo), code=2)
    assert "holds a run with other settings" in refused.stderr


def test_predict_one_condition(demo: Path, command: Command) -> None:
    query = ["--smiles", "CCO", "--cell", "SIMC001", "--dose-um", "10", "--time-h", "24"]
    run = as_typed("predict", "--bundle", str(demo / "ldm"), *query, "--top", "3")
    assert run.stdout == ""
    assert run.stderr.count("SIMG") == 6
    values = json.loads(command("predict", "--bundle", str(demo / "ldm"), *query, "--json").stdout)
    assert len(values["genes"]) == 978
    assert all(gene["std"] > 0 for gene in values["genes"].values())


def test_predict_a_table(demo: Path, tmp_path: Path, command: Command) -> None:
    table = tmp_path / "queries.csv"
    table.write_text("smiles,cell,dose_um,time_h\nCCO,SIMC001,10,24\nc1ccccc1,SIMC002,1,6\n")
    for out in ("out.h5ad", "out.parquet"):
        command("predict", "--bundle", str(demo / "ldm"), "--conditions", str(table), "--out", str(tmp_path / out))
        assert (tmp_path / out).is_file()


def test_describe(demo: Path, command: Command) -> None:
    text = command("data", "describe", str(demo / "data")).stderr
    for expected in ("What cleaning dropped", "SMILES that RDKit parses (ii)", "Doses (um)", "by batch of plates"):
        assert expected in text
    assert json.loads(command("data", "describe", str(demo / "data"), "--json").stdout)["n_profiles"] == 1200


def test_evaluate_refuses_a_bundle_of_other_genes(demo: Path, world: World, tmp_path: Path, command: Command) -> None:
    manifest = json.loads((Path(world.dataset.url) / "manifest.json").read_text())
    manifest["genes"].reverse()
    other = tmp_path / "other"
    other.mkdir()
    for path in Path(world.dataset.url).iterdir():
        if path.name != "manifest.json":
            (other / path.name).symlink_to(path)
    (other / "manifest.json").write_text(json.dumps(manifest))
    run = command("evaluate", "--data", str(other), "--bundle", str(demo / "ldm"), "--out", str(tmp_path / "r"), code=2)
    assert "error: gene 0 of" in run.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--bundle", "nowhere", "--smiles", "C", "--cell", "A", "--dose-um", "1", "--time-h", "1"],
         "nowhere is not a model bundle"),
        (["predict", "--bundle", "b", "--smiles", "C"], "give --smiles, --cell, --dose-um and --time-h, or"),
        (["predict", "--bundle", "b", "--conditions", "q.csv"], "--conditions needs --out"),
        (["predict", "--bundle", "b", "--conditions", "q.csv", "--out", "x.txt"], "--out must end in .parquet or"),
        (["prepare", "--out", "x"], "give --h5ad, or all of --gctx"),
        (["prepare", "--out", "x", "--h5ad", "none.h5ad"], "h5ad file none.h5ad does not exist"),
        (["data", "describe", "nowhere"], "nowhere is not a paired dataset"),
        (["train", "vae", "--data", "nowhere", "--out", "x"], "nowhere is not a paired dataset"),
        (["simulate", "--out", "x", "--set", "simulate.n_profile=9"], "did you mean 'simulate.n_profiles'?"),
        (["simulate", "--out", "x", "--config", "none.yaml"], "--config must be a YAML file"),
        (["data", "describe", "nosuch://bucket/x"], "nosuch://bucket/x cannot be opened"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command(*arguments, code=2).stderr
    assert message in " ".join(said.split())
    assert [line for line in said.splitlines() if line.strip()] == [said.strip()]
    assert list(tmp_path.iterdir()) == []


def test_figure_3_alone(demo: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "fig3"
    command("evaluate", "--fig3", "--data", str(demo / "data"), "--bundle", str(demo / "ldm"), "--out", str(out))
    assert {path.name for path in out.iterdir()} == {"correlation_heatmaps.png", "fig3.json"}
    figures = json.loads((out / "fig3.json").read_text())
    assert 0 <= figures["ceiling"]["top30_overlap_half_half"] <= 30
    assert {row["model"] for row in figures["rows"]} >= {"ldm", "ridge", "oracle"}


def test_table_2(demo: Path, tmp_path: Path, command: Command) -> None:
    """Drug sensitivity on the simulated counterpart of GDSC2."""
    release, out = demo / "release", tmp_path / "ic50"
    files = ["--gdsc", str(release / "ic50.csv.gz"), "--basal-profiles", str(release / "basal_profiles.csv.gz")]
    table2 = ["evaluate", "--ic50", "--bundle", str(demo / "ldm"), *files, "--out", str(out)]
    run = command(*table2, "--set", "ic50.seeds=[0]", "--json")
    metrics = json.loads(run.stdout)
    for found in metrics["splits"].values():
        assert {row["model"] for row in found["rows"]} >= {"drug mean + cell mean", "ldm profile + embedding"}
    assert {"ic50.json", "ic50.csv", "ic50.html", "ic50.png", "settings.yaml"} == {path.name for path in out.iterdir()}


def test_table_1_trains_what_it_compares_once(demo: Path, tmp_path: Path, command: Command) -> None:
    out, settings = tmp_path / "table1", str(demo / "settings.yaml")
    table1 = ["evaluate", "--table1", "--data", str(demo / "data"), "--out", str(out), "--config", settings]
    few = ("ray.num_workers=1", "table1.unseen=[plate]", "train_prnet.epochs=2", "evaluate.max_profiles=100")
    table1 += [part for setting in few for part in ("--set", setting)]
    command(*table1)
    table = json.loads((out / "table1.json").read_text())
    assert {row["model"] for row in table["sides"][0]["rows"]} >= {"ldm", "prnet", "plate_mean"}
    assert "Unseen batches of plates" in (out / "table1.html").read_text()
    trained = (out / "models" / "plate" / "seed0" / "ldm" / "metadata.json").stat().st_mtime_ns
    command(*table1)
    assert (out / "models" / "plate" / "seed0" / "ldm" / "metadata.json").stat().st_mtime_ns == trained
    other = command(*table1, "--set", "train_ldm.epochs=9", code=2)
    assert "holds a campaign with other settings" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--out", "x"], "give --data, and --bundle or --table1"),
        (["evaluate", "--out", "x", "--ic50"], "--ic50 needs --bundle, --gdsc and --basal-profiles"),
        (["evaluate", "--out", "x", "--ic50", "--fig3"], "give one of --table1, --fig3 and --ic50"),
        (["data", "resplit", "nowhere", "--unseen", "moon", "--out", "x"], "--unseen must be one of cell, both, plate"),
        (["train", "baseline", "--kind", "x", "--data", "nowhere", "--out", "x"], "--kind must be one of prnet,"),
    ],
)
def test_bad_requests_to_judge_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, command)
