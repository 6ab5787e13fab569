"""Query tables and compound lists as people save them: read alike, and refused in the same words, by both ways."""

import gzip
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_ray.bundle.bundle import checksum, load_bundle, save_bundle
from ldm_ray.cli.question import Product, Table, question
from ldm_ray.cluster.batch.predict import BulkPrediction, predict_many
from ldm_ray.errors import QueryError
from ldm_ray.layout import CONDITIONS, MANIFEST
from ldm_ray.prediction.bulk.compounds import read_compounds
from ldm_ray.prediction.bulk.conditions import open_conditions
from ldm_ray.prediction.bulk.grid import Grid
from ldm_ray.prediction.bulk.numbers import decimal_marks, number
from ldm_ray.prediction.bulk.parts import PartPredictor
from ldm_ray.prediction.bulk.rows import queries_of
from ldm_ray.prediction.bulk.run import BulkManifest, BulkRun, part_name
from ldm_ray.prediction.bulk.staging import read_part, stage
from ldm_ray.prediction.bulk.tables import read_queries
from ldm_ray.prediction.predictor import Predictor
from ldm_ray.prediction.queries import Query
from ldm_ray.storage.store import Store
from tests.bundles import random_bundle
from tests.conftest import World, small_config

PLAIN = "smiles,cell,dose_um,time_h\nCCO,A375,0.5,6\nCCN,697,10.0,24\n"
MEANT = [("CCO", "A375", 0.5, 6.0), ("CCN", "697", 10.0, 24.0)]


def both_ways(path: Path) -> list[Query]:
    """Read a table in memory and through the parts of a bulk prediction, which must agree, refusals included."""
    store = Store(str(path.parent / "staged"))
    n_rows = stage(open_conditions(str(path)).tables(), store, CONDITIONS, 2)
    parts = [read_part(store, CONDITIONS, part) for part in range(-(-n_rows // 2))]
    staged = [query for number, part in enumerate(parts) for query in queries_of(part, 2 * number)]
    refused = [str(query) for query in staged if isinstance(query, QueryError)]
    if refused:
        with pytest.raises(QueryError) as caught:
            read_queries(str(path))
        assert str(caught.value) == refused[0]
        raise caught.value
    assert read_queries(str(path)) == staged
    return [query for query in staged if isinstance(query, Query)]


@pytest.mark.parametrize(
    ("content", "unusual"),
    [
        (PLAIN.encode(), ""),
        (PLAIN.replace(",", "\t").encode(), ""),
        (PLAIN.replace(",", ";").encode(), ""),
        (PLAIN.replace(",", ";").replace(".", ",").encode(), "was read with decimal commas"),
        (PLAIN.replace("0.5", '"0,5"').encode(), "was read with decimal commas"),
        (PLAIN.replace("\n", "\r\n").encode("utf-8-sig"), ""),
        (PLAIN.replace("\n", "\r").encode(), ""),
        (PLAIN.encode("utf-16"), "was read as UTF-16"),
        (PLAIN.replace("time_h", "time_h,was").replace("24", "24,5 \u00b5M").encode("latin-1"), "as Windows-1252"),
        (gzip.compress(PLAIN.encode(), mtime=0), ""),
        (PLAIN.replace("smiles,cell,dose_um", "SMILES, Cell ,Dose_uM").encode(), ""),
        (PLAIN.replace(",", " , ").encode(), ""),
        (f"\n{PLAIN}\n,,,\n ,,,\n\n".encode(), ""),
        (PLAIN.replace("\n", ",,\n").encode(), ""),
        (b"why,time_h,dose_um,cell,smiles\na,6,0.5,A375,CCO\n,24,10,697,CCN\n", ""),
    ],
)
def test_what_is_meant_is_read(content: bytes, unusual: str, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_bytes(content)
    assert [(query.smiles, query.cell, query.dose_um, query.time_h) for query in both_ways(path)] == MEANT
    said = open_conditions(str(path)).unusual
    assert unusual in said
    assert bool(unusual) == bool(said)


def test_text_stays_text_and_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_text('smiles\tcell\tdose_um\ttime_h\tName\nCCO\t697\t1\t24\t"two\nlines"\n\nCCN\t007\t1e1\t24\t001\n')
    first, second = both_ways(path)
    assert (first.cell, first.name, first.place) == ("697", "two\nlines", "q.txt, line 2")
    assert (second.cell, second.name, second.place) == ("007", "001", "q.txt, line 5")


def test_parquet_is_read_by_the_same_rules(tmp_path: Path) -> None:
    path, frame = tmp_path / "q.parquet", pd.DataFrame(MEANT, columns=["Smiles", "cell ", "dose_um", "time_h"])
    frame.to_parquet(path)
    assert [(query.smiles, query.cell, query.dose_um, query.time_h) for query in both_ways(path)] == MEANT
    frame.assign(dose_um=["0,5", "1,000"]).astype("category").to_parquet(path)
    assert [query.dose_um for query in both_ways(path)] == [0.5, 1.0]
    frame.assign(NAME=[None, "b"]).to_parquet(path)
    assert [query.name for query in both_ways(path)] == ["", "b"]
    frame.assign(dose_um=[0.5, None]).to_parquet(path)
    with pytest.raises(QueryError, match=r"^q.parquet, row 1 \(counted from 0\): dose_um is empty$"):
        both_ways(path)
    frame.assign(time_h=pd.to_timedelta(["6h", "24h"])).to_parquet(path)
    with pytest.raises(QueryError, match=r"time_h must be a column of numbers; got duration\[ns\]$"):
        both_ways(path)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (",A375,1,24", "smiles is empty"),
        ("CCO,,1,24", "cell is empty"),
        ("CCO,A375,, ", "dose_um is empty"),
        ("CCO,A375,1", "time_h is empty"),
        (",,,\nCCO,A375,1,24", "smiles is empty"),
        ("CCO,A375,500 nM,24", "dose_um must be a number above 0; got '500 nM'; write 0.5, in micromolar"),
        ("CCO,A375,10\u03bcM,24", "got '10\u03bcM'; write 10, in micromolar"),
        ("CCO,A375,10,2 days", "time_h must be a number above 0; got '2 days'; write 48, in hours"),
        ("CCO,A375,5 umol/L,24", "got '5 umol/L'; write 5, in micromolar"),
        ('CCO,A375,"1,000 nM",24', "got '1,000 nM'; write the number alone, in micromolar"),
        ('CCO,A375,"1,000",24', "dose_um '1,000' may be 1000 or 1; write all numbers with a decimal point"),
        ('CCO,A375,"1,000,000",24', "write it with a decimal point and without thousands separators"),
        ("CCO,A375,much,24", "dose_um must be a number above 0; got 'much'"),
        ("CCO,A375,nan,24", "dose_um must be a number above 0; got 'nan'"),
        ("CCO,A375,1_0,24", "dose_um must be a number above 0; got '1_0'"),
    ],
)
def test_a_bad_row_is_named(last: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text(f"{PLAIN}{last}\n")
    with pytest.raises(QueryError) as caught:
        both_ways(path)
    assert str(caught.value).startswith("q.csv, line 4: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"smiles;cell;dose\nC;A;1\n", "lacks 'dose_um', 'time_h'; read as UTF-8, separated by semicolons, it has 's"),
        (PLAIN.replace("cell", "SMILES ").replace("time_h", "time_h,cell").encode(), "one column 'smiles'; it has 2"),
        (f"{PLAIN}CCO,A375,0,5,24\n".encode(), "q.csv, line 4: 5 cells, but 4 columns; put cells that hold commas in"),
        (f'{PLAIN}"CCO,A375,1,24\n'.encode(), "q.csv, line 4: cells cannot be told apart"),
        (PLAIN.encode("utf-16-le"), "got zero bytes, as in"),
        (PLAIN.encode("utf-16")[:-1], "got bytes that are not UTF-16; save it as UTF-8"),
        (PLAIN.encode() + b"CCO,\x81,1,24\n", "got bytes that are not UTF-8 or Windows-1252"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "q.csv"),
        (b"smiles,cell,dose_um,time_h\n,,,\n", "the table of conditions holds no row"),
        (b"", "it has no columns"),
    ],
)
def test_a_bad_file_is_refused_and_leaves_nothing(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_bytes(content)
    for read in (both_ways, lambda path: read_queries(str(path))):
        with pytest.raises(ValueError, match="q.csv|conditions") as caught:
            read(path)
        assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(QueryError, match=r"must be a .csv, .tsv, .txt or .parquet table .*; got 'q.xlsx'"):
        read_queries("q.xlsx")


@given(st.floats(1e-3, 1e6), st.sampled_from(["%.3f", "%.2f", "%g", "%e"]), st.sampled_from(".,"), st.booleans())
def test_no_number_is_taken_for_another(value: float, how: str, mark: str, grouped: bool) -> None:
    """Whatever the locale, a cell is read as its writer meant it, or refused."""
    plain = f"{value:,.3f}" if grouped else how % value
    text = plain.translate(str.maketrans({".": mark, ",": "." if mark == "," else ","}))
    for context in (["0.5"], ["0,5"], ["0.5", "0,5"], ["1,5", "2.000"]):
        if mark in ("." if context[0] == "0.5" else ","):
            try:
                assert number("dose_um", text, decimal_marks([*context, text])) == float(plain.replace(",", ""))
            except QueryError:
                assert grouped or len(text.rpartition(mark)[2]) == 3


@pytest.mark.parametrize(
    ("name", "content", "names", "lines"),
    [
        ("a.smi", b"CCO\nCCN\n", None, (1, 2)),
        ("a.csv", b"CCO\n\nCCN\n", None, (1, 3)),
        ("a.txt", b"\xef\xbb\xbfCCO\r\nCCN\r\n", None, (1, 2)),
        ("a.txt", "CCO\r\nCCN\r\n".encode("utf-16"), None, (1, 2)),
        ("a.smi", b"SMILES Name\nCCO 001\nCCN  the other one\n", ("001", "the other one"), (2, 3)),
        ("a.smi", b"CCO\t001\tmore\nCCN\n", ("001", ""), (1, 2)),
        ("a.smi", "CCO \u00e9t\u00e9\nCCN 2\n".encode("latin-1"), ("\u00e9t\u00e9", "2"), (1, 2)),
        ("a.csv", b"name;SMILES\n001;CCO\n2;CCN\n", ("001", "2"), (2, 3)),
        ("a.smi.gz", gzip.compress(b"smiles,name\nCCO,\"a, b\"\nCCN,2\n", mtime=0), ("a, b", "2"), (2, 3)),
    ],
)  # fmt: skip
def test_lists_of_compounds(
    name: str, content: bytes, names: tuple[str, ...] | None, lines: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    found = read_compounds(str(tmp_path / name))
    assert (found.smiles, found.names, found.lines) == (("CCO", "CCN"), names, lines)
    (table,) = Grid(found, ["A", "B"], [0.123456789], [24.0]).tables(10)
    queries = list(queries_of(table))
    assert queries[1] == Query(
        "CCO", 0.123456789, 24.0, "B", None, names and names[0], f"compound of {name}, line {lines[0]}"
    )
    assert len(queries) == 4


def test_lists_that_are_none(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.smi", b"SMILES Name\n\n", "holds no compound"),
        ("a.csv", b"structure,name\nCCO,1\n", "it lacks 'smiles'; read as UTF-8, separated by commas, it has 'struct"),
        ("a.smi", b"PK\x03\x04\x00", r"must be text; got a zip archive \(or an Excel workbook\)"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(QueryError, match=message):
            read_compounds(str(tmp_path / name))


@pytest.fixture(scope="module")
def bundle(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("bundle"))
    save_bundle(random_bundle(world), folder)
    return folder


def predict_in_parts(bundle: str, path: Path, out: Store) -> BulkManifest:
    """Predict a table in parts of 3 rows, written in this process; for the rest there is then no need of Ray."""
    config, tables = small_config("predict.rows_per_part=3"), open_conditions(str(path)).tables
    n_rows = stage(tables(), out, CONDITIONS, 3)
    bundle_id = checksum(load_bundle(bundle).metadata)
    run = BulkRun(bundle, bundle_id, out.url, str(path), n_rows, 3, 2, 3, 0, config.predict.columns)
    out.write_json(MANIFEST, run.described())
    parts = PartPredictor(run, {})
    for part in range(run.n_parts):
        parts.write(part)
    asked = BulkPrediction(
        tables=tables, source=str(path), bundle=bundle, out=out.url, config=config, n_samples=2, steps=3
    )
    return predict_many(asked)


def test_refused_rows_are_named_and_the_others_have_the_bits_of_python(bundle: str, tmp_path: Path) -> None:
    path, out = tmp_path / "q.csv", Store(str(tmp_path / "out"))
    row = "CCO,simc-001,1,24,001"
    path.write_text(f"smiles,cell,dose_um,time_h,name\n{row}\nCCO,HELA,1,24,\nCCO,SIMC001,1 h,24,x\n{row}\nCC,,1,24,\n")
    assert predict_in_parts(bundle, path, out)["n_errors"] == 3
    good = pd.concat([out.read_table(part_name(part)).to_pandas() for part in (0, 1)])
    alone = Predictor.from_bundle(bundle, "cpu").predict([Query("CCO", 1.0, 24.0, "SIMC001")], 2, 3)
    assert (good["row"].tolist(), good["name"].tolist()) == ([0, 3], ["001", "001"])
    assert all((mean == alone.mean[0]).all() for mean in good["mean"])
    assert set(good["cell"]) == {"simc-001"}
    assert good["note"].str.contains("cell line 'simc-001' read as SIMC001").all()
    errors = pd.concat(
        [pq.read_table(file).to_pandas() for file in sorted((tmp_path / "out/errors").glob("*.parquet"))]
    )
    assert errors[["row", "line"]].to_numpy().tolist() == [[1, 3], [2, 4], [4, 6]]
    assert errors["reason"].str.slice(0, 24).tolist() == [
        "q.csv, line 3: cell line", "q.csv, line 4: dose_um m", "q.csv, line 6: cell is e",
    ]  # fmt: skip


def test_a_prediction_that_answers_nothing_is_an_error(bundle: str, tmp_path: Path) -> None:
    """In parts as in memory; the folder is complete, so the same command says it again at once."""
    path, out = tmp_path / "q.csv", Store(str(tmp_path / "out"))
    path.write_text("smiles,cell,dose_um,time_h\nC1CC,SIMC001,1,24\nCCO,HELA,1,24\n")
    reason = "q.csv, line 2: smiles must be a molecule that RDKit can parse, of at most 500 atoms; got 'C1CC'"
    with pytest.raises(QueryError) as caught:
        predict_in_parts(bundle, path, out)
    assert str(caught.value) == f"none of 2 conditions could be answered; {reason}; see {out.url}/errors/"
    assert out.read_json(MANIFEST)["done"]
    with pytest.raises(QueryError) as caught:
        Predictor.from_bundle(bundle, "cpu").predict(read_queries(str(path)))
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("out", "wanted"),
    [
        ("p.parquet", Table("q.csv", "p.parquet", in_parts=False)),
        ("P.H5AD", Table("q.csv", "P.H5AD", in_parts=False)),
        ("preds", Table("q.csv", "preds", in_parts=True)),
        ("preds/", Table("q.csv", "preds", in_parts=True)),
        ("preds_v1.2", Table("q.csv", "preds_v1.2", in_parts=True)),
        ("preds_v1.2/", Table("q.csv", "preds_v1.2", in_parts=True)),
        ("s3://b/p.parquet/", Table("q.csv", "s3://b/p.parquet", in_parts=True)),
        ("preds.csv/", Table("q.csv", "preds.csv", in_parts=True)),
    ],
)
def test_a_slash_means_a_folder_and_a_dot_alone_no_file(out: str, wanted: Table) -> None:
    nothing = (None, None, None, None)
    assert question(nothing, "q.csv", nothing, out) == wanted
    if wanted.in_parts:
        assert question(nothing, None, ("c.smi", "A", "1", "24"), out) == Product("c.smi", "A", "1", "24", wanted.out)


def test_files_that_are_not_written() -> None:
    nothing = (None, None, None, None)
    with pytest.raises(QueryError, match=r"must end in .parquet or .h5ad, or be a folder \(preds.csv/ is one\); got"):
        question(nothing, "q.csv", nothing, "preds.csv")
    grid = ("c.smi", "A", "1", "24")
    with pytest.raises(QueryError, match=r"--out of a grid must be a folder \(g.parquet/ is one\); got 'g.parquet'"):
        question(nothing, None, grid, "g.parquet")
    assert question(nothing, None, grid, "out_c.smi.txt") == Product(*grid, "out_c.smi.txt")
