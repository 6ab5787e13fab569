"""Groups of compounds that a model may not tell apart, and whether each is on one side of the splits.

A group is one connectivity (`ldm_ray.chem.smiles.group_of`). It is the unit of the split by compound and of the folds.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def on_two_sides(unit: "pd.Series", side: "pd.Series") -> list[str]:
    """Return the units (one for each well) whose wells are on more than one side, sorted."""
    sides = side.groupby(unit).nunique()
    return [str(name) for name in sides.index[sides > 1]]


def straddling(wells: "pd.DataFrame", by: str) -> dict[str, list[str]]:
    """Return the groups that are on two sides of `split`, if compounds are held out, and those in two folds.

    Args:
        wells: Columns `group`, `split` and `fold`, one row for each well.
        by: What is unseen in the test side; with `both`, a validation well may share its compound with training.
    """
    held = wells.iloc[:0]
    if by in ("compound", "scaffold"):
        held = wells
    elif by == "both":
        held = wells[wells["split"] != "valid"]
    folds = wells[wells["fold"] >= 0]
    return {
        "split": on_two_sides(held["group"], held["split"]),
        "fold": on_two_sides(folds["group"], folds["fold"]),
    }
