"""Tanimoto similarity of packed fingerprints."""

from collections.abc import Sequence

import numpy as np

from ldm_ray.chem.fingerprint import MorganEncoder


def packed(parents: Sequence[str]) -> np.ndarray:
    """ECFP4 bits, eight per byte, (n, 256), uint8."""
    return np.packbits(MorganEncoder().encode(parents).astype(bool), axis=1)


def tanimoto(bits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Tanimoto similarity of one molecule's packed bits to others', (n,): shared bits over bits set in either.

    Source: Rogers & Tanimoto 1960, doi:10.1126/science.132.3434.1115.
    """
    shared = np.bitwise_count(bits & others).sum(axis=1, dtype=np.int64)
    either = np.bitwise_count(bits | others).sum(axis=1, dtype=np.int64)
    return np.asarray(shared / np.maximum(either, 1))


def tanimoto_table(bits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Tanimoto similarity of all pairs of packed bits, (n, n_others), float32; as `tanimoto`, by a matrix product."""
    a, b = (np.unpackbits(packed_bits, axis=1).astype(np.float32) for packed_bits in (bits, others))
    shared = a @ b.T
    either = a.sum(axis=1)[:, None] + b.sum(axis=1) - shared
    return np.asarray(shared / np.maximum(either, 1.0), np.float32)
