"""Many conditions, from a table or a grid, staged as one Parquet file whose row groups are the parts."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ldm_ray.errors import QueryError
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store, one_line, split_url

COLUMNS = ("smiles", "cell", "dose_um", "time_h")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
"""Numbers are text too, so that an invalid one is reported as it was written."""


@dataclass(frozen=True)
class Grid:
    """Every compound on every cell line at every dose and time; the last varies fastest.

    Attributes:
        smiles: Compounds.
        cells: Cell lines.
        dose_um: Doses, micromolar.
        time_h: Times, hours.
    """

    smiles: Sequence[str]
    cells: Sequence[str]
    dose_um: Sequence[float]
    time_h: Sequence[float]

    def __len__(self) -> int:
        return len(self.smiles) * len(self.cells) * len(self.dose_um) * len(self.time_h)

    @property
    def fingerprint(self) -> str:
        """Identify a grid by its contents."""
        values = json.dumps([list(part) for part in (self.smiles, self.cells, self.dose_um, self.time_h)])
        return f"grid of {len(self)}, sha256 {hashlib.sha256(values.encode()).hexdigest()[:16]}"

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Yield the conditions in tables of at most `rows` rows."""
        numbers = [[f"{value:g}" for value in values] for values in (self.dose_um, self.time_h)]
        conditions = itertools.product(self.smiles, self.cells, *numbers)
        while chunk := list(itertools.islice(conditions, rows)):
            yield pa.table([pa.array(column, pa.string()) for column in zip(*chunk, strict=True)], schema=SCHEMA)


def read_tables(url: str, storage_options: StorageOptions | None = None) -> Iterator[pa.Table]:
    """Stream the conditions of a CSV, TSV or Parquet table of any size.

    Raises:
        QueryError: If the format is unknown, or a column is missing.
        StoreError: If the table cannot be read.
    """
    store, name = split_url(url, storage_options)
    fs, root = store.arrow()
    if not name.endswith((".parquet", ".csv", ".tsv", ".txt")):
        raise QueryError(f"--conditions must be a .csv, .tsv or .parquet table; got {name!r}")
    with one_line(url):
        if name.endswith(".parquet"):
            file = pq.ParquetFile(fs.open_input_file(f"{root}/{name}"))
            _check_columns(url, file.schema_arrow.names)
            batches: Iterable[pa.RecordBatch] = file.iter_batches(columns=list(COLUMNS))
        else:
            reader = pacsv.open_csv(
                fs.open_input_stream(f"{root}/{name}"),
                parse_options=pacsv.ParseOptions(delimiter="," if name.endswith(".csv") else "\t"),
                convert_options=pacsv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=False),
            )
            _check_columns(url, reader.schema.names)
            batches = reader
        for batch in batches:
            yield pa.Table.from_batches([batch]).select(COLUMNS).cast(SCHEMA)


def stage(tables: Iterable[pa.Table], store: Store, name: str, rows_per_part: int) -> int:
    """Write conditions as one Parquet file with one row group per part; return the number of rows.

    Raises:
        QueryError: If there are no conditions.
        StoreError: If the file cannot be written.
    """
    fs, root = store.arrow()
    store.write_bytes(name, b"")  # creates the folder, and fails early if it cannot
    n, waiting, waiting_rows = 0, list[pa.Table](), 0
    with one_line(store.path(name)), pq.ParquetWriter(f"{root}/{name}", SCHEMA, filesystem=fs) as writer:
        for table in tables:
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
    if n == 0:
        raise QueryError("the table of conditions holds no row")
    return n


def read_part(store: Store, name: str, part: int) -> pd.DataFrame:
    """Read the conditions of one part, as text."""
    fs, root = store.arrow()
    with one_line(store.path(name)), fs.open_input_file(f"{root}/{name}") as file:
        frame: pd.DataFrame = pq.ParquetFile(file).read_row_group(part).to_pandas()
    return frame


def _check_columns(url: str, names: Sequence[str]) -> None:
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise QueryError(f"{url} must have the columns {', '.join(COLUMNS)}; it lacks {missing[0]!r}")
