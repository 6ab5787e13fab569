"""Drug sensitivity: joining, splits that leak nothing, and the table."""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.data.basal_profiles import read_basal_profiles
from ldm_ray.data.cell_names import folded
from ldm_ray.data.releases.genes import read_gene_info
from ldm_ray.data.simulate import simulate_release
from ldm_ray.data.simulate_ic50 import simulate_ic50, true_ln_ic50_um, write_csv_gz
from ldm_ray.data.world import World as Planted
from ldm_ray.data.world import build_world
from ldm_ray.errors import DataError, NonFiniteError, ShapeError, StoreError
from ldm_ray.evaluation.baselines.truth import planted_world
from ldm_ray.evaluation.ic50.benchmark import (
    BASAL_AND_EMBEDDING,
    BASELINES,
    TWO_WAY,
    DrugBootstrap,
    evaluate_ic50,
    feature_sets,
    held_out_predictions,
    scores_from_sums,
)
from ldm_ray.evaluation.ic50.report import ic50_figure, ic50_table
from ldm_ray.evaluation.ic50.rows import IC50_SPLITS, Ic50Rows, load_ic50, split_rows
from tests.conftest import World, small_config

ENCODER = MorganEncoder("ecfp", 2, 256)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Steps this small take ten times as long when several threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Oracle:
    """The planted truth as a model of profiles; counts its queries."""

    def __init__(self, planted: Planted) -> None:
        self.planted, self.asked = planted, list[tuple[str, bytes]]()

    def predict_profiles(self, smiles: Sequence[str], basal: np.ndarray, dose_um: float, time_h: float) -> np.ndarray:
        self.asked += [(text, row.tobytes()) for text, row in zip(smiles, basal, strict=True)]
        cell = np.array([np.abs(self.planted.cell_basal - row).sum(axis=1).argmin() for row in basal])
        n = len(smiles)
        names = self.planted.cell_names[cell]
        return self.planted.true_mean(names, np.array(smiles), np.full(n, dose_um), np.full(n, time_h))


class Broken:
    """Returns profiles of another shape, or NaN."""

    def __init__(self, genes: int, value: float) -> None:
        self.genes, self.value = genes, value

    def predict_profiles(self, smiles: Sequence[str], basal: np.ndarray, dose_um: float, time_h: float) -> np.ndarray:
        return np.full((len(smiles), self.genes), self.value)


@pytest.fixture(scope="module")
def planted() -> Planted:
    config = small_config("simulate.n_cell_lines=11", "simulate.n_compounds=110")
    return build_world(config.simulate, np.arange(1, 41), 5)


@pytest.fixture(scope="module")
def genes(planted: Planted) -> list[dict[str, Any]]:
    return [{"entrez_id": int(number), "symbol": f"G{number}"} for number in planted.entrez_ids]


@pytest.fixture(scope="module")
def files(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ic50")
    for table, name in zip(simulate_ic50(planted, 5), ("ic50.csv.gz", "basal.csv.gz"), strict=True):
        write_csv_gz(table, folder / name)
    return folder / "ic50.csv.gz", folder / "basal.csv.gz"


@pytest.fixture(scope="module")
def rows(files: tuple[Path, Path], genes: list[dict[str, Any]]) -> Ic50Rows:
    return load_ic50(*files, genes)


@pytest.fixture(scope="module")
def evaluated(rows: Ic50Rows, planted: Planted) -> tuple[dict[str, Any], Oracle, list[str]]:
    oracle, said = Oracle(planted), list[str]()
    return evaluate_ic50(rows, ENCODER, {"oracle": oracle}, seeds=(0, 1), on_progress=said.append), oracle, said


def permuted(rows: Ic50Rows, order: np.ndarray) -> Ic50Rows:
    return replace(rows, frame=rows.frame.iloc[order].reset_index(drop=True), cell=rows.cell[order])


def test_real_files_give_the_known_counts(real_data: Path, mini_release: tuple[Path, ...]) -> None:
    table = read_gene_info(mini_release[3])
    landmarks = table[table["pr_is_lm"] == "1"]
    genes = [
        {"entrez_id": int(number), "symbol": symbol}
        for number, symbol in zip(landmarks["pr_gene_id"], landmarks["pr_gene_symbol"], strict=True)
    ]
    files = real_data / "gdsc2_ln_ic50.csv.gz", real_data / "basal_profiles_165cells.csv.gz"
    rows = load_ic50(*files, genes)
    counts = rows.counts
    assert (counts.rows, counts.rows_used, counts.cell_lines, counts.drugs) == (242_036, 15_143, 72, 228)
    assert counts.parents == 227
    assert counts.rows == counts.without_ic50 + counts.without_smiles + counts.without_basal + counts.rows_used
    assert rows.basal.shape == (72, 978)
    assert rows.frame.duplicated(["cell_line", "drug"]).sum() == 506
    names, basal = read_basal_profiles(files[1], genes[::-1])
    a375 = rows.cell[(rows.frame["cell_line"] == "A375").to_numpy()]
    np.testing.assert_array_equal(rows.basal[a375[0]], basal[names.index("A375"), ::-1])
    for split, n_test in (("drug", 23), ("cell", 7)):
        column = {"drug": "smiles", "cell": "cell_line"}[split]
        assert rows.frame[column][split_rows(rows, split, 0) == "test"].nunique() == n_test


def test_simulated_files_are_read_by_the_same_code(world: World, tmp_path: Path) -> None:
    genes = world.dataset.manifest["genes"]
    rows = load_ic50(world.files.ic50, world.files.basal_profiles, genes)
    truth = planted_world(world.dataset)
    assert truth is not None
    assert rows.counts.cell_lines == 3
    assert rows.counts.without_smiles > 0
    assert rows.counts.without_basal > 0
    at = np.array([truth.entrez_ids.tolist().index(gene["entrez_id"]) for gene in genes])
    np.testing.assert_allclose(rows.basal, truth.cell_basal[:, at], atol=1e-4)
    files = simulate_release(world.config.simulate, tmp_path / "again", world.config.seed)
    assert files.ic50.read_bytes() == world.files.ic50.read_bytes()
    assert files.basal_profiles.read_bytes() == world.files.basal_profiles.read_bytes()


def test_simulated_measurements_scatter_around_the_planted_truth(planted: Planted, rows: Ic50Rows) -> None:
    truth = true_ln_ic50_um(planted, 5)
    cells = {folded(name): number for number, name in enumerate(planted.cell_names)}
    cell = rows.frame["cell_line"].map(lambda name: cells[folded(name)])
    compound = rows.frame["smiles"].map({text: number for number, text in enumerate(planted.parent_smiles)})
    residual = rows.ln_ic50_um - truth[cell, compound]
    assert residual.std() == pytest.approx(0.5, rel=0.08)
    assert abs(residual.mean()) < 0.05
    assert rows.ln_ic50_um.std() > 1.5


def test_splits_leak_nothing(rows: Ic50Rows) -> None:
    for seed in range(5):
        for split, column in (("drug", "smiles"), ("cell", "cell_line")):
            sides = rows.frame.assign(side=split_rows(rows, split, seed))
            assert (sides.groupby(column)["side"].nunique() == 1).all()
            assert set(sides["side"]) == {"train", "valid", "test"}
        shares = pd.Series(split_rows(rows, "random", seed)).value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.8, abs=0.002)
        assert shares["test"] == pytest.approx(0.1, abs=0.002)
    assert (split_rows(rows, "drug", 0) != split_rows(rows, "drug", 1)).any()


def test_row_order_changes_nothing(rows: Ic50Rows, files: tuple[Path, Path], genes: Any, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(rows))
    for split in IC50_SPLITS:
        np.testing.assert_array_equal(split_rows(permuted(rows, order), split, 3), split_rows(rows, split, 3)[order])
    table = pd.read_csv(files[0], dtype=str, keep_default_na=False).sample(frac=1, random_state=0)
    write_csv_gz(table, tmp_path / "shuffled.csv.gz")
    again = load_ic50(tmp_path / "shuffled.csv.gz", files[1], genes[:7])
    pd.testing.assert_frame_equal(again.frame, rows.frame)
    np.testing.assert_array_equal(again.basal[again.cell], rows.basal[rows.cell][:, :7])


@pytest.mark.parametrize("name", [TWO_WAY, BASAL_AND_EMBEDDING])
def test_test_targets_do_not_reach_a_prediction(rows: Ic50Rows, name: str) -> None:
    side = split_rows(rows, "random", 0)
    features = feature_sets(rows, ENCODER, {}, 10.0, 24.0, lambda what: None).get(name)
    other = rows.frame.copy()
    test = side == "test"
    other.loc[test, "ln_ic50_um"] = np.random.default_rng(0).permutation(rows.ln_ic50_um[test]) + 100
    before = held_out_predictions(rows, features, side, 0)
    np.testing.assert_array_equal(held_out_predictions(replace(rows, frame=other), features, side, 0), before)


def test_scores_under_resampled_drugs_equal_those_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    drug = rng.integers(0, 9, 200).astype(str)
    y, test = rng.normal(size=200) + 50, rng.random(200) < 0.4
    y_hat = y[test] + rng.normal(size=test.sum())
    boot = DrugBootstrap(drug, draws=5)
    scores = scores_from_sums(boot.sums(y, y_hat, test))
    for draw in range(6):
        times = boot.times[draw][boot.drug[test]].astype(int)
        a, b = np.repeat(y[test], times), np.repeat(y_hat, times)
        assert scores["rmse"][draw] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
        assert scores["r2"][draw] == pytest.approx(1 - np.sum((a - b) ** 2) / np.sum((a - a.mean()) ** 2))
        assert scores["pcc"][draw] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert np.isnan(scores_from_sums(boot.sums(y, np.full(test.sum(), 50.0), test))["pcc"][0])


def test_the_table_judges_every_row_on_every_split(evaluated: tuple[dict[str, Any], Oracle, list[str]]) -> None:
    metrics, oracle, said = evaluated
    again = json.loads(json.dumps(metrics, allow_nan=False))
    assert again == metrics
    assert len(oracle.asked) == len(set(oracle.asked))
    assert "drug: oracle profile + embedding" in said
    names = [*BASELINES, "oracle profile + embedding"]
    assert (metrics["dataset"], metrics["dose_um"], metrics["time_h"], metrics["seeds"]) == (
        "GDSC2",
        10.0,
        24.0,
        [0, 1],
    )
    assert "matched without case and punctuation: SIMC-001 as SIMC001" in metrics["notes"][-1]
    assert list(metrics["splits"]) == list(IC50_SPLITS)
    for found in metrics["splits"].values():
        assert [row["model"] for row in found["rows"]] == names
        assert sum(found[key][0] for key in ("n_train", "n_valid", "n_test")) == metrics["counts"]["rows_used"]
        by_name = {row["model"]: row for row in found["rows"]}
        best = by_name[found["best_baseline"]]
        assert best["mse_gain_over_best_baseline"] == 0
        assert best["rmse"] == min(by_name[name]["rmse"] for name in BASELINES)
        for row in found["rows"]:
            low, high = row["rmse_interval"]
            assert low < row["rmse"] < high
    assert [row["rmse"] for row in metrics["published"]] == [1.591, 1.405, 1.335]
    head, body = ic50_table(metrics)
    assert len(body) == 3 * 5 + 3
    assert all(len(line) == len(head) for line in body)
    figure = ic50_figure(metrics)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert len(figure.axes) == 3


def test_the_true_profile_tells_what_drug_and_cell_line_alone_cannot(
    evaluated: tuple[dict[str, Any], Oracle, list[str]],
) -> None:
    """The planted interaction of mechanism and sensitivity is in the expression, and in no baseline's input."""
    row = evaluated[0]["splits"]["random"]["rows"][-1]
    assert row["model"].startswith("oracle")
    assert row["mse_gain_over_best_baseline_interval"][0] > 0.1
    assert row["r2"] > 0.8


def test_nan_and_wrong_shapes_are_errors(rows: Ic50Rows) -> None:
    with pytest.raises(NonFiniteError, match="profiles of bad hold NaN or infinite values in"):
        evaluate_ic50(rows, ENCODER, {"bad": Broken(40, np.nan)}, seeds=(0,))
    with pytest.raises(ShapeError, match=r"profiles of bad must be \(\d+, 40\); got \(\d+, 39\)"):
        evaluate_ic50(rows, ENCODER, {"bad": Broken(39, 0.0)}, seeds=(0,))


def test_basal_profiles_that_cannot_be_used(files: tuple[Path, Path], genes: Any, tmp_path: Path) -> None:
    strange = [*genes, {"entrez_id": 991, "symbol": "NOPE"}, {"entrez_id": 992, "symbol": "NOR"}]
    with pytest.raises(DataError, match=r"lacks 2 of the 42 genes \(Entrez ids\), the first 991 \(NOPE\)"):
        read_basal_profiles(files[1], strange)
    text = gzip.decompress(files[1].read_bytes()).decode()
    first = text.splitlines()[1]
    plain = tmp_path / "basal.csv"
    for cells, message in (
        (
            [first.split(",")[0], "inf", *first.split(",")[2:]],
            "NaN or infinite values in 1 cell lines, the first SIMC001",
        ),
        ([first.split(",")[0], "", *first.split(",")[2:]], "NaN or infinite values in 1 cell lines"),
        (["SIMC002", *first.split(",")[1:]], "cell line 'SIMC002' appears twice"),
        (
            [first.split(",")[0], "1,5", *first.split(",")[2:]],
            "row 2 must have as many fields as the headings, 41; got 42; is a decimal comma",
        ),
        ([first.split(",")[0], "4211.5", *first.split(",")[2:]], "must hold log2 expression, at most 30; got 4211.5"),
    ):
        plain.write_text(text.replace(first, ",".join(cells)))
        with pytest.raises(DataError, match=message):
            read_basal_profiles(plain, genes)
    plain.write_text(text.replace("cell_id", "name"))
    with pytest.raises(DataError, match="must have the column 'cell_id'"):
        read_basal_profiles(plain, genes)
    with pytest.raises(StoreError, match="does not exist"):
        read_basal_profiles(tmp_path / "none.csv", genes)


def test_tables_that_do_not_meet(files: tuple[Path, Path], genes: Any, tmp_path: Path, rows: Ic50Rows) -> None:
    (tmp_path / "other.csv").write_text("CELL_LINE_NAME,DRUG_NAME,LN_IC50,SMILES\nX,a,1.0,CCO\nSIMC001,b,2.0,\n")
    with pytest.raises(DataError, match=r"no row has an IC50, a SMILES and a profile .* \(rows left: 2, 2, 1, 0\)"):
        load_ic50(tmp_path / "other.csv", files[1], genes)
    (tmp_path / "spelled.csv").write_text(
        "CELL_LINE_NAME,DRUG_NAME,LN_IC50,SMILES\nSIMC_001,a,1.0,CCO\nsimc001,a,2.0,CCO\n"
    )
    with pytest.raises(DataError, match=r"ambiguous: SIMC_001 \(perhaps SIMC001\), simc001 \(perhaps SIMC001\)$"):
        load_ic50(tmp_path / "spelled.csv", files[1], genes)
    two = np.flatnonzero(rows.cell < 2)
    with pytest.raises(DataError, match="split by cell needs at least 3 units; got 2"):
        split_rows(permuted(rows, two), "cell", 0)
    with pytest.raises(DataError, match="must be one of random, drug, cell; got 'plate'"):
        split_rows(rows, "plate", 0)
