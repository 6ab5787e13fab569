"""Random numbers keyed by what they belong to, never by position, batch or worker.

A key (`ldm_ray.keys`) is a 64-bit integer mixed from (seed, profile or condition, epoch or draw, step, purpose). Its
normals are the outputs of the SplitMix64 stream that starts at the key, transformed in pairs by Box and Muller. So a
row gets the same noise on any worker, in any batch, before or after a run is resumed.

Source: Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195 (SplitMix64); Box & Muller 1958.
"""

import math

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
FACTOR_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
FACTOR_2 = -7723592293110705685  # 0x94D049BB133111EB
LOW_32 = 0xFFFFFFFF


def mix(keys: Tensor, *parts: int | Tensor) -> Tensor:
    """Derive new keys from keys and further integers, in order; same shape as `keys`, int64."""
    for part in parts:
        keys = _finalise(keys + GOLDEN) ^ (part if isinstance(part, Tensor) else _signed(part))
    return _finalise(keys + GOLDEN)


def standard_normal(keys: Tensor, dim: int) -> Tensor:
    """Draw N(0, 1).

    Args:
        keys: Shape (n,), int64.
        dim: Numbers per key.

    Returns:
        Shape (n, dim), float32.
    """
    half = (dim + 1) // 2
    # Whole SIMD vectors: at a ragged end logarithms and cosines are rounded differently.
    width = -(-half // 16) * 16
    high, low = (part.to(torch.float32) for part in _halves(keys, width))
    # In place throughout: large draws are bound by memory, not by arithmetic.
    radius = high.add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = low.mul_(2.0 * math.pi * 2.0**-32)
    # Joined, not written into parts of one tensor, which `torch.compile` does not take.
    cos = torch.cos(angle)[:, :half].mul_(radius[:, :half])
    sin = angle.sin_()[:, : dim - half].mul_(radius[:, : dim - half])
    return torch.cat([cos, sin], dim=1)


def uniform_integers(keys: Tensor, high: int) -> Tensor:
    """Draw integers from 0 to high - 1, one per key, shape (n,), int64; the bias is below high / 2**32."""
    top, _ = _halves(keys, 1)
    return (top[:, 0] * high) >> 32


def uniform(keys: Tensor) -> Tensor:
    """Draw numbers between 0 and 1, one per key, shape (n,), float64; they agree with `uniform_integers`."""
    top, _ = _halves(keys, 1)
    return (top[:, 0].double() + 0.5) * 2.0**-32


def keep_mask(keys: Tensor, dim: int, keep_probability: float) -> Tensor:
    """Draw True with the given probability, shape (n, dim)."""
    high, low = _halves(keys, (dim + 1) // 2)
    return torch.cat([high, low], dim=1)[:, :dim] < round(keep_probability * 2**32)


def _halves(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the upper and lower 32 bits of `count` outputs of each key's stream."""
    # Without `^ 0`, which changes nothing, torch's compiler folds range and factor into one 32-bit expression.
    steps = (torch.arange(1, count + 1, device=keys.device, dtype=torch.int64) ^ 0) * GOLDEN
    bits = _finalise(keys[:, None] + steps)
    return (bits >> 32).bitwise_and_(LOW_32), bits.bitwise_and_(LOW_32)


def _finalise(z: Tensor) -> Tensor:
    """Mix the bits of new keys, in place."""
    z.bitwise_xor_(_shift_right(z, 30)).mul_(FACTOR_1)
    z.bitwise_xor_(_shift_right(z, 27)).mul_(FACTOR_2)
    return z.bitwise_xor_(_shift_right(z, 31))


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value
