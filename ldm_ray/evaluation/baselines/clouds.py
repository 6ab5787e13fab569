"""Baselines that a generative model must beat: wells drawn from training wells, without a model."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import torch

from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.baselines.trivial import cell, cell_time, everywhere, rows_by_label
from ldm_ray.keys import Purpose
from ldm_ray.noise import mix, standard_normal

KEPT_WELLS = 64
RANK = 16
LEVELS = (cell_time, cell, everywhere)


@dataclass
class Reservoir:
    """A seeded sub-sample of training profiles, or of changes, by cell line and time.

    Attributes:
        seed: Seed of the draw.
        kept: Rank and values of up to `KEPT_WELLS` wells per group, at each level of coarseness.
    """

    seed: int
    kept: list[dict[Hashable, tuple[np.ndarray, np.ndarray]]] = field(default_factory=lambda: [{} for _ in LEVELS])

    def add(self, wells: Wells, values: np.ndarray) -> None:
        """Add training wells' values, (n, n_genes); the wells with the lowest ranks are kept."""
        rank = keyed_ranks(wells.keys, self.seed, Purpose.KEPT_WELLS)
        for labels_of, kept in zip(LEVELS, self.kept, strict=True):
            for label, rows in rows_by_label(labels_of(wells)).items():
                ranks, profiles = rank[rows], values[rows]
                if label in kept:
                    ranks = np.concatenate([kept[label][0], ranks])
                    profiles = np.concatenate([kept[label][1], profiles])
                best = np.argsort(ranks, kind="stable")[:KEPT_WELLS]
                kept[label] = (ranks[best], profiles[best])

    def draw(self, wells: Wells, number: int = 0) -> np.ndarray:
        """Draw a kept value from each well's cell line and time (or coarser), keyed by well and draw, (n, n_genes)."""
        choice = keyed_ranks(keys_of_draw(wells.keys, number), self.seed, Purpose.CHOSEN_WELL)
        out = np.empty((len(wells), wells.y.shape[1]), np.float32)
        found = np.zeros(len(wells), dtype=bool)
        for labels_of, kept in zip(LEVELS, self.kept, strict=True):
            for label, members in rows_by_label(labels_of(wells)).items():
                rows = members[~found[members]]
                if len(rows) and label in kept:
                    profiles = kept[label][1]
                    out[rows] = profiles[(choice[rows] % np.uint64(len(profiles))).astype(int)]
                    found[rows] = True
        return out


@dataclass(frozen=True)
class LowRankGaussian:
    """A zero-mean Gaussian with covariance factor factor^T + diag(sd^2), fitted to training residuals."""

    factor: np.ndarray
    sd: np.ndarray

    @staticmethod
    def of(covariance: np.ndarray, rank: int = RANK) -> "LowRankGaussian":
        """Keep the strongest factors of a covariance, (n_genes, n_genes), and the variance of every gene."""
        n = len(covariance)
        values, vectors = scipy.linalg.eigh(covariance, subset_by_index=[max(0, n - rank), n - 1])
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
        own = np.maximum(covariance.diagonal() - (factor**2).sum(axis=1), 0.0)
        return LowRankGaussian(factor, np.sqrt(own))

    @property
    def total_sd(self) -> np.ndarray:
        """Standard deviation of each gene, (n_genes,)."""
        return np.asarray(np.sqrt((self.factor**2).sum(axis=1) + self.sd**2))

    def draw(self, keys: np.ndarray, seed: int, purpose: Purpose) -> np.ndarray:
        """Draw one vector per key, (n, n_genes), float32; it depends on no other key."""
        own = mix(torch.from_numpy(keys), seed, purpose)
        rank, n_genes = self.factor.shape[1], len(self.sd)
        normal = standard_normal(own, rank + n_genes).numpy().astype(np.float64)
        return np.asarray(normal[:, :rank] @ self.factor.T + normal[:, rank:] * self.sd, dtype=np.float32)


def keys_of_draw(keys: np.ndarray, number: int) -> np.ndarray:
    """Return the keys of a draw, (n,); the first draw has the wells' own."""
    return keys if number == 0 else np.asarray(mix(torch.from_numpy(keys), number).numpy())


def keyed_ranks(keys: np.ndarray, seed: int, purpose: Purpose) -> np.ndarray:
    """Mix keys with seed and purpose, (n,), uint64."""
    return np.asarray(mix(torch.from_numpy(keys), seed, purpose).numpy().view(np.uint64))
