"""Treated wells on a device, and the tables that they refer to."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ldm_ray.models.condition import Condition


@dataclass(frozen=True)
class Rows:
    """Treated wells on a device, n of them.

    Attributes:
        keys: Key of the profile id, (n,), int64.
        values: log2 expression, (n, n_genes); or, once encoded, the latent's mean and log-variance side by side,
            (n, 2 latent_dim).
        basal: Row of `Tables.basal`, (n,).
        compound: Row of `Tables.embeddings`, (n,).
        dose_um: (n,).
        time_h: (n,).
    """

    keys: Tensor
    values: Tensor
    basal: Tensor
    compound: Tensor
    dose_um: Tensor
    time_h: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, index: Tensor) -> "Rows":
        """Return some rows, in the order of `index`."""
        return Rows(*(getattr(self, field.name).index_select(0, index) for field in fields(self)))

    def to(self, device: torch.device) -> "Rows":
        """Return the rows on a device."""
        return Rows(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


@dataclass(frozen=True)
class Tables:
    """What rows refer to by number, on the same device.

    Attributes:
        basal: Control profiles, log2, (n_basal, n_genes).
        basal_input: What the model is conditioned on for each of them, log2, (n_basal, n_genes).
        embeddings: Compound embeddings, (n_compounds, embedding_dim).
        base: What the target is measured from, for each control profile, log2, (n_basal, n_genes).
    """

    basal: Tensor
    basal_input: Tensor
    embeddings: Tensor
    base: Tensor


def condition_of(rows: Rows, tables: Tables) -> Condition:
    """Gather the condition of rows, from the tables on the device."""
    return Condition(
        x_basal=tables.basal_input[rows.basal],
        compound=tables.embeddings[rows.compound],
        dose_um=rows.dose_um,
        time_h=rows.time_h,
    )


def target_of(rows: Rows, tables: Tables) -> Tensor:
    """Return what the autoencoder sees, (batch, n_genes): the profile less its base."""
    return rows.values - tables.base[rows.basal]
