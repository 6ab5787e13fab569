"""Each kind of file that people have: read as it is, or refused in one line that helps."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases import columns
from ldm_ray.data.releases.columns import DOSE, TIME
from ldm_ray.data.releases.gctx import MATRIX
from ldm_ray.data.releases.paths import ReleasePaths
from ldm_ray.data.releases.release import ReleaseOptions
from ldm_ray.data.releases.scale import not_log2
from ldm_ray.errors import DataError, LdmRayError
from tests.conftest import small_config
from tests.docs_pages import ROOT
from tests.layouts import Writer, some_wells
from tests.mutations import SCALES

Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(some_wells(1), tmp_path / "release", 1)


def dataset_of(paths: ReleasePaths, root: Path, *overrides: str) -> PairedDataset:
    prepare(paths.open({}), str(root), small_config("cleaning.min_profiles_per_compound=1", *overrides))
    return open_dataset(str(root))


def with_wells(paths: ReleasePaths, change: Change) -> ReleasePaths:
    """Change the table of wells."""
    table = pd.read_csv(paths.inst_info[0], sep="\t", dtype=str, keep_default_na=False)
    change(table).to_csv(paths.inst_info[0], sep="\t", index=False)
    return paths


def with_h5ad(paths: ReleasePaths, change: Callable[[anndata.AnnData], anndata.AnnData | None]) -> ReleasePaths:
    """Change an h5ad."""
    data = anndata.read_h5ad(str(paths.h5ad))
    changed = change(data)
    (data if changed is None else changed).write_h5ad(str(paths.h5ad))
    return paths


def refusal(paths: ReleasePaths, root: Path, *overrides: str) -> str:
    with pytest.raises(LdmRayError) as caught:
        dataset_of(paths, root, *overrides)
    assert not (root / "manifest.json").exists()
    assert not (root / "profiles").exists()
    return str(caught.value)


def test_two_phases_are_read_together_and_wells_in_both_counted(tmp_path: Path) -> None:
    """Matrices with other orders of genes, tables with other columns; each well once."""
    truth = some_wells(2, n_plates=4)
    plates = truth.frame["plate"].unique()
    first, second = (np.flatnonzero(truth.frame["plate"].isin(own)) for own in (plates[:3], plates[2:]))
    one = Writer(replace(truth, frame=truth.frame.iloc[first], x=truth.x[first]), tmp_path / "one", 1).gse92742()
    two = Writer(replace(truth, frame=truth.frame.iloc[second], x=truth.x[second]), tmp_path / "two", 2).gse70138()
    tables = one.gctx + two.gctx, one.inst_info + two.inst_info, one.pert_info + two.pert_info
    dataset = dataset_of(ReleasePaths(*tables, one.gene_info), tmp_path / "data")
    assert dataset.manifest["n_profiles"] == (truth.frame["kind"] == "trt_cp").sum()
    counts = dataset.manifest["counts"]
    assert counts["duplicate_instance_ids"] == counts["duplicate_profiles"] == (truth.frame["plate"] == plates[2]).sum()


def test_wells_that_failed_quality_control_are_dropped_and_counted(writer: Writer, tmp_path: Path) -> None:
    dataset = dataset_of(writer.lincs2020(), tmp_path / "data")
    assert dataset.manifest["counts"]["wells_that_failed_qc"] == 3
    words = with_wells(writer.lincs2020(), lambda table: table.assign(qc_pass="maybe"))
    assert "qc_pass must be 1 or 0; got 'maybe'" in refusal(words, tmp_path / "words")


def test_everything_that_is_missing_is_named_at_once(writer: Writer, tmp_path: Path) -> None:
    dropped = ["perturbation", "plate", "smiles", "time", "dose_unit"]
    paths = writer.scperturb()
    while paths.h5ad is None or not paths.h5ad.endswith(".h5ad"):
        paths = writer.scperturb()
    message = refusal(with_h5ad(paths, lambda data: without(data, dropped)), tmp_path / "data")
    for what in ("plate (rna_plate", "compound (", "SMILES (canonical_smiles", "or --pert-info", "time (pert_time",
                 "unit of the dose", "--dose-unit um", "which wells are controls", "It has"):  # fmt: skip
        assert what in message, what


def without(data: anndata.AnnData, columns: list[str]) -> None:
    data.obs = data.obs.drop(columns=columns)


def test_missing_columns_do_not_hide_values_of_another_kind(writer: Writer, tmp_path: Path) -> None:
    def spoil(data: anndata.AnnData) -> None:
        data.X = np.floor(np.asarray(data.X if isinstance(data.X, np.ndarray) else data.X.toarray()))
        without(data, ["canonical_smiles"])

    message = refusal(with_h5ad(writer.prnet(), spoil), tmp_path / "data")
    assert "lacks the columns for SMILES" in message
    assert "these are counts" in message


def test_smiles_may_come_from_a_table_of_compounds(writer: Writer, tmp_path: Path) -> None:
    whole = dataset_of(writer.prnet(), tmp_path / "whole")
    paths = with_h5ad(writer.prnet(), lambda data: without(data, ["canonical_smiles"]))
    table = writer.gse92742().pert_info
    looked_up = dataset_of(replace(paths, pert_info=table), tmp_path / "looked-up")
    assert looked_up.parent_smiles.tolist() == whole.parent_smiles.tolist()


def test_an_empty_plate_is_an_error(writer: Writer, tmp_path: Path) -> None:
    def empty(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(rna_plate=["", *table["rna_plate"].iloc[1:]])

    assert "1 wells have no plate" in refusal(with_wells(writer.gse92742(), empty), tmp_path / "data")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_wells_with_one_name_are_kept_under_names_of_their_own(writer: Writer, tmp_path: Path) -> None:
    """A row that repeats a well with its values is dropped and counted; a different well is not lost."""

    def rename(data: anndata.AnnData) -> anndata.AnnData:
        data.obs_names = [f"bc{i % 5}" for i in range(data.n_obs)]
        return anndata.concat([data, data[:4]])

    manifest = dataset_of(with_h5ad(writer.prnet(), rename), tmp_path / "data").manifest
    assert manifest["n_profiles"] == 36
    assert manifest["counts"]["duplicate_instance_ids"] == 4
    assert any("have the obs name of a different well" in note for note in manifest["notes"])


@pytest.mark.parametrize("pack", ["gctx", "h5ad"])
def test_a_gzipped_matrix_is_named(writer: Writer, tmp_path: Path, pack: str) -> None:
    paths = writer.gse92742() if pack == "gctx" else writer.prnet()
    path = Path(str(paths.gctx[0] if pack == "gctx" else paths.h5ad))
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert "got a gzipped file: unpack it with gunzip first" in refusal(paths, tmp_path / "data")


def test_genes_by_ensembl_id_need_a_name_for_them(writer: Writer, tmp_path: Path) -> None:
    symbols = writer.truth.genes["symbol"].to_numpy()
    ensembl = [f"ENSG{i:011d}.3" for i in range(len(symbols))]

    def by_ensembl(data: anndata.AnnData) -> None:
        data.var.index = ensembl

    paths = with_h5ad(writer.prnet(), by_ensembl)
    assert "var index has Ensembl ids (ENSG0" in refusal(replace(paths, gene_info=None), tmp_path / "a")
    assert "calls its genes var index: ENSG" in refusal(paths, tmp_path / "b")
    table = pd.read_csv(str(paths.gene_info), sep="\t", dtype=str)
    named = dict(zip(symbols, ensembl, strict=True))
    table["ensembl_id"] = table["pr_gene_symbol"].map(named).str.removesuffix(".3")
    table.to_csv(str(paths.gene_info), sep="\t", index=False)
    assert dataset_of(paths, tmp_path / "c").n_genes == 978


def test_more_genes_than_landmarks_need_a_gene_table(writer: Writer, tmp_path: Path) -> None:
    paths = replace(with_h5ad(writer.prnet(), with_symbols(writer)), gene_info=None)
    assert "must hold 978 landmark genes; got 981; --gene-info picks the landmarks" in refusal(paths, tmp_path / "data")


def with_symbols(writer: Writer) -> Callable[[anndata.AnnData], None]:
    def change(data: anndata.AnnData) -> None:
        data.var.index = writer.truth.genes["symbol"].to_numpy()

    return change


@pytest.mark.parametrize("scale", ["linear", "counts", "z-scores", "log1p of counts"])
def test_values_on_another_scale_are_refused_with_the_evidence(writer: Writer, tmp_path: Path, scale: str) -> None:
    """Also if only one of two matrices is on another scale."""
    paths = writer.lincs2020()
    with h5py.File(paths.gctx[1], "r+") as file:
        file[MATRIX][...] = SCALES[scale](file[MATRIX][...])
    message = refusal(paths, tmp_path / "data")
    assert "these are " + scale.removesuffix("s")[:6] in message
    for evidence in ("level3_1.gctx", "98% of the values lie in", "median", "negative", "whole numbers"):
        assert evidence in message


def test_log2_intensities_are_not_taken_for_anything_else(mini_release: tuple[Path, ...]) -> None:
    with h5py.File(mini_release[0]) as file:
        values = file[MATRIX][...]
    for start in range(0, len(values), 64):
        assert not_log2(values[start : start + 64]) == ""


@pytest.mark.parametrize(
    "words", [("yes", "no"), ("control", "treated"), ("True", "False"), ("1.0", "0.0"), ("t", "f")]
)
def test_controls_are_known_by_word(writer: Writer, tmp_path: Path, words: tuple[str, str]) -> None:
    def say(table: pd.DataFrame) -> pd.DataFrame:
        control = table["pert_type"] == "ctl_vehicle"
        return table.assign(control=np.where(control, *words)).drop(columns="pert_type")

    dataset = dataset_of(with_wells(writer.gse92742(), say), tmp_path / "data")
    assert dataset.manifest["n_profiles"] == 36


def test_unknown_control_words_and_other_vehicles_are_named(writer: Writer, tmp_path: Path) -> None:
    odd = with_wells(writer.gse92742(), lambda table: table.assign(control="perhaps").drop(columns="pert_type"))
    assert "must say which wells are controls (yes/no" in refusal(odd, tmp_path / "a")
    water = with_wells(writer.gse92742(), lambda table: table.replace("DMSO", "H2O"))
    assert "the release's controls: H2O (ctl_vehicle, 15)" in refusal(water, tmp_path / "b")
    vehicle = with_wells(writer.gse92742(), lambda table: table.replace({"pert_iname": {"DMSO": "Vehicle"}}))
    vehicle = with_wells(vehicle, lambda table: table.replace({"pert_id": {"DMSO": "DMSO 0.1%"}}))
    assert dataset_of(vehicle, tmp_path / "c").manifest["n_profiles"] == 36


def test_treated_wells_without_controls_hint_at_their_matrix(writer: Writer, tmp_path: Path) -> None:
    paths = writer.lincs2020()
    only_treated = replace(paths, gctx=paths.gctx[:1])
    assert "--gctx is repeatable" in refusal(only_treated, tmp_path / "a")
    only_controls = replace(paths, gctx=paths.gctx[1:])
    assert "removed the last 15: ctl_vehicle (15)" in refusal(only_controls, tmp_path / "b")


def test_a_unit_that_is_not_said_is_asked_for(writer: Writer, tmp_path: Path) -> None:
    plain = with_wells(
        writer.gse92742(),
        lambda table: table.assign(pert_dose=np.where(table["pert_dose"] == "-666", "-666", "500")).drop(
            columns="pert_dose_unit"
        ),
    )
    assert "unit of the dose (pert_dose_unit, ..., or --dose-unit um)" in refusal(plain, tmp_path / "a")
    dataset = dataset_of(replace(plain, options=ReleaseOptions(dose_unit="nM")), tmp_path / "b")
    assert set(dataset.profiles(["dose_um"])["dose_um"].to_pylist()) == {0.5}
    assert any("every dose of" in note and "in nM, as asked" in note for note in dataset.manifest["notes"])
    small = with_wells(
        plain, lambda table: table.assign(pert_dose=table["pert_dose"].mask(table["pert_dose"] == "500", "5E2"))
    )
    assert "unit of the dose" in refusal(small, tmp_path / "d")  # the E is no unit
    dataset = dataset_of(replace(small, options=ReleaseOptions(dose_unit="nM")), tmp_path / "e")
    assert set(dataset.profiles(["dose_um"])["dose_um"].to_pylist()) == {0.5}
    odd = replace(plain, options=ReleaseOptions(dose_unit="mg"))
    assert "--dose-unit must be one of" in refusal(odd, tmp_path / "c")


def test_doses_and_times_that_are_not_to_be_believed_are_listed(writer: Writer, tmp_path: Path) -> None:
    high = with_wells(writer.gse92742(), lambda table: table.assign(pert_dose="1110", pert_dose_unit="uM"))
    message = refusal(high, tmp_path / "a")
    assert "36 of 36 treated wells have a dose_um above 1,000: 1,110 um (36 wells)" in message
    assert "cleaning.max_dose_um" in message
    assert dataset_of(high, tmp_path / "b", "cleaning.max_dose_um=2000").manifest["n_profiles"] == 36
    long = with_wells(writer.gse70138(), lambda table: table.assign(pert_time="31", pert_time_unit="days"))
    assert "have a time_h above 720: 744 h (36 wells)" in refusal(long, tmp_path / "c")
    odd = with_wells(writer.gse92742(), lambda table: table.assign(pert_dose_unit="ng/mL"))
    assert "have a dose that cannot be read" in refusal(odd, tmp_path / "d")
    assert "'dose and time known and above 0' removed the last 36" in refusal(
        odd, tmp_path / "e", "cleaning.unreadable_amounts=drop"
    )


def test_the_ledger_says_what_each_rule_dropped(writer: Writer, tmp_path: Path) -> None:
    def spoil(table: pd.DataFrame) -> pd.DataFrame:
        treated = table.index[table["pert_type"] == "trt_cp"]
        table.loc[treated[:2], "pert_dose"] = "-666"
        table.loc[treated[2], "pert_dose"] = "0"
        return table

    steps = dataset_of(with_wells(writer.gse92742(), spoil), tmp_path / "data").manifest["cleaning"]
    assert steps[0]["examples"] == ["ctl_vehicle (15)"]
    assert steps[1]["examples"] == ["dose unknown (2)", "dose not above 0 (1)"]
    assert json.dumps(steps)


def test_a_cut_table_is_refused(writer: Writer, tmp_path: Path) -> None:
    """A row with too few columns, or a last line that may be cut while the matrix has more profiles."""
    paths = writer.gse92742()
    path = Path(paths.inst_info[0])
    text = path.read_text()
    path.write_text(text[: text.rindex("\t", 0, len(text) // 2)])
    assert "must have 12 columns in every row" in refusal(paths, tmp_path / "a")
    lines = text.splitlines()
    path.write_text("\n".join(lines[:20]))
    assert "does not end with a line end" in refusal(paths, tmp_path / "b")
    path.write_text("\n".join(lines))
    assert dataset_of(paths, tmp_path / "c").manifest["n_profiles"] == 36


def test_two_different_wells_of_one_id_are_refused(writer: Writer, tmp_path: Path) -> None:
    twice = with_wells(writer.gse92742(), lambda table: pd.concat([table, table.head(1).assign(rna_well="Z99")]))
    assert "rows share their id with a different well" in refusal(twice, tmp_path / "data")


def test_a_layer_can_be_chosen(writer: Writer, tmp_path: Path) -> None:
    def layered(data: anndata.AnnData) -> anndata.AnnData:
        return anndata.AnnData(np.floor(data.X.toarray() if hasattr(data.X, "toarray") else data.X), data.obs, data.var,
                               layers={"log2": data.X})  # fmt: skip

    whole = dataset_of(writer.prnet(), tmp_path / "whole")
    paths = with_h5ad(writer.prnet(), layered)
    assert "these are counts" in refusal(paths, tmp_path / "a")
    missing = replace(paths, options=ReleaseOptions(layer="raw"))
    assert "its layers are log2 (--layer)" in refusal(missing, tmp_path / "b")
    chosen = dataset_of(replace(paths, options=ReleaseOptions(layer="log2")), tmp_path / "c")
    np.testing.assert_array_equal(np.sort(chosen.basal_expression, 1), np.sort(whole.basal_expression, 1))


def test_the_page_of_layouts_lists_every_name() -> None:
    page = (ROOT / "docs" / "layouts.md").read_text()
    fields = [value for name, value in vars(columns).items() if name.isupper() and isinstance(value, tuple)]
    units = [tuple(unit for _, unit in quantity.columns) for quantity in (DOSE, TIME)]
    for names in (*fields, DOSE.names, TIME.names, *units):
        for name in names:
            assert f"`{name}`" in page, name


def test_files_that_do_not_make_a_release_are_refused() -> None:
    with pytest.raises(DataError, match="give --h5ad, or all of --gctx.*; missing: --pert-info, --gene-info"):
        ReleasePaths(gctx=("a",), inst_info=("b",)).check()
    with pytest.raises(DataError, match="--layer names a layer of an --h5ad"):
        ReleasePaths(("a",), ("b",), ("c",), "d", options=ReleaseOptions(layer="x")).check()
