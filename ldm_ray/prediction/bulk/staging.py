"""Conditions staged as one Parquet file whose row groups are the parts of a bulk prediction."""

import itertools
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from ldm_ray.errors import QueryError
from ldm_ray.storage.store import Store, one_line


def stage(tables: Iterable[pa.Table], store: Store, name: str, rows_per_part: int) -> int:
    """Write conditions with one row group per part; return the number of rows.

    Raises:
        QueryError: If there are no conditions.
        StoreError: If the file cannot be written.
    """
    tables = (table for table in tables if len(table))
    first = next(tables, None)  # so that a table which cannot be read leaves no folder
    if first is None:
        raise QueryError("the table of conditions holds no row")
    fs, root = store.arrow()
    store.write_bytes(name, b"")  # creates the folder, and fails early if it cannot
    n, waiting, waiting_rows = 0, list[pa.Table](), 0
    with one_line(store.path(name)), pq.ParquetWriter(f"{root}/{name}", first.schema, filesystem=fs) as writer:
        for table in itertools.chain([first], tables):
            waiting.append(table)
            waiting_rows += len(table)
            while waiting_rows >= rows_per_part:
                joined = pa.concat_tables(waiting)
                writer.write_table(joined.slice(0, rows_per_part), row_group_size=rows_per_part)
                waiting, waiting_rows = [joined.slice(rows_per_part)], waiting_rows - rows_per_part
                n += rows_per_part
        if waiting_rows:
            writer.write_table(pa.concat_tables(waiting), row_group_size=rows_per_part)
            n += waiting_rows
    return n


def read_part(store: Store, name: str, part: int) -> pa.Table:
    """Read the conditions of one part, as text."""
    fs, root = store.arrow()
    with one_line(store.path(name)), fs.open_input_file(f"{root}/{name}") as file:
        return pq.ParquetFile(file).read_row_group(part)
