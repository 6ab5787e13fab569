"""Deals treated wells to lanes, and lanes to training workers.

The lane of a well is its place in the order of all the split's keys, modulo the number of lanes; a worker
holds every lane whose number is its rank modulo the number of workers. So lanes are equally long (to one
well), and which wells meet in a batch does not depend on the number of workers or on timing.
"""

import numpy as np
import pyarrow as pa


def lanes_of(keys: np.ndarray, sorted_keys: np.ndarray, n_lanes: int) -> np.ndarray:
    """Return the lane of each well, (n,), int64.

    Args:
        keys: Keys of some wells of a split, (n,), int64.
        sorted_keys: Keys of all wells of the split, increasing.
        n_lanes: Number of lanes.
    """
    return np.asarray(np.searchsorted(sorted_keys, keys) % n_lanes)


def keep_own(table: pa.Table, own_keys: np.ndarray) -> pa.Table:
    """Keep the wells whose `profile_key` is among a worker's own, which are increasing."""
    keys = table["profile_key"].to_numpy()
    place = np.minimum(np.searchsorted(own_keys, keys), len(own_keys) - 1)
    return table.filter(pa.array(own_keys[place] == keys))


def own_keys(sorted_keys: np.ndarray, n_lanes: int, rank: int, world_size: int) -> np.ndarray:
    """Return the keys of a split that one worker holds, increasing."""
    return np.asarray(sorted_keys[np.arange(len(sorted_keys)) % n_lanes % world_size == rank])
