"""Keys, 64-bit hashes of names from which noise and order are derived, and their purposes. Does not import torch."""

import hashlib
from collections.abc import Iterable
from enum import IntEnum, unique

import numpy as np


@unique
class Purpose(IntEnum):
    """Purpose of random numbers, mixed into every key and seed, so that no two uses share a stream.

    A dropout layer adds its position in its network, below 100. The planted world of a simulated release has its own
    streams (`data/world.py`): it is data, and must not change.
    """

    ORDER = 1
    """Rows of an epoch."""
    BOOTSTRAP = 5
    SHUFFLED_COMPOUND = 6
    DISTRIBUTION_SAMPLE = 7
    SCATTER_POINTS = 8
    IC50_BOOTSTRAP = 9

    LATENT = 10
    STEP = 11
    """The step that a training row is noised to."""
    FORWARD = 12
    PREVIOUS = 13
    WITHOUT_COMPOUND = 14
    START = 20
    REVERSE = 21
    OBSERVATION = 22
    FACTORS = 23

    KEPT_WELLS = 30
    CHOSEN_WELL = 31
    GAUSSIAN_RESIDUAL = 32
    ORACLE_WELL = 33
    ORACLE_PLATE = 34
    HALVES = 35
    ROW_GROUPS = 36
    FOREST = 37
    SUGGESTIONS = 38
    CORRELATION_GENES = 39
    CHOSEN_RESIDUAL = 44
    GAUSSIAN_SHAPE = 45
    GAUSSIAN_SIZE = 46

    HEALTH = 40
    """Steps and noise of the checks after training."""

    DROPOUT_BASAL = 100
    DROPOUT_COMPOUND = 200
    DROPOUT_JOINT = 300
    DROPOUT_DENOISER = 400
    DROPOUT_DOSE = 500
    DROPOUT_TIME = 600
    DROPOUT_PRNET = 700
    DROPOUT_MEAN_HEAD = 800
    DROPOUT_ENCODER = 900


def generator(seed: int, purpose: Purpose, *parts: int) -> np.random.Generator:
    """Return numpy's generator for a purpose and further integers, such as an epoch."""
    return np.random.default_rng([seed, purpose, *parts])


def key_of(*parts: object) -> int:
    """Hash texts, numbers and bytes to a signed 64-bit key, the same on every machine."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
        digest.update(b"\x1f")
    return int.from_bytes(digest.digest(), "little", signed=True)


def keys_of(texts: Iterable[str]) -> np.ndarray:
    """Hash each text to a key, shape (n,), int64."""
    return np.fromiter((key_of(text) for text in texts), dtype=np.int64)
