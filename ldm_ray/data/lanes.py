"""Deals treated wells to lanes, and lanes to training workers.

The lane of a well is its place in the order of all the split's keys, modulo the number of lanes; a worker
holds every lane whose number is its rank modulo the number of workers. So lanes are equally long (to one
well), and which wells meet in a batch does not depend on the number of workers or on timing.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ldm_ray.keys import keys_of


def lanes_of(keys: np.ndarray, sorted_keys: np.ndarray, n_lanes: int) -> np.ndarray:
    """Return the lane of each well, (n,), int64.

    Args:
        keys: Keys of some wells of a split, (n,), int64.
        sorted_keys: Keys of all wells of the split, increasing.
        n_lanes: Number of lanes.
    """
    return np.asarray(np.searchsorted(sorted_keys, keys) % n_lanes)


def keep_lanes(
    table: pa.Table, sorted_keys: dict[str, np.ndarray], n_lanes: int, rank: int, world_size: int
) -> pa.Table:
    """Keep the wells that one worker holds, of each split in `sorted_keys`, with a column `key` added."""
    keys = keys_of(table["profile_id"].to_pylist())
    split = table["split"]
    keep = np.zeros(len(table), dtype=bool)
    for name, all_keys in sorted_keys.items():
        inside = np.asarray(pc.equal(split, name))
        keep |= inside & (lanes_of(keys, all_keys, n_lanes) % world_size == rank)
    return table.append_column("key", pa.array(keys)).drop_columns(["profile_id"]).filter(pa.array(keep))
