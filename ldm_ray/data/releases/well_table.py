"""Turns a table of wells, whatever its columns are called, into `Release.wells`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ldm_ray.data.releases.columns import (
    CELL,
    CONTROL,
    DOSE,
    KIND,
    NAME,
    PLATE,
    PROFILE,
    QC,
    SMILES,
    SOURCE_ID,
    TIME,
    WELL,
    Quantity,
    Table,
)
from ldm_ray.data.releases.kinds import TREATED, VEHICLE, has_kinds, kinds
from ldm_ray.data.releases.release import WELL_COLUMNS, ReleaseOptions
from ldm_ray.data.releases.units import BASE_UNIT, amounts, has_unit
from ldm_ray.errors import DataError

FAILED_QC = frozenset({"0", "0.0", "false", "no", "n", "f", "fail", "failed"})
PASSED_QC = frozenset({"", "1", "1.0", "true", "yes", "y", "t", "pass", "passed"})


@dataclass(frozen=True)
class Structures:
    """SMILES by compound: by id, and by name in lower case.

    Attributes:
        by_id: SMILES by source id.
        by_name: SMILES by name, case-folded.
        notes: What to tell the reader.
    """

    by_id: dict[str, str]
    by_name: dict[str, str]
    notes: tuple[str, ...] = ()


def read_structures(tables: Sequence[Table]) -> Structures:
    """Collect SMILES from compound tables, which may have several rows a compound.

    Raises:
        DataError: If a table lacks columns.
    """
    by_id: dict[str, str] = {}
    by_name: dict[str, str] = {}
    differing: set[str] = set()
    for table in tables:
        table.require({"compound": SOURCE_ID, "SMILES": SMILES})
        for source_id, name, smiles in zip(table.text(SOURCE_ID), table.text(NAME), table.text(SMILES), strict=True):
            if smiles and source_id and by_id.setdefault(source_id, smiles) != smiles:
                differing.add(source_id)
            if smiles and name:
                by_name.setdefault(name.casefold(), smiles)
    notes = []
    if differing:
        first = ", ".join(sorted(differing)[:3])
        notes.append(f"{len(differing):,} compounds have several SMILES in the tables: the first is used ({first})")
    return Structures(by_id, by_name, tuple(notes))


@dataclass(frozen=True)
class ReadWells:
    """The wells of a table.

    Attributes:
        wells: `WELL_COLUMNS` except `row`, in the table's order; those that failed quality control are left out.
        failed: Ids of the wells that failed quality control; None if the table does not say.
        notes: What to tell the reader.
    """

    wells: pd.DataFrame
    failed: list[str] | None
    notes: list[str]


def read_wells(
    table: Table, profile_ids: pd.Series | None, structures: Structures | None, options: ReleaseOptions
) -> ReadWells:
    """Read the wells of a table.

    Args:
        table: One row per well.
        profile_ids: The id of each row; None takes them from the table.
        structures: SMILES by compound, if they are not in the table.
        options: Units that the table does not say.

    Raises:
        DataError: Names all that is missing at once, or wells that lack a plate or a cell line.
    """
    _require_columns(table, profile_ids, structures, options)
    profile_ids = table.text(PROFILE) if profile_ids is None else profile_ids
    source_id, name = table.text(SOURCE_ID), table.text(NAME)
    smiles = table.text(SMILES)
    if structures is not None:
        by_id = source_id.map(lambda key: structures.by_id.get(key, ""))
        only_named = source_id.where(source_id == name, "").str.casefold()  # no column of ids beside the names
        by_name = only_named.map(lambda key: structures.by_name.get(key, ""))
        smiles = smiles.where(smiles != "", by_id.where(by_id != "", by_name))
    dose_um, dose_problem = amounts(table, DOSE, options.dose_unit)
    time_h, time_problem = amounts(table, TIME, options.time_unit)
    wells = pd.DataFrame(
        {
            "profile_id": profile_ids,
            "plate": table.text(PLATE),
            "well": table.text(WELL),
            "source_id": source_id,
            "name": name,
            "kind": kinds(table, smiles),
            "smiles": smiles,
            "cell": table.text(CELL),
            "dose_um": dose_um,
            "dose_problem": dose_problem,
            "time_h": time_h,
            "time_problem": time_problem,
        }
    )
    failed = _failed_qc(table)
    wells = wells[~failed]
    _require_values(wells, table.name)
    columns = [name for name in WELL_COLUMNS if name != "row"]
    left_out = profile_ids[failed].to_list() if table.has(QC) else None
    return ReadWells(wells[columns], left_out, _unit_notes(table, options))


def _require_columns(
    table: Table, profile_ids: pd.Series | None, structures: Structures | None, options: ReleaseOptions
) -> None:
    """Name every missing column at once."""
    fields = {
        "plate": PLATE, "compound": SOURCE_ID, "cell line": CELL, "dose": DOSE.names, "time": TIME.names
    }  # fmt: skip
    if profile_ids is None:
        fields = {"id of the well": PROFILE} | fields
    missing = []
    if structures is None and not table.has(SMILES):
        missing.append(f"SMILES ({', '.join(SMILES)}, or --pert-info with a table of them)")
    for quantity, given in ((DOSE, options.dose_unit), (TIME, options.time_unit)):
        if not given and table.has(quantity.names) and not _says_unit(table, quantity):
            unit, base = quantity.columns[0][1], BASE_UNIT[quantity.name]
            missing.append(f"unit of the {quantity.name} ({unit}, ..., or --{quantity.name}-unit {base})")
    if not has_kinds(table):
        known = ", ".join((*KIND, *CONTROL))
        missing.append(f"which wells are controls ({known}, or compounds called DMSO or control)")
    table.require(fields, missing)


def _says_unit(table: Table, quantity: Quantity) -> bool:
    units = tuple(unit for _, unit in quantity.columns)
    if table.has((*units, *quantity.fixed, *quantity.written)):
        return True
    texts = table.text(tuple(value for value, _ in quantity.columns)).unique()
    return any(map(has_unit, texts))


def _failed_qc(table: Table) -> pd.Series:
    if not table.has(QC):
        return pd.Series(data=False, index=table.frame.index)
    words = table.text(QC).str.casefold()
    unknown = words[~words.isin(FAILED_QC | PASSED_QC)]
    if len(unknown):
        raise DataError(f"{table.name}: {QC[0]} must be 1 or 0; got {unknown.iloc[0]!r}")
    return words.isin(FAILED_QC)


def _require_values(wells: pd.DataFrame, name: str) -> None:
    """Refuse used wells without a plate or a cell line: they would be paired with each other."""
    used = wells[wells["kind"].isin((TREATED, VEHICLE))]
    for column, what, names in (("plate", "plate", PLATE), ("cell", "cell line", CELL), ("profile_id", "id", ())):
        empty = used[used[column] == ""]
        if len(empty):
            shown = ", ".join(empty["profile_id"].head(3))
            where = f" in any of the columns {', '.join(names)}" if names else ""
            raise DataError(
                f"{name}: {len(empty):,} wells have no {what}{where}, such as {shown}; fill it in, or remove them"
            )


def _unit_notes(table: Table, options: ReleaseOptions) -> list[str]:
    notes = []
    for quantity, given in ((DOSE, options.dose_unit), (TIME, options.time_unit)):
        if given and not _says_unit(table, quantity):
            notes.append(f"every {quantity.name} of {table.name} is taken to be in {given}, as asked")
    return notes


def without_duplicates(wells: pd.DataFrame, name: str) -> pd.DataFrame:
    """Drop rows that repeat a well.

    Raises:
        DataError: If two rows of one profile id differ: one of them must be wrong.
    """
    different = wells.drop_duplicates()
    twice = different["profile_id"].duplicated(keep=False)
    if twice.any():
        first = different.loc[twice, "profile_id"].iloc[0]
        rows = different[different["profile_id"] == first].iloc[:2]
        column = next(c for c in rows.columns if not _same(rows[c].iloc[0], rows[c].iloc[1]))
        values = " and ".join(repr(value) for value in rows[column])
        raise DataError(
            f"{name}: {int(twice.sum()):,} rows share their id with a different well, such as {first}:"
            f" {column} is {values}; remove the wrong ones"
        )
    return different


def _same(one: object, other: object) -> bool:
    return one == other or (isinstance(one, float) and isinstance(other, float) and np.isnan(one) and np.isnan(other))
