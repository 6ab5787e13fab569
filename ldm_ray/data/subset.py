"""A dataset with only some of its training and validation wells; the test side is unchanged."""

import numpy as np
import pyarrow as pa

from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.parts import write_wells
from ldm_ray.data.resplit import copy_tables
from ldm_ray.keys import keys_of
from ldm_ray.layout import MANIFEST, PROFILES
from ldm_ray.storage.store import Store


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
    sides = dataset.profiles(["profile_id", "split"])
    split, draw = np.array(sides["split"].to_pylist()), _draws(sides, seed)
    highest = {side: np.sort(draw[split == side])[:count][-1] for side, count in wells.items()}
    files, counts = [], dict.fromkeys(dataset.manifest["splits"]["split"], 0)
    for number, entry in enumerate(dataset.manifest["files"]):
        table = dataset.store.read_table(entry["path"])
        own, drawn = np.array(table["split"].to_pylist()), _draws(table, seed)
        kept = np.ones(len(table), dtype=bool)
        for side, limit in highest.items():
            kept &= (own != side) | (drawn <= limit)
        for side in counts:
            counts[side] += int((own[kept] == side).sum())
        if kept.any():
            files.append(write_wells(out, f"{PROFILES}/part-{number:05d}.parquet", table.filter(pa.array(kept))))
    copy_tables(dataset, out)
    splits = dataset.manifest["splits"] | {"split": counts}
    out.write_json(MANIFEST, {**dataset.manifest, "files": files, "splits": splits, "n_profiles": sum(counts.values())})
    return open_dataset(out.url, out.storage_options)


def _draws(table: pa.Table, seed: int) -> np.ndarray:
    """A random number for each well that depends on its id alone, (n,)."""
    return keys_of(f"{seed}:subset:{name}" for name in table["profile_id"].to_pylist())
