"""Calibrates a trained model's standard deviations on validation wells."""

from dataclasses import replace

import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import load_wells
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.evaluation.scores.spread import fit_sd_scale


def calibrate(bundle: Bundle, dataset: PairedDataset) -> Bundle:
    """Return the bundle with the `sd_scale` that its validation wells ask for.

    Args:
        bundle: A model that answers queries.
        dataset: What it was trained on; a seeded sub-sample of `predict.calibration_wells` validation wells is sampled.
    """
    wanted = bundle.config.predict
    wells = load_wells(dataset, "valid", wanted.calibration_wells, bundle.config.seed)
    inputs = model_inputs(dataset, bundle, wells.frame["compound_id"].to_numpy(), bundle.kind)
    model = Model(inputs, (wanted.n_samples,), bundle.config.seed)
    samples = model.sample(wells, model.condition(wells), wanted.n_samples)
    scale = fit_sd_scale(wells.y, samples.mean.cpu().numpy(), samples.std.cpu().numpy())
    return replace(bundle, tensors=bundle.tensors | {"sd_scale": torch.from_numpy(scale)})
