"""What each Ray Train worker runs: its wells, its model, the training loop and its reports."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import safetensors.torch
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device
from torch import Tensor

from ldm_ray.cluster.metrics import gauge
from ldm_ray.cluster.progress import REPORT_EVERY_S
from ldm_ray.cluster.train.ingest import open_source
from ldm_ray.config import Config
from ldm_ray.data.slices import WellFiles
from ldm_ray.effects.wells import WellEffects
from ldm_ray.errors import LdmRayError, NonFiniteError
from ldm_ray.layout import CHECKPOINT_STATE, CHECKPOINT_TENSORS
from ldm_ray.training.loop import run_fit, start_fit
from ldm_ray.training.monitor import MonitorWells
from ldm_ray.training.pace import Pace, PacedSource, PaceFigures
from ldm_ray.training.rows import Tables
from ldm_ray.training.status import TrainingStatus
from ldm_ray.training.tasks import TaskInputs, build_task


@dataclass(frozen=True, kw_only=True)
class WorkerArgs:
    """Arguments of each worker; small values, or references.

    Attributes:
        kind: `vae`, `ldm` or a rival's name.
        config: All settings.
        files: Files of the wells.
        keys: Sorted keys of each split; empty if wells are streamed.
        basal: See `Tables`.
        basal_input: See `Tables`.
        monitor: Validation wells for measuring a diffusion model's mean after each epoch.
        training_controls: Control profiles that training wells are paired with.
        embeddings: See `Tables`.
        base: See `Tables`.
        effects: See `Tables`.
        vae: Weights of the autoencoder under a diffusion model.
        threads: Torch threads in each worker.
        board: The `Board` for progress and errors.
        run: Name of the run, for metrics.
    """

    kind: str
    config: Config
    files: WellFiles
    keys: "ray.ObjectRef[Mapping[str, np.ndarray]]"
    basal: "ray.ObjectRef[np.ndarray]"
    basal_input: "ray.ObjectRef[np.ndarray]"
    monitor: "ray.ObjectRef[MonitorWells] | None"
    training_controls: "ray.ObjectRef[np.ndarray]"
    embeddings: "ray.ObjectRef[np.ndarray]"
    base: "ray.ObjectRef[np.ndarray]"
    effects: "ray.ObjectRef[WellEffects] | None"
    vae: "ray.ObjectRef[Mapping[str, Tensor]] | None"
    threads: int
    board: Any
    run: str


def run_worker(arguments: dict[str, Any]) -> None:
    """Train; the entry point of a Ray Train worker."""
    args: WorkerArgs = arguments["args"]
    if error := ray.get(args.board.get.remote()).get("error"):
        raise LdmRayError(error)  # Ray Train restarts workers after any error; this one would only recur
    try:
        _train(args)
    except NonFiniteError as error:
        # All workers see the same loss and end together. Metrics without a checkpoint do not reach the driver, so the
        # board carries the news.
        ray.get(args.board.put.remote({"diverged": str(error)}))
    except LdmRayError as error:
        ray.get(args.board.put.remote({"error": str(error)}))
        raise


def _train(args: WorkerArgs) -> None:
    torch.set_num_threads(args.threads)
    device, config = get_device(), args.config
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    settings = config.optimiser(args.kind)
    source = open_source(args.files, ray.get(args.keys), config, settings, rank, world_size, device)
    references = (args.basal, args.basal_input, args.embeddings, args.base)
    basal, inputs, embeddings, base = (torch.from_numpy(ray.get(each).copy()).to(device) for each in references)
    effects = ray.get(args.effects).to(device) if args.effects else None
    tables = Tables(basal, inputs, embeddings, base, effects)
    torch.manual_seed(config.seed)  # the same first weights on every worker
    built = build_task(
        TaskInputs(
            kind=args.kind,
            config=config,
            source=source,
            tables=tables,
            training_controls=ray.get(args.training_controls).copy(),
            vae=ray.get(args.vae) if args.vae else None,
            monitor=ray.get(args.monitor) if args.monitor else None,
        )
    )
    fit = start_fit(built.task.module, settings)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            fit.load_state_dict(torch.load(Path(folder) / CHECKPOINT_STATE, weights_only=True, map_location=device))
    pace = Pace()
    hooks = _RayHooks(args, rank, world_size, pace)
    run_fit(fit, built.task, PacedSource(built.source, pace), settings, config.seed, hooks)
    hooks.tell({"stage": "measuring the kept model"})
    hooks.report({"finished": True}, fit.state_dict(), built.kept())


class _RayHooks:
    """Passes news from the loop on to the driver's progress bar, Ray Train and Ray's metrics."""

    def __init__(self, args: WorkerArgs, rank: int, world_size: int, pace: Pace) -> None:
        self._board, self._rank, self._world_size, self._pace, self._last = args.board, rank, world_size, pace, 0.0
        tags = {"run": args.run, "kind": args.kind}
        self._data_wait = gauge("train_data_wait_ratio", tags | {"rank": str(rank)})
        if rank == 0:
            self._wells_per_s = gauge("train_wells_per_second", tags)
            self._loss, self._valid_loss = gauge("train_loss", tags), gauge("train_valid_loss", tags)
            self._checkpoint_s = gauge("train_checkpoint_seconds", tags)
            self._batch = gauge("train_global_batch_wells", tags)
            self._batch.set(args.config.optimiser(args.kind).global_batch_size)

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        if time.monotonic() - self._last <= REPORT_EVERY_S:
            return
        self._last = time.monotonic()
        self._tell_pace(self._pace.latest())
        if self._rank == 0:
            latest = float(loss)
            self._loss.set(latest)
            self._board.put.remote({"step": step, "total": total, "epoch": epoch, "loss": latest})

    def tell(self, news: TrainingStatus) -> None:
        """Pass news on to the driver; all workers have the same, so only the first sends it."""
        if self._rank == 0:
            self._board.put.remote(news)

    def report(
        self, metrics: dict[str, Any], state: dict[str, Any] | None, tensors: dict[str, Tensor] | None = None
    ) -> None:
        if "valid_loss" in metrics:
            metrics = metrics | self._tell_pace(self._pace.of_epoch())
        if self._rank == 0 and "valid_loss" in metrics:
            self._valid_loss.set(metrics["valid_loss"])
            self.tell({"valid_loss": metrics["valid_loss"], "best_loss": metrics["best_loss"]})
        if state is None or self._rank != 0:
            ray.train.report(metrics)
            return
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / CHECKPOINT_STATE)
            if tensors is not None:
                plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
                safetensors.torch.save_file(plain, Path(folder) / CHECKPOINT_TENSORS)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        self._checkpoint_s.set(time.monotonic() - began)

    def _tell_pace(self, pace: PaceFigures | None) -> dict[str, float]:
        """Report this worker's pace and return the run's; all workers take equally many wells per step."""
        if pace is None:
            return {}
        wells_per_s = pace.wells_per_s * self._world_size
        self._data_wait.set(pace.data_wait)
        if self._rank == 0:
            self._wells_per_s.set(wells_per_s)
        return {"wells_per_s": wells_per_s, "data_wait": pace.data_wait}
