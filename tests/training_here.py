"""Trains an autoencoder in this process, without Ray, into a bundle."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.metadata import base_parts, dataset_metadata
from ldm_ray.bundle.target_base import fit_base
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.slices import profile_files
from ldm_ray.training.loop import run_fit, start_fit
from ldm_ray.training.rows import Tables
from ldm_ray.training.tasks import TaskInputs, build_task
from tests.conftest import resident_source


class Quiet:
    """Hooks that do nothing."""

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        return

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        return


def autoencoder_of(dataset: PairedDataset, config: Config) -> Bundle:
    """Train as one worker does, and bundle what it keeps."""
    settings, base = config.train_vae, fit_base(dataset, config)
    on_dataset = base.on(dataset)
    files = profile_files(dataset, config.ingest)
    source = resident_source(files, config, settings.global_batch_size, 0, 1)
    nothing = np.zeros((1, 1), np.float32)
    arrays = (dataset.basal_expression, dataset.basal_expression, nothing, on_dataset.table)
    tables = Tables(*(torch.from_numpy(np.array(values)) for values in arrays), on_dataset.effects)
    torch.manual_seed(config.seed)
    built = build_task(
        TaskInputs(kind="vae", config=config, source=source, tables=tables, training_controls=np.zeros(1, np.int64))
    )
    fit = start_fit(built.task.module, settings)
    run_fit(fit, built.task, built.source, settings, config.seed, Quiet())
    described, shifts = base_parts(base)
    metadata = dataset_metadata(dataset) | described | {"history": fit.history, "best_epoch": fit.best_epoch}
    return Bundle("vae", config, metadata, shifts | built.kept())
