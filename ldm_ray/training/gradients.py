"""The gradients of a training step, which a single GPU replays as a CUDA graph."""

import torch
from torch import Tensor, nn

from ldm_ray.models.replayed import Replayed
from ldm_ray.noise import mix
from ldm_ray.training.reduce import world_size
from ldm_ray.training.rows import Rows
from ldm_ray.training.steps import StepLosses, Task


class Gradients:
    """Computes the clipped gradients of a task's loss.

    Args:
        task: The task; its module is in training mode.
        wrapped: Its module, or that module under DDP.
        clip_norm: Largest norm of the gradients.
        seed: Seed of the noise.

    Note:
        With several workers nothing is captured: DDP adds up gradients during the step.
    """

    def __init__(self, task: Task, wrapped: nn.Module, clip_norm: float, seed: int) -> None:
        self._task, self._wrapped, self._clip_norm, self._seed = task, wrapped, clip_norm, seed
        self._captured: tuple[Rows, Tensor, Replayed] | None = None

    def __call__(self, rows: Rows, epoch: int) -> Tensor:
        """Set the gradients of the module's parameters for a batch, and return its loss, a scalar without gradient."""
        device = rows.keys.device
        if device.type != "cuda" or world_size() > 1:
            return self.compute(rows, epoch)
        if self._captured is None:
            own = rows.clone(), torch.zeros((), dtype=torch.int64, device=device)
            self._captured = *own, Replayed(lambda: self.compute(*own), device)
        own_rows, own_epoch, replayed = self._captured
        own_rows.copy_(rows)
        own_epoch.fill_(epoch)
        return replayed().clone()

    def compute(self, rows: Rows, epoch: int | Tensor) -> Tensor:
        """Do it without a graph."""
        losses: StepLosses = self._wrapped(self._task.batch(rows, mix(rows.keys, self._seed, epoch)))
        self._task.module.zero_grad(set_to_none=True)
        losses.loss.backward()
        nn.utils.clip_grad_norm_(self._task.module.parameters(), self._clip_norm)
        return losses.loss.detach()
