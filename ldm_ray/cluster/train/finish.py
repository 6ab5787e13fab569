"""Turns the last checkpoint of a run into its bundle, and measures it."""

from collections.abc import Callable
from pathlib import Path

import ray
import safetensors.torch
import torch
from ray.train import Checkpoint

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.metadata import BundleKind, answering_parts, base_parts, dataset_metadata
from ldm_ray.bundle.residuals import residual_parts
from ldm_ray.bundle.stored_effects import WITHOUT_FOLD
from ldm_ray.bundle.target_base import Base
from ldm_ray.cluster.placement import Placement
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.effects.mean import MeanModel
from ldm_ray.evaluation.calibration import calibrate
from ldm_ray.evaluation.health.examine import examined
from ldm_ray.layout import CHECKPOINT_STATE, CHECKPOINT_TENSORS
from ldm_ray.training.status import OnStatus


def finished_bundle(
    kind: BundleKind,
    dataset: PairedDataset,
    vae: Bundle | None,
    base: Base,
    config: Config,
    checkpoint: Checkpoint,
) -> Bundle:
    """Turn the last checkpoint into a bundle that is not measured yet."""
    with checkpoint.as_directory() as folder:
        tensors = safetensors.torch.load_file(Path(folder) / CHECKPOINT_TENSORS)
        state = torch.load(Path(folder) / CHECKPOINT_STATE, weights_only=True, map_location="cpu")
    described, shifts = base_parts(base)
    metadata = dataset_metadata(dataset) | {"history": state["history"], "best_epoch": state["best_epoch"]} | described
    tensors |= shifts
    if kind == "vae":
        return Bundle(kind, config, metadata, tensors)
    if isinstance(base, MeanModel):
        tensors.pop(WITHOUT_FOLD)
        metadata["residual_groups"], residuals = residual_parts(base, dataset, config.seed)
        tensors |= residuals
    answering, more = answering_parts(dataset, config)
    metadata |= answering
    if vae:
        metadata["vae_history"] = vae.metadata["history"]
        metadata["health"] = vae.metadata.get("health", {})
        more |= {name: value for name, value in vae.tensors.items() if name not in (*tensors, WITHOUT_FOLD)}
    return Bundle(kind, config, metadata, tensors | more)


def measured(bundle: Bundle, dataset: PairedDataset, placement: Placement, on_status: OnStatus) -> Bundle:
    """Examine an autoencoder, or calibrate a model that answers queries."""
    if bundle.kind == "vae":
        return _where_trained(examined, "examining", bundle, dataset, placement, on_status)
    return _where_trained(calibrate, "calibrating", bundle, dataset, placement, on_status)


def _where_trained(
    measure: Callable[..., Bundle],
    stage: str,
    bundle: Bundle,
    dataset: PairedDataset,
    placement: Placement,
    on_status: OnStatus,
) -> Bundle:
    """Measure the bundle on a worker's GPU if it was trained on one; the driver may have none."""

    def tell(done: int, total: int) -> None:
        on_status({"stage": stage, "stage_done": done, "stage_total": total})

    if not placement.use_gpu:
        return measure(bundle, dataset, tell)
    on_status({"stage": stage})
    task = ray.remote(measure).options(num_gpus=min(1.0, placement.gpus))
    on_gpu: Bundle = ray.get(task.remote(bundle, dataset))
    return on_gpu
