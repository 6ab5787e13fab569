"""Tables as people save them: delimited text with any separator and encoding, gzipped or not, or an Excel workbook."""

import csv
import io
import zipfile
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ldm_ray.errors import DataError, StoreError
from ldm_ray.storage.signature import ZIP
from ldm_ray.storage.source import AnyFile, SourceFile, source_file
from ldm_ray.storage.text import decode, unpack

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
WORKBOOK = "xl/workbook.xml"
FRACTION = r"^[+-]?\d*([.,])\d+(?:[eE][+-]?\d+)?$"
"""A number with a fraction; its group is the decimal point."""
MISSING = frozenset({"", "na", "nan", "n/a", "null", "none", "#n/a"})
"""What stands in a cell without a number, in lower case."""


@dataclass(frozen=True)
class Spreadsheet:
    """A table in which every value is text.

    Attributes:
        frame: The values without spaces around them, "" where nothing stands; the index is the row in the file, from 1.
        form: How it was read, for instance `separated by semicolons, UTF-8`.
    """

    frame: pd.DataFrame
    form: str


def read_spreadsheet(file: AnyFile, what: str) -> Spreadsheet:
    """Read a table; what kind of file it is shows in its content, not in its name.

    Args:
        file: Delimited text, gzipped or not, or .xlsx; its first row holds the headings.
        what: What the table is, for messages.

    Raises:
        DataError: If it is not such a table, or a row has more or fewer fields than the headings.
        StoreError: If it does not exist or cannot be read.
    """
    source = source_file(file)
    if not source.exists():
        raise StoreError(f"{what} {source} does not exist")
    content = unpack(source.read_bytes(), str(source))
    if content.startswith(ZIP):
        frame, form = _read_workbook(source, content)
    else:
        frame, form = _read_delimited(source, content)
    frame = frame.apply(lambda column: column.str.strip())
    headings, rows = frame.iloc[0].to_list(), frame.iloc[1:]
    rows = rows[(rows != "").any(axis=1)].set_axis(headings, axis=1)
    if rows.empty:
        raise DataError(f"{source} has no rows below its headings")
    return Spreadsheet(rows, form)


def has_decimal_commas(texts: pd.Series) -> bool:
    """Tell whether a comma is the decimal point: some numbers have a comma, and none has a point."""
    marks = texts.str.extract(FRACTION, expand=False).dropna().unique()
    return bool(marks.tolist() == [","])


def read_numbers(texts: pd.Series) -> pd.Series:
    """Read texts as finite numbers, with decimal points or decimal commas, but not both.

    Returns:
        float64, NaN where there is no number.
    """
    plain = texts.str.replace(",", ".", regex=False) if has_decimal_commas(texts) else texts
    number = pd.to_numeric(plain, errors="coerce").astype(np.float64)
    return number.where(np.isfinite(number))


def _read_workbook(source: SourceFile, content: bytes) -> tuple[pd.DataFrame, str]:
    try:
        if WORKBOOK not in zipfile.ZipFile(io.BytesIO(content)).namelist():
            raise DataError(f"{source} is a zip archive; unpack it and give the table in it")
        book = pd.ExcelFile(io.BytesIO(content), engine="openpyxl")
        frame = book.parse(0, header=None, dtype=str, keep_default_na=False)
    except DataError:
        raise
    except ImportError:
        raise DataError(
            f"{source} is an Excel workbook, which only openpyxl can read: pip install openpyxl, or save it as .csv"
        ) from None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} is not a readable Excel workbook: {' '.join(str(error).split())}") from None
    if frame.empty:
        raise DataError(f"{source}: sheet {book.sheet_names[0]!r} is empty")
    frame.index += 1
    form = f"sheet {book.sheet_names[0]!r}, the first of {len(book.sheet_names)}, of an Excel workbook"
    return frame.fillna(""), form


def _read_delimited(source: SourceFile, content: bytes) -> tuple[pd.DataFrame, str]:
    text, encoding = decode(content, str(source))
    skipped, heading, separator = _heading_line(text)
    if not heading:
        raise DataError(f"{source} is empty")
    _require_rectangle(source, text, separator, skipped)
    frame = pd.read_csv(
        io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False, skiprows=skipped,
        skip_blank_lines=False,
    )  # fmt: skip
    frame.index += 1 + skipped
    return frame, f"separated by {SEPARATORS[separator]}s, {encoding}"


def _heading_line(text: str) -> tuple[int, str, str]:
    """Return how many lines stand before the headings, the headings, and the separator.

    Lines before them are blank, or Excel's `sep=;`, which names the separator.
    """
    named = ""
    for number, line in enumerate(io.StringIO(text, newline="")):
        if line.casefold().startswith("sep="):
            named = line[4:5]
        elif line.strip():
            most = max(SEPARATORS, key=lambda mark: len(next(csv.reader([line], delimiter=mark))))
            return number, line, named if named in SEPARATORS else most
    return 0, "", ""


def _require_rectangle(source: SourceFile, text: str, separator: str, skipped: int) -> None:
    """Raise if a row is longer or shorter than the headings; pandas would fill or shift it."""
    lines = io.StringIO(text, newline="")
    for _ in range(skipped):
        lines.readline()
    reader = csv.reader(lines, delimiter=separator, strict=True)
    width = 0
    try:
        for row in reader:
            width = width or len(row)
            if len(row) > width or (len(row) < width and any(row)):
                hint = "; is a decimal comma not quoted?" if separator == "," and len(row) > width else ""
                raise DataError(
                    f"{source}: row {reader.line_num + skipped} must have as many fields as the headings, {width};"
                    f" got {len(row)}{hint}"
                )
    except csv.Error as error:
        raise DataError(f"{source} is not a table: {error} in row {reader.line_num + skipped}") from None
