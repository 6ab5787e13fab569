"""Selects and reads the rows that a worker streams in an epoch. Imports neither torch nor Ray.

Files hold row groups of one split each (`ldm_ray.data.parts`), listed in the manifest. An epoch over a split is the
sequence of its row groups, shuffled by (seed, epoch). Each worker reads an equally long stretch of that sequence, so
with any number of workers no row is lost or repeated and all have the same number of batches.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.manifest import WellFile
from ldm_ray.data_settings import IngestSettings
from ldm_ray.errors import DataError, StoreError
from ldm_ray.keys import Purpose, generator

ID_COLUMNS = ["profile_key", "basal_id", "compound_id", "dose_um", "time_h"]
"""Columns that training needs besides the values."""
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True)
class Slice:
    """Rows `skip` to `skip + rows` of a row group of `group_rows` rows."""

    path: str
    group: int
    group_rows: int
    skip: int
    rows: int


@dataclass(frozen=True)
class WellFiles:
    """Parquet files of treated wells: the profiles of a dataset, or their latents.

    Attributes:
        filesystem: A pyarrow file system.
        root: Folder that the paths in `entries` are relative to.
        entries: The files, as in the manifest.
        value_column: `expression` or `moments`, fixed-size lists of float32.
        width: Length of a list.
        wait_s: Seconds that a read waits for a store that does not answer.
    """

    filesystem: pafs.FileSystem
    root: str
    entries: tuple[WellFile, ...]
    value_column: str
    width: int
    wait_s: float

    def count(self, split: str) -> int:
        """Return the number of rows of a split."""
        return sum(piece.rows for piece in self.slices(split))

    def slices(self, *splits: str) -> list[Slice]:
        """Return the whole row groups of some splits, in the files' order."""
        return [
            Slice(f"{self.root}/{entry['path']}", number, int(rows), 0, int(rows))
            for entry in self.entries
            for number, (split, rows) in enumerate(entry["groups"])
            if split in splits
        ]


def profile_files(dataset: PairedDataset, settings: IngestSettings) -> WellFiles:
    """Return the profile files of a dataset."""
    fs, root = dataset.store.arrow(attempts=1)  # `_read` retries, for as long as the settings say
    entries = tuple(dataset.manifest["files"])
    return WellFiles(fs, root, entries, "expression", dataset.n_genes, settings.wait_for_storage_s)


def shuffled(slices: Sequence[Slice], seed: int, epoch: int) -> list[Slice]:
    """Return the slices in the order of an epoch."""
    order = generator(seed, Purpose.ROW_GROUPS, epoch).permutation(len(slices))
    return [slices[i] for i in order]


def stretch(slices: Sequence[Slice], start: int, stop: int) -> list[Slice]:
    """Return rows `start` to `stop` of a sequence of slices."""
    cut: list[Slice] = []
    position = 0
    for piece in slices:
        low, high = max(start, position), min(stop, position + piece.rows)
        if low < high:
            cut.append(replace(piece, skip=piece.skip + low - position, rows=high - low))
        position += piece.rows
    return cut


def share(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the stretch of `total` rows that one worker reads; all are equally long, to one row."""
    return total * rank // world_size, total * (rank + 1) // world_size


def read_slices(files: WellFiles, slices: Sequence[Slice], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read slices in order, one table each; the next is fetched while one is in use.

    Raises:
        DataError: If a row group differs from the manifest.
        StoreError: If the store does not answer within `files.wait_s`.
    """
    with ThreadPoolExecutor(1) as pool:
        coming: Future[pa.Table] | None = None
        for number in range(len(slices)):
            here = coming or pool.submit(_read, files, slices[number], columns)
            table = here.result()
            more = number + 1 < len(slices)
            coming = pool.submit(_read, files, slices[number + 1], columns) if more else None
            yield table


def _read(files: WellFiles, piece: Slice, columns: Sequence[str]) -> pa.Table:
    deadline, pause = time.monotonic() + files.wait_s, 0.2
    while True:
        try:
            table = _read_once(files, piece, columns)
            break
        except FileNotFoundError:
            raise StoreError(f"{piece.path} does not exist") from None
        except pa.ArrowInvalid as error:
            raise DataError(f"{piece.path} is damaged: {' '.join(str(error).split())}") from None
        except OSError as error:
            if time.monotonic() + pause > deadline:
                raise StoreError(
                    f"{piece.path} could not be read for {files.wait_s:g} s (ingest.wait_for_storage_s):"
                    f" {' '.join(str(error).split())}"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
    if len(table) != piece.group_rows:
        raise DataError(f"row group {piece.group} of {piece.path} must hold {piece.group_rows} rows; got {len(table)}")
    return table.slice(piece.skip, piece.rows)


def _read_once(files: WellFiles, piece: Slice, columns: Sequence[str]) -> pa.Table:
    with pq.ParquetFile(piece.path, filesystem=files.filesystem, pre_buffer=True) as file:
        if piece.group >= file.num_row_groups:
            raise DataError(f"{piece.path} must have a row group {piece.group}; it has {file.num_row_groups}")
        return file.read_row_group(piece.group, columns=list(columns), use_threads=False)
