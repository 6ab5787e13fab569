"""Drug sensitivities: the right values of the right screen, joined to the right cell lines and drugs, or named."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_ray.cli.app import main
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.gdsc import read_gdsc_table
from ldm_ray.data.gdsc_cells import match_cells
from ldm_ray.data.gdsc_join import join_gdsc
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.errors import DataError
from tests.conftest import World, small_config

LINES = {"TT": "930299", "T-T": "946371", "KM-H2": "909976", "KMH-2": "908147"}


def official(**changes: Any) -> pd.DataFrame:
    """Both screens of four cell lines whose names differ in pairs by punctuation, in the official columns."""
    rows = [
        {
            "DATASET": dataset, "COSMIC_ID": LINES[cell], "CELL_LINE_NAME": cell, "DRUG_ID": f"{100 * screen + drug}",
            "DRUG_NAME": f"drug {drug}", "LN_IC50": f"{3 * screen - line + drug / 10:.4f}", "AUC": "0.9",
        }
        for screen, dataset in enumerate(("GDSC1", "GDSC2"))
        for line, cell in enumerate(LINES)
        for drug in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**changes)


def saved(table: pd.DataFrame, path: Path, **how: Any) -> Path:
    table.to_csv(path, index=False, **how)
    return path


@pytest.fixture
def renamed(world: World, tmp_path: Path) -> PairedDataset:
    """The dataset with three cell lines of other names."""
    root = Path(shutil.copytree(world.dataset.url, tmp_path / "data", ignore=shutil.ignore_patterns("part-*")))
    cells = pq.read_table(root / "cells.parquet")
    names = pa.array(["KMH2", "TT", "PC3"])
    pq.write_table(cells.set_column(cells.column_names.index("name"), "name", names), root / "cells.parquet")
    return open_dataset(str(root))


def test_one_screen_is_read_and_the_other_counted(tmp_path: Path) -> None:
    path = saved(official(), tmp_path / "both.csv")
    both = official()
    for dataset, other in (("GDSC2", "GDSC1"), ("GDSC1", "GDSC2")):
        table = read_gdsc_table(path, dataset)  # type: ignore[arg-type]  # a Literal
        wanted = both[both["DATASET"] == dataset]
        np.testing.assert_allclose(table.rows["ln_ic50_um"], wanted["LN_IC50"].astype(float))
        assert table.rows["drug_id"].to_list() == wanted["DRUG_ID"].to_list()
        assert set(table.rows["dataset"]) == {dataset}
        assert table.other_datasets == {other: 12}
        assert table.notes() == [f"rows left out, since setting ic50.dataset is {dataset}: 12 of {other}"]
    saved(both[both["DATASET"] == "GDSC1"], path)
    with pytest.raises(DataError, match=r"no row of GDSC2, which setting ic50.dataset asks for; it has 12 of GDSC1"):
        read_gdsc_table(path)
    saved(official(DATASET="17"), path)
    with pytest.raises(DataError, match="it has 24 of 17"):
        read_gdsc_table(path)
    assert len(read_gdsc_table(saved(both.drop(columns="DATASET"), path))) == 24


@pytest.mark.parametrize("how", [{}, {"sep": ";"}, {"sep": "\t", "encoding": "utf-16"}])
def test_decimal_commas_are_read(how: dict[str, Any], tmp_path: Path) -> None:
    points = read_gdsc_table(saved(official(), tmp_path / "points.csv"))
    commas = official(LN_IC50=official()["LN_IC50"].str.replace(".", ","))
    read = read_gdsc_table(saved(commas, tmp_path / "commas.csv", **how))
    pd.testing.assert_frame_equal(read.rows, points.rows)
    assert read.form.endswith("decimal commas")


def test_rows_that_are_left_out_are_counted_and_shown(tmp_path: Path) -> None:
    table = official(DATASET="GDSC2")
    table.loc[[2, 3, 4, 5, 6], "LN_IC50"] = ["1.5 uM", "", "NA", "< 1", "inf"]
    read = read_gdsc_table(saved(pd.concat([table, table.iloc[:2]]), tmp_path / "t.csv"))
    assert (len(read), len(read.rows), read.without_ic50, read.unreadable, read.identical) == (24, 19, 2, 3, 2)
    assert read.examples == ("'1.5 uM' in row 4", "'< 1' in row 7", "'inf' in row 8")
    assert read.notes()[-1].endswith("whose value is no number: 3, the first " + ", ".join(read.examples))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LN_IC50": "n.d."}, r"none of the 12 values of LN_IC50 can be read, the first: 'n.d.' in row 14, "),
        ({"LN_IC50": ""}, "none of the 12 values of LN_IC50 can be read"),
        (
            {"LN_IC50": "153.2"},
            "must be the natural logarithm of uM, between -30 and 30; got 12 others, the first: '153",
        ),
        ({"ln_ic50": "1"}, "must have one column LN_IC50; got LN_IC50, ln_ic50"),
    ],
)
def test_tables_that_are_not_ln_ic50(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_gdsc_table(saved(official(**changes), tmp_path / "t.csv"))


def test_missing_columns_are_named_together(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("CELL_LINE_NAME,DRUG\nA,B\n")
    with pytest.raises(DataError, match="lacks the columns DRUG_NAME, LN_IC50; it has CELL_LINE_NAME, DRUG$"):
        read_gdsc_table(tmp_path / "bad.csv")


def test_the_website_download_is_read_only_if_it_can_be_no_concentration(tmp_path: Path) -> None:
    names = {"DATASET": "Dataset Version", "COSMIC_ID": "Cosmic ID", "CELL_LINE_NAME": "Cell Line Name"}
    web = official().rename(columns=names | {"DRUG_ID": "Drug ID", "DRUG_NAME": "Drug Name", "LN_IC50": "IC50"})
    read = read_gdsc_table(saved(web, tmp_path / "web.csv"), "GDSC1")
    pd.testing.assert_frame_equal(read.rows, read_gdsc_table(saved(official(), tmp_path / "own.csv"), "GDSC1").rows)
    assert read.form.endswith("IC50 taken as LN_IC50")
    web["IC50"] = web["IC50"].str.removeprefix("-")
    with pytest.raises(DataError, match="IC50 could be uM or its natural logarithm, since none of its 12 values is be"):
        read_gdsc_table(saved(web, tmp_path / "web.csv"))


def lines(**ids: str) -> pd.DataFrame:
    return pd.DataFrame({"cell_line": [name.replace("_", "-") for name in ids], "line_id": list(ids.values())})


@pytest.mark.parametrize(
    ("rows", "known", "found", "ambiguous"),
    [
        (lines(TT="", T_T=""), ["TT"], {"TT": "TT"}, {"T-T": ("TT",)}),
        (lines(TT="", T_T=""), ["TT", "T-T"], {"TT": "TT", "T-T": "T-T"}, {}),
        (lines(KM_H2="", KMH_2=""), ["KMH2"], {}, {"KM-H2": ("KMH2",), "KMH-2": ("KMH2",)}),
        # The rival is known to us even if the table does not hold it.
        (lines(T_T="946371"), ["TT"], {}, {"T-T": ("TT",)}),
        (lines(tt=""), ["TT"], {}, {"tt": ("TT",)}),
        (lines(sk_mel_5=""), ["SKMEL5"], {"sk-mel-5": "SKMEL5"}, {}),
        (lines(skmel5=""), ["SK-MEL-5", "SKMEL-5"], {}, {"skmel5": ("SK-MEL-5", "SKMEL-5")}),
        # Two spellings in one table are one cell line only if their ids say so.
        (lines(PC_3="1", PC3="1"), ["Pc3"], {"PC-3": "Pc3", "PC3": "Pc3"}, {}),
        (lines(PC_3="1", PC3="2"), ["Pc3"], {}, {"PC-3": ("Pc3",), "PC3": ("Pc3",)}),
        # One name of two cell lines.
        (pd.concat([lines(TT="930299"), lines(TT="946371")]), ["TT"], {}, {"TT": ("TT",)}),
        (lines(A375=""), ["A549"], {}, {}),
    ],
)
def test_cell_lines_are_matched_or_named(
    rows: pd.DataFrame, known: list[str], found: dict[str, str], ambiguous: dict[str, tuple[str, ...]]
) -> None:
    matches = match_cells(rows, known)
    assert (matches.found, matches.ambiguous) == (found, ambiguous)
    assert all(name in " ".join(matches.notes()) for name in ambiguous)


def test_a_dataset_is_joined_to_no_ambiguous_cell_line(renamed: PairedDataset, tmp_path: Path) -> None:
    joined = join_gdsc(read_gdsc_table(saved(official(), tmp_path / "t.csv")), renamed)
    frame = joined.table.to_pandas()
    assert frame.groupby("cell_line")["cell_id"].unique().map(list).to_dict() == {
        "TT": [1], "T-T": [-1], "KM-H2": [-1], "KMH-2": [-1]
    }  # fmt: skip
    assert set(frame["dataset"]) == {"GDSC2"}
    assert list(joined.counts.cell_lines_ambiguous) == ["KM-H2", "KMH-2", "T-T"]
    assert "KM-H2 (perhaps KMH2), KMH-2 (perhaps KMH2), T-T (perhaps TT)" in joined.notes[-1]


def test_drugs_join_by_structure_else_by_a_name_that_does_not_contradict_it(world: World, tmp_path: Path) -> None:
    parents, names = world.dataset.parent_smiles, world.dataset.compounds["names"].to_pylist()
    rows = {
        "CELL_LINE_NAME": ["simc-001", "SIMC002", "OTHER", "SIMC002", "SIMC002", "SIMC002"],
        "DRUG_NAME": [names[3][0].upper(), "nobody", names[4][0], names[5][0], names[6][0], names[8][0]],
        "LN_IC50": ["1.5", "-2", "0.25", "NA", "1", "1"],
        "SMILES": ["", parents[7], "", "", "CCO", "not a molecule"],
    }
    joined = join_gdsc(read_gdsc_table(saved(pd.DataFrame(rows), tmp_path / "t.csv")), world.dataset)
    assert joined.table["compound_id"].to_pylist() == [3, 7, 4, -1, 8]
    assert joined.table["parent_smiles"].to_pylist() == [parents[3], parents[7], parents[4], "CCO", parents[8]]
    assert joined.table["cell_id"].to_pylist() == [0, 1, -1, 1, 1]
    counts = joined.counts
    assert (counts.without_ic50, counts.rows_joined, counts.cell_lines_joined, counts.drugs_joined) == (1, 3, 2, 4)
    assert (counts.drugs_contradicted, counts.drugs_ambiguous) == ((names[6][0],), ())


def test_flagged_drugs_are_named_and_a_mixture_is_joined_to_nothing(world: World, tmp_path: Path) -> None:
    parents = world.dataset.parent_smiles
    rows = {
        "CELL_LINE_NAME": "SIMC001", "DRUG_NAME": ["Cisplatin", "Both", "Resin"], "LN_IC50": ["1", "2", "3"],
        "SMILES": ["N.N.Cl[Pt]Cl", f"{parents[3]}.{parents[7]}", "*CC*"],
    }  # fmt: skip
    joined = join_gdsc(read_gdsc_table(saved(pd.DataFrame(rows), tmp_path / "t.csv")), world.dataset)
    assert joined.table["compound_id"].to_pylist() == [-1, -1, -1]
    assert joined.table["parent_smiles"].to_pylist() == ["N.N.[Cl][Pt][Cl]", "", ""]
    assert [note.partition(": ")[2] for note in joined.notes[-3:]] == ["Cisplatin", "Both", "Resin"]


def test_a_name_of_several_compounds_is_ambiguous_unless_the_structure_settles_it(world: World, tmp_path: Path) -> None:
    dataset = replace(world.dataset)
    compounds = dataset.compounds
    names = [["same"] if number in (2, 9) else own for number, own in enumerate(compounds["names"].to_pylist())]
    column = compounds.column_names.index("names")
    dataset.__dict__["compounds"] = compounds.set_column(column, "names", pa.array(names))
    rows = {"CELL_LINE_NAME": "SIMC001", "DRUG_NAME": "Same", "LN_IC50": ["1", "2"]}
    rows["SMILES"] = ["", str(dataset.parent_smiles[9])]  # type: ignore[assignment]
    joined = join_gdsc(read_gdsc_table(saved(pd.DataFrame(rows), tmp_path / "t.csv")), dataset)
    assert joined.table["compound_id"].to_pylist() == [-1, 9]
    assert joined.counts.drugs_ambiguous == ("Same",)
    assert joined.notes == ["repeated measurements of a cell line and drug, all kept: 1", *joined.notes[1:]]


def test_a_table_that_cannot_be_read_leaves_the_joined_one(
    renamed: PairedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(path: Path, *more: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["ldm-ray", "data", "gdsc", renamed.url, "--table", str(path), *more])
        with pytest.raises(SystemExit) as end:
            main()
        return int(str(end.value.code or 0)), capsys.readouterr().err

    code, said = run(saved(official(), tmp_path / "good.csv"))
    assert (code, "12 of GDSC1" in said) == (0, True)
    before = (Path(renamed.url) / "gdsc2.parquet").read_bytes()
    code, said = run(saved(official(LN_IC50="low"), tmp_path / "bad.csv"))
    assert (code, "none of the 12 values of LN_IC50 can be read" in said) == (2, True)
    assert (Path(renamed.url) / "gdsc2.parquet").read_bytes() == before
    assert run(tmp_path / "good.csv", "--set", "ic50.dataset=GDSC1")[0] == 0
    assert set(pq.read_table(Path(renamed.url) / "gdsc1.parquet")["dataset"].to_pylist()) == {"GDSC1"}


def test_gdsc2_joins_the_real_release(
    real_data: Path, mini_release: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    config = small_config("cleaning.min_profiles_per_compound=1")
    prepare(read_l1000(*mini_release), str(tmp_path / "mini"), config)
    dataset = open_dataset(str(tmp_path / "mini"))
    read = read_gdsc_table(real_data / "gdsc2_ln_ic50.csv.gz")
    joined = join_gdsc(read, dataset)
    counts = joined.counts
    assert (counts.rows, counts.without_ic50, counts.cell_lines, counts.drugs) == (242_036, 0, 969, 286)
    assert (counts.rows_joined, counts.repeated, counts.identical) == (368, 6_288, 0)
    assert (counts.cell_lines_ambiguous, counts.drugs_contradicted) == ({}, ("Serdemetan",))
    frame = joined.table.to_pandas()
    a375 = frame[frame["cell_line"] == "A375"]
    assert {dataset.cells[i] for i in a375["cell_id"]} == {"A375"}
    found = frame[(frame["cell_id"] >= 0) & (frame["compound_id"] >= 0)]
    assert (found["parent_smiles"] != "").all()
    matches = match_cells(read.rows, ["KMH2", "TT"])
    assert (matches.found, list(matches.ambiguous)) == ({"TT": "TT"}, ["KM-H2", "KMH-2", "T-T"])
