"""Splits: the side of a compound, cell line or batch depends only on the seed and its own name."""

import hashlib

import numpy as np

from ldm_ray.data_settings import SplitSettings


def unit_interval(*parts: object) -> float:
    """Hash the parts to a number in [0, 1), the same on every machine and in every version."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def split_of(name: str, what: str, settings: SplitSettings) -> str:
    """Return train, valid or test for one name (a group of compounds, a cell line, a batch of plates)."""
    u = unit_interval(settings.seed, what, name)
    if u < settings.test_fraction:
        return "test"
    return "valid" if u < settings.test_fraction + settings.valid_fraction else "train"


def splits_of(names: np.ndarray, what: str, settings: SplitSettings) -> np.ndarray:
    """Return the split of each name, same shape as `names`."""
    unique, inverse = np.unique(names, return_inverse=True)
    return np.array([split_of(str(name), what, settings) for name in unique])[inverse]


def folds_of(groups: np.ndarray, split: np.ndarray, settings: SplitSettings) -> np.ndarray:
    """Return the cross-validation fold of each group of compounds; -1 on the test side."""
    unique, inverse = np.unique(groups, return_inverse=True)
    fold = np.array([int(settings.n_folds * unit_interval(settings.seed, "fold", name)) for name in unique])
    return np.where(split == "test", -1, fold[inverse]).astype(np.int8)
