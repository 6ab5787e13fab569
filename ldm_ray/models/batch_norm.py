"""Batch normalisation over the global batch, in as few exchanges between workers as the network allows.

With groups, each lies on one worker, so that only running moments are exchanged, once a step.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the rows of all workers, on CPU and GPU alike.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1.

    Attributes:
        groups: Groups of a global batch's lanes that are normalised apart (Hoffer et al. 2017, arXiv:1705.08741,
            section 4). Worker r of w holds the lanes r, r + w, ..., and group g is the lanes g, g + groups, ..., so a
            group lies on one worker if w divides the number of groups.
        lanes: Lanes of a global batch; a worker's rows come lane by lane.

    Note:
        torch.nn.SyncBatchNorm refuses CPU tensors. With one worker and one group this is torch.nn.BatchNorm1d.
    """

    groups = lanes = 1

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (batch, features); every worker must have equally many rows."""
        if self.exchanges:
            return normalise_together([self], [input])[0]
        return self._by_group(input) if self.training and self.groups > 1 else super().forward(input)

    @property
    def exchanges(self) -> bool:
        """Whether workers exchange moments in the pass: with several of them, in training, without groups."""
        return self.training and self.groups == 1 and _workers() > 1

    def _by_group(self, input: Tensor) -> Tensor:
        """Normalise each of this worker's groups by its own moments."""
        groups, lanes = self.groups // _workers(), self.lanes // _workers()
        rows = input.view(lanes // groups, groups, len(input) // lanes, -1)
        mean = rows.mean(dim=(0, 2), keepdim=True)
        centred = rows - mean
        var = (centred**2).mean(dim=(0, 2), keepdim=True)
        with torch.no_grad():
            self.update_running(mean.flatten(0, 2).mean(dim=0), var.flatten(0, 2).mean(dim=0), len(input) // groups)
        return torch.addcmul(self.bias, (centred * torch.rsqrt(var + self.eps)).view_as(input), self.weight)

    def update_running(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running moments towards those of a batch of `count` rows, each (features,)."""
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * count / (count - 1), self.momentum)


def _workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def normalise_in_groups(module: nn.Module, groups: int, lanes: int) -> None:
    """Let all batch normalisations in a module work on groups of lanes; see `GlobalBatchNorm`."""
    for layer in module.modules():
        if isinstance(layer, GlobalBatchNorm):
            layer.groups, layer.lanes = groups, lanes


@torch.no_grad()
def share_running_moments(module: nn.Module) -> None:
    """Average the running moments of grouped batch normalisations over workers, in one exchange.

    Moments move by a share of their distance to a batch's, so the average of the workers' is what one worker with all
    groups would have.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, GlobalBatchNorm) and layer.groups > 1]
    if _workers() == 1 or not layers:
        return
    buffers = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var) if buffer is not None]
    moments = torch.cat(buffers)
    dist.all_reduce(moments)
    parts = (moments / _workers()).split([len(buffer) for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part)


def normalise_together(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Apply normalisation layers to an input each; workers exchange the moments of all of them at once.

    That is one exchange in the forward pass and one in the backward pass, however many layers there are.

    Args:
        layers: Layers that do not feed each other. Batch normalisations are all in the same mode and have equal eps.
        inputs: Their inputs, (batch, features of the layer); every worker must have equally many rows.
    """
    together = [layer for layer in layers if isinstance(layer, GlobalBatchNorm) and layer.exchanges]
    if len(together) < len(layers):
        return [layer(h) for layer, h in zip(layers, inputs, strict=True)]
    mean, var, *standardised = _Standardised.apply(together[0].eps, *inputs)  # type: ignore[no-untyped-call]
    widths, count = [h.shape[1] for h in inputs], len(inputs[0]) * _workers()
    for layer, own_mean, own_var in zip(together, mean.split(widths), var.split(widths), strict=True):
        layer.update_running(own_mean, own_var, count)
    return [torch.addcmul(layer.bias, h, layer.weight) for layer, h in zip(together, standardised, strict=True)]


class _Standardised(torch.autograd.Function):
    """Centre and scale the features of several inputs by their moments over all workers' rows.

    Note:
        Each worker centres on its own mean before it squares, and the parts are combined as in Chan et al. 1983
        (doi:10.1080/00031305.1983.10483115). A plain sum of squares would lose the variance of raw doses and times,
        which is small beside the square of their mean.
    """

    @staticmethod
    def forward(ctx: Any, eps: float, *inputs: Tensor) -> tuple[Tensor, ...]:
        means = [h.mean(dim=0) for h in inputs]
        parts = [((h - mean) ** 2).mean(dim=0) for h, mean in zip(inputs, means, strict=True)]
        mean, var = _pooled(torch.stack([torch.cat(means), torch.cat(parts)]))
        scale = torch.rsqrt(var + eps)
        widths = [h.shape[1] for h in inputs]
        columns = zip(inputs, mean.split(widths), scale.split(widths), strict=True)
        standardised = [(h - own_mean) * own_scale for h, own_mean, own_scale in columns]
        ctx.save_for_backward(scale, *standardised)
        ctx.mark_non_differentiable(mean, var)
        return mean, var, *standardised

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale, *standardised = ctx.saved_tensors
        gradients = gradients[2:]
        along = [(g * h).sum(dim=0) for g, h in zip(gradients, standardised, strict=True)]
        sums = torch.stack([torch.cat([g.sum(dim=0) for g in gradients]), torch.cat(along)])
        dist.all_reduce(sums)
        mean, slope = sums / (len(gradients[0]) * dist.get_world_size())
        widths = [g.shape[1] for g in gradients]
        columns = zip(
            gradients, standardised, mean.split(widths), slope.split(widths), scale.split(widths), strict=True
        )
        return None, *((g - own_mean - h * own_slope) * own_scale for g, h, own_mean, own_slope, own_scale in columns)


def _pooled(own: Tensor) -> tuple[Tensor, Tensor]:
    """Combine each worker's mean and variance, (2, features), to those of all rows, each (features,)."""
    every = own.new_empty(dist.get_world_size(), *own.shape)
    dist.all_gather(list(every), own)
    means, variances = every.unbind(dim=1)
    return means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, correction=0)
