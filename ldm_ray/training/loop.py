"""The training loop of one worker: torch only, the same with one worker or under DDP."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ldm_ray.errors import NonFiniteError
from ldm_ray.models.batch_norm import share_running_moments
from ldm_ray.noise import mix
from ldm_ray.settings import OptimiserSettings
from ldm_ray.training.ema import Ema
from ldm_ray.training.gradients import Gradients
from ldm_ray.training.reduce import count_over_workers, mean_over_workers, sum_over_workers, world_size
from ldm_ray.training.source import WellSource
from ldm_ray.training.steps import StepLosses, Task

VALIDATION_EPOCH = -1


class Hooks(Protocol):
    """Callbacks of the loop; every worker calls each of them equally often."""

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        """Called after each step; must not synchronise."""

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        """Called at the end of each epoch (with metrics) and at each checkpoint (with a state)."""


@dataclass
class Fit:
    """Everything that changes in training; `state_dict` is the content of a checkpoint.

    `best_loss` is the kept epoch's value of the measure that `keep` names, negated if higher is better.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    ema: Ema
    best: dict[str, Tensor]
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    stopped: bool = False
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    COUNTERS = ("epoch", "step_in_epoch", "step", "best_loss", "best_epoch", "stopped", "loss_sum", "history")

    def state_dict(self) -> dict[str, Any]:
        """Return only tensors and plain values, which load without unpickling code."""
        tensors = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
            "best": self.best,
        }
        return tensors | {name: getattr(self, name) for name in self.COUNTERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema.load_state_dict(state["ema"])
        self.best = state["best"]
        for name in self.COUNTERS:
            setattr(self, name, state[name])


def start_fit(module: nn.Module, settings: OptimiserSettings) -> Fit:
    """Set up the optimiser and the averaged weights of a fresh run."""
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    ema = Ema(module, settings.ema_decay)
    return Fit(module, optimiser, ema, {name: value.clone() for name, value in ema.values.items()})


def run_fit(
    fit: Fit,
    task: Task,
    source: WellSource,
    settings: OptimiserSettings,
    seed: int,
    hooks: Hooks,
) -> None:
    """Train until the last epoch or until early stopping; then load the best weights.

    Args:
        fit: Fresh or restored from a checkpoint.
        task: The model; `fit.module` is `task.module`.
        source: This worker's rows.
        settings: Optimiser settings.
        seed: Seed of order and noise.
        hooks: Called at every step, epoch and checkpoint.

    Raises:
        NonFiniteError: If the loss becomes NaN or infinite.
    """
    # Buffers are already equal on all workers, because batch normalisation reduces its moments itself.
    wrapped = DistributedDataParallel(fit.module, broadcast_buffers=False) if world_size() > 1 else fit.module
    gradients = Gradients(task, wrapped, settings.gradient_clip_norm, seed)
    plan = source.plan
    total = plan.steps * settings.epochs
    while fit.epoch < settings.epochs and not fit.stopped:
        wrapped.train()
        losses = torch.tensor(fit.loss_sum, dtype=torch.float64, device=source.device)
        for rows in source.batches(fit.epoch, fit.step_in_epoch):
            loss = gradients(rows, fit.epoch)
            _update(fit, learning_rate_at(fit.step, total, settings, fit.history))
            losses += loss
            fit.step += 1
            fit.step_in_epoch += 1
            hooks.on_step(fit.step, total, fit.epoch, loss)
            if fit.step % settings.checkpoint_every_steps == 0 and fit.step_in_epoch < plan.steps:
                fit.loss_sum = mean_over_workers(losses)
                losses.fill_(fit.loss_sum)
                hooks.report({"step": fit.step}, fit.state_dict())
        train_loss = mean_over_workers(losses) / plan.steps
        _end_epoch(fit, task, source, settings, seed, train_loss)
        hooks.report(fit.history[-1], fit.state_dict() if _due(fit, settings) else None)
    fit.module.load_state_dict(fit.best)


def learning_rate_at(
    step: int, total: int, settings: OptimiserSettings, history: Sequence[Mapping[str, float]] = ()
) -> float:
    """Learning rate of a step: warm-up then cosine, linearly up and down, or halved at each plateau of the loss."""
    low, peak = settings.final_learning_rate_share, settings.learning_rate
    progress = min(1.0, step / max(1, (settings.cosine_steps or total) - 1))
    if settings.learning_rate_shape == "triangle":
        return peak * (low + (1 - low) * (1 - abs(2 * progress - 1)))
    start = settings.warmup_share
    warmup = start + (1 - start) * min(1.0, (step + 1) / (settings.warmup_steps + 1))
    if settings.learning_rate_shape == "plateau":
        return peak * warmup * 0.5 ** plateaus([row["valid_loss"] for row in history], settings.plateau_epochs)
    return peak * warmup * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def plateaus(losses: Sequence[float], patience: int) -> int:
    """Count the times that more than `patience` epochs in a row did not improve, as torch's ReduceLROnPlateau does."""
    best, bad, count = math.inf, 0, 0
    for loss in losses:
        best, bad = (loss, 0) if loss < best * (1 - 1e-4 * math.copysign(1, best)) else (best, bad + 1)
        if bad > patience:
            bad, count = 0, count + 1
    return count


def validation_measures(task: Task, source: WellSource, seed: int) -> dict[str, float]:
    """Mean losses over all workers' rows, with the same noise in every epoch, and what else the task measures."""
    task.module.eval()
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for rows in source.sweep("valid"):
            losses: StepLosses = task.module(task.batch(rows, mix(rows.keys, seed, VALIDATION_EPOCH)))
            for name, value in {"loss": losses.loss, **losses.parts, **losses.means}.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.double() * len(rows)
    count = count_over_workers(source, "valid")
    means = {name: sum_over_workers(value) / count for name, value in sorted(sums.items())}
    return {name: float(value) for name, value in means.items() if value.ndim == 0} | task.monitor(means)


def _update(fit: Fit, learning_rate: float) -> None:
    for group in fit.optimiser.param_groups:
        group["lr"] = learning_rate
    fit.optimiser.step()
    share_running_moments(fit.module)
    fit.ema.update()


def _end_epoch(
    fit: Fit,
    task: Task,
    source: WellSource,
    settings: OptimiserSettings,
    seed: int,
    train_loss: float,
) -> None:
    """Validate with the averaged weights, keep them if `keep` says so, and check early stopping."""
    if not math.isfinite(train_loss):
        raise NonFiniteError(f"the training loss is {train_loss} in epoch {fit.epoch}; lower the learning rate")
    present = {name: value.clone() for name, value in fit.module.state_dict().items()}
    fit.module.load_state_dict(fit.ema.values)
    losses = validation_measures(task, source, seed)
    fit.module.load_state_dict(present)
    measure = "loss" if settings.keep == "last" else settings.keep
    for name in ("loss", measure):
        if not math.isfinite(losses[name]):
            raise NonFiniteError(
                f"the validation {name} is {losses[name]} in epoch {fit.epoch}; lower the learning rate"
            )
    kept = -losses[measure] if measure == "delta_pcc" else losses[measure]
    if settings.keep == "last" or kept < fit.best_loss:
        fit.best_loss, fit.best_epoch = kept, fit.epoch
        fit.best = {name: value.clone() for name, value in fit.ema.values.items()}
    fit.stopped = fit.epoch - fit.best_epoch >= settings.early_stopping_epochs
    row = {"epoch": float(fit.epoch), "step": float(fit.step), "train_loss": train_loss}
    row |= {f"valid_{name}": value for name, value in losses.items() if math.isfinite(value)}
    row |= {"best_loss": fit.best_loss, "rows_dropped": float(source.plan.dropped)}
    fit.history.append(row)
    fit.epoch += 1
    fit.step_in_epoch, fit.loss_sum = 0, 0.0


def _due(fit: Fit, settings: OptimiserSettings) -> bool:
    """Return whether a checkpoint is due at the end of the epoch."""
    return (
        fit.step // settings.checkpoint_every_steps > (fit.step - 1) // settings.checkpoint_every_steps or fit.stopped
    )
