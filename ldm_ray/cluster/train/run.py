"""Ray Train runs of the autoencoder and of the diffusion model, ending in a model bundle."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import ray
import ray.train
import safetensors.torch
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ldm_ray.bundle.bundle import Bundle, Kind, check_autoencoder, save_bundle
from ldm_ray.bundle.metadata import answering_parts, base_parts, dataset_metadata
from ldm_ray.bundle.run_folder import as_begun, check_out, check_share
from ldm_ray.bundle.target_base import TargetBase, fit_target_base
from ldm_ray.chem.embedding import build_encoder, load_embeddings
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.metrics import run_tag
from ldm_ray.cluster.placement import Placement, place
from ldm_ray.cluster.progress import Progress, start_board, watching
from ldm_ray.cluster.train.ingest import is_resident, plan_of
from ldm_ray.cluster.train.latents import latent_files
from ldm_ray.cluster.train.stream import sorted_keys
from ldm_ray.cluster.train.track import TrackingCallback, finishing, start_run
from ldm_ray.cluster.train.worker import WorkerArgs, optimiser_settings, run_worker
from ldm_ray.config import Config, dump_config
from ldm_ray.console import say
from ldm_ray.data.controls import basal_input, training_controls
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.slices import profile_files
from ldm_ray.data.wells import load_wells
from ldm_ray.errors import LdmRayError, NonFiniteError
from ldm_ray.evaluation.calibration import calibrate
from ldm_ray.layout import CHECKPOINT_STATE, CHECKPOINT_TENSORS, HISTORY, METADATA, RUN, SETTINGS, SHARE
from ldm_ray.models.rivals.build import BaselineKind, encoder_settings
from ldm_ray.settings import OptimiserSettings
from ldm_ray.storage.store import Store
from ldm_ray.tracking.trackers import check_trackers
from ldm_ray.training.monitor import MONITOR_WELLS, MonitorWells, monitor_wells
from ldm_ray.training.source import SPLITS

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PLACE_AGAIN = 1
"""How often workers look for a place again when they have found none; Ray Train would go on for ever."""


def train_vae(
    dataset: PairedDataset,
    out: str,
    config: Config,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Progress = lambda status: None,
    placement: Placement | None = None,
) -> Bundle:
    """Train the autoencoder on `split = train`, stop on `valid`, and write its bundle.

    Args:
        dataset: The paired dataset.
        out: Folder URL of the bundle.
        config: Settings `vae`, `train_vae`, `target`, `ray`.
        resume: Go on with the unfinished run under `out`.
        overwrite: Replace what is there.
        on_progress: Called about twice a second with the run's status.
        placement: Where its workers go; by default it has the cluster for itself.

    Raises:
        BundleError: If something is there and neither flag is given.
    """
    return _run("vae", dataset, None, out, config, config.train_vae, resume, overwrite, on_progress, placement)


def train_ldm(
    dataset: PairedDataset,
    vae: Bundle,
    out: str,
    config: Config,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Progress = lambda status: None,
    placement: Placement | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> Bundle:
    """Train the diffusion model on the latents of a trained autoencoder and write its bundle.

    Arguments as `train_vae`; `callbacks` are told of every report, in Ray Train's controller.

    Raises:
        BundleError: If the autoencoder was trained on other genes or another target, or as `train_vae`.
        DataError: If the dataset has no embeddings of the encoder that the settings name.
    """
    check_autoencoder(vae, dataset, config)
    config = config.model_copy(update={"vae": vae.config.vae, "train_vae": vae.config.train_vae})
    more = (placement, callbacks)
    return _run("ldm", dataset, vae, out, config, config.train_ldm, resume, overwrite, on_progress, *more)


def train_baseline(
    dataset: PairedDataset,
    kind: BaselineKind,
    out: str,
    config: Config,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Progress = lambda status: None,
) -> Bundle:
    """Train a published rival on the same wells and write its bundle; arguments and errors as `train_ldm`."""
    config = config.model_copy(update={"encoder": encoder_settings(kind, config.encoder)})
    return _run(kind, dataset, None, out, config, optimiser_settings(kind, config), resume, overwrite, on_progress)


def _run(
    kind: Kind,
    dataset: PairedDataset,
    vae: Bundle | None,
    out: str,
    config: Config,
    settings: OptimiserSettings,
    resume: bool,
    overwrite: bool,
    on_progress: Progress,
    placement: Placement | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> Bundle:
    store = Store(os.path.abspath(out) if "://" not in out else out, config.storage_options)
    check_out(store, config, resume, overwrite)
    check_trackers(config.track)
    connect(config.ray)
    placement = placement or place(as_begun(config.ray, store) if resume else config.ray, settings.global_batch_size)
    files, encoded = profile_files(dataset, config.ingest), False
    base = fit_target_base(dataset, config.target)
    fits = (config, settings.global_batch_size, placement.num_workers)
    plan_of(files, *fits)
    if vae and config.ingest.latents and not is_resident(files, *fits):
        files, encoded = latent_files(dataset, vae, base, config), True
    resident = is_resident(files, *fits)
    say(f"{kind}: {placement.described(settings.global_batch_size, resident)}")
    embeddings = np.zeros((1, 1), np.float32)
    if kind != "vae":
        embeddings = load_embeddings(dataset.store, build_encoder(config.encoder), dataset.parent_smiles.tolist())
    board = start_board()
    args = WorkerArgs(
        kind=kind,
        config=config,
        files=files,
        encoded=encoded,
        keys=ray.put({split: sorted_keys(dataset, split) for split in SPLITS} if resident else {}),
        basal=ray.put(dataset.basal_expression),
        basal_input=ray.put(basal_input(dataset, config.denoiser.basal_input)),
        base=ray.put(base.of_controls(dataset)),
        monitor=ray.put(_monitored(dataset, config)) if kind == "ldm" else None,
        training_controls=ray.put(training_controls(dataset)),
        embeddings=ray.put(embeddings),
        vae=ray.put(vae.tensors) if vae else None,
        threads=placement.threads,
        board=board,
        run=run_tag(store.url),
    )
    mode = "resident" if resident else "stream"
    share = {"num_workers": placement.num_workers, "mode": mode, "lanes": config.ray.lanes}
    if resume:
        check_share(store, share)
    else:  # nothing is removed before everything has been checked
        for name in (METADATA, RUN):
            store.remove(name)
        store.write_json(SHARE, share)
        store.write_bytes(SETTINGS, dump_config(config).encode())
    run = start_run(store, kind, dataset, config, placement.num_workers, resume)
    with finishing(run, store, config.track):
        told = [TrackingCallback(run, store, config.track), *callbacks]
        checkpoint = _fit(args, store, placement, told, on_progress)
        bundle = _finish(kind, dataset, vae, base, config, checkpoint)
        if kind != "vae":
            bundle = _calibrated(bundle, dataset, placement)
        _save(bundle, store, config)
    return bundle


def _fit(
    args: WorkerArgs,
    store: Store,
    placement: Placement,
    callbacks: Sequence[ray.train.UserCallback],
    on_progress: Progress,
) -> Checkpoint | None:
    """Run Ray Train's workers to their end.

    Raises:
        NonFiniteError: If the loss has become NaN or infinite.
        LdmRayError: If training has failed more often than the settings allow.
    """
    fs, root = store.arrow()
    settings = args.config.ray
    os.environ[START_TIMEOUT] = f"{settings.replacement_timeout_s:g}"
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"args": args},
        scaling_config=ScalingConfig(
            num_workers=placement.num_workers,
            use_gpu=placement.use_gpu,
            resources_per_worker=placement.resources,
        ),
        run_config=RunConfig(
            name=RUN,
            storage_path=root,
            storage_filesystem=fs,
            failure_config=FailureConfig(  # type: ignore[call-arg]  # declared as Tune's
                max_failures=settings.max_failures, controller_failure_limit=PLACE_AGAIN
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),  # type: ignore[arg-type]  # declared as Tune's
        ),
    )
    with watching(args.board, on_progress):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            reason = ray.get(args.board.get.remote()).get("error") or str(error).strip().splitlines()[-1]
            if START_TIMEOUT in reason:
                waited_s = (PLACE_AGAIN + 1) * settings.replacement_timeout_s
                reason = (
                    f"its workers found no place for {waited_s:g} s (2 x ray.replacement_timeout_s); nodes are gone"
                )
            raise LdmRayError(f"training failed, --resume goes on from the last checkpoint: {reason}") from error
    status = ray.get(args.board.get.remote())
    if "diverged" in status:
        for name in (RUN, SHARE):
            store.remove(name)
        raise NonFiniteError(status["diverged"])
    return result.checkpoint


def _save(bundle: Bundle, store: Store, config: Config) -> None:
    """Write a run's bundle; then its checkpoints are not needed any more."""
    save_bundle(bundle, store.url, config.storage_options)
    store.write_json(HISTORY, bundle.metadata["history"])
    for name in (RUN, SHARE):
        store.remove(name)


def _finish(
    kind: Kind,
    dataset: PairedDataset,
    vae: Bundle | None,
    base: TargetBase,
    config: Config,
    checkpoint: Checkpoint | None,
) -> Bundle:
    """Turn the last checkpoint into a bundle."""
    assert checkpoint is not None
    with checkpoint.as_directory() as folder:
        tensors = safetensors.torch.load_file(Path(folder) / CHECKPOINT_TENSORS)
        state = torch.load(Path(folder) / CHECKPOINT_STATE, weights_only=True, map_location="cpu")
    described, shifts = base_parts(base)
    metadata = dataset_metadata(dataset) | {"history": state["history"], "best_epoch": state["best_epoch"]} | described
    tensors |= shifts
    if kind == "vae":
        return Bundle(kind, config, metadata, tensors)
    answering, more = answering_parts(dataset, config)
    metadata |= answering
    if vae:
        metadata["vae_history"] = vae.metadata["history"]
        more |= {name: value for name, value in vae.tensors.items() if name not in tensors}
    return Bundle(kind, config, metadata, tensors | more)


def _monitored(dataset: PairedDataset, config: Config) -> MonitorWells:
    return monitor_wells(load_wells(dataset, "valid", MONITOR_WELLS, config.seed))


def _calibrated(bundle: Bundle, dataset: PairedDataset, placement: Placement) -> Bundle:
    """Calibrate where the model was trained: the driver's machine may have no GPU."""
    if not placement.use_gpu:
        return calibrate(bundle, dataset)
    calibrated: Bundle = ray.get(
        ray.remote(calibrate).options(num_gpus=min(1.0, placement.gpus)).remote(bundle, dataset)
    )
    return calibrated
