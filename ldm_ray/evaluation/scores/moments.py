"""Gene-gene second moments, added up block by block: exact, whatever the blocks."""

from dataclasses import dataclass, field

import numpy as np

CONSTANT = 1e-9
"""A gene whose variance is below this does not vary."""


@dataclass
class GeneMoments:
    """Sums over wells, float64.

    Attributes:
        n_groups: Groups of cell line and time.
        n_genes: Length of a profile.
        counts: Wells of each group, (n_groups,).
        sums: Sums of each group, (n_groups, n_genes).
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
        """Add wells, (n, n_genes), of some groups, (n,)."""
        if not len(x):
            return
        values = x.astype(np.float64)
        order = np.argsort(group, kind="stable")
        present, starts = np.unique(group[order], return_index=True)
        self.sums[present] += np.add.reduceat(values[order], starts, axis=0)
        self.counts += np.bincount(group, minlength=self.n_groups)
        self.second += values.T @ values

    def merge(self, other: "GeneMoments") -> None:
        """Add what another has added up."""
        self.counts += other.counts
        self.sums += other.sums
        self.second += other.second

    def means(self) -> np.ndarray:
        """Mean of each group, (n_groups, n_genes); 0 for an empty one."""
        return np.asarray(self.sums / np.maximum(self.counts, 1)[:, None])

    def covariance(self, *, within: bool) -> np.ndarray:
        """Covariance of genes over wells, (n_genes, n_genes): within groups, or around the mean of all."""
        n = max(1.0, self.counts.sum())
        if within:
            scaled = self.sums / np.sqrt(np.maximum(self.counts, 1))[:, None]
            return np.asarray((self.second - scaled.T @ scaled) / n)
        mean = self.sums.sum(axis=0) / n
        return np.asarray(self.second / n - np.outer(mean, mean))

    def correlation(self, *, within: bool) -> np.ndarray:
        """Correlation of genes over wells; genes that do not vary have correlation 0, and 1 with themselves.

        Source: Pearson's correlation, as in Kim & Yoo, Fig. 3.
        """
        covariance = self.covariance(within=within)
        variance = covariance.diagonal()
        scale = np.where(variance > CONSTANT, 1 / np.sqrt(np.maximum(variance, CONSTANT)), 0.0)
        matrix = np.clip(covariance * scale[:, None] * scale, -1.0, 1.0)
        np.fill_diagonal(matrix, 1.0)
        return np.asarray(matrix)
