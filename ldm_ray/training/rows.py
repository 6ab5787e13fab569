"""Treated wells on a device, and the tables they refer to."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from ldm_ray.effects.wells import WellEffects
from ldm_ray.models.condition import ConditionBatch


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The treatments of n wells on a device; subclasses add their values.

    Attributes:
        keys: Key of the profile id, (n,), int64.
        basal: Row of `Tables.basal`, (n,).
        compound: Row of `Tables.embeddings`, (n,).
        dose_um: Micromolar, (n,).
        time_h: Hours, (n,).
    """

    keys: Tensor
    basal: Tensor
    compound: Tensor
    dose_um: Tensor
    time_h: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, index: Tensor) -> Self:
        """Return the rows at `index`, in that order."""
        return type(self)(**{name: column.index_select(0, index) for name, column in self._columns()})

    def to(self, device: torch.device) -> Self:
        """Return the rows on a device."""
        return type(self)(**{name: column.to(device, non_blocking=True) for name, column in self._columns()})

    def clone(self) -> Self:
        """Return a copy."""
        return type(self)(**{name: column.clone() for name, column in self._columns()})

    def copy_(self, other: Self) -> None:
        """Overwrite the values with those of as many other rows."""
        for name, column in self._columns():
            column.copy_(getattr(other, name))

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
    """Wells with the mean and log-variance of their latent side by side, (n, 2 latent_dim)."""

    moments: Tensor


@dataclass(frozen=True)
class Tables:
    """Tables that rows refer to by number, on the same device.

    Attributes:
        basal: Control profiles, log2, (n_basal, n_genes).
        basal_input: The model's input for each control, log2, (n_basal, n_genes).
        embeddings: Compound embeddings, (n_compounds, embedding_dim).
        base: Profile that the target is measured from, for each control, log2, (n_basal, n_genes).
        effects: Effects of compounds that are part of the base, if any.
    """

    basal: Tensor
    basal_input: Tensor
    embeddings: Tensor
    base: Tensor
    effects: WellEffects | None = None

    def base_at(self, basal: Tensor, compound: Tensor, dose_um: Tensor, time_h: Tensor) -> Tensor:
        """Return what the target of wells is measured from, log2, (n, n_genes); columns as those of `Rows`."""
        base = self.base[basal]
        return base if self.effects is None else base + self.effects.of(basal, compound, dose_um, time_h)


def condition_of(rows: Rows, tables: Tables) -> ConditionBatch:
    """Gather the conditions of rows from the tables."""
    return ConditionBatch(
        x_basal=tables.basal_input[rows.basal],
        compound=tables.embeddings[rows.compound],
        dose_um=rows.dose_um,
        time_h=rows.time_h,
    )


def expression_of(rows: Rows) -> Tensor:
    """Return the profiles of `ProfileRows`, log2, (n, n_genes)."""
    assert isinstance(rows, ProfileRows), "encoded rows no longer have profiles"
    return rows.expression


def target_of(rows: Rows, tables: Tables) -> Tensor:
    """Return the autoencoder's target, (batch, n_genes): the profile minus its base."""
    return expression_of(rows) - tables.base_at(rows.basal, rows.compound, rows.dose_um, rows.time_h)
