"""The rows of the IC50 benchmark (GDSC2 drug sensitivity joined to untreated profiles) and their splits."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.gdsc import normalised, read_basal_profiles, read_gdsc
from ldm_ray.data.manifest import Gene
from ldm_ray.data.source import AnyFile
from ldm_ray.data.splits import unit_interval
from ldm_ray.errors import DataError

Ic50Split = Literal["random", "drug", "cell"]
IC50_SPLITS: tuple[Ic50Split, ...] = get_args(Ic50Split)
SHARE_OF_A_SIDE = 0.1
"""Share of the split units in each of test and valid; the rest is train (8:1:1)."""


@dataclass(frozen=True)
class Ic50Counts:
    """How much of the table could be used; the `without_` counts are rows dropped, in this order."""

    rows: int
    without_ic50: int
    without_smiles: int
    without_basal: int
    rows_used: int
    cell_lines: int
    drugs: int
    parents: int


@dataclass(frozen=True)
class Ic50Rows:
    """Measured drug sensitivities, sorted by cell line, drug and value, so that the file's order does not matter.

    Attributes:
        frame: Columns `cell_line`, `drug`, `smiles` (parent structure) and `ln_ic50_um`. A cell line and drug
            measured twice have two rows.
        basal: Untreated expression of the cell lines, log2, (n_cells, n_genes).
        cell: Row of `basal` for each row, (n,).
        counts: Counts of used and dropped rows.
    """

    frame: pd.DataFrame
    basal: np.ndarray
    cell: np.ndarray
    counts: Ic50Counts

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def ln_ic50_um(self) -> np.ndarray:
        """Natural logarithm of the IC50 in uM, (n,)."""
        return np.asarray(self.frame["ln_ic50_um"], dtype=np.float64)

    @property
    def smiles(self) -> np.ndarray:
        """Parent structure of each row, (n,)."""
        return np.asarray(self.frame["smiles"], dtype=object)


def load_ic50(gdsc_file: AnyFile, basal_file: AnyFile, genes: Sequence[Gene]) -> Ic50Rows:
    """Join a dose-response table to untreated profiles by normalised cell line name.

    Args:
        gdsc_file: See `read_gdsc`.
        basal_file: See `read_basal_profiles`.
        genes: The model's genes, in order (a bundle's `metadata["genes"]`).

    Raises:
        DataError: If a file has the wrong format, or no row is left.
        StoreError: If a file cannot be read.
    """
    table = read_gdsc(gdsc_file)
    names, basal = read_basal_profiles(basal_file, genes)
    place = {normalised(name): number for number, name in enumerate(names)}
    parsed = {text: parse_compound(text) for text in table["smiles"].unique()}
    parents = {text: compound.parent_smiles for text, compound in parsed.items() if compound is not None}
    steps = [table, table[table["ln_ic50_um"].notna()]]
    steps.append(steps[-1][steps[-1]["smiles"].isin(list(parents))])
    steps.append(steps[-1][steps[-1]["cell_line"].map(normalised).isin(list(place))])
    used = steps[-1].assign(smiles=steps[-1]["smiles"].map(parents))
    if used.empty:
        left = ", ".join(f"{len(step):,}" for step in steps)
        raise DataError(f"{gdsc_file}: no row has an IC50, a SMILES and a profile in {basal_file} (rows left: {left})")
    used = used.sort_values(["cell_line", "drug", "ln_ic50_um", "smiles"], ignore_index=True)
    without_ic50, without_smiles, without_basal = (len(a) - len(b) for a, b in itertools.pairwise(steps))
    cell = used["cell_line"].map(lambda name: place[normalised(name)]).to_numpy(dtype=np.int64)
    present, cell = np.unique(cell, return_inverse=True)
    counts = Ic50Counts(
        rows=len(table),
        without_ic50=without_ic50,
        without_smiles=without_smiles,
        without_basal=without_basal,
        rows_used=len(used),
        cell_lines=len(present),
        drugs=used["drug"].nunique(),
        parents=used["smiles"].nunique(),
    )
    return Ic50Rows(used, basal[present], cell, counts)


def split_rows(rows: Ic50Rows, split: Ic50Split, seed: int) -> np.ndarray:
    """Return train, valid or test for each row, (n,), 8:1:1 of the split units.

    `random` splits rows, as the paper does: nearly every drug and cell line of the test side is also trained on.
    `drug` splits parent structures and `cell` cell lines, so that no unit is on two sides. Units are ranked by a hash
    of the seed and their name; the first tenth is test, the second valid.

    Raises:
        DataError: If there are fewer than three units.
    """
    names = _names(rows, split)
    unique = sorted(set(names), key=lambda name: (unit_interval(seed, "ic50", split, name), name))
    if len(unique) < 3:
        raise DataError(f"the IC50 split by {split} needs at least 3 units; got {len(unique)}")
    n = max(1, round(SHARE_OF_A_SIDE * len(unique)))
    side = (
        dict.fromkeys(unique, "train") | dict.fromkeys(unique[:n], "test") | dict.fromkeys(unique[n : 2 * n], "valid")
    )
    return np.array([side[name] for name in names])


def _names(rows: Ic50Rows, split: Ic50Split) -> list[str]:
    frame = rows.frame
    if split == "drug":
        return [str(text) for text in frame["smiles"]]
    cells = frame["cell_line"].map(normalised)
    if split == "cell":
        return [str(name) for name in cells]
    if split != "random":
        raise DataError(f"the IC50 split must be one of {', '.join(IC50_SPLITS)}; got {split!r}")
    ids = cells + "\x1f" + frame["drug"] + "\x1f" + frame["ln_ic50_um"].map(repr)
    # Identical rows are numbered; which row gets which number does not matter.
    return [str(name) for name in ids + "\x1f" + ids.groupby(ids).cumcount().astype(str)]
