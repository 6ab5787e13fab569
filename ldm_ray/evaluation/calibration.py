"""Calibrates a trained model's standard deviations on validation wells, and examines its denoiser on the same."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.health import Health
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import Wells, load_wells
from ldm_ray.evaluation.health.denoiser import Examined, examine_denoiser
from ldm_ray.evaluation.health.verdict import denoiser_doubts, denoiser_failures
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.evaluation.scores.spread import fit_sd_scale
from ldm_ray.models.generate import ProfileGenerator

WELLS_AT_ONCE = 64


def calibrate(
    bundle: Bundle, dataset: PairedDataset, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Bundle:
    """Return the bundle with its `sd_scale` fitted on validation wells; that of a diffusion model also with `health`.

    Args:
        bundle: A trained model.
        dataset: Its dataset; a seeded sub-sample of `predict.calibration_wells` validation wells is used.
        on_progress: Called with wells sampled and in total.
    """
    wanted = bundle.config.predict
    wells = load_wells(dataset, "valid", wanted.calibration_wells, bundle.config.seed)
    inputs = model_inputs(dataset, bundle, wells.frame["compound_id"].to_numpy(), bundle.kind)
    model = Model(inputs, (wanted.n_samples,), bundle.config.seed)
    means, spreads, latents = [], [], []
    on_progress(0, len(wells))
    for start in range(0, len(wells), WELLS_AT_ONCE):
        some = wells.take(np.arange(start, min(start + WELLS_AT_ONCE, len(wells))))
        samples = model.sample(some, wanted.n_samples, n_latents=wanted.n_samples)
        means.append(samples.mean.cpu().numpy())
        spreads.append(samples.std.cpu().numpy())
        latents.append(samples.latents.cpu())
        on_progress(start + len(some), len(wells))
    scale = fit_sd_scale(wells.y, np.concatenate(means), np.concatenate(spreads))
    metadata, tensors = bundle.metadata, bundle.tensors | {"sd_scale": torch.from_numpy(scale)}
    generator = model.predictor.sampler
    if isinstance(generator, ProfileGenerator):
        metadata = metadata | {"health": _health(bundle, model, generator, wells, torch.cat(latents))}
    return replace(bundle, metadata=metadata, tensors=tensors)


def _health(bundle: Bundle, model: Model, generator: ProfileGenerator, wells: Wells, drawn: Tensor) -> Health:
    """Add what is measured of a diffusion model to what is known of its autoencoder."""
    y, keys = (torch.from_numpy(np.array(values)).to(generator.device) for values in (wells.y, wells.keys))
    examined = Examined(y - model.base(wells), model.condition(wells), keys, drawn)
    denoiser = examine_denoiser(bundle, generator, examined)
    known: Health = bundle.metadata.get("health", {})
    failed = [*known.get("failed", []), *denoiser_failures(denoiser), *denoiser_doubts(denoiser)]
    return known | {"denoiser": denoiser, "failed": failed}
