"""Keys: 64-bit hashes of names, from which a row's noise and order are derived. Does not import torch."""

import hashlib
from collections.abc import Iterable

import numpy as np


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
