"""What a bundle says of the data it was trained on."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_ray.bundle.domain import training_domain
from ldm_ray.bundle.target_base import TargetBase
from ldm_ray.chem.embedding import build_encoder
from ldm_ray.config import Config
from ldm_ray.data.controls import mean_controls
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.layout import MANIFEST


def dataset_metadata(dataset: PairedDataset) -> dict[str, Any]:
    """Genes, sources and counts of the training data."""
    manifest = dataset.manifest
    return {
        "genes": manifest["genes"],
        "trained_on": {
            "manifest_sha256": hashlib.sha256(dataset.store.read_bytes(MANIFEST)).hexdigest(),
            "sources": manifest["sources"],
            "n_profiles": manifest["n_profiles"],
            "splits": manifest["splits"],
            "simulated": manifest["simulated"],
        },
    }


def base_parts(base: TargetBase) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a bundle keeps of its target's base: metadata, and shifts by group, the one of all wells last."""
    if base.target != "residual":
        return {}, {}
    shifts = np.stack([*base.shift.values(), base.everywhere])
    described = {"factor": base.factor, "groups": [[cell, time_h] for cell, time_h in base.shift]}
    return {"base": described}, {"base.shift": torch.from_numpy(shifts)}


def answering_parts(dataset: PairedDataset, config: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a bundle that answers queries keeps of its data: metadata, and tensors; spreads not yet scaled."""
    entries, basal = mean_controls(dataset)
    encoder = build_encoder(config.encoder)
    domain, fingerprints = training_domain(dataset)
    metadata = {
        "encoder": {"name": encoder.name, "revision": encoder.revision, "dim": encoder.dim},
        "cells": entries,
        "domain": domain,
        "recommended_sampler": {
            "kind": config.predict.sampler,
            "steps": config.predict.steps,
            "spacing": config.predict.spacing,
            "eta": config.predict.eta,
            "correction": config.predict.correction,
        },
    }
    tensors = {"cells.basal": torch.from_numpy(basal), "train.fingerprints": torch.from_numpy(fingerprints)}
    return metadata, tensors | {"sd_scale": torch.ones(dataset.n_genes)}
