"""Assigns treated wells to lanes, and lanes to training workers.

A well's lane is the rank of its key among all keys of the split, modulo the number of lanes. A worker holds every
lane whose number modulo the number of workers is its rank. So lanes are equally long (to one well), and the wells of
a batch depend neither on the number of workers nor on timing.
"""

import numpy as np
import pyarrow as pa


def lanes_of(keys: np.ndarray, sorted_keys: np.ndarray, n_lanes: int) -> np.ndarray:
    """Return the lane of each well, (n,), int64.

    Args:
        keys: Keys of wells of a split, (n,), int64.
        sorted_keys: Keys of all wells of the split, increasing.
        n_lanes: Number of lanes.
    """
    return np.asarray(np.searchsorted(sorted_keys, keys) % n_lanes)


def keep_own(table: pa.Table, own_keys: np.ndarray) -> pa.Table:
    """Keep the wells whose `profile_key` is in `own_keys`, which are increasing."""
    keys = table["profile_key"].to_numpy()
    place = np.minimum(np.searchsorted(own_keys, keys), len(own_keys) - 1)
    return table.filter(pa.array(own_keys[place] == keys))


def own_keys(sorted_keys: np.ndarray, n_lanes: int, rank: int, world_size: int) -> np.ndarray:
    """Return one worker's keys of a split, increasing."""
    return np.asarray(sorted_keys[np.arange(len(sorted_keys)) % n_lanes % world_size == rank])
