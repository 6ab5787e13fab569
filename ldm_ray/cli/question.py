"""What `ldm-ray predict` is asked: one condition, a table, or a grid; and whether into a file or a folder."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from ldm_ray.errors import QueryError

OUT_FORMATS = (".parquet", ".h5ad")
OTHER_FORMATS = (
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".xls", ".gz", ".zip", ".feather", ".arrow"),
    *(".h5", ".hdf5", ".loom", ".zarr", ".gct", ".gctx", ".npy", ".npz"),
)
"""Endings by which people mean a file that we do not write; any other dot belongs to a folder's name."""


@dataclass(frozen=True)
class One:
    """One condition."""

    smiles: str
    cell: str
    dose_um: float
    time_h: float


@dataclass(frozen=True)
class Table:
    """A table of conditions, to be predicted into a file at once, or into a folder in parts."""

    conditions: str
    out: str
    in_parts: bool


@dataclass(frozen=True)
class Product:
    """A grid, as typed, to be predicted into a folder."""

    compounds: str
    cells: str
    doses_um: str
    times_h: str
    out: str


def question(
    single: tuple[str | None, str | None, float | None, float | None],
    conditions: str | None,
    grid: tuple[str | None, str | None, str | None, str | None],
    out: str | None,
) -> One | Table | Product:
    """Work out what is asked from the options that are given.

    Raises:
        QueryError: If they do not make up exactly one question, or predictions cannot be written to `out`.
    """
    smiles, cell, dose_um, time_h = single
    if conditions is None and not any(grid):
        if smiles is not None and cell is not None and dose_um is not None and time_h is not None:
            return One(smiles, cell, dose_um, time_h)
    elif all(value is None for value in single) and (conditions is None) != (grid[0] is None):
        if out is None:
            raise QueryError(f"{'--conditions' if conditions else '--compounds'} needs --out")
        if conditions is not None:
            return Table(conditions, _plain(out), in_parts=not _is_file(out))
        compounds, cells, doses_um, times_h = grid
        if not compounds or not cells or not doses_um or not times_h:
            raise QueryError("a grid needs --compounds, --cells, --doses-um and --times-h")
        if _ending(out) in OUT_FORMATS:
            raise QueryError(f"--out of a grid must be a folder ({out}/ is one); got {out!r}")
        return Product(compounds, cells, doses_um, times_h, _plain(out))
    raise QueryError(
        "give --smiles, --cell, --dose-um and --time-h, or --conditions and --out, or --compounds, --cells,"
        " --doses-um, --times-h and --out"
    )


def _is_file(out: str) -> bool:
    """Tell whether a table is to be predicted into a file.

    Raises:
        QueryError: If it is a file that we do not write.
    """
    if _ending(out) in OTHER_FORMATS:
        raise QueryError(f"--out must end in {' or '.join(OUT_FORMATS)}, or be a folder ({out}/ is one); got {out!r}")
    return _ending(out) in OUT_FORMATS


def _ending(out: str) -> str:
    """Return the ending of a file's name; a slash at the end always means a folder, which has none."""
    return "" if out.endswith("/") else PurePosixPath(out).suffix.lower()


def _plain(out: str) -> str:
    """Return a place without slashes at its end, so that a run is resumed with them and without."""
    return out.rstrip("/") or out
