"""The compound's mean effect in closed form: kernel ridge regression on landmark conditions (Nystroem).

    m(x) = k(x, L) A,   A = argmin |R - k(X, L) A|^2 + penalty tr(A^T k(L, L) A)

R are the training wells' changes that plates do not explain. The fit needs k(X, L)^T k(X, L) and k(X, L)^T R only.
These are sums over wells, so blocks of wells add up, and leaving out a fold is a subtraction.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ldm_ray.effects.pooling import Floats

SMALLEST_EIGENVALUE = 1e-6
"""Relative to the largest; single precision of the kernel eats what is smaller."""
SIGNAL_RATIOS = np.geomspace(1e-4, 30.0, 60)
"""Prior variance of the effect over the variance of wells, as tried for each gene."""


@dataclass(frozen=True)
class KernelShape:
    """How similar two conditions of one compound are.

    Attributes:
        same_line: Between two times in one cell line; it is 1 within cell line and time.
        other_line: Between two cell lines; at most `same_line`.
        dose_decades: Width of the Gaussian in log10 dose.
    """

    same_line: float = 0.5
    other_line: float = 0.2
    dose_decades: float = 1.0


DEFAULT_SHAPE = KernelShape()


@dataclass(frozen=True)
class Conditions:
    """n conditions as the kernel sees them, beside the similarity of their compounds.

    Attributes:
        log_dose: log10 of the dose in micromolar, (n,).
        cell: Number of the cell line, (n,), int64; -1 if it is not in training.
        time_h: Hours, (n,).
    """

    log_dose: Tensor
    cell: Tensor
    time_h: Tensor

    def __len__(self) -> int:
        return len(self.cell)

    def take(self, rows: Tensor) -> "Conditions":
        """Return the conditions at `rows`, in that order."""
        return Conditions(self.log_dose[rows], self.cell[rows], self.time_h[rows])

    def to(self, device: torch.device) -> "Conditions":
        """Return the conditions on a device."""
        return Conditions(self.log_dose.to(device), self.cell.to(device), self.time_h.to(device))


def product_kernel(
    similarity: Tensor, x: Conditions, landmarks: Conditions, shape: KernelShape = DEFAULT_SHAPE
) -> Tensor:
    """Return k(x, L), (n, n_landmarks): structure times dose times cell line and time; k(x, x) is 1.

        k = Tanimoto * exp(-(log10 dose - log10 dose')^2 / 2 width^2) * {1, same_line, other_line}

    Each factor is positive definite; the last is other_line + (same_line - other_line) [same line] + (1 - same_line)
    [same line and time].

    Args:
        similarity: Tanimoto similarity of the compounds of `x` and those of the landmarks, (n, n_landmarks).
        x: n conditions.
        landmarks: The landmarks.
        shape: Parameters of the factors.
    """
    apart = (x.log_dose[:, None] - landmarks.log_dose) / shape.dose_decades
    line = x.cell[:, None] == landmarks.cell
    same = line & (x.time_h[:, None] == landmarks.time_h)
    place = shape.other_line + (shape.same_line - shape.other_line) * line + (1.0 - shape.same_line) * same
    return similarity * torch.exp(-0.5 * apart**2) * place


@dataclass(frozen=True)
class NormalEquations:
    """Sums over some wells that the fit needs.

    Attributes:
        gram: k(X, L)^T k(X, L), (n_landmarks, n_landmarks).
        cross: k(X, L)^T R, (n_landmarks, n_genes).
        squares: Sum of squares of R, (n_genes,).
        count: Number of wells.
    """

    gram: Floats
    cross: Floats
    squares: Floats
    count: int

    @classmethod
    def of(cls, kernel: Floats, response: Floats) -> Self:
        """Return those of a block of wells with kernel (n, n_landmarks) and response (n, n_genes)."""
        return cls(kernel.T @ kernel, kernel.T @ response, (response**2).sum(axis=0), len(response))

    @classmethod
    def of_none(cls, n_landmarks: int, n_genes: int) -> Self:
        """Return those of no wells."""
        return cls(np.zeros((n_landmarks, n_landmarks)), np.zeros((n_landmarks, n_genes)), np.zeros(n_genes), 0)

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        gram, cross = self.gram + other.gram, self.cross + other.cross
        return NormalEquations(gram, cross, self.squares + other.squares, self.count + other.count)

    def __sub__(self, other: "NormalEquations") -> "NormalEquations":
        gram, cross = self.gram - other.gram, self.cross - other.cross
        return NormalEquations(gram, cross, self.squares - other.squares, self.count - other.count)


@dataclass(frozen=True)
class Solver:
    """The normal equations in the coordinates in which they are diagonal, so that each penalty costs one product.

    Attributes:
        axes: Features k(x, L) @ axes have the gram matrix diag(strength), (n_landmarks, rank).
        strength: Eigenvalues, (rank,).
        target: axes^T k(X, L)^T R, (rank, n_genes).
        squares: Sum of squares of R, (n_genes,).
        count: Number of wells.
    """

    axes: Floats
    strength: Floats
    target: Floats
    squares: Floats
    count: int

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

    def likeliest_penalty(self) -> tuple[Floats, Floats]:
        """Return the penalty of each gene that makes its data most probable, and by how much; (n_genes,) each.

        The gene's n values are Gaussian with variance v (k / penalty + 1), where v is the likeliest for each penalty.
        With s = 1 / penalty, the log-likelihood exceeds that of s = 0, no signal and an infinite penalty, by

            -n/2 log(1 - sum_i s t_i^2 / (1 + s strength_i) / sum of squares) - 1/2 sum_i log(1 + s strength_i)

        Source: Rasmussen & Williams 2006, Eq. (5.8), with v profiled out, in the coordinates of `target`, on a grid.
        """
        best, penalty = np.zeros_like(self.squares), np.full_like(self.squares, np.inf)
        energy = self.target**2 / self.squares.clip(min=np.finfo(float).tiny)
        for ratio in SIGNAL_RATIOS:
            grown = 1.0 + ratio * self.strength
            left = 1.0 - ratio * (energy / grown[:, None]).sum(axis=0)
            gain = -0.5 * (self.count * np.log(left.clip(min=1e-12)) + np.log(grown).sum())
            better = gain > best
            best, penalty = np.where(better, gain, best), np.where(better, 1.0 / ratio, penalty)
        return penalty, best


def whitening(landmark_kernel: Floats) -> Floats:
    """Return W with W^T k(L, L) W = I, (n_landmarks, rank), without the directions that rounding has eaten."""
    values, vectors = np.linalg.eigh(landmark_kernel)
    large = values > SMALLEST_EIGENVALUE * values[-1]
    return np.asarray(vectors[:, large] / np.sqrt(values[large]))


def solver(equations: NormalEquations, white: Floats) -> Solver:
    """Diagonalise normal equations.

    Args:
        equations: Those of all wells that the fit may use.
        white: The landmarks' `whitening`, (n_landmarks, rank).
    """
    strength, turn = np.linalg.eigh(white.T @ equations.gram @ white)
    axes = white @ turn
    cross = axes.T @ equations.cross
    return Solver(axes, strength.clip(min=0.0), cross, equations.squares, equations.count)
