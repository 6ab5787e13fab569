"""Tables as people save them: whatever the separator, encoding and packing, the same values or one clear refusal."""

import codecs
import gzip
import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_ray.data.spreadsheet import read_numbers, read_spreadsheet
from ldm_ray.errors import DataError, StoreError

VALUES = [["697", "Drug µ", "-1.5"], ["T-T", 'a "quoted", one', ""]]
FRAME = pd.DataFrame(VALUES, columns=["CELL_LINE_NAME", "DRUG_NAME", "LN_IC50"])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("encoding", "mark", "said"),
    [
        ("utf-8", b"", "UTF-8"),
        ("utf-8", codecs.BOM_UTF8, "UTF-8"),
        ("utf-16-le", codecs.BOM_UTF16_LE, "UTF-16"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "UTF-16"),
        ("cp1252", b"", "Windows-1252 (Latin-1)"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_table_is_read_from_every_form(
    separator: str, encoding: str, mark: bytes, said: str, packed: bool, tmp_path: Path
) -> None:
    text = "\r\n" + FRAME.to_csv(sep=separator, index=False, lineterminator="\r\n") + separator * 2 + "\r\n"
    content = mark + text.encode(encoding)
    (tmp_path / "table").write_bytes(gzip.compress(content, mtime=0) if packed else content)
    table = read_spreadsheet(tmp_path / "table", "table")
    assert table.frame.to_numpy().tolist() == VALUES
    assert table.frame.columns.to_list() == FRAME.columns.to_list()
    assert table.frame.index.to_list() == [3, 4]
    assert table.form.endswith(f"s, {said}")


def test_excel_names_the_separator_in_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\na;b,c\n1;2,5\n")
    table = read_spreadsheet(tmp_path / "t.csv", "table").frame
    assert (table.columns.to_list(), table.index.to_list()) == (["a", "b,c"], [3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"a,b\n", "has no rows below its headings"),
        (b"a,b\nTT,1,5\n", "row 2 must have as many fields as the headings, 2; got 3; is a decimal comma not quoted"),
        (b"a,b\n1,2\n\n1\n", "row 4 must have as many fields as the headings, 2; got 1$"),
        (b'a,b\n1,"2\n', "is not a table: unexpected end of data in row 2"),
        ("a,b\n1,2\n".encode("utf-16-le"), "must be text in UTF-8, UTF-16"),
        ("a,b\n1,2\n".encode("utf-32"), "must be text in UTF-8, UTF-16"),
        (b"a,b\n\x81,2\n", "must be text in UTF-8, UTF-16"),
        (codecs.BOM_UTF16_LE + b"a", "must be text in UTF-8, UTF-16"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], "is a damaged or truncated gzip file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "must be a table of text; got an Excel workbook in the old format"),
        (b"PK\x03\x04broken", "is not a readable Excel workbook"),
        (b"<!doctype html><html>", "must be a table of text; got a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a Git LFS pointer"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_spreadsheet(tmp_path / "t.csv", "table")
    assert "\n" not in str(caught.value)


def test_archives_and_workbooks_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    for name in ("table.csv", "xl/workbook.xml"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, "a,b\n1,2\n")
        (tmp_path / name[:2]).write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="is a zip archive; unpack it"):
        read_spreadsheet(tmp_path / "ta", "table")
    has_reader = importlib.util.find_spec("openpyxl") is not None
    with pytest.raises(DataError, match="not a readable Excel workbook" if has_reader else "pip install openpyxl"):
        read_spreadsheet(tmp_path / "xl", "table")
    with pytest.raises(StoreError, match="table .*none.csv does not exist"):
        read_spreadsheet(tmp_path / "none.csv", "table")


def test_a_workbook_is_read_where_openpyxl_is_there(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    FRAME.assign(number=[697, 2.5]).to_excel(tmp_path / "t.xlsx", index=False, sheet_name="doses")
    table = read_spreadsheet(tmp_path / "t.xlsx", "table")
    assert table.frame.to_numpy().tolist() == [[*VALUES[0], "697"], [*VALUES[1], "2.5"]]
    assert table.form == "sheet 'doses', the first of 1, of an Excel workbook"


@given(st.lists(st.floats(-30, 30).map(lambda value: round(value, 6)), min_size=1), st.sampled_from([".", ","]))
def test_numbers_are_the_same_with_a_point_or_a_comma(values: list[float], point: str) -> None:
    texts = pd.Series([f"{value:.6f}".replace(".", point) for value in values])
    np.testing.assert_allclose(read_numbers(texts), values, atol=1e-9)


def test_a_comma_beside_points_is_no_number() -> None:
    texts = pd.Series(["1.5", "1,5", "inf", "nan", "1e-3", "1.234,5", "x"])
    np.testing.assert_array_equal(read_numbers(texts), [1.5, np.nan, np.nan, np.nan, 1e-3, np.nan, np.nan])


def test_words_with_points_do_not_decide_about_commas() -> None:
    np.testing.assert_array_equal(read_numbers(pd.Series(["n.d.", "-1,5", "2", "3,25e1"])), [np.nan, -1.5, 2, 32.5])
