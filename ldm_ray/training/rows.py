"""Treated wells on a device, and the tables that they refer to."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from ldm_ray.models.condition import ConditionBatch


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Treated wells on a device, n of them: what they were treated with. Their values are a subclass's.

    Attributes:
        keys: Key of the profile id, (n,), int64.
        basal: Row of `Tables.basal`, (n,).
        compound: Row of `Tables.embeddings`, (n,).
        dose_um: (n,).
        time_h: (n,).
    """

    keys: Tensor
    basal: Tensor
    compound: Tensor
    dose_um: Tensor
    time_h: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, index: Tensor) -> Self:
        """Return some rows, in the order of `index`."""
        return type(self)(**{name: column.index_select(0, index) for name, column in self._columns()})

    def to(self, device: torch.device) -> Self:
        """Return the rows on a device."""
        return type(self)(**{name: column.to(device, non_blocking=True) for name, column in self._columns()})

    def ids(self) -> dict[str, Tensor]:
        """Return the columns that every kind of row has."""
        return {field.name: getattr(self, field.name) for field in fields(Rows)}

    def _columns(self) -> list[tuple[str, Tensor]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


@dataclass(frozen=True, kw_only=True)
class ProfileRows(Rows):
    """Wells with their log2 expression, (n, n_genes)."""

    expression: Tensor


@dataclass(frozen=True, kw_only=True)
class LatentRows(Rows):
    """Wells with mean and log-variance of their latent side by side, (n, 2 latent_dim)."""

    moments: Tensor


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


def condition_of(rows: Rows, tables: Tables) -> ConditionBatch:
    """Gather the condition of rows, from the tables on the device."""
    return ConditionBatch(
        x_basal=tables.basal_input[rows.basal],
        compound=tables.embeddings[rows.compound],
        dose_um=rows.dose_um,
        time_h=rows.time_h,
    )


def expression_of(rows: Rows) -> Tensor:
    """Return the profiles of rows that have them, log2, (n, n_genes)."""
    assert isinstance(rows, ProfileRows), "encoded rows have no profiles any more"
    return rows.expression


def target_of(rows: Rows, tables: Tables) -> Tensor:
    """Return what the autoencoder sees, (batch, n_genes): the profile less its base."""
    return expression_of(rows) - tables.base[rows.basal]
