"""Rows in blocks of fixed size, so that a row's result does not depend on the number of other rows.

Matrix products of different shapes sum in a different order, so a row alone and the same row among a thousand would
differ in the last bits.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def in_blocks(function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """Apply a function of rows to blocks of exactly `rows` rows; the last block is padded with its first row.

    Args:
        function: Maps tensors of `rows` rows to a tensor of `rows` rows, row by row.
        rows: Size of a block.
        tensors: n rows each, n at least 1.

    Returns:
        The function's values, n rows.
    """
    blocks = []
    for part in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
        n = len(part[0])
        missing = rows - n
        full = part if not missing else [torch.cat([t, t[:1].expand(missing, *t.shape[1:])]) for t in part]
        blocks.append(function(*full)[:n])
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


def mean_and_var(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over the second dimension, (n, k, m) to (n, m) each; variance 0 for k = 1.

    Note:
        Summed one by one, because the order of a torch reduction would depend on n.
    """
    k = values.shape[1]
    total = values[:, 0].clone()
    for i in range(1, k):
        total += values[:, i]
    mean = total.div_(k)
    squares = torch.zeros_like(mean)
    if k > 1:
        for i in range(k):
            difference = values[:, i] - mean
            squares += difference.mul_(difference)
        squares /= k - 1
    return mean, squares
