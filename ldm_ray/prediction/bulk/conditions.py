"""Tables of conditions, read as people save them: the one reader of predictions in memory and in parts."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ldm_ray.errors import QueryError
from ldm_ray.prediction.bulk.numbers import Decimal, decimal_marks
from ldm_ray.prediction.bulk.text import open_text
from ldm_ray.prediction.bulk.text_tables import TextTable, find_columns, open_text_table
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import one_line, split_url

COLUMNS = ("smiles", "cell", "dose_um", "time_h")
NUMBERS = ("dose_um", "time_h")
NAME, LINE = "name", "line"
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
"""Numbers are text too, so that an invalid one is reported as it was written."""
PARQUET = ".parquet"
ENDINGS = (PARQUET, ".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
BATCH = 1024


@dataclass(frozen=True)
class Conditions:
    """Conditions in a file.

    Attributes:
        unusual: What is unusual in how the file was read, for people; else empty.
        tables: Streams them, in tables of `conditions_schema`.
    """

    unusual: str
    tables: Callable[[], Iterator[pa.Table]]


def open_conditions(url: str, storage_options: StorageOptions | None = None) -> Conditions:
    """Open a table of any size: Parquet, or text separated by commas, semicolons or tabs, gzipped or not.

    Text is read three times: for its encoding, for its decimal marks, and for its rows.

    Raises:
        QueryError: If the format is unknown, a column is missing or there twice, or quotes do not match.
        StoreError: If the table cannot be read.
    """
    name = split_url(url)[1]
    if not name.lower().endswith(ENDINGS):
        raise QueryError(
            f"--conditions must be a .csv, .tsv, .txt or .parquet table (text may be gzipped); got {name!r}"
        )
    return (_parquet if name.lower().endswith(PARQUET) else _text)(url, storage_options)


def conditions_schema(source: str, decimal: Decimal = ".", *, named: bool = False, lined: bool = False) -> pa.Schema:
    """Return the schema of a table of conditions.

    Args:
        source: What errors call the source of the conditions, for instance `queries.csv`.
        decimal: The decimal marks in it.
        named: Whether compounds have names, in column `name`.
        lined: Whether conditions have a line in the source, in column `line`, counted from 1.
    """
    more = [(NAME, pa.string())] * named + [(LINE, pa.int64())] * lined
    return pa.schema([*SCHEMA, *(pa.field(*field) for field in more)], {"source": source, "decimal": decimal})


def _text(url: str, storage_options: StorageOptions | None) -> Conditions:
    table = open_text_table(open_text(url, storage_options), COLUMNS, (NAME,))
    places = [list(table.columns).index(column) for column in NUMBERS]
    decimal = decimal_marks(cells[place] for _, cells in table.rows() for place in places)
    how = [f"as {table.text.encoding_name}"] if table.text.encoding_name != "UTF-8" else []
    how += ["with decimal commas"] if "," in decimal else []
    unusual = f"{table.text.name} was read {', '.join(how)}" if how else ""
    return Conditions(unusual, partial(_text_tables, table, decimal))


def _text_tables(table: TextTable, decimal: Decimal) -> Iterator[pa.Table]:
    schema = conditions_schema(table.text.name, decimal, named=NAME in table.columns, lined=True)
    waiting = table.rows()
    while rows := list(itertools.islice(waiting, BATCH)):
        columns = [*zip(*(cells for _, cells in rows), strict=True), [line for line, _ in rows]]
        yield pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def _parquet(url: str, storage_options: StorageOptions | None) -> Conditions:
    store, name = split_url(url, storage_options)
    fs, root = store.arrow()
    with one_line(url):
        file = pq.ParquetFile(fs.open_input_file(f"{root}/{name}"))
    own = file.schema_arrow
    fields = {column: own.field(place) for column, place in find_columns(url, own.names, COLUMNS, (NAME,)).items()}
    for column in NUMBERS:
        if pa.types.is_temporal(kind := fields[column].type):  # a duration as a number would be nanoseconds
            raise QueryError(f"{url}: {column} must be a column of numbers; got {kind}")
    columns = {column: field.name for column, field in fields.items()}
    text = {column: columns[column] for column in NUMBERS if not pa.types.is_primitive(fields[column].type)}
    tables = _parquet_tables(url, file, text) if text else iter(())
    decimal = decimal_marks(cell or "" for table in tables for column in table for cell in column.to_pylist())
    schema = conditions_schema(name, decimal, named=NAME in columns)
    return Conditions("", lambda: (table.cast(schema) for table in _parquet_tables(url, file, columns)))


def _parquet_tables(url: str, file: pq.ParquetFile, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    """Stream columns of a Parquet file as text without spaces around it; `columns` has their names in the file."""
    with one_line(url):
        for batch in file.iter_batches(columns=list(columns.values())):
            arrays = [pc.utf8_trim_whitespace(batch.column(name).cast(pa.string())) for name in columns.values()]
            yield pa.table(arrays, names=list(columns))
