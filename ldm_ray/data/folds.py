"""A dataset with one cross-validation fold as its validation side; the test side is unchanged."""

import numpy as np

from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.parts import write_wells
from ldm_ray.data.resplit import copy_tables, with_column
from ldm_ray.errors import DataError
from ldm_ray.layout import MANIFEST, PROFILES
from ldm_ray.schema import SPLITS
from ldm_ray.storage.store import Store


def folds(dataset: PairedDataset) -> list[int]:
    """Return the numbers of a dataset's folds."""
    return list(range(int(dataset.manifest["splits"]["n_folds"])))


def fold_dataset(dataset: PairedDataset, fold: int, out: Store) -> PairedDataset:
    """Write the wells of a dataset with `valid` = one fold and `train` = the others; the manifest is written last.

    All wells of a group of compounds are in one fold, as they are on one side of the test split.

    Args:
        dataset: As `prepare` wrote it.
        fold: Number of the fold, from 0.
        out: Where to write; a complete dataset there is returned unchanged.

    Raises:
        DataError: If the training or validation side would be empty.
    """
    if out.exists(MANIFEST):
        return open_dataset(out.url, out.storage_options)
    files, counts = [], dict.fromkeys(SPLITS, 0)
    for number, entry in enumerate(dataset.manifest["files"]):
        table = dataset.store.read_table(entry["path"])
        own = table["fold"].to_numpy()
        split = np.where(own < 0, "test", np.where(own == fold, "valid", "train"))
        for side in SPLITS:
            counts[side] += int((split == side).sum())
        files.append(write_wells(out, f"{PROFILES}/part-{number:05d}.parquet", with_column(table, "split", split)))
    if not counts["valid"] or not counts["train"]:
        raise DataError(f"fold {fold} of {dataset.url} leaves no well to train on or to validate on: {counts}")
    copy_tables(dataset, out)
    splits = dataset.manifest["splits"] | {"split": counts, "fold": fold}
    out.write_json(MANIFEST, dataset.manifest | {"files": files, "splits": splits})
    return open_dataset(out.url, out.storage_options)
