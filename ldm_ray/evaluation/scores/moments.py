"""Gene-gene second moments summed block by block; the blocks do not affect the result."""

from dataclasses import dataclass, field

import numpy as np

CONSTANT = 1e-9
"""A gene with a variance below this counts as constant."""


@dataclass
class GeneMoments:
    """Sums over wells, float64.

    Attributes:
        n_groups: Groups of cell line and time.
        n_genes: Length of a profile.
        counts: Number of wells of each group, (n_groups,).
        sums: Sum over each group, (n_groups, n_genes).
        second: Sum of x x^T over all wells, (n_genes, n_genes).
    """

    n_groups: int
    n_genes: int
    counts: np.ndarray = field(init=False)
    sums: np.ndarray = field(init=False)
    second: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.n_groups)
        self.sums = np.zeros((self.n_groups, self.n_genes))
        self.second = np.zeros((self.n_genes, self.n_genes))

    def add(self, x: np.ndarray, group: np.ndarray) -> None:
        """Add wells, (n, n_genes), with their groups, (n,)."""
        if not len(x):
            return
        values = x.astype(np.float64)
        order = np.argsort(group, kind="stable")
        present, starts = np.unique(group[order], return_index=True)
        self.sums[present] += np.add.reduceat(values[order], starts, axis=0)
        self.counts += np.bincount(group, minlength=self.n_groups)
        self.second += values.T @ values

    def merge(self, other: "GeneMoments") -> None:
        """Add the sums of another."""
        self.counts += other.counts
        self.sums += other.sums
        self.second += other.second

    def means(self) -> np.ndarray:
        """Mean of each group, (n_groups, n_genes); 0 for an empty one."""
        return np.asarray(self.sums / np.maximum(self.counts, 1)[:, None])

    def covariance(self, *, within: bool) -> np.ndarray:
        """Covariance of genes over wells, (n_genes, n_genes), within groups or around the overall mean."""
        n = max(1.0, self.counts.sum())
        if within:
            scaled = self.sums / np.sqrt(np.maximum(self.counts, 1))[:, None]
            return np.asarray((self.second - scaled.T @ scaled) / n)
        mean = self.sums.sum(axis=0) / n
        return np.asarray(self.second / n - np.outer(mean, mean))

    def correlation(self, *, within: bool) -> np.ndarray:
        """Correlation of genes over wells; a constant gene has correlation 1 with itself and 0 with others.

        Source: Pearson's correlation, as in Kim & Yoo, Fig. 3.
        """
        covariance = self.covariance(within=within)
        variance = covariance.diagonal()
        scale = np.where(variance > CONSTANT, 1 / np.sqrt(np.maximum(variance, CONSTANT)), 0.0)
        matrix = np.clip(covariance * scale[:, None] * scale, -1.0, 1.0)
        np.fill_diagonal(matrix, 1.0)
        return np.asarray(matrix)


@dataclass
class Cloud:
    """One predicted profile for each well.

    Attributes:
        moments: Moments of the profiles.
        sampled: Those of the sampled wells, (m, n_genes).
    """

    moments: GeneMoments
    sampled: np.ndarray
