"""Reads the text tables of a release: tab-separated, or with commas or semicolons if the head has no tab."""

import csv
from typing import Literal

import pyarrow as pa
import pyarrow.csv as pc

from ldm_ray.data.releases.columns import Table
from ldm_ray.errors import DataError, StoreError
from ldm_ray.storage.source import AnyFile, source_file
from ldm_ray.storage.text import decode, unpack

SEPARATORS = "\t;,"
ENDS_WITH_NEWLINE = "ends_with_newline"
"""Key of a table's `attrs`: whether its last row is complete."""


def read_text_table(file: AnyFile) -> Table:
    """Read a table, every column as text.

    Raises:
        StoreError: If the file does not exist or cannot be read.
        DataError: If it is not a table of text, or its rows have different numbers of columns.
    """
    path = source_file(file)
    if not path.exists():
        raise StoreError(f"table {path} does not exist")
    text, _ = decode(unpack(path.read_bytes(), str(path)), str(path))
    if not text.strip():
        raise DataError(f"{path} is empty")
    head, _, rows = text.partition("\n")
    separator = max(SEPARATORS, key=lambda mark: (head.count(mark) > 0, -SEPARATORS.index(mark)))
    if separator not in head:
        raise DataError(
            f"{path} must be a table with a tab between its columns; its first line is {head.strip()[:60]!r}"
        )
    if not rows.strip():
        raise DataError(f"{path} has the names of its columns, but no row")
    # In a table with tabs a quote may stand for itself (5"), unless R has put every text in quotes.
    quote: str | Literal[False] = False if separator == "\t" and not head.startswith('"') else '"'
    names = [name.strip() for name in next(csv.reader([head], delimiter=separator, quoting=csv.QUOTE_MINIMAL))]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns {twice!r}")
    try:
        table = pc.read_csv(
            pa.BufferReader(text.encode()),
            pc.ReadOptions(column_names=names, skip_rows=1),
            pc.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=bool(quote)),
            pc.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid as error:
        said = " ".join(str(error).removeprefix("CSV parse error: ").split())
        raise DataError(f"{path} must have {len(names)} columns in every row: {said[:160]}") from None
    frame = table.to_pandas()
    frame.attrs[ENDS_WITH_NEWLINE] = text.endswith("\n")
    return Table(frame, str(path))
