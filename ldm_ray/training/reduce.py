"""Sums over all workers of a run; with one worker, plain values."""

import torch
import torch.distributed as dist
from torch import Tensor

from ldm_ray.training.source import WellSource


def world_size() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this worker's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_workers(value: Tensor) -> Tensor:
    """Sum a tensor over all workers."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def max_over_workers(value: Tensor) -> Tensor:
    """Take the elementwise maximum over all workers."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def mean_over_workers(value: Tensor) -> float:
    """Average a scalar over all workers."""
    return float(sum_over_workers(value)) / world_size()


def count_over_workers(source: WellSource, split: str) -> float:
    """Count all workers' rows of a split; summed on the rows' device, as nccl requires."""
    own = torch.tensor(float(source.count(split)), dtype=torch.float64, device=source.device)
    return float(sum_over_workers(own))
