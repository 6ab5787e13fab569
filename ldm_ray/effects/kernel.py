"""The compound's mean effect in closed form: kernel ridge regression on landmark conditions (Nystroem).

    m(x) = k(x, L) A,   A = argmin |R - k(X, L) A|^2 + penalty tr(A^T k(L, L) A)

R are the training wells' changes that plates do not explain. The fit needs k(X, L)^T k(X, L) and k(X, L)^T R only.
These are sums over wells, so blocks of wells add up, and leaving out a fold is a subtraction.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ldm_ray.effects.pooling import Floats, Numbers

DOSE_DECADES = 1.0
OTHER_LINE, SAME_LINE = 0.2, 0.5
"""Kernel between conditions of two cell lines, and of one cell line at two times; it is 1 within cell line and time."""
SMALLEST_EIGENVALUE = 1e-9
SIGNAL_RATIOS = np.geomspace(1e-4, 30.0, 60)
"""Prior variance of the effect over the variance of wells, as tried for each gene."""


@dataclass(frozen=True)
class Conditions:
    """n conditions as the kernel sees them.

    Attributes:
        compound: Row of the table of similarities, (n,).
        log_dose: log10 of the dose in micromolar, (n,).
        cell: Number of the cell line, (n,); -1 if it is not in training.
        time_h: Hours, (n,).
    """

    compound: Numbers
    log_dose: Floats
    cell: Numbers
    time_h: Floats

    def __len__(self) -> int:
        return len(self.compound)

    def take(self, rows: Numbers) -> "Conditions":
        """Return the conditions at `rows`, in that order."""
        return Conditions(self.compound[rows], self.log_dose[rows], self.cell[rows], self.time_h[rows])


def product_kernel(similarity: Floats, x: Conditions, landmarks: Conditions) -> Floats:
    """Return k(x, L), (n, n_landmarks): structure times dose times cell line and time; k(x, x) is 1.

        k = Tanimoto * exp(-(log10 dose - log10 dose')^2 / 2) * {1, 0.5, 0.2}

    Each factor is positive definite: the last is 0.2 + 0.3 [same line] + 0.5 [same line and time].

    Args:
        similarity: Tanimoto similarity of the compounds of `x` and those of the landmarks, (n, n_landmarks).
        x: n conditions.
        landmarks: The landmarks.
    """
    apart = (x.log_dose[:, None] - landmarks.log_dose) / DOSE_DECADES
    line = x.cell[:, None] == landmarks.cell
    same = line & (x.time_h[:, None] == landmarks.time_h)
    place = np.where(same, 1.0, np.where(line, SAME_LINE, OTHER_LINE))
    return np.asarray(similarity * np.exp(-0.5 * apart**2) * place)


@dataclass(frozen=True)
class NormalEquations:
    """k(X, L)^T k(X, L) and k(X, L)^T R of some wells, (n_landmarks, n_landmarks) and (n_landmarks, n_genes)."""

    gram: Floats
    cross: Floats

    @classmethod
    def of(cls, kernel: Floats, response: Floats) -> Self:
        """Return those of a block of wells with kernel (n, n_landmarks) and response (n, n_genes)."""
        return cls(kernel.T @ kernel, kernel.T @ response)

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        return NormalEquations(self.gram + other.gram, self.cross + other.cross)

    def __sub__(self, other: "NormalEquations") -> "NormalEquations":
        return NormalEquations(self.gram - other.gram, self.cross - other.cross)


@dataclass(frozen=True)
class Solver:
    """The normal equations in the coordinates in which they are diagonal, so that each penalty costs one product.

    Attributes:
        axes: Features k(x, L) @ axes have the gram matrix diag(strength), (n_landmarks, rank).
        strength: Eigenvalues, (rank,).
        target: axes^T k(X, L)^T R, (rank, n_genes).
    """

    axes: Floats
    strength: Floats
    target: Floats

    def coefficients(self, penalty: Floats) -> Floats:
        """Return A of each gene's penalty, (n_landmarks, n_genes); an infinite penalty gives 0."""
        return np.asarray(self.axes @ (self.target / (self.strength[:, None] + penalty)))

    def variance(self, kernel: Floats, penalty: Floats) -> Floats:
        """Return the posterior variance of m at n conditions in units of its prior variance, (n, n_genes), in [0, 1].

        It is small near training conditions and 1 far from all of them.

        Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, Eq. (8.16); what the landmarks
        cannot express keeps its prior variance (Quinonero-Candela & Rasmussen 2005, section 6, at test points).
        """
        features = (kernel @ self.axes) ** 2
        with np.errstate(divide="ignore"):
            left = features @ (1.0 / (1.0 + self.strength[:, None] / penalty))
        return np.asarray((left + 1.0 - features.sum(axis=1)[:, None]).clip(0.0, 1.0))

    def likeliest_penalty(self, noise_var: Floats) -> Floats:
        """Return the penalty of each gene that makes its data most probable, (n_genes,); infinite for no signal.

        The gene's values are Gaussian with variance noise_var (k / penalty + 1). With s = 1 / penalty, its
        log-likelihood exceeds that of s = 0 by

            1/2 sum_i [s t_i^2 / (noise_var (1 + s strength_i)) - log(1 + s strength_i)]

        Source: Rasmussen & Williams 2006, Eq. (5.8), in the coordinates of `target`, on a grid.

        Args:
            noise_var: Variance of wells around m, (n_genes,).
        """
        best, penalty = np.zeros_like(noise_var), np.full_like(noise_var, np.inf)
        energy = self.target**2 / noise_var
        for ratio in SIGNAL_RATIOS:
            grown = 1.0 + ratio * self.strength
            gain = 0.5 * (ratio * (energy / grown[:, None]).sum(axis=0) - np.log(grown).sum())
            better = gain > best
            best, penalty = np.where(better, gain, best), np.where(better, 1.0 / ratio, penalty)
        return penalty


def solver(equations: NormalEquations, landmark_kernel: Floats) -> Solver:
    """Diagonalise normal equations.

    Args:
        equations: Those of all wells that the fit may use.
        landmark_kernel: k(L, L), (n_landmarks, n_landmarks).
    """
    values, vectors = np.linalg.eigh(landmark_kernel)
    large = values > SMALLEST_EIGENVALUE * values[-1]
    white = vectors[:, large] / np.sqrt(values[large])
    strength, turn = np.linalg.eigh(white.T @ equations.gram @ white)
    axes = white @ turn
    return Solver(axes, strength.clip(min=0.0), axes.T @ equations.cross)
