"""Training speed of both stages on resident wells: the product's loop, with or without its CUDA graph, and compiled."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.on_gpu.device import Row, attempted, flops, graphs, launches, peak_memory, wait_for
from benchmarks.on_gpu.inputs import Wells, precision
from ldm_ray.settings import OptimiserSettings
from ldm_ray.training.gradients import Gradients
from ldm_ray.training.loop import _update, run_fit, start_fit
from ldm_ray.training.source import EpochPlan, ResidentSource

WARM_STEPS = 20
"""Steps before the clock starts, at most half of all; a step that is compiled or captured is so before."""


def epoch(wells: Wells, kind: str, batch: int) -> dict[str, Any]:
    """Time a whole epoch of `run_fit` in float32 as the product runs it, validation included."""
    with peak_memory(wells.device) as memory:
        source, task, settings = wells.source(kind, batch), wells.task(kind), _settings(wells, kind, batch)
        fit = start_fit(task.module, settings)
        wait_for(wells.device)
        began = time.perf_counter()
        run_fit(fit, task, source, settings, 0, Clock(wells.device, stop=False))
        wait_for(wells.device)
        seconds = time.perf_counter() - began
    rate = source.plan.steps * batch / seconds
    return {
        "steps": source.plan.steps,
        "epoch_s": seconds,
        "wells_per_s": rate,
        "peak_mb": memory.peak_mb - memory.before_mb,
    }


def steps(
    wells: Wells, source: ResidentSource, kind: str, ways: Sequence[str], number: str, count: int
) -> dict[str, Row]:
    """Time steps by each way of running them, in one precision.

    Args:
        wells: The wells.
        source: The wells of `kind`, with the batch.
        kind: `vae` or `ldm`.
        ways: Some of `eager`, `graph` (the product's), `compiled graph`, in this order.
        number: The precision.
        count: Steps to time, at most an epoch's.
    """
    torch._dynamo.reset()
    batch = source.rows_per_lane * wells.config.ray.lanes
    task, settings = wells.task(kind), _settings(wells, kind, batch)
    source = replace(source, plan=EpochPlan(min(WARM_STEPS + count, source.plan.steps), 0))

    def measure(way: str) -> Row:
        if "compiled" in way:
            task.module.compile(dynamic=False)
        fit, clock, began = start_fit(task.module, settings), Clock(wells.device, stop=True), time.perf_counter()
        with precision(number, wells.device), graphs(on="graph" in way), suppress(_EnoughError):
            run_fit(fit, task, source, settings, 0, clock)
        ready_s = time.perf_counter() - began - clock.seconds
        return {"step_ms": 1000 * clock.step_s, "wells_per_s": batch / clock.step_s, "ready_s": ready_s}

    return {way: attempted(partial(measure, way), way) for way in ways}


def anatomy(wells: Wells, source: ResidentSource, kind: str) -> dict[str, Any]:
    """Count the operations and launches of a step that is not captured, in float32."""
    task, settings = wells.task(kind), _settings(wells, kind, 1)
    fit, rows = start_fit(task.module, settings), next(iter(source.batches(0)))
    gradients = Gradients(task, fit.module, settings.gradient_clip_norm, 0)

    def step() -> Tensor:
        loss = gradients.compute(rows, 0)
        _update(fit, settings.learning_rate)
        return loss

    counted = {"step_flops": flops(step)}
    traced = launches(step, wells.device)
    return counted | (asdict(traced) if traced else {})


class _EnoughError(Exception):
    """Ends a run after its last step, before validation."""


class Clock:
    """Hooks that time the steps after the first few, and end the run with the last one if `stop`."""

    def __init__(self, device: torch.device, *, stop: bool) -> None:
        self._device, self._stop, self._began = device, stop, 0.0
        self.seconds, self.step_s = 0.0, 0.0

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        """Start and stop at the right steps."""
        if step == min(WARM_STEPS, total // 2):
            wait_for(self._device)
            self._began = time.perf_counter()
        if step == total and self._stop:
            wait_for(self._device)
            self.seconds = time.perf_counter() - self._began
            self.step_s = self.seconds / (total - min(WARM_STEPS, total // 2))
            raise _EnoughError

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        """Do nothing."""


def _settings(wells: Wells, kind: str, batch: int) -> OptimiserSettings:
    fixed = {"epochs": 1, "global_batch_size": batch, "checkpoint_every_steps": 10**9}
    return wells.config.optimiser(kind).model_copy(update=fixed)
