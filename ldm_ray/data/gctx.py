"""GCTX files: ids through cmapPy, the matrix in blocks of profiles through h5py.

The matrix of a GCTX stands transposed on disk, (profiles, genes), so that a block of profiles is one
contiguous read; cmapPy's own reader would load all the rows asked for at once, which does not fit for
the 65 GB of GSE92742.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from cmapPy.pandasGEXpress import parse_gctx

from ldm_ray.errors import DataError, NonFiniteError, StoreError

MATRIX = "0/DATA/0/matrix"
ROW_IDS = "0/META/ROW/id"
COLUMN_IDS = "0/META/COL/id"
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class GctxReader:
    """An open GCTX: `gene_ids[j]` and `profile_ids[i]` name the entry (i, j) of the matrix."""

    path: Path
    gene_ids: np.ndarray
    profile_ids: np.ndarray

    def blocks(self, rows: np.ndarray, genes: np.ndarray, block_mb: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read profiles in file order, never more than about `block_mb` at once.

        Args:
            rows: Wanted profiles, increasing positions, shape (n,).
            genes: Wanted genes, positions, shape (G,).
            block_mb: Size of one read in MB.

        Yields:
            Positions into `rows` of a block, and its values, shape (block, G), float32.

        Raises:
            NonFiniteError: If a value is NaN or infinite.
        """
        with _open(self.path) as file:
            matrix = file[MATRIX]
            per_block = max(1, block_mb * 1_000_000 // (matrix.shape[1] * matrix.dtype.itemsize))
            for start in range(0, matrix.shape[0], per_block):
                first, last = np.searchsorted(rows, [start, start + per_block])
                if first == last:
                    continue
                wanted = rows[first:last]
                try:
                    slab = matrix[wanted[0] : wanted[-1] + 1]
                except OSError as error:
                    raise _damaged(self.path, error) from None
                values = slab[wanted - wanted[0]][:, genes].astype(np.float32, copy=False)
                if not np.isfinite(values).all():
                    bad = self.profile_ids[wanted[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]]
                    raise NonFiniteError(f"{self.path}: profile {bad} holds NaN or infinite values")
                yield np.arange(first, last), values


def open_gctx(path: Path) -> GctxReader:
    """Check a GCTX file and read its ids.

    Raises:
        StoreError: If the file is missing or truncated.
        DataError: If it is not a GCTX, for instance GCT text under the name .gctx.
    """
    if not path.is_file():
        raise StoreError(f"GCTX file {path} does not exist")
    with path.open("rb") as file:
        head = file.read(8)
    if head[:3] in (b"#1.", b"\xef\xbb\xbf"):
        raise DataError(f"{path} must be a GCTX (HDF5); got GCT text, first line {head.decode('latin1').strip()!r}")
    if head != HDF5_SIGNATURE:
        raise DataError(f"{path} must be a GCTX (HDF5); got a file that begins with {head!r}")
    with _open(path) as opened:
        missing = [name for name in (MATRIX, ROW_IDS, COLUMN_IDS) if name not in opened]
        if missing:
            raise DataError(f"{path} must hold {missing[0]} as GCTX 1.0 does; it does not")
        shape = opened[MATRIX].shape
    with warnings.catch_warnings():
        # cmapPy calls pandas.to_numeric(errors="ignore") once per metadata column.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            genes = parse_gctx.parse(str(path), row_meta_only=True).index
            profiles = parse_gctx.parse(str(path), col_meta_only=True).index
        except (OSError, KeyError) as error:
            raise _damaged(path, error) from None
    if shape != (len(profiles), len(genes)):
        raise DataError(f"{path}: matrix must be {(len(profiles), len(genes))} as its ids say; got {shape}")
    return GctxReader(path, genes.to_numpy(dtype=str), profiles.to_numpy(dtype=str))


class GctxWriter:
    """Appends profiles to a new GCTX; the file takes its name only when it is complete."""

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


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path} is truncated or damaged: {' '.join(str(error).split())}")
