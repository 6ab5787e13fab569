"""Rows of tables of conditions as queries."""

from collections.abc import Iterator, Sequence
from typing import cast

import pyarrow as pa

from ldm_ray.errors import QueryError
from ldm_ray.prediction.bulk.conditions import COLUMNS, LINE, NAME
from ldm_ray.prediction.bulk.numbers import Decimal, number
from ldm_ray.prediction.queries import Query


def queries_of(table: pa.Table, first: int = 0) -> Iterator[Query | QueryError]:
    """Yield each row of a table of conditions as a query, or the reason why it is not one.

    Args:
        table: Columns as in `conditions_schema`; without its metadata, rows are named by number only.
        first: Number of the first row, for errors.
    """
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    source, decimal = metadata.get("source", ""), cast(Decimal, metadata.get("decimal", "."))
    before = f"{source}, " if source else ""
    given, none = set(table.column_names), [None] * len(table)
    lines = table[LINE].to_pylist() if LINE in given else none
    names = [text or "" for text in table[NAME].to_pylist()] if NAME in given else none
    texts = zip(*(table[column].to_pylist() for column in COLUMNS), strict=True)
    for row, (cells, name, line) in enumerate(zip(texts, names, lines, strict=True), start=first):
        place = f"{before}line {line}" if line else f"{before}row {row} (counted from 0)"
        try:
            smiles, cell, dose_um, time_h = _checked(cells, decimal)
            yield Query(smiles, dose_um, time_h, cell, None, name, place)
        except QueryError as error:
            yield error.at(place)


def _checked(cells: Sequence[str | None], decimal: Decimal) -> tuple[str, str, float, float]:
    smiles, cell, dose_um, time_h = cells
    if smiles and cell and dose_um and time_h:
        return smiles, cell, number("dose_um", dose_um, decimal), number("time_h", time_h, decimal)
    empty = next(column for column, text in zip(COLUMNS, cells, strict=True) if not text)
    raise QueryError(f"{empty} is empty", field=empty)
