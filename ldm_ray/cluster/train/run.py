"""One training run on Ray Train, from a dataset to a bundle."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import ray
import ray.train

from ldm_ray.bundle.bundle import Bundle, check_autoencoder, load_bundle, save_bundle
from ldm_ray.bundle.health import Health
from ldm_ray.bundle.metadata import BundleKind
from ldm_ray.bundle.presence import bundle_exists
from ldm_ray.bundle.run_folder import Begin, Share, as_begun, check_out, check_share
from ldm_ray.bundle.target_base import Base, fit_base, fit_target_base
from ldm_ray.chem.embedding import build_encoder, load_embeddings
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.metrics import run_tag
from ldm_ray.cluster.placement import Placement, place
from ldm_ray.cluster.progress import start_board
from ldm_ray.cluster.train.finish import finished_bundle, measured
from ldm_ray.cluster.train.fit import fit_workers
from ldm_ray.cluster.train.ingest import is_resident, plan_of
from ldm_ray.cluster.train.latents import latent_files
from ldm_ray.cluster.train.stream import sorted_keys
from ldm_ray.cluster.train.track import TrackingCallback, finishing, start_run
from ldm_ray.cluster.train.worker import WorkerArgs
from ldm_ray.config import Config, dump_config
from ldm_ray.console import say
from ldm_ray.data.controls import basal_input, training_controls
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.slices import WellFiles, profile_files
from ldm_ray.data.wells import load_wells
from ldm_ray.effects.wells import DatasetBase
from ldm_ray.evaluation.health.examine import passed
from ldm_ray.evaluation.health.verdict import denoiser_failures, require_passed
from ldm_ray.layout import HISTORY, METADATA, RUN, SETTINGS, SHARE
from ldm_ray.settings import Settings, optimiser_group
from ldm_ray.storage.store import Store
from ldm_ray.tracking.trackers import check_trackers
from ldm_ray.training.monitor import MONITOR_WELLS, monitor_wells
from ldm_ray.training.source import SPLITS, check_groups
from ldm_ray.training.status import OnStatus, unheard


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to train, on what, and where to write it.

    Attributes:
        kind: `vae`, `ldm` or a rival's name.
        dataset: The paired dataset; split `train` trains, `valid` decides about stopping early.
        out: Folder URL of the bundle.
        config: All settings.
        vae: The trained autoencoder under a diffusion model; its settings replace those of `config`.
        begin: `fresh` refuses a folder that is in use, `resume` continues its unfinished run, `overwrite` replaces what
            it holds.
        placement: Where the workers go; by default the run has the cluster to itself.
        callbacks: Callbacks for every report, called in Ray Train's controller.
        on_status: Called about twice a second with the run's status.
    """

    kind: BundleKind
    dataset: PairedDataset
    out: str
    config: Config
    vae: Bundle | None = None
    begin: Begin = "fresh"
    placement: Placement | None = None
    callbacks: Sequence[ray.train.UserCallback] = ()
    on_status: OnStatus = unheard

    @property
    def store(self) -> Store:
        """The bundle's folder, with an absolute path since workers run in other folders."""
        out = self.out if "://" in self.out else os.path.abspath(self.out)
        return Store(out, self.config.storage_options)


def train(run: Run) -> Bundle:
    """Train a model and write its bundle.

    Raises:
        BundleError: If `run.out` is in use, or the autoencoder was trained on other genes or another target.
        CheckError: If the autoencoder has collapsed, or the trained model's draws leave the range of training, and
            `checks` is `error`; in the second case `resume` continues with what has been trained.
        SettingsError: If the settings do not fit together, the cluster, or the run to resume.
        DataError: If the dataset lacks the encoder's embeddings, or a split is too small.
        NonFiniteError: If the loss becomes NaN or infinite.
        LdmRayError: If training fails more often than `ray.max_failures` allows.
    """
    run = _as_trained(run)
    store, config = run.store, run.config
    check_out(store, config, run.begin)
    check_trackers(config.track)
    connect(config.ray)
    batch = config.optimiser(run.kind).global_batch_size
    cluster = as_begun(config.ray, store) if run.begin == "resume" else config.ray
    placement = run.placement or place(cluster, batch)
    base = base_of(run)
    on_dataset = base.on(run.dataset)
    files = _files(run, on_dataset, batch, placement.num_workers)
    resident = is_resident(files, config, batch, placement.num_workers)
    say(f"{run.kind}: {placement.described(batch, resident=resident)}")
    args = _worker_args(run, files, on_dataset, placement, resident=resident)
    _begin_folder(run, store, placement.num_workers, resident=resident)
    record = start_run(store, run.kind, run.dataset, config, placement.num_workers, resume=run.begin == "resume")
    with finishing(record, store, config.track) as ending:
        callbacks = [TrackingCallback(record, store, config.track), *run.callbacks]
        checkpoint = fit_workers(args, store, placement, callbacks, run.on_status)
        bundle = finished_bundle(run.kind, run.dataset, run.vae, base, config, checkpoint)
        bundle = measured(bundle, run.dataset, placement, run.on_status)
        ending.health = bundle.metadata.get("health", {})
        _require_sound(ending.health, config.checks)
        save_bundle(bundle, store.url, config.storage_options)
        store.write_json(HISTORY, bundle.metadata["history"])
        for name in (RUN, SHARE):  # a finished run needs no checkpoints
            store.remove(name)
    return bundle


def ensure_bundle(run: Run) -> Bundle:
    """Load the run's bundle if it exists, else resume its unfinished run, else train it.

    Raises:
        BundleError: As `load_bundle` and `train`; other errors as `train`.
    """
    options = run.config.storage_options
    if not bundle_exists(run.out, options):
        begin: Begin = "resume" if run.store.exists(RUN) else "fresh"
        train(replace(run, begin=begin))
    return load_bundle(run.out, run.kind, options)


def _as_trained(run: Run) -> Run:
    """Fill in the settings that the kind of model and the size of the data decide."""
    config, vae = run.config.encoded_for(run.kind), run.vae
    n_wells = profile_files(run.dataset, config.ingest).count("train")
    own: dict[str, Settings] = {optimiser_group(run.kind): config.optimiser(run.kind).long_enough(n_wells)}
    if run.kind == "ldm":
        vae = _checked_autoencoder(run)
        own |= {"vae": vae.config.vae, "train_vae": vae.config.train_vae}
    return replace(run, vae=vae, config=config.model_copy(update=own))


def _checked_autoencoder(run: Run) -> Bundle:
    """Return the autoencoder with its health, or refuse it."""
    assert run.vae is not None, "a diffusion model is trained on an autoencoder's latents"
    check_autoencoder(run.vae, run.dataset, run.config)
    if "health" not in run.vae.metadata:
        say("examining the autoencoder, which an older version trained")
    vae = passed(run.vae, run.dataset, run.config.checks)
    for line in vae.metadata["health"].get("failed", []):
        say(f"check failed: {line}")
    return vae


def _require_sound(health: Health, checks: Literal["error", "warn"]) -> None:
    """Refuse a diffusion model whose draws cannot be used."""
    broken = denoiser_failures(health["denoiser"]) if "denoiser" in health else []
    again = "--resume takes other predict settings, and does not train again"
    require_passed([f"{line}; {again}" for line in broken], checks)


def base_of(run: Run) -> Base:
    """Return what the target is measured from: the autoencoder's under a diffusion model, else fitted anew.

    Rivals predict expression itself, so for them it is nothing.
    """
    if run.vae is not None:
        return run.vae.target_base()
    if run.kind != "vae":
        return fit_target_base(run.dataset, "absolute")

    def tell(done: int, total: int) -> None:
        run.on_status({"stage": "fitting plates and compounds", "stage_done": done, "stage_total": total})

    return fit_base(run.dataset, run.config, tell)


def _files(run: Run, base: DatasetBase, batch: int, num_workers: int) -> WellFiles:
    """Return the files that workers read: latents if profiles would have to be encoded every epoch, else profiles."""
    config, files = run.config, profile_files(run.dataset, run.config.ingest)
    plan_of(files, config, batch, num_workers)
    if run.kind == "ldm" and config.denoiser.norm == "batch":
        check_groups(config.denoiser.norm_groups, config.ray.lanes, batch, num_workers)
    if run.vae and config.ingest.latents and not is_resident(files, config, batch, num_workers):
        return latent_files(run.dataset, run.vae, base, config)
    return files


def _worker_args(run: Run, files: WellFiles, base: DatasetBase, placement: Placement, *, resident: bool) -> WorkerArgs:
    """Put the data of all workers into the object store."""
    dataset, config = run.dataset, run.config
    embeddings = np.zeros((1, 1), np.float32)
    if run.kind != "vae":
        embeddings = load_embeddings(dataset.store, build_encoder(config.encoder), dataset.parent_smiles.tolist())
    monitored = monitor_wells(load_wells(dataset, "valid", MONITOR_WELLS, config.seed)) if run.kind == "ldm" else None
    return WorkerArgs(
        kind=run.kind,
        config=config,
        files=files,
        keys=ray.put({split: sorted_keys(dataset, split) for split in SPLITS} if resident else {}),
        basal=ray.put(dataset.basal_expression),
        basal_input=ray.put(basal_input(dataset, config.denoiser.basal_input)),
        base=ray.put(base.table),
        effects=ray.put(base.effects) if base.effects else None,
        monitor=ray.put(monitored) if monitored else None,
        training_controls=ray.put(training_controls(dataset)),
        embeddings=ray.put(embeddings),
        vae=ray.put(run.vae.tensors) if run.vae else None,
        threads=placement.threads,
        board=start_board(),
        run=run_tag(run.store.url),
    )


def _begin_folder(run: Run, store: Store, num_workers: int, *, resident: bool) -> None:
    """Record how the run starts, or refuse to resume a run that started differently."""
    share: Share = {
        "num_workers": num_workers,
        "mode": "resident" if resident else "stream",
        "lanes": run.config.ray.lanes,
    }
    if run.begin == "resume":
        check_share(store, share)
        return
    for name in (METADATA, RUN):  # removed only now that everything has been checked
        store.remove(name)
    store.write_json(SHARE, share)
    store.write_bytes(SETTINGS, dump_config(run.config).encode())
