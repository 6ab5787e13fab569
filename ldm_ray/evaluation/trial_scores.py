"""Scores of a search's finished trial, on validation wells only."""

import numpy as np
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import load_wells
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.evaluation.scores.metrics import distances

CLOUD_WELLS = 512
MIN_WELLS = 16


def score_trial(bundle: Bundle, dataset: PairedDataset) -> dict[str, float]:
    """Score a trial on validation wells.

    Returns:
        The validation measures of the kept epoch by name; `energy_distance` of one draw per well, within cell line and
        time, on 512 wells drawn by seed; and `sampling_cost`, million multiply-adds of the denoiser per draw.
    """
    kept = bundle.metadata["history"][bundle.metadata["best_epoch"]]
    measures = {name.removeprefix("valid_"): value for name, value in kept.items() if name.startswith("valid_")}
    wells = load_wells(dataset, "valid", CLOUD_WELLS, bundle.config.seed)
    inputs = model_inputs(dataset, bundle, wells.frame["compound_id"].to_numpy(), bundle.kind)
    model = Model(inputs, (1,), bundle.config.seed)
    draws = model.sample(wells, 1, n_draws=1).draws[:, 0].cpu().numpy()
    group = wells.group("cell_id", "time_h")
    rows = [np.flatnonzero(group == number) for number in np.unique(group)]
    rows = [members for members in rows if len(members) >= MIN_WELLS] or [np.arange(len(wells))]
    energies = [distances(draws[members], wells.y[members]).energy() for members in rows]
    energy = float(np.average(energies, weights=[len(members) for members in rows]))
    return measures | {"energy_distance": energy, "sampling_cost": sampling_cost(bundle)}


def sampling_cost(bundle: Bundle) -> float:
    """Million multiply-adds of the denoiser's layers per draw; twice as many with guidance."""
    layers = [m for m in bundle.build_ldm().denoiser.modules() if isinstance(m, torch.nn.Linear)]
    passes = bundle.sampler_choice().steps * (1 if bundle.config.predict.guidance == 1.0 else 2)
    return passes * sum(layer.weight.numel() for layer in layers) / 1e6
