"""A release of L1000 profiles as `prepare` sees it, whatever its file format."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ldm_ray.storage.source import SourceFile

if TYPE_CHECKING:
    import pandas as pd

WELL_COLUMNS = (
    "profile_id", "plate", "well", "source_id", "name", "kind", "smiles", "cell", "dose_um", "dose_problem", "time_h",
    "time_problem", "row",
)  # fmt: skip
"""Columns of `Release.wells`. `kind` is the case-folded pert_type; `row` the position in the matrix; `dose_um` and
`time_h` are NaN where their `problem` says why (`unknown`, or what cannot be read); `smiles` is the file's own text."""


class ProfileReader(Protocol):
    """Reads the expression of wells in blocks."""

    @property
    def source(self) -> SourceFile:
        """The matrix, for messages."""

    def blocks(self, rows: np.ndarray, genes: np.ndarray, block_mb: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions into `rows`, values of shape (block, len(genes)), float32), rows increasing."""

    def without_ids(self) -> "ProfileReader":
        """Return a reader of the same profiles that is small enough to send to another process."""


@dataclass(frozen=True)
class Genes:
    """The genes of a dataset, in order.

    Attributes:
        symbols: Gene symbols, shape (G,).
        entrez_ids: Entrez ids, shape (G,), int64; 0 where the source has no id.
        columns: Positions in the source's matrix, shape (G,).
        missing: Symbols of landmark genes that the matrix lacks.
    """

    symbols: np.ndarray
    entrez_ids: np.ndarray
    columns: np.ndarray
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReleaseOptions:
    """What a user says about a release that its files do not.

    Attributes:
        allow_missing_genes: Accept a release that lacks some landmark genes.
        dose_unit: Unit of doses without one, such as um; empty: such doses cannot be read.
        time_unit: Unit of times without one, such as h; empty: such times cannot be read.
        layer: Layer of an h5ad to read instead of X.
    """

    allow_missing_genes: bool = False
    dose_unit: str = ""
    time_unit: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Release:
    """Wells, genes and a reader for their expression."""

    wells: "pd.DataFrame"
    genes: Genes
    reader: ProfileReader
    sources: tuple[SourceFile, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()
