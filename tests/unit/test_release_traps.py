"""Files that would be misread without an error: what they say in one place contradicts another, or hides in a name."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from ldm_ray.data.releases.columns import DOSE, TIME, Quantity, Table
from ldm_ray.data.releases.paths import ReleasePaths
from ldm_ray.data.releases.scale import not_log2
from ldm_ray.data.releases.units import amounts
from tests.layouts import Writer, some_wells
from tests.unit.test_release_kinds import dataset_of, refusal, with_h5ad, with_wells


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(some_wells(1), tmp_path / "release", 1)


def read_one(quantity: Quantity, default_unit: str = "", **columns: object) -> tuple[float, str]:
    value, problem = amounts(Table(pd.DataFrame([columns]), "t"), quantity, default_unit)
    return value.iloc[0], problem.iloc[0]


@pytest.mark.parametrize(
    ("quantity", "columns", "problem"),
    [
        (DOSE, {"pert_dose": "10", "pert_dose_unit": "um", "pert_idose": "10 nM"}, "0.01 and 10 um in two columns"),
        (DOSE, {"dose_um": "10", "dose_unit": "nM"}, "0.01 and 10 um in two columns"),
        (TIME, {"pert_time": "24", "pert_time_unit": "min", "time_h": 24}, "0.4 and 24 h in two columns"),
    ],
)
def test_amounts_that_contradict_each_other_cannot_be_read(
    quantity: Quantity, columns: dict[str, object], problem: str
) -> None:
    value, found = read_one(quantity, **columns)
    assert np.isnan(value)
    assert found == problem


def test_amounts_that_differ_by_rounding_agree() -> None:
    assert read_one(DOSE, pert_dose="1.11", pert_dose_unit="um", pert_idose="1 uM") == (1.11, "")
    assert read_one(DOSE, dose_um="10 uM", dose_unit="uM") == (10.0, "")


def test_amounts_in_scientific_notation_and_short_floats() -> None:
    assert read_one(DOSE, "um", pert_dose="1.00E-03") == (0.001, "")
    assert read_one(DOSE, dose=np.float32(0.04), dose_unit="um") == (0.04, "")


def test_a_drug_whose_name_contains_dmso_is_no_control(writer: Writer, tmp_path: Path) -> None:
    def name(data: anndata.AnnData) -> None:
        data.obs = data.obs.drop(columns=["pert_type", "pert_id"])
        data.obs["condition"] = data.obs["condition"].astype(str).replace("drug-1", "drug-1 in DMSO")

    message = refusal(with_h5ad(writer.prnet(), name), tmp_path / "data")
    assert "the names 'drug-1 in DMSO' contain DMSO, but their SMILES are of other compounds" in message


def genes_of(writer: Writer, root: Path, index: Callable[[int], str], **columns: str) -> list[tuple[int, str]]:
    """Return id and symbol of the genes of an h5ad that has landmarks only, and no gene table."""

    def rename(data: anndata.AnnData) -> anndata.AnnData:
        landmark = writer.truth.genes["landmark"].to_numpy()
        genes = writer.truth.genes[landmark]
        var = pd.DataFrame({name: genes[column].to_numpy() for name, column in columns.items()})
        return anndata.AnnData(data.X[:, landmark], data.obs, var.set_axis([index(i) for i in range(len(var))], axis=0))

    dataset = dataset_of(replace(with_h5ad(writer.prnet(), rename), gene_info=None), root)
    return [(gene["entrez_id"], gene["symbol"]) for gene in dataset.manifest["genes"]]


def test_places_and_probes_are_not_names_of_genes(writer: Writer, tmp_path: Path) -> None:
    landmarks = writer.truth.genes[writer.truth.genes["landmark"]]
    pairs = list(zip(landmarks["entrez"], landmarks["symbol"], strict=True))
    unknown = [(0, symbol) for _, symbol in pairs]
    assert genes_of(writer, tmp_path / "a", str, gene_symbol="symbol") == unknown
    assert genes_of(writer, tmp_path / "b", "{}_s_at".format, gene_symbol="symbol") == unknown
    assert genes_of(writer, tmp_path / "c", str, gene_symbol="symbol", entrez_id="entrez") == pairs


def test_ids_that_only_count_find_no_gene(writer: Writer, tmp_path: Path) -> None:
    paths = writer.gse92742()
    table = pd.read_csv(str(paths.gene_info), sep="\t").assign(pr_gene_id=lambda t: np.arange(len(t)) + 5)
    table.to_csv(str(paths.gene_info), sep="\t", index=False)
    with h5py.File(paths.gctx[0], "r+") as file:
        del file["0/META/ROW/id"]
        file["0/META/ROW/id"] = np.arange(len(table))
    allowing = replace(paths, options=replace(paths.options, allow_missing_genes=True))
    assert "holds none of the 978 landmark genes" in refusal(allowing, tmp_path / "data")


def test_natural_logarithms_are_not_log2() -> None:
    log2 = np.random.default_rng(0).normal(8.3, 2.3, (64, 978)).clip(2, 15)
    assert not_log2(log2) == ""
    assert "these are natural logarithms" in not_log2(log2 * np.log(2))


def test_names_that_repeat_and_wells_that_failed(writer: Writer, tmp_path: Path) -> None:
    def spoil(data: anndata.AnnData) -> None:
        data.obs["qc_pass"] = np.where(np.arange(data.n_obs) % 7 == 0, "0", "1")
        data.obs_names = [f"well-{i // 2}" for i in range(data.n_obs)]

    dataset = dataset_of(with_h5ad(writer.prnet(), spoil), tmp_path / "data")
    treated = (writer.truth.frame["kind"] == "trt_cp").to_numpy() & (np.arange(len(writer.truth.frame)) % 7 != 0)
    wells = dataset.profiles(["well", "expression"]).to_pandas()
    assert sorted(wells["well"]) == sorted(writer.truth.frame.loc[treated, "well"])
    values = np.sort([row[0] for row in wells["expression"]])
    gene = writer.truth.genes["symbol"].tolist().index(dataset.gene_symbols[0])
    np.testing.assert_array_equal(values, np.sort(writer.truth.x[treated, gene]))


def test_a_table_of_an_old_h5ad_is_named(writer: Writer, tmp_path: Path) -> None:
    paths = writer.prnet()
    with h5py.File(str(paths.h5ad), "r+") as file:
        del file["obs"]
        file["obs"] = np.zeros(51, dtype=[("index", "S8"), ("cell_id", "i1")])
    assert "must be tables as anndata 0.7 and later write them" in refusal(paths, tmp_path / "data")


def test_a_condition_such_as_treated_is_no_name_of_a_drug(writer: Writer, tmp_path: Path) -> None:
    def name(data: anndata.AnnData) -> None:
        drug = data.obs["condition"].astype(str)
        data.obs = data.obs.drop(columns="pert_id").assign(
            drug=drug, condition=np.where(drug == "DMSO", "control", "treated")
        )

    compounds = dataset_of(with_h5ad(writer.prnet(), name), tmp_path / "data").compounds
    assert sorted(compounds["names"].to_pylist()) == [[f"drug-{i}"] for i in range(5)]


def test_tables_in_quotes_and_words_for_yes(writer: Writer, tmp_path: Path) -> None:
    """As R's write.table writes them, and as pandas writes whole numbers beside missing ones."""
    paths = with_wells(writer.gse92742(), lambda table: table.assign(qc_pass="1.0"))
    for path in (paths.inst_info[0], paths.pert_info[0], str(paths.gene_info)):
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if "pr_is_lm" in table:
            table["pr_is_lm"] = table["pr_is_lm"].replace({"1": "yes", "0": "no"})
        table.to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL)
    assert dataset_of(paths, tmp_path / "data").manifest["n_profiles"] == 36


def test_wells_that_two_tables_tell_apart_are_noted(writer: Writer, tmp_path: Path) -> None:
    paths = writer.gse92742()
    table = pd.read_csv(paths.inst_info[0], sep="\t", dtype=str, keep_default_na=False)
    second = tmp_path / "second.txt"
    table.assign(cell_id="OTHER").to_csv(second, sep="\t", index=False)
    both = replace(paths, inst_info=(paths.inst_info[0], str(second)))
    dataset = dataset_of(both, tmp_path / "a")
    assert "OTHER" not in dataset.cells
    assert any(note.startswith("51 wells differ between the tables") for note in dataset.manifest["notes"])
    failing = table.assign(qc_pass=np.where(table["pert_type"] == "trt_cp", "0", "1"))
    failing.to_csv(paths.inst_info[0], sep="\t", index=False)
    assert "removed the last 15: ctl_vehicle (15)" in refusal(both, tmp_path / "b")


def with_controls(writer: Writer, **texts: str) -> ReleasePaths:
    """Write a release whose controls say something else."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["pert_type"] == "ctl_vehicle", list(texts)] = list(texts.values())
        return table

    return with_wells(writer.gse92742(), change)


def test_controls_without_a_name_count_and_those_without_a_time_are_named(writer: Writer, tmp_path: Path) -> None:
    unnamed = dataset_of(with_controls(writer, pert_id="", pert_iname=""), tmp_path / "a")
    assert unnamed.manifest["n_profiles"] == 36
    odd = refusal(with_controls(writer, pert_time="24 hpi"), tmp_path / "b")
    assert "15 of 15 controls have a time that cannot be read: '24 hpi' in" in odd
    timeless = refusal(with_controls(writer, pert_time=""), tmp_path / "c")
    assert "DMSO (ctl_vehicle, 15), 15 of them without a time" in timeless


def test_an_h5ad_without_wells_is_refused(writer: Writer, tmp_path: Path) -> None:
    assert "holds no well" in refusal(with_h5ad(writer.prnet(), lambda data: data[:0].copy()), tmp_path / "data")


def test_cell_lines_that_differ_only_in_case_are_noted(writer: Writer, tmp_path: Path) -> None:
    def lower(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[::2, "cell_id"] = table.loc[::2, "cell_id"].str.lower()
        return table

    notes = dataset_of(with_wells(writer.gse92742(), lower), tmp_path / "data").manifest["notes"]
    assert "cell lines kept apart: A375 and a375" in notes
