"""Tenths of a chain, from clean latent to noise, in which a denoiser's errors are reported."""

import torch
from torch import Tensor

from ldm_ray.noise import uniform

DECILES = 10


def count_deciles(num_steps: int) -> int:
    """Return the number of tenths: 10, or one for each step of a shorter chain."""
    return min(DECILES, num_steps)


def decile_of(t: Tensor, num_steps: int) -> Tensor:
    """Return the tenth, from 0, that each zero-based step belongs to, (batch,), int64."""
    return t * count_deciles(num_steps) // num_steps


def stratified_steps(decile: int, keys: Tensor, num_steps: int) -> Tensor:
    """Spread rows evenly over the steps of a tenth, in an order keyed by row.

    Args:
        decile: The tenth, from 0.
        keys: Keys of the rows, (n,), int64.
        num_steps: Length of the chain.

    Returns:
        Zero-based steps, (n,), int64.
    """
    n = count_deciles(num_steps)
    first, end = (-(-number * num_steps // n) for number in (decile, decile + 1))
    place = torch.argsort(torch.argsort(uniform(keys), stable=True))
    return first + (place * (end - first)) // len(keys)
