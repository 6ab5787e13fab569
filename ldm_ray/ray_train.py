"""Ray Train runs of the autoencoder and of the diffusion model, ending in a model bundle."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import safetensors.torch
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch import Tensor

from ldm_ray.chem.embedding import build_encoder, load_embeddings
from ldm_ray.config import Config, OptimiserSettings, dump_config
from ldm_ray.data.controls import basal_input, mean_controls, training_controls
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.store import Store
from ldm_ray.errors import BundleError, LdmRayError, SettingsError
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.ray_cluster import connect, count_workers, cpus_per_worker
from ldm_ray.ray_data import PROFILES, LaneDataConfig, collect_rows, read_profiles, sorted_keys
from ldm_ray.ray_progress import REPORT_EVERY_S, Board, Progress, watching
from ldm_ray.training.bundle import METADATA, Bundle, bundle_exists, check_splits, prefixed, save_bundle
from ldm_ray.training.loop import run_fit, start_fit
from ldm_ray.training.metadata import dataset_metadata
from ldm_ray.training.moments import fit_observation_noise, latent_moments, target_moments
from ldm_ray.training.rows import Rows, Tables, plan_epoch
from ldm_ray.training.steps import LdmTask, Task, VaeTask

RUN = "run"
SETTINGS = "settings.yaml"
HISTORY = "history.json"
STATE, TENSORS = "state.pt", "tensors.safetensors"


@dataclass(frozen=True)
class WorkerArgs:
    """What each worker is told; small, or a reference."""

    kind: str
    config: Config
    n_lanes: int
    n_train: int
    keys: "ray.ObjectRef[dict[str, np.ndarray]]"
    basal: "ray.ObjectRef[np.ndarray]"
    basal_input: "ray.ObjectRef[np.ndarray]"
    training_controls: "ray.ObjectRef[np.ndarray]"
    embeddings: "ray.ObjectRef[np.ndarray]"
    vae: "ray.ObjectRef[dict[str, Tensor]] | None"
    threads: int
    board: Any


def train_vae(
    dataset: PairedDataset,
    out: str,
    config: Config,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Progress = lambda status: None,
) -> Bundle:
    """Train the autoencoder on `split = train`, stop on `valid`, and write its bundle.

    Args:
        dataset: The paired dataset.
        out: Folder URL of the bundle.
        config: Settings `vae`, `train_vae`, `target`, `ray`.
        resume: Go on with the unfinished run under `out`.
        overwrite: Replace what is there.
        on_progress: Called about twice a second with the run's status.

    Raises:
        BundleError: If something is there and neither flag is given.
    """
    return _run("vae", dataset, None, out, config, config.train_vae, resume, overwrite, on_progress)


def train_ldm(
    dataset: PairedDataset,
    vae: Bundle,
    out: str,
    config: Config,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Progress = lambda status: None,
) -> Bundle:
    """Train the diffusion model on the latents of a trained autoencoder and write its bundle.

    Raises:
        BundleError: If the autoencoder was trained on other genes or another target, or as `train_vae`.
        DataError: If the dataset has no embeddings of the encoder that the settings name.
    """
    vae.check_genes(dataset.manifest["genes"], dataset.url)
    check_splits(vae, dataset.manifest["splits"], dataset.url)
    if vae.config.target != config.target:
        raise BundleError(f"the autoencoder was trained with target {vae.config.target!r}; got {config.target!r}")
    config = config.model_copy(update={"vae": vae.config.vae, "train_vae": vae.config.train_vae})
    return _run("ldm", dataset, vae, out, config, config.train_ldm, resume, overwrite, on_progress)


def _run(
    kind: str,
    dataset: PairedDataset,
    vae: Bundle | None,
    out: str,
    config: Config,
    settings: OptimiserSettings,
    resume: bool,
    overwrite: bool,
    on_progress: Progress,
) -> Bundle:
    store = Store(os.path.abspath(out) if "://" not in out else out)
    _check_out(store, config, resume, overwrite)
    connect(config.ray)
    num_workers, use_gpu = count_workers(config.ray)
    keys = {split: sorted_keys(dataset, split) for split in ("train", "valid")}
    plan_epoch(len(keys["train"]), config.ray.lanes, settings.global_batch_size, num_workers)
    embeddings = (
        load_embeddings(dataset.store, build_encoder(config.encoder)).vectors if vae else np.zeros((1, 1), np.float32)
    )
    board = Board.options(num_cpus=0).remote()  # type: ignore[attr-defined]
    args = WorkerArgs(
        kind=kind,
        config=config,
        n_lanes=config.ray.lanes,
        n_train=len(keys["train"]),
        keys=ray.put(keys),
        basal=ray.put(dataset.basal_expression),
        basal_input=ray.put(basal_input(dataset, config.denoiser.basal_input)),
        training_controls=ray.put(training_controls(dataset)),
        embeddings=ray.put(embeddings),
        vae=ray.put(vae.tensors) if vae else None,
        threads=max(1, (os.cpu_count() or 1) // num_workers),
        board=board,
    )
    if not resume:  # nothing is removed before everything has been checked
        for name in (METADATA, RUN):
            store.remove(name)
        store.write_bytes(SETTINGS, dump_config(config).encode())
    fs, root = store.arrow()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"args": args},
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus_per_worker(num_workers)} | ({"GPU": 1} if use_gpu else {}),
        ),
        datasets={PROFILES: read_profiles(dataset)},
        dataset_config=LaneDataConfig(keys, config.ray.lanes),
        run_config=RunConfig(
            name=RUN,
            storage_path=root,
            storage_filesystem=fs,
            failure_config=FailureConfig(max_failures=config.ray.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    with watching(board, on_progress):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            reason = str(error).strip().splitlines()[-1]
            raise LdmRayError(f"training failed, --resume goes on from the last checkpoint: {reason}") from error
    status = ray.get(board.get.remote())
    if "error" in status:
        store.remove(RUN)
        raise LdmRayError(status["error"])
    bundle = _finish(kind, dataset, vae, config, result.checkpoint)
    save_bundle(bundle, store.url)
    store.write_json(HISTORY, bundle.metadata["history"])
    store.remove(RUN)
    return bundle


def _check_out(store: Store, config: Config, resume: bool, overwrite: bool) -> None:
    """Refuse to mix with what is already under the bundle's folder."""
    if bundle_exists(store.url) and not overwrite:
        raise BundleError(f"{store.url} already holds a bundle; --overwrite trains it anew")
    unfinished = store.exists(RUN)
    if resume and not unfinished:
        raise BundleError(f"{store.url} holds no unfinished run to resume")
    if unfinished and not resume and not overwrite:
        raise BundleError(f"{store.url} holds an unfinished run; --resume goes on with it, --overwrite starts anew")
    if resume and store.read_bytes(SETTINGS).decode() != dump_config(config):
        raise SettingsError(f"--resume wants the settings of the run, {store.path(SETTINGS)}; got others")


def _finish(
    kind: str, dataset: PairedDataset, vae: Bundle | None, config: Config, checkpoint: Checkpoint | None
) -> Bundle:
    """Turn the last checkpoint into a bundle."""
    assert checkpoint is not None
    with checkpoint.as_directory() as folder:
        tensors = safetensors.torch.load_file(Path(folder) / TENSORS)
        state = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
    metadata = dataset_metadata(dataset) | {"history": state["history"], "best_epoch": state["best_epoch"]}
    if kind == "vae":
        return Bundle("vae", config, metadata, tensors)
    assert vae is not None
    entries, basal = mean_controls(dataset)
    encoder = build_encoder(config.encoder)
    metadata |= {
        "encoder": {"name": encoder.name, "revision": encoder.revision, "dim": encoder.dim},
        "cells": entries,
        "recommended_sampler": {"kind": "ancestral", "steps": config.predict.steps},
        "vae_history": vae.metadata["history"],
    }
    return Bundle("ldm", config, metadata, vae.tensors | tensors | {"cells.basal": torch.from_numpy(basal)})


def _worker(arguments: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    args: WorkerArgs = arguments["args"]
    torch.set_num_threads(args.threads)
    device = get_device()
    config = args.config
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    shard = ray.train.get_dataset_shard(PROFILES)
    rows = collect_rows(shard, ray.get(args.keys), args.n_lanes, rank, world_size, device)
    references = (args.basal, args.basal_input, args.embeddings)
    tables = Tables(*(torch.from_numpy(ray.get(reference).copy()).to(device) for reference in references))
    torch.manual_seed(config.seed)  # the same first weights on every worker
    settings = config.train_vae if args.kind == "vae" else config.train_ldm
    build = _vae_task if args.kind == "vae" else _ldm_task
    task, extras = build(args, rows, tables, device)
    plan = plan_epoch(args.n_train, args.n_lanes, settings.global_batch_size, world_size)
    fit = start_fit(task.module, settings)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            fit.load_state_dict(torch.load(Path(folder) / STATE, weights_only=True, map_location=device))
    hooks = _RayHooks(args.board, rank)
    try:
        run_fit(fit, task, rows["train"], rows["valid"], plan, settings, config.seed, hooks)
    except LdmRayError as error:
        # Metrics without a checkpoint do not reach the driver's result; the board does.
        ray.get(args.board.put.remote({"error": str(error)}))
        return
    hooks.report({"finished": True}, fit.state_dict(), extras(task))


def _vae_task(
    args: WorkerArgs, rows: dict[str, Rows], tables: Tables, device: torch.device
) -> tuple[Task, Callable[[Any], dict[str, Tensor]]]:
    config = args.config
    vae = Vae(tables.basal.shape[1], config.vae)
    if config.vae.standardise:
        mean, scale = target_moments(rows["train"], tables, config.target)
        vae.set_scaling(mean.cpu(), scale.cpu())
    task = VaeTask(vae.to(device), tables, config)
    return task, lambda task: prefixed("vae.", task.module.vae)


def _ldm_task(
    args: WorkerArgs, rows: dict[str, Rows], tables: Tables, device: torch.device
) -> tuple[Task, Callable[[Any], dict[str, Tensor]]]:
    config, n_genes = args.config, tables.basal.shape[1]
    assert args.vae is not None
    vae = Vae(n_genes, config.vae)
    vae.load_state_dict({name.removeprefix("vae."): value for name, value in ray.get(args.vae).items()})
    vae = vae.to(device).eval()
    model = LatentDiffusion(n_genes, tables.embeddings.shape[1], config)
    model.set_latent_scaling(*(v.cpu() for v in latent_moments(vae, rows["train"], tables, config.target, config.seed)))
    if not config.denoiser.raw_inputs:
        controls = tables.basal[torch.from_numpy(ray.get(args.training_controls).copy()).long().to(device)]
        scale = controls.std(dim=0, correction=0).clamp_min(0.1)
        model.condition_encoder.set_scaling(controls.mean(dim=0).cpu(), scale.cpu())
    task = LdmTask(model.to_device(device), vae, tables, config)

    def extras(task: LdmTask) -> dict[str, Tensor]:
        factors = config.vae.observation_noise_rank
        noise = fit_observation_noise(vae, rows["valid"], tables, config.target, config.seed, factors)
        return prefixed("ldm.", task.model) | {"noise.factor": noise.factor, "noise.sd": noise.sd}

    return task, extras


class _RayHooks:
    """Passes the loop's news on: to the driver's progress bar, and to Ray Train."""

    def __init__(self, board: Any, rank: int) -> None:
        self._board, self._rank, self._last = board, rank, 0.0

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        if self._rank == 0 and time.monotonic() - self._last > REPORT_EVERY_S:
            self._last = time.monotonic()
            self._board.put.remote({"step": step, "total": total, "epoch": epoch, "loss": float(loss)})

    def report(
        self, metrics: dict[str, Any], state: dict[str, Any] | None, tensors: dict[str, Tensor] | None = None
    ) -> None:
        if self._rank == 0 and "valid_loss" in metrics:
            self._board.put.remote({"valid_loss": metrics["valid_loss"], "best_loss": metrics["best_loss"]})
        if state is None or self._rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / STATE)
            if tensors is not None:
                plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
                safetensors.torch.save_file(plain, Path(folder) / TENSORS)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
