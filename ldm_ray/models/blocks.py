"""Building blocks of the networks.

Results do not depend on how rows are assigned to workers: dropout is keyed by row, and batch normalisation sees the
global batch.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldm_ray.models.batch_norm import GlobalBatchNorm, normalise_together
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
        return self.finish(self.norm(self.linear(h)), keys)

    def finish(self, normalised: Tensor, keys: Tensor | None) -> Tensor:
        """Apply what follows the normalisation."""
        out: Tensor = self.dropout(self.activation(normalised), keys)
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


def side_by_side(mlps: Sequence[Mlp], inputs: Sequence[Tensor], keys: Tensor | None = None) -> list[Tensor]:
    """Apply networks to an input each, layer by layer, so that layers of equal depth share one exchange of moments.

    Args:
        mlps: Networks that do not feed each other.
        inputs: Their inputs, (batch, width_in of the network).
        keys: Keys of dropout in training, (batch,), int64.
    """
    hidden = [mlp.input_dropout(h, keys) for mlp, h in zip(mlps, inputs, strict=True)]
    for depth in range(max(len(mlp.blocks) for mlp in mlps)):
        present = [i for i, mlp in enumerate(mlps) if depth < len(mlp.blocks)]
        blocks = [cast(HiddenBlock, mlps[i].blocks[depth]) for i in present]
        mapped = [block.linear(hidden[i]) for i, block in zip(present, blocks, strict=True)]
        normalised = normalise_together([block.norm for block in blocks], mapped)
        for i, block, h in zip(present, blocks, normalised, strict=True):
            hidden[i] = block.finish(h, keys)
    return hidden


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
