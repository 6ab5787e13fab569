"""Building blocks of the networks.

Results do not depend on how rows are assigned to workers: dropout is keyed by row, and batch normalisation sees the
global batch.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldm_ray.noise import keep_mask, mix

Norm = Literal["none", "layer", "batch"]
Activation = Literal["leaky_relu", "silu"]


class KeyedDropout(nn.Module):
    """Dropout with a mask derived from a key per row, not from a global generator.

    Args:
        probability: Probability of setting a feature to 0 in training.
        salt: Differs between the dropout layers of a network.
    """

    def __init__(self, probability: float, salt: int) -> None:
        super().__init__()
        self.probability, self.salt = probability, salt

    def forward(self, h: Tensor, keys: Tensor | None) -> Tensor:
        """Mask h, (batch, features), in training, by keys (batch,), int64; without keys h is unchanged."""
        if not self.training or self.probability == 0.0 or keys is None:
            return h
        keep = 1.0 - self.probability
        return h * keep_mask(mix(keys, self.salt), h.shape[1], keep).to(h.dtype) / keep


class _AllReduceSum(torch.autograd.Function):
    """Sum over workers; the gradient of a sum is again a sum over workers."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_workers(value: Tensor) -> Tensor:
    total: Tensor = _AllReduceSum.apply(value)  # type: ignore[no-untyped-call]
    return total


def mean_over_global_batch(value: Tensor) -> Tensor:
    """Differentiable mean over the rows of all workers, (batch, n) to (n,); all must have equally many rows."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and torch.is_grad_enabled()):
        return value.mean(dim=0)
    return _sum_over_workers(value.sum(dim=0)) / (len(value) * dist.get_world_size())


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the global batch, on CPU and GPU alike.

    Note:
        torch.nn.SyncBatchNorm refuses CPU tensors, so its two sums are reduced here. The gradient equals that of one
        worker with the whole batch because all workers have equally many rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (batch, features)."""
        workers = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if not self.training or workers == 1:
            return super().forward(input)
        count = input.shape[0] * workers
        mean = _sum_over_workers(input.sum(dim=0)) / count
        centred = input - mean
        var = _sum_over_workers((centred**2).sum(dim=0)) / count
        with torch.no_grad():
            momentum = self.momentum or 0.1
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * count / (count - 1), momentum)
        return centred * torch.rsqrt(var + self.eps) * self.weight + self.bias


def build_norm(norm: Norm, width: int) -> nn.Module:
    """Build the normalisation layer of a hidden block."""
    if norm == "layer":
        return nn.LayerNorm(width)
    return GlobalBatchNorm(width) if norm == "batch" else nn.Identity()


class HiddenBlock(nn.Module):
    """Linear, normalisation, activation, dropout."""

    def __init__(
        self, width_in: int, width: int, norm: Norm, activation: Activation, dropout: float, salt: int
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width)
        self.norm = build_norm(norm, width)
        self.activation: nn.Module = nn.SiLU() if activation == "silu" else nn.LeakyReLU(0.01)
        self.dropout = KeyedDropout(dropout, salt)

    def forward(self, h: Tensor, keys: Tensor | None = None) -> Tensor:
        """Map (batch, width_in) to (batch, width)."""
        out: Tensor = self.dropout(self.activation(self.norm(self.linear(h))), keys)
        return out


class Mlp(nn.Module):
    """A chain of hidden blocks; the input is first masked by `input_dropout`."""

    def __init__(
        self,
        width_in: int,
        widths: Sequence[int],
        norm: Norm,
        *,
        activation: Activation = "leaky_relu",
        dropout: float = 0.0,
        salt: int = 0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [width_in, *widths]
        self.input_dropout = KeyedDropout(input_dropout, salt + 99)
        self.blocks = nn.ModuleList(
            HiddenBlock(a, b, norm, activation, dropout, salt + i) for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.width = sizes[-1]

    def forward(self, h: Tensor, keys: Tensor | None = None) -> Tensor:
        """Map (batch, width_in) to (batch, widths[-1])."""
        h = self.input_dropout(h, keys)
        for block in self.blocks:
            h = block(h, keys)
        return h


class ResidualBlock(nn.Module):
    """h + LeakyReLU(Linear(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.activation = nn.LeakyReLU(0.01)

    def forward(self, h: Tensor) -> Tensor:
        """Map (batch, width) to (batch, width)."""
        out: Tensor = h + self.activation(self.linear(h))
        return out
