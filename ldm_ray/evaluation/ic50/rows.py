"""The rows of the IC50 benchmark (GDSC drug sensitivity joined to untreated profiles) and their splits."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.basal_profiles import read_basal_profiles
from ldm_ray.data.cell_names import folded
from ldm_ray.data.gdsc import read_gdsc_table
from ldm_ray.data.gdsc_cells import match_cells
from ldm_ray.data.gdsc_drugs import flag_notes
from ldm_ray.data.manifest import Gene
from ldm_ray.data.splits import unit_interval
from ldm_ray.errors import DataError
from ldm_ray.settings import GdscDataset
from ldm_ray.storage.source import AnyFile

Ic50Split = Literal["random", "drug", "cell"]
IC50_SPLITS: tuple[Ic50Split, ...] = get_args(Ic50Split)
SHARE_OF_A_SIDE = 0.1
"""Share of the split units in each of test and valid; the rest is train (8:1:1)."""


@dataclass(frozen=True)
class Ic50Counts:
    """How much of the table could be used; the `without_` counts are rows dropped, in this order.

    `without_smiles` includes mixtures of drugs and molecules with open ends.
    """

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
        frame: Columns `cell_line`, `drug`, `smiles` (parent structure), `group` (parents that a model may not tell
            apart) and `ln_ic50_um`. A cell line and drug measured twice have two rows.
        basal: Untreated expression of the cell lines, log2, (n_cells, n_genes).
        cell: Row of `basal` for each row, (n,).
        counts: Counts of used and dropped rows.
        dataset: GDSC1 or GDSC2.
        notes: What was left out and why, one sentence each.
    """

    frame: pd.DataFrame
    basal: np.ndarray
    cell: np.ndarray
    counts: Ic50Counts
    dataset: GdscDataset = "GDSC2"
    notes: tuple[str, ...] = ()

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

    @property
    def group(self) -> np.ndarray:
        """Group of each row's compound, (n,): the drug as a unit of splits, means and resamples."""
        return np.asarray(self.frame["group"], dtype=object)


def load_ic50(
    gdsc_file: AnyFile, basal_file: AnyFile, genes: Sequence[Gene], dataset: GdscDataset = "GDSC2"
) -> Ic50Rows:
    """Join a dose-response table to untreated profiles by the names of cell lines; see `match_cells`.

    Args:
        gdsc_file: See `read_gdsc_table`.
        basal_file: See `read_basal_profiles`.
        genes: The model's genes, in order (a bundle's `metadata["genes"]`).
        dataset: Which rows of the table to use.

    Raises:
        DataError: If a file has the wrong format, or no row is left.
        StoreError: If a file cannot be read.
    """
    gdsc = read_gdsc_table(gdsc_file, dataset)
    names, basal = read_basal_profiles(basal_file, genes)
    cells = match_cells(gdsc.rows, names)
    parsed = {text: parse_compound(text) for text in gdsc.rows["smiles"].unique()}
    drugs = {text: compound for text, compound in parsed.items() if compound is not None and compound.is_one_drug}
    steps = [gdsc.rows]
    steps.append(steps[-1][steps[-1]["smiles"].isin(list(drugs))])
    steps.append(steps[-1][steps[-1]["cell_line"].isin(list(cells.found))])
    written = steps[-1]["smiles"]
    used = steps[-1][["cell_line", "drug", "ln_ic50_um"]].assign(
        smiles=written.map({text: compound.parent_smiles for text, compound in drugs.items()}),
        group=written.map({text: compound.group for text, compound in drugs.items()}),
    )
    if used.empty:
        left = ", ".join(f"{n:,}" for n in (len(gdsc), *map(len, steps)))
        why = "; ".join(cells.notes())
        raise DataError(
            f"{gdsc_file}: no row has an IC50, a SMILES and a profile in {basal_file} (rows left: {left})"
            + (f"; {why}" if why else "")
        )
    used = used.sort_values(["cell_line", "drug", "ln_ic50_um", "smiles"], ignore_index=True)
    without_smiles, without_basal = (len(a) - len(b) for a, b in itertools.pairwise(steps))
    place = {name: number for number, name in enumerate(names)}
    cell = used["cell_line"].map(lambda name: place[cells.found[name]]).to_numpy(dtype=np.int64)
    present, cell = np.unique(cell, return_inverse=True)
    counts = Ic50Counts(
        rows=len(gdsc),
        without_ic50=gdsc.without_ic50 + gdsc.unreadable,
        without_smiles=without_smiles,
        without_basal=without_basal,
        rows_used=len(used),
        cell_lines=len(present),
        drugs=used["drug"].nunique(),
        parents=used["smiles"].nunique(),
    )
    return Ic50Rows(
        used, basal[present], cell, counts, dataset, (*gdsc.notes(), *cells.notes(), *flag_notes(gdsc.rows))
    )


def split_rows(rows: Ic50Rows, split: Ic50Split, seed: int) -> np.ndarray:
    """Return train, valid or test for each row, (n,), 8:1:1 of the split units.

    `random` splits rows, as the paper does: nearly every drug and cell line of the test side is also trained on.
    `drug` splits groups of parent structures and `cell` cell lines, so that no unit is on two sides. Units are ranked
    by a hash of the seed and their name; the first tenth is test, the second valid.

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
        return [str(name) for name in frame["group"]]
    cells = frame["cell_line"].map(folded).str.upper()
    if split == "cell":
        return [str(name) for name in cells]
    if split != "random":
        raise DataError(f"the IC50 split must be one of {', '.join(IC50_SPLITS)}; got {split!r}")
    ids = cells + "\x1f" + frame["drug"] + "\x1f" + frame["ln_ic50_um"].map(repr)
    # Identical rows are numbered; which row gets which number does not matter.
    return [str(name) for name in ids + "\x1f" + ids.groupby(ids).cumcount().astype(str)]
