"""What each Ray Train worker runs: its wells, its model, the loop, and its reports."""

import tempfile
import time
from collections.abc import Callable, Mapping
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

from ldm_ray.bundle.bundle import prefixed
from ldm_ray.cluster.metrics import gauge
from ldm_ray.cluster.progress import REPORT_EVERY_S
from ldm_ray.cluster.train.ingest import open_source
from ldm_ray.config import Config
from ldm_ray.data.slices import WellFiles
from ldm_ray.errors import LdmRayError, NonFiniteError
from ldm_ray.layout import CHECKPOINT_STATE, CHECKPOINT_TENSORS
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.rivals.build import build_baseline
from ldm_ray.models.rivals.pertdit import PertDit
from ldm_ray.models.vae import Vae
from ldm_ray.settings import OptimiserSettings, optimiser_group
from ldm_ray.training.loop import run_fit, start_fit
from ldm_ray.training.moments import fit_observation_noise, latent_moments, mean_and_scale, target_moments
from ldm_ray.training.monitor import MeanMonitor, MonitorWells
from ldm_ray.training.pace import Pace, PacedSource, PaceFigures
from ldm_ray.training.rival_steps import RivalTask
from ldm_ray.training.rows import Tables
from ldm_ray.training.source import ResidentSource, WellSource
from ldm_ray.training.steps import Latents, LdmTask, Task, VaeTask


@dataclass(frozen=True)
class WorkerArgs:
    """What each worker is told; small, or a reference.

    Attributes:
        kind: `vae`, `ldm` or a rival's name.
        config: All settings.
        files: Where the wells are.
        encoded: The files hold latents, not profiles.
        keys: Sorted keys of each split; empty where wells are streamed.
        basal: See `Tables`.
        basal_input: See `Tables`.
        monitor: Validation wells on which a diffusion model's mean is measured after each epoch.
        training_controls: Control profiles that training wells are paired with.
        embeddings: See `Tables`.
        base: See `Tables`.
        vae: Weights of the autoencoder under a diffusion model.
        threads: Of torch, in each worker.
        board: For progress and errors.
        run: Name of the run, for metrics.
    """

    kind: str
    config: Config
    files: WellFiles
    encoded: bool
    keys: "ray.ObjectRef[Mapping[str, np.ndarray]]"
    basal: "ray.ObjectRef[np.ndarray]"
    basal_input: "ray.ObjectRef[np.ndarray]"
    monitor: "ray.ObjectRef[MonitorWells] | None"
    training_controls: "ray.ObjectRef[np.ndarray]"
    embeddings: "ray.ObjectRef[np.ndarray]"
    base: "ray.ObjectRef[np.ndarray]"
    vae: "ray.ObjectRef[dict[str, Tensor]] | None"
    threads: int
    board: Any
    run: str


def run_worker(arguments: dict[str, Any]) -> None:
    """Train; the entry point of a Ray Train worker."""
    args: WorkerArgs = arguments["args"]
    if said := ray.get(args.board.get.remote()).get("error"):
        raise LdmRayError(said)  # Ray Train starts workers again after any error; this one would only come back
    try:
        _train(args)
    except NonFiniteError as error:
        # All workers see the same loss and end together. Metrics without a checkpoint do not reach the driver's
        # result; the board does.
        ray.get(args.board.put.remote({"diverged": str(error)}))
    except LdmRayError as error:
        ray.get(args.board.put.remote({"error": str(error)}))
        raise


def _train(args: WorkerArgs) -> None:
    torch.set_num_threads(args.threads)
    device, config = get_device(), args.config
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    settings = optimiser_settings(args.kind, config)
    source = open_source(args.files, ray.get(args.keys), config, settings, rank, world_size, device)
    references = (args.basal, args.basal_input, args.embeddings, args.base)
    tables = Tables(*(torch.from_numpy(ray.get(reference).copy()).to(device) for reference in references))
    torch.manual_seed(config.seed)  # the same first weights on every worker
    build = {"vae": _vae_task, "ldm": _ldm_task}.get(args.kind, _rival_task)
    task, source, extras = build(args, source, tables)
    fit = start_fit(task.module, settings)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            fit.load_state_dict(torch.load(Path(folder) / CHECKPOINT_STATE, weights_only=True, map_location=device))
    pace = Pace()
    hooks = _RayHooks(args, rank, world_size, pace)
    run_fit(fit, task, PacedSource(source, pace), settings, config.seed, hooks)
    hooks.report({"finished": True}, fit.state_dict(), extras())


Built = tuple[Task, WellSource, Callable[[], dict[str, Tensor]]]
"""A task, the source it trains on, and what a finished run keeps."""


def _vae_task(args: WorkerArgs, source: WellSource, tables: Tables) -> Built:
    config = args.config
    vae = Vae(tables.basal.shape[1], config.vae)
    if config.vae.standardise:
        mean, scale = target_moments(source, tables)
        vae.set_scaling(mean.cpu(), scale.cpu())
    vae = vae.to(source.device)

    def extras() -> dict[str, Tensor]:
        factors = config.vae.observation_noise_rank
        noise = fit_observation_noise(vae.eval(), source, tables, config.seed, factors)
        return prefixed("vae.", vae) | {"noise.factor": noise.factor, "noise.sd": noise.sd}

    return VaeTask(vae, tables, config), source, extras


def _ldm_task(args: WorkerArgs, source: WellSource, tables: Tables) -> Built:
    config, n_genes = args.config, tables.basal.shape[1]
    assert args.vae is not None
    vae = Vae(n_genes, config.vae)
    weights = ray.get(args.vae)
    vae.load_state_dict({n.removeprefix("vae."): value for n, value in weights.items() if n.startswith("vae.")})
    vae = vae.to(source.device).eval().requires_grad_(False)
    latents = Latents(vae, tables, args.encoded)
    if config.ingest.latents and not args.encoded and isinstance(source, ResidentSource):
        source = source.encoded(latents.moments)
        latents = Latents(vae, tables, encoded=True)
    model = LatentDiffusion(n_genes, tables.embeddings.shape[1], config)
    model.set_latent_scaling(*(value.cpu() for value in latent_moments(source, latents, config.seed)))
    if not config.denoiser.raw_inputs:
        controls = tables.basal[torch.from_numpy(ray.get(args.training_controls).copy()).long().to(source.device)]
        scale = controls.std(dim=0, correction=0).clamp_min(0.1)
        model.condition_encoder.set_scaling(controls.mean(dim=0).cpu(), scale.cpu())
    monitor = MeanMonitor(ray.get(args.monitor), tables, config.predict.guidance) if args.monitor else None
    task = LdmTask(model.to_device(source.device), latents, tables, config, monitor)
    return task, source, lambda: prefixed("ldm.", task.model)


def _rival_task(args: WorkerArgs, source: WellSource, tables: Tables) -> Built:
    config = args.config
    model = build_baseline(args.kind, tables.basal.shape[1], tables.embeddings.shape[1], config.pertdit)
    if isinstance(model, PertDit):
        model.set_scaling(*(value.cpu() for value in mean_and_scale(rows.values for rows in source.sweep("train"))))
    task = RivalTask(model, tables, config, source.device)
    return task, source, lambda: prefixed("net.", task.model)


def optimiser_settings(kind: str, config: Config) -> OptimiserSettings:
    """Return the settings that a kind of model is trained with."""
    settings: OptimiserSettings = getattr(config, optimiser_group(kind))
    return settings


class _RayHooks:
    """Passes the loop's news on: to the driver's progress bar, to Ray Train, and to Ray's metrics."""

    def __init__(self, args: WorkerArgs, rank: int, world_size: int, pace: Pace) -> None:
        self._board, self._rank, self._world_size, self._pace, self._last = args.board, rank, world_size, pace, 0.0
        tags = {"run": args.run, "kind": args.kind}
        self._data_wait = gauge("train_data_wait_ratio", tags | {"rank": str(rank)})
        if rank == 0:
            self._wells_per_s = gauge("train_wells_per_second", tags)
            self._loss, self._valid_loss = gauge("train_loss", tags), gauge("train_valid_loss", tags)
            self._checkpoint_s = gauge("train_checkpoint_seconds", tags)
            self._batch = gauge("train_global_batch_wells", tags)
            self._batch.set(optimiser_settings(args.kind, args.config).global_batch_size)

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        if time.monotonic() - self._last <= REPORT_EVERY_S:
            return
        self._last = time.monotonic()
        self._tell_pace(self._pace.latest())
        if self._rank == 0:
            latest = float(loss)
            self._loss.set(latest)
            self._board.put.remote({"step": step, "total": total, "epoch": epoch, "loss": latest})

    def report(
        self, metrics: dict[str, Any], state: dict[str, Any] | None, tensors: dict[str, Tensor] | None = None
    ) -> None:
        if "valid_loss" in metrics:
            metrics = metrics | self._tell_pace(self._pace.of_epoch())
        if self._rank == 0 and "valid_loss" in metrics:
            self._valid_loss.set(metrics["valid_loss"])
            self._board.put.remote({"valid_loss": metrics["valid_loss"], "best_loss": metrics["best_loss"]})
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
        """Pass this worker's pace on, and return the run's: all workers take as many wells a step."""
        if pace is None:
            return {}
        wells_per_s = pace.wells_per_s * self._world_size
        self._data_wait.set(pace.data_wait)
        if self._rank == 0:
            self._wells_per_s.set(wells_per_s)
        return {"wells_per_s": wells_per_s, "data_wait": pace.data_wait}
