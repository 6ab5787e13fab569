"""A dataset with only some of its training and validation wells; the test side is unchanged."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa

from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.manifest import Manifest, Splits
from ldm_ray.data.parts import write_wells
from ldm_ray.data.resplit import copy_tables, counts_of
from ldm_ray.keys import keys_of
from ldm_ray.layout import MANIFEST, PROFILES
from ldm_ray.storage.store import Store

IDS = ("compound_id", "cell_id", "condition_id")


def subset_dataset(dataset: PairedDataset, wells: dict[str, int], seed: int, out: Store) -> PairedDataset:
    """Write a dataset with at most so many wells of some sides, drawn by seed; the manifest is written last.

    Args:
        dataset: As `prepare` wrote it.
        wells: Most wells of a side, by its name; other sides stay whole.
        seed: Same seed, same wells; a larger subset holds the smaller ones.
        out: Where to write; a complete dataset there is returned unchanged.
    """
    if out.exists(MANIFEST):
        return open_dataset(out.url, out.storage_options)
    frame: pd.DataFrame = dataset.profiles(["profile_id", "split", *IDS]).to_pandas()
    split, draw = frame["split"].to_numpy(), _draws(frame["profile_id"], seed)
    highest = {side: np.sort(draw[split == side])[:count][-1] for side, count in wells.items()}
    frame = frame[_drawn(split, draw, highest)]
    files = []
    for number, entry in enumerate(dataset.manifest["files"]):
        table = dataset.store.read_table(entry["path"])
        own = np.array(table["split"].to_pylist())
        kept = _drawn(own, _draws(table["profile_id"].to_pylist(), seed), highest)
        if kept.any():
            files.append(write_wells(out, f"{PROFILES}/part-{number:05d}.parquet", table.filter(pa.array(kept))))
    copy_tables(dataset, out)
    splits: Splits = dataset.manifest["splits"] | {}
    splits["split"] = {side: int((frame["split"] == side).sum()) for side in dataset.manifest["splits"]["split"]}
    notes = [*dataset.manifest["notes"], f"a sample of {len(frame):,} of {dataset.manifest['n_profiles']:,} wells"]
    manifest: Manifest = {**dataset.manifest, **counts_of(frame), "files": files, "splits": splits, "notes": notes}
    out.write_json(MANIFEST, manifest)
    return open_dataset(out.url, out.storage_options)


def _drawn(split: np.ndarray, draw: np.ndarray, highest: dict[str, int]) -> np.ndarray:
    """Tell which wells are kept, (n,): those of a limited side whose number is not above its limit."""
    kept = np.ones(len(split), dtype=bool)
    for side, limit in highest.items():
        kept &= (split != side) | (draw <= limit)
    return kept


def _draws(profile_ids: Iterable[str], seed: int) -> np.ndarray:
    """A random number for each well that depends on its id alone, (n,)."""
    return keys_of(f"{seed}:subset:{name}" for name in profile_ids)
