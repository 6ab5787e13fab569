"""Mean and principal components of training wells, the linear rival of an autoencoder."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import open_wells
from ldm_ray.effects.wells import DatasetBase
from ldm_ray.evaluation.scores.moments import GeneMoments

ROWS_PER_BLOCK = 4096
REFERENCE_WELLS = 20_000
"""Training wells, at most; more would hardly change mean or components."""


@dataclass(frozen=True)
class PrincipalComponents:
    """Mean of the target, (n_genes,), and directions of its largest variance over wells, (n_components, n_genes)."""

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]

    def reconstruct(self, target: NDArray[np.float32]) -> NDArray[np.float64]:
        """Give targets, (n, n_genes), back from their components."""
        return self.mean + ((target - self.mean) @ self.directions.T) @ self.directions


def fit_components(dataset: PairedDataset, base: DatasetBase, n_components: int, seed: int) -> PrincipalComponents:
    """Fit on a seeded sub-sample of the training wells; fewer components if there are too few wells or genes.

    Args:
        dataset: The paired dataset.
        base: What the target is measured from.
        n_components: Number of components wanted.
        seed: Seed of the sub-sample.
    """
    reader = open_wells(dataset, "train", REFERENCE_WELLS, seed)
    moments = GeneMoments(1, dataset.n_genes)
    for wells in reader.stream(ROWS_PER_BLOCK):
        moments.add(wells.y - base.of_wells(wells), np.zeros(len(wells), np.int64))
    n_genes, kept = dataset.n_genes, max(1, min(n_components, len(reader) - 1, dataset.n_genes))
    covariance = moments.covariance(within=False)
    _, vectors = scipy.linalg.eigh(covariance, subset_by_index=[n_genes - kept, n_genes - 1])
    return PrincipalComponents(moments.means()[0], vectors.T[::-1])
