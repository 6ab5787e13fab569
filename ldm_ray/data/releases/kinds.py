"""Which wells are treated and which are controls, from a perturbation type, a yes-or-no column, or names."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from ldm_ray.data.releases.columns import CONTROL, KIND, NAME, Table
from ldm_ray.errors import DataError

TREATED, VEHICLE = "trt_cp", "ctl_vehicle"
CONTROL_WORDS = frozenset({"1", "true", "t", "yes", "y", "control", "ctrl", "ctl", "vehicle", "dmso"})
TREATED_WORDS = frozenset({"0", "false", "f", "no", "n", "treated", "treatment", "trt", "perturbed", "drug"})
GENERIC_VEHICLE = frozenset({"control", "ctrl", "ctl", "vehicle", "vehicle control", "negative control", "solvent"})
"""Names of a vehicle that do not say what it is."""
DMSO = re.compile(r"(?<![a-z0-9])(dmso|dimethyl ?sul(?:f|ph)oxide)(?![a-z0-9])")
DMSO_SMILES = frozenset({"CS(C)=O", "CS(=O)C", "C[S+](C)[O-]", "O=S(C)C"})


def kinds(table: Table, smiles: pd.Series) -> pd.Series:
    """Return the kind of each well, case-folded as in `pert_type`: trt_cp, ctl_vehicle, or another type.

    Args:
        table: The wells.
        smiles: What the wells' compounds are, as far as it is known.

    Raises:
        DataError: If a control column holds words that say neither yes nor no; or if there are only names to go by, and
            one contains DMSO while its structure is another.
    """
    if table.has(KIND):
        return table.text(KIND).str.casefold()
    if table.has(CONTROL):
        words = table.text(CONTROL).str.casefold().str.removesuffix(".0")
        unknown = words[~words.isin(CONTROL_WORDS | TREATED_WORDS)]
        if len(unknown):
            raise DataError(
                f"{table.name}: column {_first(table, CONTROL)!r} must say which wells are controls (yes/no, 1/0,"
                f" true/false, control/treated); got {_some(unknown)}"
            )
        return _kind(words.isin(CONTROL_WORDS))
    names = table.text(NAME)
    unclear = names[is_dmso(names) & (smiles != "") & ~smiles.isin(DMSO_SMILES)]
    if len(unclear):
        raise DataError(
            f"{table.name}: the names {_some(unclear)} contain DMSO, but their SMILES are of other compounds; a column"
            f" {KIND[0]} or {CONTROL[0]} must say which wells are controls"
        )
    return _kind(is_generic(names) | is_dmso(names))


def has_kinds(table: Table) -> bool:
    """Tell whether a table says which wells are controls."""
    if table.has(KIND) or table.has(CONTROL):
        return True
    names = table.text(NAME)
    return bool((is_generic(names) | is_dmso(names)).any())


def dmso_controls(wells: pd.DataFrame) -> pd.Series:
    """Tell which wells are controls whose vehicle is DMSO, or a vehicle that the file does not name.

    Args:
        wells: `Release.wells`.
    """
    named = is_dmso(wells["name"]) | is_dmso(wells["source_id"])
    generic = _says_nothing(wells["name"]) & _says_nothing(wells["source_id"])
    return (wells["kind"] == VEHICLE) & (named | wells["smiles"].isin(DMSO_SMILES) | generic)


def is_dmso(names: pd.Series) -> pd.Series:
    """Tell which names contain the word DMSO."""
    return _by_name(names, lambda name: DMSO.search(name.casefold().replace("_", " ")) is not None)


def is_generic(names: pd.Series) -> pd.Series:
    """Tell which names only say that a well is a control."""
    return _by_name(names, lambda name: name.casefold().replace("_", " ").strip() in GENERIC_VEHICLE)


def _says_nothing(names: pd.Series) -> pd.Series:
    return is_generic(names) | (names == "")


def control_names(wells: pd.DataFrame, most: int = 5) -> str:
    """Return what a release calls its controls, for a message."""
    controls = wells[wells["kind"].str.startswith("ctl")]
    if controls.empty:
        kinds_there = ", ".join(map(str, wells["kind"].unique()[:most]))
        return (
            f"the release has no controls, only {kinds_there}; where they are in a matrix of their own, give both"
            " (--gctx is repeatable)"
        )
    names = controls.groupby(["kind", "name"], sort=False).size().sort_values(ascending=False)
    shown = [f"{name or 'without a name'} ({kind}, {count:,})" for (kind, name), count in names.head(most).items()]
    timeless = int(controls["time_h"].isna().sum())
    without = f", {timeless:,} of them without a time that can be read" if timeless else ""
    return "the release's controls: " + ", ".join(shown) + (", ..." if len(names) > most else "") + without


def _by_name(names: pd.Series, says: Callable[[str], bool]) -> pd.Series:
    codes, unique = pd.factorize(names)
    found = np.array([says(str(name)) for name in unique], dtype=bool)
    return pd.Series(found[codes], index=names.index)


def _kind(is_control: pd.Series) -> pd.Series:
    return pd.Series(np.where(is_control, VEHICLE, TREATED), index=is_control.index)


def _first(table: Table, names: tuple[str, ...]) -> str:
    return next(name for name in names if table.has((name,)))


def _some(words: pd.Series) -> str:
    return ", ".join(repr(word) for word in words.unique()[:4])
