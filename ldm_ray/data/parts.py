"""Parts of `prepare`: each turns a stretch of the source's rows into one Parquet file and some control profiles.

Parts run in parallel. A part's record is written last, so that a resumed `prepare` skips finished parts.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ldm_ray.data.manifest import FileEntry
from ldm_ray.data.releases.release import ProfileReader
from ldm_ray.layout import PROFILES, UNFINISHED
from ldm_ray.schema import SPLITS, profiles_schema
from ldm_ray.storage.store import Store, list_column, matrix, parquet_bytes

if TYPE_CHECKING:
    import pandas as pd

ROWS_PER_GROUP = 4096


@dataclass(frozen=True)
class Part:
    """The source rows of one file.

    Attributes:
        number: Number of the part, from 0.
        treated: Columns of `profiles_schema` except `expression`, and `row`, increasing.
        controls: Source rows of the control wells in this stretch, increasing.
    """

    number: int
    treated: "pd.DataFrame"
    controls: np.ndarray

    @property
    def path(self) -> str:
        """File of its treated wells."""
        return f"{PROFILES}/part-{self.number:05d}.parquet"

    @property
    def record(self) -> str:
        """File that marks it as finished."""
        return f"{UNFINISHED}/part-{self.number:05d}.json"

    @property
    def control_file(self) -> str:
        """Temporary file of its control wells, kept until all parts are finished."""
        return f"{UNFINISHED}/controls-{self.number:05d}.parquet"


@dataclass(frozen=True)
class PartWriter:
    """Reads, sorts and writes parts; small to send to another process."""

    reader: ProfileReader
    genes: np.ndarray
    store: Store
    block_mb: int

    def write(self, part: Part) -> FileEntry:
        """Write a part unless it is finished; return its record: path, row groups, size, checksum."""
        if self.store.exists(part.record):
            return cast(FileEntry, self.store.read_json(part.record))
        expression, controls = self._read(part)
        if len(part.controls):
            table = pa.table({"row": part.controls, "expression": list_column(controls)})
            self.store.write_table(part.control_file, table)
        record = write_wells(self.store, part.path, self._table(part, expression))
        self.store.write_json(part.record, record)
        return record

    def _read(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Read a part's treated and control wells in one pass over its stretch."""
        treated = part.treated["row"].to_numpy()
        rows = np.union1d(treated, part.controls)
        values = np.empty((len(rows), len(self.genes)), dtype=np.float32)
        for positions, block in self.reader.blocks(rows, self.genes, self.block_mb):
            values[positions] = block
        return values[np.searchsorted(rows, treated)], values[np.searchsorted(rows, part.controls)]

    def _table(self, part: Part, expression: np.ndarray) -> pa.Table:
        schema = profiles_schema(len(self.genes))
        columns = {
            name: pa.array(part.treated[name].to_numpy(), schema.field(name).type)
            for name in schema.names
            if name != "expression"
        }
        columns["expression"] = list_column(expression)
        return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


PartRunner = Callable[[PartWriter, list[Part]], Iterator[FileEntry]]
"""Writes parts in any order and yields their records."""


def in_turn(writer: PartWriter, parts: list[Part]) -> Iterator[FileEntry]:
    """Write the parts one by one in this process."""
    for part in parts:
        yield writer.write(part)


def cut(treated: "pd.DataFrame", controls: np.ndarray, rows_per_file: int) -> list[Part]:
    """Cut a release into parts of `rows_per_file` treated wells, with the controls that lie between them.

    Args:
        treated: Treated wells by increasing `row`.
        controls: Source rows of all needed control wells, increasing.
        rows_per_file: Treated wells per part.
    """
    starts = range(0, len(treated), rows_per_file)
    begins = treated["row"].to_numpy()[list(starts)][1:]
    near = np.split(controls, np.searchsorted(controls, begins))
    pieces = (treated.iloc[start : start + rows_per_file] for start in starts)
    return [Part(number, piece, own) for number, (piece, own) in enumerate(zip(pieces, near, strict=True))]


def row_groups(table: pa.Table) -> list[pa.Table]:
    """Cut a table into row groups of one split each, so that a reader of one split skips the bytes of the others."""
    groups = []
    for split in SPLITS:
        rows = table.filter(pc.equal(table["split"], split))
        n = -(-len(rows) // ROWS_PER_GROUP)
        edges = [len(rows) * i // n for i in range(n + 1)] if n else []
        groups += [rows.slice(low, high - low) for low, high in pairwise(edges)]
    return groups


def write_wells(store: Store, path: str, table: pa.Table) -> FileEntry:
    """Write a file of treated wells; return its entry in the manifest."""
    groups = row_groups(table)
    content = parquet_bytes(groups)
    store.write_bytes(path, content)
    listed: list[list[str | int]] = [[group["split"][0].as_py(), len(group)] for group in groups]
    digest = hashlib.sha256(content).hexdigest()
    return {"path": path, "rows": len(table), "groups": listed, "bytes": len(content), "sha256": digest}


def read_controls(store: Store, parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Return the source rows of all control wells, increasing, and their profiles (n, G)."""
    tables = [store.read_table(part.control_file) for part in parts if len(part.controls)]
    rows = np.concatenate([table["row"].to_numpy() for table in tables])
    return rows, np.concatenate([matrix(table["expression"]) for table in tables])


def plan_digest(*pieces: Any) -> str:
    """Return a checksum of everything that `prepare` depends on; resuming requires the same one."""
    text = json.dumps(pieces, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
