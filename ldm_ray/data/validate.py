"""Checks a paired dataset by reading its files, without trusting its manifest."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ldm_ray.chem.smiles import group_of
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.groups import on_two_sides, straddling
from ldm_ray.data.manifest import CountName, FileEntry, by_of
from ldm_ray.data.releases.scale import LOG2_WANTED, not_log2
from ldm_ray.errors import StoreError, listing
from ldm_ray.keys import keys_of
from ldm_ray.layout import BASAL, CELLS, COMPOUNDS
from ldm_ray.schema import CELLS_SCHEMA, COMPOUNDS_SCHEMA, PAIRING_LEVELS, SPLITS, basal_schema, profiles_schema
from ldm_ray.storage.store import matrix

SHOWN = 3
GROUPED = ("parent_smiles", "inchikey", "group")


@dataclass(frozen=True)
class Finding:
    """One check and its problems; `problems` is empty if there are none."""

    check: str
    problems: list[str]


def validate(
    dataset: PairedDataset, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Finding]:
    """Check schema, ids, ranges, NaN, splits and checksums.

    Args:
        dataset: An opened dataset, so its schema version is already checked.
        on_progress: Called with files read and in total.

    Returns:
        One finding per check, in order, with or without problems.
    """
    problems: dict[str, list[str]] = {name: [] for name in CHECKS}

    def tell(check: str, text: str) -> None:
        problems[check].append(text)

    _check_tables(dataset, tell)
    frames = list(_read_files(dataset, tell, on_progress))
    if frames:
        _check_wells(pd.concat(frames, ignore_index=True), dataset, tell)
    return [Finding(CHECKS[name], found) for name, found in problems.items()]


CHECKS = {
    "files": "every file of the manifest exists, with its size and checksum",
    "schema": "columns and row groups match the schema",
    "values": "expression is finite and on a log2 scale",
    "ids": "ids are unique, and every reference is valid",
    "ranges": "doses and times are above 0, and names are known",
    "splits": "no group of compounds, cell line or batch is on two sides, and test is in no fold",
    "controls": "input and reserved controls have the well's cell line and time, and never coincide",
    "counts": "the manifest's counts match the files",
}
Tell = Callable[[str, str], None]


def _check_tables(dataset: PairedDataset, tell: Tell) -> None:
    wanted = {COMPOUNDS: COMPOUNDS_SCHEMA, CELLS: CELLS_SCHEMA, BASAL: basal_schema(dataset.n_genes)}
    for name, schema in wanted.items():
        try:
            table = dataset.store.read_table(name)
        except StoreError as error:
            tell("files", str(error))
            continue
        if not table.schema.equals(schema):
            tell("schema", f"{name} has other columns: {', '.join(table.column_names)}")
            continue
        first = table.column_names[0]
        if table[first].to_pylist() != list(range(len(table))):
            tell("ids", f"{name}: {first} must count from 0")
        if name == BASAL:
            _check_values(matrix(table["expression"]), name, tell)
            if (matrix(table["variance"]) < 0).any():
                tell("values", f"{name}: a variance must be 0 or above")
    if len(set(dataset.parent_smiles)) != len(dataset.parent_smiles):
        tell("ids", f"{COMPOUNDS}: a parent structure appears twice")
    for parent, key, group in zip(*(dataset.compounds[name].to_pylist() for name in GROUPED), strict=True):
        if group != group_of(parent, key):
            tell("ids", f"{COMPOUNDS}: the group of {parent} must be {group_of(parent, key)}; got {group}")


def _read_files(dataset: PairedDataset, tell: Tell, on_progress: Callable[[int, int], None]) -> Iterator[pd.DataFrame]:
    """Check each file; yield its wells without their expression."""
    schema, entries = profiles_schema(dataset.n_genes), dataset.manifest["files"]
    for number, entry in enumerate(entries, start=1):
        on_progress(number, len(entries))
        try:
            content = dataset.store.read_bytes(entry["path"])
        except StoreError as error:
            tell("files", str(error))
            continue
        if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            tell("files", f"{entry['path']} differs from the file that was written")
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            table = file.read()
        except (OSError, pa.ArrowException) as error:
            tell("files", f"{entry['path']} cannot be read: {' '.join(str(error).split())[:120]}")
            continue
        if not table.schema.equals(schema):
            tell("schema", f"{entry['path']} has other columns: {', '.join(table.column_names[:8])} ...")
            continue
        _check_groups(file, table, entry, tell)
        _check_values(matrix(table["expression"]), entry["path"], tell)
        yield table.drop_columns(["expression"]).to_pandas()


def _check_groups(file: pq.ParquetFile, table: pa.Table, entry: FileEntry, tell: Tell) -> None:
    found, start = [], 0
    for number in range(file.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        splits = table["split"].slice(start, rows).unique().to_pylist()
        found.append([splits[0] if len(splits) == 1 else "mixed", rows])
        start += rows
    if found != [list(group) for group in entry["groups"]]:
        tell("schema", f"{entry['path']}: row groups must be {entry['groups']}; got {found}")


def _check_values(values: np.ndarray, where: str, tell: Tell) -> None:
    if not np.isfinite(values).all():
        tell("values", f"{where} holds NaN or infinite values in {int((~np.isfinite(values)).any(axis=1).sum())} rows")
        return
    if what := not_log2(values):
        tell("values", f"{where}: {LOG2_WANTED}; {what}")


def _check_wells(wells: pd.DataFrame, dataset: PairedDataset, tell: Tell) -> None:
    if wells["profile_id"].duplicated().any():
        tell("ids", f"profile_id {_some(wells['profile_id'][wells['profile_id'].duplicated()])} appears twice")
    wrong = wells["profile_key"].to_numpy() != keys_of(wells["profile_id"])
    if wrong.any():
        tell("ids", f"profile_key of {_some(wells['profile_id'][wrong])} is not the key of its id")
    basal = dataset.basal.select(["cell_id", "time_h", "role"]).to_pandas()
    limits = {"compound_id": len(dataset.compounds), "cell_id": len(dataset.cells), "basal_id": len(basal)}
    for name, limit in (limits | {"reserved_basal_id": len(basal)}).items():
        low = -1 if name == "reserved_basal_id" else 0
        if not wells[name].between(low, limit - 1).all():
            tell("ids", f"{name} must lie in {low}..{limit - 1}; got {wells[name].min()}..{wells[name].max()}")
            return
    for name in ("dose_um", "time_h"):
        bad = ~(np.isfinite(wells[name]) & (wells[name] > 0))
        if bad.any():
            tell(
                "ranges", f"{name} of {_some(wells['profile_id'][bad])} must be above 0; got {wells[name][bad].iloc[0]}"
            )
    for name, known in {
        "split": SPLITS,
        "cell_split": SPLITS,
        "plate_split": SPLITS,
        "pairing_level": PAIRING_LEVELS,
    }.items():
        if not wells[name].isin(known).all():
            tell(
                "ranges",
                f"{name} must be one of {', '.join(known)}; got {_some(wells[name][~wells[name].isin(known)])}",
            )
    _check_splits(wells, dataset, tell)
    _check_controls(wells, basal, tell)
    counts: dict[CountName, int] = {"n_profiles": len(wells), "n_compounds": wells["compound_id"].nunique()}
    counts |= {"n_cell_lines": wells["cell_id"].nunique(), "n_conditions": wells["condition_id"].nunique()}
    for name, count in counts.items():
        if dataset.manifest[name] != count:
            tell("counts", f"{name} is {dataset.manifest[name]:,} in the manifest; the files have {count:,}")


def _check_splits(wells: pd.DataFrame, dataset: PairedDataset, tell: Tell) -> None:
    by = by_of(dataset.manifest["splits"])
    for split, groups in straddling(wells.assign(group=dataset.groups[wells["compound_id"]]), by).items():
        if groups:
            tell("splits", f"group of compounds {_some(groups)} is on two sides of {split}")
    units = [("cell_split", "cell_id", "cell line", wells), ("plate_split", "batch", "batch of plates", wells)]
    if by == "cell":
        units.append(("split", "cell_id", "cell line", wells))
    if by == "plate":
        units.append(("split", "batch", "batch of plates", wells))
    if by == "both":  # a validation well may share one of the two with training
        units.append(("split", "cell_id", "cell line", wells[wells["split"] != "valid"]))
    for split, column, what, held in units:
        if found := on_two_sides(held[column], held[split]):
            tell("splits", f"{what} {_some(found)} is on two sides of {split}")
    if not ((wells["fold"] == -1) == (wells["split"] == "test")).all():
        tell("splits", "fold must be -1 in the test split and nowhere else")


def _check_controls(wells: pd.DataFrame, basal: pd.DataFrame, tell: Tell) -> None:
    for name, role in (("basal_id", "input"), ("reserved_basal_id", "reserved")):
        used = wells[wells[name] >= 0]
        control = basal.iloc[used[name].to_numpy()]
        if not (control["role"] == role).all():
            tell("controls", f"{name} must point to controls of role {role}")
        for column in ("cell_id", "time_h"):
            differs = control[column].to_numpy() != used[column].to_numpy()
            if differs.any():
                tell("controls", f"{name} of {_some(used['profile_id'][differs])} has another {column}")


def _some(values: Sequence[object] | pd.Series) -> str:
    return listing(list(values), SHOWN)
