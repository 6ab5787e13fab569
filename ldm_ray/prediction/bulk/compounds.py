"""Lists of compounds, read as people save them: lines of SMILES, with names or without, or a table."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass

from ldm_ray.errors import QueryError
from ldm_ray.prediction.bulk.conditions import NAME
from ldm_ray.prediction.bulk.text import TextFile, open_text
from ldm_ray.prediction.bulk.text_tables import SEPARATORS, open_text_table, plain
from ldm_ray.storage.filesystem import StorageOptions

SMILES = "smiles"
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


@dataclass(frozen=True)
class CompoundList:
    """Compounds of a file.

    Attributes:
        source: Name of the file.
        smiles: The compounds as they are written.
        names: Their names, empty where there is none; None if no compound has one.
        lines: Where they are in the file, counted from 1.
        unusual: What is unusual in how the file was read, for people; else empty.
    """

    source: str
    smiles: Sequence[str]
    names: Sequence[str] | None
    lines: Sequence[int]
    unusual: str = ""


def read_compounds(url: str, storage_options: StorageOptions | None = None) -> CompoundList:
    """Read a list of compounds, gzipped or not.

    A line is a SMILES, and after blanks or a tab perhaps a name. The first line may be a header that begins with
    `smiles`. A file whose first line has a column `smiles` among others, separated by commas, semicolons or tabs, is a
    table, whose column `name` is read too.

    Raises:
        QueryError: If it holds no compound, or is a table without a column `smiles`.
        StoreError: If it cannot be read.
    """
    text = open_text(url, storage_options)
    found = _table_rows(text) if _is_table(text) else _line_rows(text)
    if not found:
        raise QueryError(f"{url} holds no compound")
    lines, smiles, names = zip(*found, strict=True)
    unusual = "" if text.encoding_name == "UTF-8" else f"{text.name} was read as {text.encoding_name}"
    return CompoundList(text.name, smiles, names if any(names) else None, lines, unusual)


def _is_table(text: TextFile) -> bool:
    first = next((line for line in text.lines() if line.strip()), "")
    headers = [next(csv.reader([first], delimiter=separator), []) for separator in SEPARATORS]
    several = [[plain(cell) for cell in header] for header in headers if len(header) > 1]
    return any(SMILES in header for header in several) or (bool(several) and text.name.lower().endswith(TABLES))


def _table_rows(text: TextFile) -> list[tuple[int, str, str]]:
    table = open_text_table(text, (SMILES,), (NAME,))
    return [(line, cells[0], cells[1] if len(cells) > 1 else "") for line, cells in table.rows()]


def _line_rows(text: TextFile) -> list[tuple[int, str, str]]:
    """Return line, SMILES and name of each compound."""
    rows = list[tuple[int, str, str]]()
    for number, line in enumerate(text.lines(), start=1):
        smiles, rest = (*line.split(maxsplit=1), "", "")[:2]
        if smiles and not (plain(smiles) == SMILES and not rows):
            rows.append((number, smiles, rest.split("\t")[0].strip()))
    return rows
