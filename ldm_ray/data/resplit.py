"""The same wells with another side held out: unseen cell lines, plates or scaffolds, or compound and cell line unseen.

Everything downstream reads the column `split`. So a dataset with another side held out is a separate dataset, and
autoencoder, scaling, baselines and models are all fitted on its own training side.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from ldm_ray.chem.scaffold import scaffold_of
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.manifest import Counts, FileEntry, Manifest, Splits, by_of
from ldm_ray.data.parts import write_wells
from ldm_ray.data.splits import folds_of, splits_of
from ldm_ray.data_settings import SplitSettings
from ldm_ray.errors import DataError
from ldm_ray.layout import BASAL, CELLS, COMPOUNDS, EMBEDDINGS, MANIFEST, PROFILES, TRUTH
from ldm_ray.schema import SPLITS
from ldm_ray.storage.store import Store

Unseen = Literal["compound", "cell", "both", "plate", "scaffold"]
UNSEEN: tuple[Unseen, ...] = get_args(Unseen)
LEFT_OUT = ""
SPLIT_COLUMNS = ("split", "cell_split", "plate_split")
SCAFFOLD = "scaffold_split"


def held_out(sides: Mapping[str, np.ndarray], unseen: Unseen) -> np.ndarray:
    """Return the side of each well, (n,), from the columns `SPLIT_COLUMNS` and `SCAFFOLD`; empty for wells left out.

    With `both`, a well is train if its compound and its cell line are train, test if both are test, left out (it would
    leak) if only one is test, and else valid.
    """
    if unseen != "both":
        columns = {"compound": "split", "cell": "cell_split", "plate": "plate_split", "scaffold": SCAFFOLD}
        return sides[columns[unseen]]
    compound, cell = sides["split"], sides["cell_split"]
    tests = (compound == "test").astype(int) + (cell == "test")
    train = (compound == "train") & (cell == "train")
    return np.select([train, tests == 2, tests == 1], ["train", "test", LEFT_OUT], default="valid")


def resplit(
    dataset: PairedDataset,
    unseen: Unseen,
    out: Store,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PairedDataset:
    """Write a dataset's wells with another side held out; the manifest is written last.

    Args:
        dataset: As `prepare` wrote it, held out by compound.
        unseen: What is unseen in the test side.
        out: Where to write; a complete dataset there is returned unchanged.
        on_progress: Called with files written and in total.

    Raises:
        DataError: If the dataset is itself a resplit, a side would be empty, or `out` holds something else.
    """
    if (by := by_of(dataset.manifest["splits"])) != "compound":
        raise DataError(f"{dataset.url} must be held out by compound, as prepare writes it; got {by!r}")
    if out.exists(MANIFEST):
        there = open_dataset(out.url, out.storage_options)
        if by_of(there.manifest["splits"]) != unseen or there.manifest["splits"]["of"] != _digest(dataset):
            raise DataError(f"{out.url} already holds another dataset")
        return there
    frame = _sides(dataset, unseen)
    scaffolds = scaffold_sides(dataset) if unseen == "scaffold" else None
    if side := empty_side(dataset, unseen):
        raise DataError(f"{dataset.url} has too few {unseen} groups to hold out: its {side} side would be empty")
    files: list[FileEntry] = []
    for number, entry in enumerate(dataset.manifest["files"]):
        table = _resplit_rows(dataset.store.read_table(entry["path"]), dataset, unseen, scaffolds)
        if len(table):
            files.append(write_wells(out, f"{PROFILES}/part-{number:05d}.parquet", table))
        on_progress(number + 1, len(dataset.manifest["files"]))
    copy_tables(dataset, out)
    out.write_json(MANIFEST, _manifest(dataset, unseen, files, frame[frame["side"] != LEFT_OUT]))
    return open_dataset(out.url, out.storage_options)


def copy_tables(dataset: PairedDataset, out: Store) -> None:
    """Copy everything of a dataset except its wells and its manifest."""
    names = [BASAL, COMPOUNDS, CELLS, TRUTH, *(f"{EMBEDDINGS}/{name}" for name in dataset.store.names(EMBEDDINGS))]
    for name in names:
        if dataset.store.exists(name):
            out.write_bytes(name, dataset.store.read_bytes(name))


def with_column(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    """Replace a column, keeping its position and type."""
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, pa.array(values, table.schema.field(name).type))


def empty_side(dataset: PairedDataset, unseen: Unseen) -> str:
    """Return the first side that would hold no well, or an empty string."""
    present = set(_sides(dataset, unseen)["side"])
    return next((side for side in SPLITS if side not in present), "")


def _sides(dataset: PairedDataset, unseen: Unseen) -> pd.DataFrame:
    """Return the ids of all wells, and the side that each would be on."""
    frame: pd.DataFrame = dataset.profiles(["compound_id", "cell_id", "condition_id", *SPLIT_COLUMNS]).to_pandas()
    sides = {name: frame[name].to_numpy() for name in SPLIT_COLUMNS}
    if unseen == "scaffold":
        sides[SCAFFOLD] = scaffold_sides(dataset)[frame["compound_id"]]
    return frame.assign(side=held_out(sides, unseen))


def scaffold_sides(dataset: PairedDataset) -> np.ndarray:
    """Return the side of each compound by its scaffold, (n_compounds,).

    All compounds of a scaffold are on one side. A molecule without rings is a scaffold of its own. A group of compounds
    that a model may not tell apart has the scaffold of its first compound.
    """
    parents, groups = dataset.parent_smiles.tolist(), dataset.groups.tolist()
    own = [scaffold_of(parent) or str(group) for parent, group in zip(parents, groups, strict=True)]
    return splits_of(np.array(own, dtype=object)[dataset.group_ids], "scaffold", _settings(dataset))


def _settings(dataset: PairedDataset) -> SplitSettings:
    own = dataset.manifest["splits"]
    return SplitSettings(
        seed=own["seed"],
        test_fraction=own["test_fraction"],
        valid_fraction=own["valid_fraction"],
        n_folds=own["n_folds"],
    )


def _resplit_rows(table: pa.Table, dataset: PairedDataset, unseen: Unseen, scaffolds: np.ndarray | None) -> pa.Table:
    sides = {name: np.array(table[name].to_pylist(), dtype=object) for name in SPLIT_COLUMNS}
    if scaffolds is not None:
        sides[SCAFFOLD] = scaffolds[table["compound_id"].to_numpy()]
    split = held_out(sides, unseen)
    fold = folds_of(dataset.groups[table["compound_id"].to_numpy()].astype(str), split, _settings(dataset))
    table = with_column(with_column(table, "split", split.astype(str)), "fold", fold)
    return table.filter(pa.array(split != LEFT_OUT))


def _manifest(dataset: PairedDataset, unseen: Unseen, files: list[FileEntry], kept: pd.DataFrame) -> Manifest:
    splits: Splits = dataset.manifest["splits"] | {"by": unseen, "of": _digest(dataset)}
    splits["split"] = {side: int((kept["side"] == side).sum()) for side in SPLITS}
    notes = [*dataset.manifest["notes"]]
    if left := dataset.manifest["n_profiles"] - len(kept):
        notes.append(f"{left:,} wells unseen in one of compound and cell line left out")
    return {**dataset.manifest, **counts_of(kept), "files": files, "splits": splits, "notes": notes}


def counts_of(wells: pd.DataFrame) -> Counts:
    """Count wells, compounds, cell lines and conditions, given their ids."""
    return {
        "n_profiles": len(wells),
        "n_compounds": int(wells["compound_id"].nunique()),
        "n_cell_lines": int(wells["cell_id"].nunique()),
        "n_conditions": int(wells["condition_id"].nunique()),
    }


def _digest(dataset: PairedDataset) -> str:
    """Identify the dataset by its files' checksums."""
    return "-".join(sorted(entry["sha256"][:8] for entry in dataset.manifest["files"]))[:64]
