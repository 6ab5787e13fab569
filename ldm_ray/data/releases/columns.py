"""What columns are called in the layouts that we read: a new layout is a few names here.

Names are compared without case, and blanks, dots and hyphens count as underscores. A field takes, row by row, the first
of its columns that holds something: where two phases are merged into one table, each fills its own columns.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ldm_ray.errors import DataError, listing

EMPTY = frozenset({"", "-666", "-666.0", "nan", "none", "na", "n/a", "<na>", "null"})
"""Texts that stand for nothing, case-folded."""

PROFILE = ("inst_id", "sample_id")
PLATE = ("rna_plate", "det_plate", "plate", "plate_id", "plate_name", "plate_barcode", "culture_plate")
WELL = ("rna_well", "det_well", "well", "well_id", "well_position")
EITHER = ("perturbation", "drug", "compound", "product_name", "treatment", "condition")
"""Columns with the only id or name that a compound has."""
SOURCE_ID = ("pert_id", "pert_mfc_id", *EITHER)
NAME = ("pert_iname", "cmap_name", *EITHER, "pert_id")
SMILES = ("canonical_smiles", "smiles", "isomeric_smiles")
CELL = ("cell_id", "cell_iname", "cell_name", "cell_line_name", "cell_line", "cell_type")
KIND = ("pert_type",)
CONTROL = ("control", "is_control")
QC = ("qc_pass",)

GENE_ID = ("pr_gene_id", "gene_id", "entrez_id", "entrezgene", "entrez_gene_id", "ncbi_gene_id")
SYMBOL = ("pr_gene_symbol", "gene_symbol", "symbol", "gene_name", "gene_names", "feature_name", "hgnc_symbol")
ENSEMBL = ("ensembl_id", "ensembl_gene_id", "ensembl", "gene_ids")
LANDMARK = ("pr_is_lm", "feature_space", "is_landmark")

SHOWN, COLUMNS_SHOWN = 3, 24


@dataclass(frozen=True)
class Quantity:
    """An amount: which columns may hold it, and where each has its unit.

    Attributes:
        name: What it is called in messages.
        columns: Pairs of a column and the column that holds its unit.
        fixed: Columns whose own name says the unit, with that unit.
        written: Columns whose values contain their unit, such as `10 uM`.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    fixed: Mapping[str, str]
    written: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that can hold it."""
        return (*(value for value, _ in self.columns), *self.fixed, *self.written)


DOSE = Quantity(
    "dose",
    (
        ("pert_dose", "pert_dose_unit"),
        ("dose", "dose_unit"),
        ("dose_value", "dose_unit"),
        ("concentration", "concentration_unit"),
    ),
    {"dose_um": "um", "dose_nm": "nm", "dose_mm": "mm", "concentration_um": "um"},
    ("pert_idose",),
)
TIME = Quantity(
    "time",
    (
        ("pert_time", "pert_time_unit"),
        ("time", "time_unit"),
        ("timepoint", "timepoint_unit"),
        ("time_point", "time_point_unit"),
    ),
    {"time_h": "h", "time_hr": "h", "time_min": "min", "hours": "h"},
    ("pert_itime",),
)


def plain(name: object) -> str:
    """Return a column's name as it is compared."""
    return re.sub(r"[\s.\-]+", "_", str(name).strip().casefold())


def is_empty(texts: pd.Series) -> pd.Series:
    """Tell which texts stand for nothing."""
    return texts.str.strip().str.casefold().isin(EMPTY)


class Table:
    """A table of texts whose columns are found by any of their names.

    Args:
        frame: The table; values of any type.
        name: What it is called in messages, such as a path.
    """

    def __init__(self, frame: pd.DataFrame, name: str) -> None:
        self.frame, self.name = frame, name
        self._found: dict[str, list[str]] = {}
        for column in frame.columns:
            self._found.setdefault(plain(column), []).append(column)

    def __len__(self) -> int:
        return len(self.frame)

    def has(self, names: tuple[str, ...]) -> bool:
        """Tell whether any of the columns is there."""
        return any(name in self._found for name in names)

    def text(self, names: tuple[str, ...]) -> pd.Series:
        """Return a field as text, stripped; empty where no column holds anything."""
        found = pd.Series("", index=self.frame.index, dtype=object)
        for column in (column for name in names for column in self._found.get(name, [])):
            own = as_text(self.frame[column])
            found = found.where(found != "", own.mask(is_empty(own), ""))
        return found

    def require(self, fields: Mapping[str, tuple[str, ...]], more_missing: Sequence[str] = ()) -> None:
        """Check that there is a column for each field.

        Args:
            fields: The names that a column may have, by what it holds.
            more_missing: What else is missing, to be named in the same message.

        Raises:
            DataError: Names all that is missing, and the columns that are there.
        """
        missing = [f"{what} ({', '.join(names[:SHOWN])})" for what, names in fields.items() if not self.has(names)]
        missing += more_missing
        if missing:
            there = listing(self.frame.columns, COLUMNS_SHOWN)
            raise DataError(f"{self.name} lacks the columns for {'; '.join(missing)}. It has {there}")


def as_text(values: pd.Series) -> pd.Series:
    """Return values as stripped text; missing ones are empty, and whole numbers have no decimal point."""
    kind = values.cat.categories.dtype if isinstance(values.dtype, pd.CategoricalDtype) else values.dtype
    if pd.api.types.is_bool_dtype(kind) or not pd.api.types.is_float_dtype(kind):
        texts = values.astype(object).where(values.notna(), "")
        return texts.map(_decoded).astype(str).str.strip()
    number = values.astype(float)
    whole = number.notna() & np.isfinite(number) & (number == number.round()) & (number.abs() < 2**53)
    texts = values.astype(str).mask(number.isna(), "")  # in their own precision: a float32 of 0.04 is 0.04
    return texts.mask(whole, texts.str.removesuffix(".0"))


def _decoded(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
