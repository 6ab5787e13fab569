"""GCTX files, local or remote, read in blocks of profiles.

The matrix of a GCTX is stored transposed, (profiles, genes), so a block of profiles is one stretch of the file.
cmapPy's own reader loads everything at once and needs a local path, so it cannot read the 65 GB of GSE92742 from a
bucket; a test compares this reader with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from ldm_ray.errors import DataError, NonFiniteError, StoreError
from ldm_ray.storage.signature import HDF5, LONGEST, what_it_is
from ldm_ray.storage.source import AnyFile, SourceFile, source_file

MATRIX = "0/DATA/0/matrix"
ROW_IDS = "0/META/ROW/id"
COLUMN_IDS = "0/META/COL/id"
SMALLEST_BLOCK = 64


@dataclass(frozen=True)
class GctxReader:
    """An open GCTX: entry (i, j) of the matrix belongs to `profile_ids[i]` and `gene_ids[j]`."""

    source: SourceFile
    gene_ids: np.ndarray
    profile_ids: np.ndarray

    def blocks(self, rows: np.ndarray, genes: np.ndarray, block_mb: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read profiles in file order, at most about `block_mb` at once.

        Args:
            rows: Positions of the wanted profiles, increasing, shape (n,).
            genes: Positions of the wanted genes, shape (G,).
            block_mb: Size of one read, MB.

        Yields:
            Positions of a block in `rows`, and its values, shape (block, G), float32.

        Raises:
            StoreError: If the file cannot be read.
            NonFiniteError: If a value is NaN or infinite.
        """
        with self.source.hdf5() as file:
            matrix = file[MATRIX]
            for first, last in row_blocks(matrix, rows, block_mb):
                wanted = rows[first:last]
                values = _read(matrix, wanted, genes)
                if not np.isfinite(values).all():
                    bad = wanted[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]
                    name = self.profile_ids[bad] if len(self.profile_ids) else f"number {bad}"
                    raise NonFiniteError(f"{self.source}: profile {name} holds NaN or infinite values")
                yield np.arange(first, last), values

    def without_ids(self) -> "GctxReader":
        """Return a reader of the same matrix without its ids, small enough to send to another process."""
        return GctxReader(self.source, self.gene_ids[:0], self.profile_ids[:0])


def row_blocks(matrix: Any, rows: np.ndarray, block_mb: int) -> Iterator[tuple[int, int]]:
    """Cut wanted rows into stretches of at most about `block_mb`, aligned with the file's chunks.

    Yields:
        First position in `rows`, and one past the last.
    """
    if not len(rows):
        return
    per_block = max(SMALLEST_BLOCK, block_mb * 1_000_000 // (matrix.shape[1] * max(4, matrix.dtype.itemsize)))
    chunks = getattr(matrix, "chunks", None)  # a sparse matrix has none
    if chunks:
        per_block = max(1, per_block // chunks[0]) * chunks[0]
    begin = int(rows[0]) // per_block * per_block
    for start in range(begin, int(rows[-1]) + 1, per_block):
        first, last = np.searchsorted(rows, [start, start + per_block])
        if first < last:
            yield int(first), int(last)


def _read(matrix: h5py.Dataset, rows: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Read rows and genes, skipping chunks without a wanted gene; (rows, G), float32."""
    inside = slice(int(rows[0]), int(rows[-1]) + 1)
    width = matrix.chunks[1] if matrix.chunks else matrix.shape[1]
    values = np.empty((len(rows), len(genes)), dtype=np.float32)
    for low, high in _runs(np.unique(genes // width)):
        stop = min(high * width, matrix.shape[1])
        columns = np.flatnonzero((genes >= low * width) & (genes < stop))
        slab = matrix[inside, low * width : stop]
        values[:, columns] = slab[(rows - rows[0])[:, None], genes[columns] - low * width]
    return values


def _runs(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Return the stretches of consecutive numbers as (first, one past the last)."""
    pieces = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return [(int(piece[0]), int(piece[-1]) + 1) for piece in pieces]


def open_gctx(file: AnyFile) -> GctxReader:
    """Check a GCTX file and read its ids.

    Raises:
        StoreError: If the file is missing or truncated.
        DataError: If it is not a GCTX, for instance GCT text named .gctx.
    """
    source = source_file(file)
    if not source.exists():
        raise StoreError(f"GCTX file {source} does not exist")
    head = source.head(LONGEST)
    if not head.startswith(HDF5):
        more = f", first line {head.decode('latin1').split()[0]!r}" if head.startswith(b"#1.") else ""
        raise DataError(f"{source} must be a GCTX (HDF5); got {what_it_is(head)}{more}")
    with source.hdf5() as opened:
        missing = [name for name in (MATRIX, ROW_IDS, COLUMN_IDS) if name not in opened]
        if missing:
            raise DataError(f"{source} must hold {missing[0]} as GCTX 1.0 does; it does not")
        shape = opened[MATRIX].shape
        genes, profiles = (read_ids(opened[name]) for name in (ROW_IDS, COLUMN_IDS))
    if shape != (len(profiles), len(genes)):
        raise DataError(f"{source}: matrix must be {(len(profiles), len(genes))} as its ids say; got {shape}")
    return GctxReader(source, genes, profiles)


def read_ids(dataset: h5py.Dataset) -> np.ndarray:
    """Read ids as stripped text; files hold them as bytes, as text, or as numbers."""
    if h5py.check_string_dtype(dataset.dtype) is None:
        return np.asarray(dataset[:]).astype(str)
    return np.char.strip(dataset.asstr(errors="replace")[:].astype(str))


class GctxWriter:
    """Appends profiles to a new GCTX; the file gets its name only once it is complete."""

    def __init__(self, path: Path, gene_ids: np.ndarray) -> None:
        self._path, self._part = path, path.with_suffix(".gctx.part")
        self._file = h5py.File(self._part, "w")
        self._file.attrs["version"] = np.bytes_(b"GCTX1.0")
        n_genes = len(gene_ids)
        self._file.create_dataset(ROW_IDS, data=np.array(gene_ids, dtype="S"))
        self._ids = self._file.create_dataset(COLUMN_IDS, (0,), "S64", maxshape=(None,), chunks=(4096,))
        self._matrix = self._file.create_dataset(
            MATRIX, (0, n_genes), "f4", maxshape=(None, n_genes), chunks=(64, n_genes)
        )

    def append(self, profile_ids: list[str], values: np.ndarray) -> None:
        """Add profiles, values of shape (len(profile_ids), genes), float32."""
        start, stop = len(self._ids), len(self._ids) + len(profile_ids)
        self._ids.resize((stop,))
        self._matrix.resize((stop, values.shape[1]))
        self._ids[start:stop] = np.array(profile_ids, dtype="S64")
        self._matrix[start:stop] = values

    def __enter__(self) -> "GctxWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._part.rename(self._path)
        finally:
            self._part.unlink(missing_ok=True)
