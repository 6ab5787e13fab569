"""A mean model among a bundle's metadata and tensors."""

from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from ldm_ray.effects.compounds import CompoundEffects
from ldm_ray.effects.control import ControlModel
from ldm_ray.effects.kernel import Conditions, KernelShape
from ldm_ray.effects.mean import MeanModel
from ldm_ray.effects.plates import Group, Place, PlateEffects

PREFIX = "effects."
WITHOUT_FOLD = PREFIX + "without_fold"
"""Needed to train on residuals out of fold; a bundle that answers queries goes without."""


class StoredEffects(TypedDict):
    """The parts of a `MeanModel` that are no tensors; places are [cell line, hours, name], groups [cell line, hours].

    Attributes:
        factor: f.
        control_groups: Groups of the control model.
        groups: Groups with an effect.
        batches: Batches with an effect.
        plates: Plates with an effect.
        cells: Cell lines, by the numbers that landmarks use.
        kernel: Parameters of the kernel, by name.
    """

    factor: float
    control_groups: list[list[str | float]]
    groups: list[list[str | float]]
    batches: list[list[str | float]]
    plates: list[list[str | float]]
    cells: list[str]
    kernel: dict[str, float]


def stored_effects(model: MeanModel) -> tuple[StoredEffects, dict[str, Tensor]]:
    """Return what a bundle stores of a mean model: metadata and tensors."""
    plates, compounds, shape = model.plates, model.compounds, model.compounds.shape
    stored: StoredEffects = {
        "factor": plates.factor,
        "control_groups": [list(group) for group in model.control_groups],
        "groups": [list(group) for group in plates.groups],
        "batches": [list(place) for place in plates.batches],
        "plates": [list(place) for place in plates.plates],
        "cells": list(compounds.cells),
        "kernel": {
            "same_line": shape.same_line,
            "other_line": shape.other_line,
            "dose_decades": shape.dose_decades,
        },
    }
    arrays = {
        "control.within": model.control.within,
        "control.between": model.control.between,
        "control.mean": model.control.mean,
        "everywhere": plates.everywhere,
        "well_var": plates.well_var,
        "groups": np.stack(list(plates.groups.values())),
        "batches": np.stack(list(plates.batches.values())),
        "plates": np.stack(list(plates.plates.values())),
    }
    tensors = {name: torch.tensor(values, dtype=torch.float32) for name, values in arrays.items()}
    tensors |= {
        "fingerprints": torch.from_numpy(compounds.fingerprints),
        "landmarks.log_dose": compounds.landmarks.log_dose,
        "landmarks.cell": compounds.landmarks.cell,
        "landmarks.time_h": compounds.landmarks.time_h,
        "coefficients": compounds.coefficients,
        "without_fold": compounds.without_fold,
    }
    return stored, {PREFIX + name: value for name, value in tensors.items()}


def restored_effects(stored: StoredEffects, tensors: dict[str, Tensor]) -> MeanModel:
    """Rebuild a mean model from what `stored_effects` returned; without its folds if they are gone."""
    own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    arrays = {name: value.numpy().astype(np.float64) for name, value in own.items() if value.is_floating_point()}
    groups = [_group(entry) for entry in stored["groups"]]
    control_groups = tuple(_group(entry) for entry in stored["control_groups"])
    numbers = np.arange(len(control_groups), dtype=np.int64)
    plates = PlateEffects(
        factor=stored["factor"],
        everywhere=arrays["everywhere"],
        groups=dict(zip(groups, arrays["groups"], strict=True)),
        batches=dict(zip(map(_place, stored["batches"]), arrays["batches"], strict=True)),
        plates=dict(zip(map(_place, stored["plates"]), arrays["plates"], strict=True)),
        well_var=arrays["well_var"],
    )
    compounds = CompoundEffects(
        shape=KernelShape(**stored["kernel"]),
        cells=tuple(stored["cells"]),
        fingerprints=own["fingerprints"].numpy(),
        landmarks=Conditions(own["landmarks.log_dose"], own["landmarks.cell"], own["landmarks.time_h"]),
        coefficients=own["coefficients"],
        without_fold=own.get("without_fold", own["coefficients"][None][:0]),
    )
    control = ControlModel(arrays["control.within"], arrays["control.between"], arrays["control.mean"], numbers)
    return MeanModel(control, control_groups, plates, compounds)


def _group(entry: list[str | float]) -> Group:
    cell, time_h = entry
    return str(cell), float(time_h)


def _place(entry: list[str | float]) -> Place:
    cell, time_h, name = entry
    return str(cell), float(time_h), str(name)
