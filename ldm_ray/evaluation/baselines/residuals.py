"""Clouds around a model's own mean that need no diffusion: replayed residuals, and Gaussian shapes of random sizes."""

from collections.abc import Sequence

import numpy as np

from ldm_ray.bundle.residuals import Residuals
from ldm_ray.effects.plates import Group
from ldm_ray.evaluation.baselines.clouds import LowRankGaussian, keyed_ranks, keys_of_draw
from ldm_ray.keys import Purpose

SMALLEST_SD = 1e-3


class ResidualClouds:
    """Draws around given means.

    Args:
        residuals: What the mean model leaves of training wells.
        seed: Seed of the draws.
    """

    def __init__(self, residuals: Residuals, seed: int) -> None:
        self._values, self._seed = residuals.values, seed
        numbers: dict[Group, list[int]] = {}
        for row, group in enumerate(residuals.groups):
            numbers.setdefault(group, []).append(row)
        self._rows = {group: np.array(rows) for group, rows in numbers.items()}
        unit = residuals.values.std(axis=0).clip(min=SMALLEST_SD)
        sizes = np.sqrt(((residuals.values / unit) ** 2).mean(axis=1))
        log_sizes = np.log(sizes)
        self._log_size, self._log_size_sd = float(log_sizes.mean()), float(log_sizes.std())
        shapes = (residuals.values / sizes[:, None]).astype(np.float64)
        self._shape = LowRankGaussian.of(np.cov(shapes.T))

    def random_residual(
        self, mean: np.ndarray, groups: Sequence[Group], keys: np.ndarray, number: int = 0
    ) -> np.ndarray:
        """Add to each mean the residual of a random training well of its cell line and time, or of any if none has."""
        choice = keyed_ranks(keys_of_draw(keys, number), self._seed, Purpose.CHOSEN_RESIDUAL)
        every = np.arange(len(self._values))
        own = [self._rows.get(group, every) for group in groups]
        rows = [int(some[int(rank % np.uint64(len(some)))]) for some, rank in zip(own, choice, strict=True)]
        return np.asarray(mean + self._values[rows], np.float32)

    def gaussian_size(self, mean: np.ndarray, keys: np.ndarray, number: int = 0) -> np.ndarray:
        """Add to each mean a low-rank Gaussian shape times a log-normal size."""
        own = keys_of_draw(keys, number)
        shape = self._shape.draw(own, self._seed, Purpose.GAUSSIAN_SHAPE)
        one = LowRankGaussian(np.zeros((1, 0)), np.ones(1)).draw(own, self._seed, Purpose.GAUSSIAN_SIZE)
        return np.asarray(mean + np.exp(self._log_size + self._log_size_sd * one) * shape, np.float32)
