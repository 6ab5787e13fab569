"""The contents of a bundle's `metadata.json`, and the parts of them that come from its training data."""

import hashlib
from typing import Literal, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from ldm_ray.bundle.domain import StoredDomain, training_domain
from ldm_ray.bundle.health import Health
from ldm_ray.bundle.stored_effects import StoredEffects, stored_effects
from ldm_ray.bundle.target_base import Base
from ldm_ray.chem.embedding import build_encoder
from ldm_ray.config import Config
from ldm_ray.data.controls import MeanControl, mean_controls
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.manifest import Gene, Splits
from ldm_ray.diffusion.samplers import SamplerFields
from ldm_ray.effects.mean import MeanModel
from ldm_ray.layout import MANIFEST, METADATA
from ldm_ray.settings import RivalKind
from ldm_ray.storage.source import SourceIdentity
from ldm_ray.storage.store import Store

BundleKind = Literal["vae", "ldm"] | RivalKind
EpochRow = dict[str, float]
"""An epoch's measures by name: `epoch` from 0, `train_loss`, `valid_loss`, and other measures of its task."""


class TrainedOn(TypedDict):
    """The training data, from the dataset's manifest."""

    manifest_sha256: str
    sources: list[SourceIdentity]
    n_profiles: int
    splits: Splits
    simulated: bool


class EncoderIdentity(TypedDict):
    """Identifies the compound encoder that a model was trained with; `dim` is its width."""

    name: str
    revision: str
    dim: int


class StoredBase(TypedDict):
    """A `TargetBase` whose shifts are among the tensors; `groups` holds [cell line, hours] of each shift."""

    factor: float
    groups: list[list[str | float]]


class SamplerRow(SamplerFields):
    """A sampler as `ldm-ray bench samplers` measured it; see `SamplerScore`."""

    profiles_per_s: float
    energy_ratio: float
    mean_rmse_ratio: float
    spread_ratio: float
    coverage: float


class TrialOrigin(TypedDict):
    """The trial of a search that a bundle was exported from."""

    search: str
    trial: int
    params: dict[str, float | int | str | bool]
    metrics: dict[str, float]


class Metadata(TypedDict, total=False):
    """Everything that `metadata.json` may hold.

    Attributes:
        format_version: Written with the file, as are `kind` and `ldm_ray_version`.
        kind: See `Bundle`.
        ldm_ray_version: Version that wrote it.
        genes: Genes, in the order of every profile.
        trained_on: The training data.
        history: One row per epoch.
        best_epoch: Index in `history` of the epoch whose weights were kept.
        base: The target's base; only of target `residual`.
        effects: The mean model; only of target `effects`.
        residual_groups: Groups of the sampled residuals; only of diffusion models with target `effects`.
        encoder: The compound encoder; like the next three, only in bundles that answer queries.
        cells: Cell lines and times whose mean controls are among the tensors.
        domain: The range of training.
        recommended_sampler: The sampler that predictions use.
        vae_history: `history` of a diffusion model's autoencoder.
        samplers: Measurements of `ldm-ray bench samplers`, if it was run.
        search: The trial that the bundle was exported from, if any.
        health: What was measured of its parts after training, and the checks that failed.
    """

    format_version: int
    kind: BundleKind
    ldm_ray_version: str
    genes: list[Gene]
    trained_on: TrainedOn
    history: list[EpochRow]
    best_epoch: int
    base: StoredBase
    effects: StoredEffects
    residual_groups: list[list[str | float]]
    encoder: EncoderIdentity
    cells: list[MeanControl]
    domain: StoredDomain
    recommended_sampler: SamplerFields
    vae_history: list[EpochRow]
    samplers: list[SamplerRow]
    search: TrialOrigin
    health: Health


def read_metadata(store: Store) -> Metadata:
    """Read a bundle's metadata; the caller must check the format."""
    return cast(Metadata, store.read_json(METADATA))


def dataset_metadata(dataset: PairedDataset) -> Metadata:
    """Return genes, sources and counts of the training data."""
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


def base_parts(base: Base) -> tuple[Metadata, dict[str, Tensor]]:
    """Return what a bundle stores of its target's base: metadata and tensors.

    Of target `residual` it is the shifts by group, with that of all wells last.
    """
    if isinstance(base, MeanModel):
        stored, tensors = stored_effects(base)
        return {"effects": stored}, tensors
    if base.target != "residual":
        return {}, {}
    shifts = np.stack([*base.shift.values(), base.everywhere])
    described: StoredBase = {"factor": base.factor, "groups": [[cell, time_h] for cell, time_h in base.shift]}
    return {"base": described}, {"base.shift": torch.from_numpy(shifts)}


def answering_parts(dataset: PairedDataset, config: Config) -> tuple[Metadata, dict[str, Tensor]]:
    """Return the metadata and tensors that a bundle needs to answer queries; `sd_scale` is still 1."""
    entries, basal = mean_controls(dataset)
    encoder = build_encoder(config.encoder)
    domain, fingerprints = training_domain(dataset)
    metadata: Metadata = {
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
