"""The fitted effect of compounds: a kernel head on landmark conditions, with coefficients for each left-out fold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm_ray.chem.similarity import tanimoto_table
from ldm_ray.effects.kernel import Conditions, KernelShape, product_kernel
from ldm_ray.models.in_blocks import in_blocks

ROWS = 128
"""Rows of a matrix product, so that a condition's effect does not depend on the other conditions."""


@dataclass(frozen=True)
class CompoundEffects:
    """m, what a compound does beyond what its plate does, log2.

    Attributes:
        shape: Parameters of the kernel.
        cells: Names of the cell lines, by their numbers in `landmarks`.
        fingerprints: Packed ECFP4 bits of each landmark's compound, (n_landmarks, n_bytes), uint8.
        landmarks: The landmark conditions.
        coefficients: A for all training wells, (n_landmarks, n_genes).
        without_fold: A without each fold of compounds, (n_folds, n_landmarks, n_genes); no folds in a bundle that
            answers queries.
    """

    shape: KernelShape
    cells: tuple[str, ...]
    fingerprints: NDArray[np.uint8]
    landmarks: Conditions
    coefficients: Tensor
    without_fold: Tensor

    def similarity(self, fingerprints: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the similarity of compounds, packed ECFP4 bits (n, n_bytes), to the landmarks', (n, n_landmarks)."""
        return tanimoto_table(fingerprints, self.fingerprints)

    def conditions(self, cells: Sequence[str], dose_um: NDArray[np.float32], time_h: NDArray[np.float32]) -> Conditions:
        """Return conditions as the kernel sees them; a cell line that is not in training has number -1."""
        log_dose = torch.log10(torch.tensor(dose_um, dtype=torch.float32))
        return Conditions(log_dose, self.cell_numbers(cells), torch.tensor(time_h, dtype=torch.float32))

    def cell_numbers(self, cells: Sequence[str]) -> Tensor:
        """Return the number of each cell line, (n,), int64; -1 if it is not in training."""
        number = {name: row for row, name in enumerate(self.cells)}
        return torch.tensor([number.get(name, -1) for name in cells], dtype=torch.int64)

    def kernel(self, similarity: Tensor, x: Conditions) -> Tensor:
        """Return k(x, L), (n, n_landmarks), given the similarity of each condition's compound to the landmarks'."""
        return product_kernel(similarity, x, self.landmarks, self.shape)

    def of(self, similarity: Tensor, x: Conditions) -> Tensor:
        """Return m at n conditions, (n, n_genes), log2; a row does not depend on the others, to the last bit."""

        def block(similar: Tensor, log_dose: Tensor, cell: Tensor, time_h: Tensor) -> Tensor:
            return self.kernel(similar, Conditions(log_dose, cell, time_h)) @ self.coefficients

        return in_blocks(block, ROWS, similarity, x.log_dose, x.cell, x.time_h)

    def out_of_fold(self, similarity: Tensor, x: Conditions, fold: Tensor) -> Tensor:
        """Return m fitted without each condition's fold of compounds, (n, n_genes), log2.

        Args:
            similarity: As in `kernel`.
            x: n conditions.
            fold: Fold of each, (n,), int64; -1 for compounds that are not in training.
        """
        kernel, out = self.kernel(similarity, x), torch.empty(len(x), self.coefficients.shape[1], device=fold.device)
        for number in torch.unique(fold).tolist():
            rows = fold == number
            out[rows] = kernel[rows] @ (self.coefficients if number < 0 else self.without_fold[number])
        return out

    def to(self, device: torch.device) -> "CompoundEffects":
        """Return the effects with their tensors on a device."""
        return replace(
            self,
            landmarks=self.landmarks.to(device),
            coefficients=self.coefficients.to(device),
            without_fold=self.without_fold.to(device),
        )
