"""Builds the task of each kind of model, with its scaling and the tensors that a finished run keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ldm_ray.bundle.bundle import LARGEST_LATENT, prefixed
from ldm_ray.config import Config
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.rivals.build import build_baseline
from ldm_ray.models.rivals.pertdit import PertDit
from ldm_ray.models.vae import Vae
from ldm_ray.training.moments import fit_observation_noise, mean_and_scale, scale_latents, shape_moments, target_moments
from ldm_ray.training.monitor import MeanMonitor, MonitorWells
from ldm_ray.training.rival_steps import RivalTask
from ldm_ray.training.rows import Rows, Tables, expression_of, target_of
from ldm_ray.training.source import ResidentSource, WellSource
from ldm_ray.training.steps import Latents, LdmTask, Task, VaeTask

SMALLEST_CONTROL_SD = 0.1
"""log2; without it, genes that hardly vary over controls would be scaled up."""


@dataclass(frozen=True, kw_only=True)
class TaskInputs:
    """Inputs from which a worker builds its task.

    Attributes:
        kind: `vae`, `ldm` or a rival's name.
        config: All settings.
        source: This worker's wells.
        tables: Tables that the wells refer to.
        training_controls: Rows of `tables.basal` paired with training wells, (n,).
        vae: Weights of a diffusion model's autoencoder.
        monitor: Validation wells on which a diffusion model's mean is scored after each epoch.
    """

    kind: str
    config: Config
    source: WellSource
    tables: Tables
    training_controls: np.ndarray
    vae: Mapping[str, Tensor] | None = None
    monitor: MonitorWells | None = None


@dataclass(frozen=True)
class BuiltTask:
    """A task, the wells it trains on, and the tensors that a finished run keeps."""

    task: Task
    source: WellSource
    kept: Callable[[], dict[str, Tensor]]


def build_task(inputs: TaskInputs) -> BuiltTask:
    """Build a model with fresh weights, scaled by the training wells of all workers, and its task."""
    return {"vae": _vae_task, "ldm": _ldm_task}.get(inputs.kind, _rival_task)(inputs)


def _vae_task(inputs: TaskInputs) -> BuiltTask:
    config, source, tables = inputs.config, inputs.source, inputs.tables
    if tables.effects is not None and isinstance(source, ResidentSource):
        source, tables = _without_effects(source, tables)
    vae = Vae(tables.basal.shape[1], config.vae)
    vae = vae.to(source.device)
    if config.vae.size:
        vae.unit.copy_(target_moments(source, tables)[1])
    if config.vae.standardise:
        vae.set_scaling(*shape_moments(vae, source, tables))

    def kept() -> dict[str, Tensor]:
        factors = config.vae.observation_noise_rank
        noise = fit_observation_noise(vae.eval(), source, tables, config.seed, factors)
        size = torch.tensor(noise.mean_square_size)
        fitted = {"noise.factor": noise.factor, "noise.sd": noise.sd, "noise.mean_square_size": size}
        return prefixed("vae.", vae) | fitted

    return BuiltTask(VaeTask(vae, tables, config), source, kept)


def _without_effects(source: ResidentSource, tables: Tables) -> tuple[ResidentSource, Tables]:
    """Take the compounds' effects off the wells once, instead of in every batch."""

    def rest(rows: Rows) -> Tensor:
        return target_of(rows, tables) + tables.base[rows.basal]

    return source.with_values(rest), replace(tables, effects=None)


def _ldm_task(inputs: TaskInputs) -> BuiltTask:
    config, source, tables = inputs.config, inputs.source, inputs.tables
    n_genes = tables.basal.shape[1]
    assert inputs.vae is not None
    vae = Vae(n_genes, config.vae)
    vae.load_state_dict({n.removeprefix("vae."): value for n, value in inputs.vae.items() if n.startswith("vae.")})
    vae = vae.to(source.device).eval().requires_grad_(requires_grad=False)
    latents = Latents(vae, tables)
    if config.ingest.latents and isinstance(source, ResidentSource):
        source = source.encoded(latents.moments)
    model = LatentDiffusion(n_genes, tables.embeddings.shape[1], config).to_device(source.device)
    largest = scale_latents(model, source, latents, config.seed, whiten=config.denoiser.whiten)
    if not config.denoiser.raw_inputs:
        controls = tables.basal[torch.from_numpy(inputs.training_controls).long().to(source.device)]
        scale = controls.std(dim=0, correction=0).clamp_min(SMALLEST_CONTROL_SD)
        model.condition_encoder.set_scaling(controls.mean(dim=0).cpu(), scale.cpu())
    monitor = None
    if inputs.monitor:
        by_base = config.target == "effects"
        monitor = MeanMonitor(inputs.monitor, tables, config.predict.guidance, mean_is_base=by_base)
    task = LdmTask(model, latents, tables, config, monitor)
    return BuiltTask(task, source, lambda: prefixed("ldm.", task.model) | {LARGEST_LATENT: largest})


def _rival_task(inputs: TaskInputs) -> BuiltTask:
    config, source, tables = inputs.config, inputs.source, inputs.tables
    model = build_baseline(inputs.kind, tables.basal.shape[1], tables.embeddings.shape[1], config.pertdit)
    if isinstance(model, PertDit):
        scaling = mean_and_scale(expression_of(rows) for rows in source.sweep("train"))
        model.set_scaling(*(value.cpu() for value in scaling))
    task = RivalTask(model, tables, config, source.device)
    return BuiltTask(task, source, lambda: prefixed("net.", task.model))
