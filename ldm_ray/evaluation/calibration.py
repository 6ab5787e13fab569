"""Calibrates a trained model's standard deviations on validation wells."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import load_wells
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.evaluation.scores.spread import fit_sd_scale

WELLS_AT_ONCE = 64


def calibrate(
    bundle: Bundle, dataset: PairedDataset, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Bundle:
    """Return the bundle with its `sd_scale` fitted on validation wells.

    Args:
        bundle: A trained model.
        dataset: Its dataset; a seeded sub-sample of `predict.calibration_wells` validation wells is used.
        on_progress: Called with wells sampled and in total.
    """
    wanted = bundle.config.predict
    wells = load_wells(dataset, "valid", wanted.calibration_wells, bundle.config.seed)
    inputs = model_inputs(dataset, bundle, wells.frame["compound_id"].to_numpy(), bundle.kind)
    model = Model(inputs, (wanted.n_samples,), bundle.config.seed)
    means, spreads = [], []
    on_progress(0, len(wells))
    for start in range(0, len(wells), WELLS_AT_ONCE):
        some = wells.take(np.arange(start, min(start + WELLS_AT_ONCE, len(wells))))
        samples = model.sample(some, model.condition(some), wanted.n_samples)
        means.append(samples.mean.cpu().numpy())
        spreads.append(samples.std.cpu().numpy())
        on_progress(start + len(some), len(wells))
    scale = fit_sd_scale(wells.y, np.concatenate(means), np.concatenate(spreads))
    return replace(bundle, tensors=bundle.tensors | {"sd_scale": torch.from_numpy(scale)})
