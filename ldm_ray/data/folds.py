"""A dataset with one fold of cross-validation as its validation side; its test side stays as it is."""

import numpy as np

from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.parts import write_wells
from ldm_ray.data.resplit import copy_tables, with_column
from ldm_ray.errors import DataError
from ldm_ray.layout import MANIFEST, PROFILES
from ldm_ray.schema import SPLITS
from ldm_ray.storage.store import Store


def folds(dataset: PairedDataset) -> list[int]:
    """Return the folds that a dataset was dealt into."""
    return list(range(int(dataset.manifest["splits"]["n_folds"])))


def fold_dataset(dataset: PairedDataset, fold: int, out: Store) -> PairedDataset:
    """Write the wells of a dataset with `valid` = one fold and `train` = the others; the manifest comes last.

    A fold keeps parent structures together, as the test side does.

    Args:
        dataset: As `prepare` wrote it.
        fold: Which fold, from 0.
        out: Where to write; what is complete there already is returned as it is.

    Raises:
        DataError: If the fold holds no well.
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
        raise DataError(f"fold {fold} of {dataset.url} leaves no well to train on or to stop on: {counts}")
    copy_tables(dataset, out)
    splits = dataset.manifest["splits"] | {"split": counts, "fold": fold}
    out.write_json(MANIFEST, dataset.manifest | {"files": files, "splits": splits})
    return open_dataset(out.url, out.storage_options)
