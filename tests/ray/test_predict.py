"""Bulk prediction by the command line: every row once, bad rows with their reason, and a killed run resumes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ldm_ray.bundle.bundle import save_bundle
from ldm_ray.cli.app import app
from ldm_ray.errors import LdmRayError, QueryError, StoreError
from ldm_ray.layout import CONDITIONS
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.storage.store import Store
from tests.bundles import random_bundle
from tests.conftest import Command, World
from tests.processes import kill_driver
from tests.ray.prometheus import scraping

SMALL_PARTS = ("--set", "predict.rows_per_part=50", "--n-samples", "2", "--steps", "3")
ONE_ACTOR = (*SMALL_PARTS, "--set", "ray.actors=1")
"""Each costs the five seconds of its imports."""


@pytest.fixture(scope="module")
def bundle(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle")
    save_bundle(random_bundle(world), str(folder))
    return str(folder)


def run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["predict", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def predicted(out: Path) -> pd.DataFrame:
    return pd.concat([pq.read_table(path).to_pandas() for path in sorted(out.glob("part-*.parquet"))])


@pytest.mark.usefixtures("cluster")
def test_bad_rows_are_named_and_the_others_have_the_bits_of_python(bundle: str, tmp_path: Path) -> None:
    rows = [("C" * (1 + i % 9) + "O", f"SIMC00{1 + i % 3}", str(0.5 + i), "24") for i in range(120)]
    wrong = {
        3: ("C1CC", "SIMC001", "1", "24"),
        60: ("CCO", "HELA", "1", "24"),
        61: ("CCO", "SIMC001", "much", "24"),
        119: ("", "SIMC001", "1", "-6"),
    }
    table = pd.DataFrame(
        [wrong.get(i, row) for i, row in enumerate(rows)], columns=["smiles", "cell", "dose_um", "time_h"]
    )
    table.assign(extra="x").to_csv(tmp_path / "queries.csv", index=False)
    out = tmp_path / "bad rows"
    predicted_refused = ("bulk_conditions_predicted_total", "bulk_conditions_refused_total")
    with scraping() as scraper:
        manifest = run(
            "--bundle", bundle, "--conditions", str(tmp_path / "queries.csv"), "--out", str(out), *SMALL_PARTS
        )
        scraper.wait_for(
            [*predicted_refused, "bulk_conditions_per_second"],
            f'run="{tmp_path.name}/bad rows"',
            enough=lambda seen: tuple(seen[name] for name in predicted_refused) == (116, 4),
        )
    assert (manifest["n_predicted"], manifest["n_errors"], manifest["done"]) == (116, 4, True)
    frame = predicted(out)
    assert sorted(frame["row"]) == [i for i in range(120) if i not in wrong]
    queries = [Query(row[0], float(row[2]), 24.0, row[1]) for i, row in enumerate(rows) if i not in wrong]
    wanted = Predictor.from_bundle(bundle, "cpu").predict(queries, 2, 3)
    frame = frame.sort_values("row")
    for name in ("mean", "std"):
        np.testing.assert_array_equal(np.stack(frame[name]), getattr(wanted, name))
    assert frame["note"].tolist() == list(wanted.notes)
    errors = pd.concat([pd.read_parquet(path) for path in sorted((out / "errors").glob("*.parquet"))])
    assert dict(zip(errors["row"], errors["reason"], strict=True)) == {
        3: "queries.csv, line 5: smiles must be a molecule that RDKit can parse, of at most 500 atoms; got 'C1CC'",
        60: errors["reason"].iloc[1],
        61: "queries.csv, line 63: dose_um must be a number above 0; got 'much'",
        119: "queries.csv, line 121: smiles is empty",
    }
    assert "queries.csv, line 62: cell line 'HELA' is not in the bundle" in errors["reason"].iloc[1]
    assert errors["dose_um"].tolist() == ["1", "1", "much", "1"]


@pytest.mark.usefixtures("cluster")
def test_a_grid_and_what_may_not_be_mixed(bundle: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "smiles.txt").write_text("SMILES Name\nCCO ethanol\nc1ccccc1\n\n")
    out = tmp_path / "grid"
    grid = ["--compounds", str(tmp_path / "smiles.txt"), "--cells", "SIMC001,SIMC002", "--doses-um", "1,10,100"]
    manifest = run("--bundle", bundle, *grid, "--times-h", "6,24", "--out", str(out), *ONE_ACTOR)
    assert manifest["n_predicted"] == 24
    frame = predicted(out).sort_values("row")
    assert frame.iloc[0][["name", "smiles", "cell", "dose_um", "time_h"]].tolist() == [
        "ethanol",
        "CCO",
        "SIMC001",
        1,
        6,
    ]
    assert set(frame["name"]) == {"ethanol", ""}
    assert len(frame[["smiles", "cell", "dose_um", "time_h"]].drop_duplicates()) == 24
    again = run("--bundle", bundle, *grid, "--times-h", "6,24", "--out", str(out), *ONE_ACTOR)
    assert again == manifest
    for more, said in (
        (["--seed", "4"], "holds predictions with seed 0; this run has 4"),
        (["--doses-um", "1,10,300"], "holds predictions with source 'grid of 24"),
        (["--doses-um", "1,x"], "--doses-um must be numbers"),
        (["--cells", ""], "a grid needs --compounds, --cells, --doses-um and --times-h"),
    ):
        folder = str(out) if "holds" in said else str(tmp_path / "other")
        arguments = ["--bundle", bundle, *grid, "--times-h", "6,24", "--out", folder, *ONE_ACTOR, *more]
        assert said in command("predict", *arguments, code=2).stderr


@pytest.mark.usefixtures("cluster")
def test_what_fails_in_an_actor_is_one_line_and_overwrite_keeps_other_files(
    world: World, bundle: str, tmp_path: Path
) -> None:
    broken = random_bundle(world)
    broken.tensors["ldm.denoiser.output.bias"] += float("nan")
    save_bundle(broken, str(tmp_path / "broken"))
    table, out = tmp_path / "one.csv", tmp_path / "out"
    table.write_text("smiles,cell,dose_um,time_h\nCCO,SIMC001,1,24\n")
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    arguments = ["--conditions", str(table), "--out", str(out), *ONE_ACTOR]
    with pytest.raises(LdmRayError, match=r"nan|finite"):
        CliRunner().invoke(app, ["predict", "--bundle", str(tmp_path / "broken"), *arguments], catch_exceptions=False)
    assert run("--bundle", bundle, *arguments, "--overwrite")["n_predicted"] == 1
    assert (out / "notes.txt").read_text() == "mine"
    wrong = ["--conditions", str(tmp_path / "nothing.csv"), "--out", str(out), *ONE_ACTOR, "--overwrite"]
    with pytest.raises(LdmRayError, match="nothing.csv"):
        CliRunner().invoke(app, ["predict", "--bundle", bundle, *wrong], catch_exceptions=False)
    assert len(predicted(out)) == 1


@pytest.mark.usefixtures("cluster")
def test_an_overwrite_that_ends_midway_leaves_nothing_to_be_taken_for_results(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remains are recognised as the old prediction with parts missing, so another one is refused there."""
    out, table = tmp_path / "out", tmp_path / "table.csv"
    table.write_text("smiles,cell,dose_um,time_h\nCCO,SIMC001,1,24\nCCC,SIMC001,1,24\n")
    arguments = ["--bundle", bundle, "--conditions", str(table), "--out", str(out), *ONE_ACTOR]
    run(*arguments)
    removed = Store.remove

    def fail(self: Store, name: str) -> None:
        if name == CONDITIONS:
            raise StoreError("the connection is gone")
        removed(self, name)

    monkeypatch.setattr(Store, "remove", fail)
    with pytest.raises(StoreError, match="gone"):
        CliRunner().invoke(app, ["predict", *arguments, "--overwrite", "--seed", "5"], catch_exceptions=False)
    monkeypatch.setattr(Store, "remove", removed)
    assert not list(out.glob("part-*.parquet"))
    with pytest.raises(QueryError, match="seed"):
        CliRunner().invoke(app, ["predict", *arguments, "--seed", "5"], catch_exceptions=False)
    run(*arguments, "--overwrite", "--seed", "5")
    assert sorted(predicted(out)["row"]) == [0, 1]


def test_a_killed_run_goes_on(bundle: str, tmp_path: Path, cluster: None) -> None:
    """SIGKILL of the driver; the same command then predicts the missing parts, and every row exists once."""
    n, out = 3000, tmp_path / "out"
    frame = pd.DataFrame({"smiles": ["C" * (1 + i % 20) for i in range(n)], "cell": "SIMC001"})
    frame.assign(dose_um=np.arange(n) + 1.0, time_h=24.0).to_parquet(tmp_path / "many.parquet")
    arguments = ["--bundle", bundle, "--conditions", str(tmp_path / "many.parquet"), "--out", str(out), *SMALL_PARTS]
    arguments += ["--steps", "20", "--n-samples", "8"]
    command = [sys.executable, "-m", "ldm_ray.cli", "predict", *arguments]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(out.glob("part-*.parquet"))) < 6:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill_driver(first)
    written = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 6 <= len(written) < 60
    assert not json.loads((out / "manifest.json").read_text())["done"]
    assert run(*arguments)["n_predicted"] == n
    assert sorted(predicted(out)["row"]) == list(range(n))
    assert {path: path.stat().st_mtime_ns for path in written} == written
