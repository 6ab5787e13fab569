"""The condition: control profile, compound, dose and time, encoded as one vector."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm_ray.errors import ShapeError
from ldm_ray.keys import Purpose
from ldm_ray.models.blocks import Mlp, Norm, side_by_side
from ldm_ray.settings import DenoiserSettings


@dataclass(frozen=True)
class ConditionBatch:
    """Conditions to predict, one row per query.

    Attributes:
        x_basal: Control profile, log2, (batch, n_genes); `data/controls.py` says which one.
        compound: Compound embedding, (batch, embedding_dim).
        dose_um: Micromolar, (batch,).
        time_h: Hours, (batch,).
    """

    x_basal: Tensor
    compound: Tensor
    dose_um: Tensor
    time_h: Tensor

    def rows(self, index: slice | Tensor) -> "ConditionBatch":
        """Select rows."""
        return ConditionBatch(self.x_basal[index], self.compound[index], self.dose_um[index], self.time_h[index])


class ConditionEncoder(nn.Module):
    """Encodes conditions as (batch, width).

    Each of the four parts has its own network; their outputs are concatenated and compressed.

    Source: Kim & Yoo, section 2.4, with the layers of the authors' public code.

    Note:
        With `raw_inputs`, dose and time enter raw, as published. Otherwise they enter as log10 dose in um and as
        time / 24 h, and the control profile is centred and scaled by the training controls' moments.
    """

    basal_mean: Tensor
    basal_scale: Tensor

    def __init__(self, n_genes: int, embedding_dim: int, settings: DenoiserSettings) -> None:
        super().__init__()
        self.n_genes, self.embedding_dim, self.raw_inputs = n_genes, embedding_dim, settings.raw_inputs
        norm, dropout = settings.norm, settings.dropout
        self.basal = Mlp(n_genes, settings.basal_widths, norm, dropout=dropout, salt=Purpose.DROPOUT_BASAL)
        self.seen_dim = embedding_dim if settings.compound_input else 0
        self.compound = Mlp(
            self.seen_dim,
            settings.compound_widths if settings.compound_input else (),
            norm,
            dropout=dropout,
            salt=Purpose.DROPOUT_COMPOUND,
            input_dropout=settings.compound_dropout if settings.compound_input else 0.0,
        )
        # Layer normalisation of functions of a single number would remove its magnitude.
        scalar_norm: Norm = "batch" if norm == "batch" else "none"
        scalar_dropout = dropout if norm == "batch" else 0.0
        self.dose = Mlp(1, (settings.scalar_dim,), scalar_norm, dropout=scalar_dropout, salt=Purpose.DROPOUT_DOSE)
        self.time = Mlp(1, (settings.scalar_dim,), scalar_norm, dropout=scalar_dropout, salt=Purpose.DROPOUT_TIME)
        joint = self.basal.width + self.compound.width + self.dose.width + self.time.width
        self.joint = Mlp(joint, settings.condition_widths, norm, dropout=dropout, salt=Purpose.DROPOUT_JOINT)
        self.width = self.joint.width
        # Stands for the compound where the model does not see it (classifier-free guidance).
        self.no_compound = nn.Parameter(torch.zeros(self.compound.width)) if settings.guidance_dropout else None
        self.register_buffer("basal_mean", torch.zeros(n_genes))
        self.register_buffer("basal_scale", torch.ones(n_genes))

    def set_scaling(self, mean: Tensor, scale: Tensor) -> None:
        """Store per-gene moments of the training controls, each (n_genes,)."""
        self.basal_mean.copy_(mean)
        self.basal_scale.copy_(scale)

    def forward(
        self, condition: ConditionBatch, keys: Tensor | None = None, without_compound: Tensor | None = None
    ) -> Tensor:
        """Encode conditions.

        Args:
            condition: The conditions.
            keys: Keys of dropout in training, (batch,), int64.
            without_compound: Mask of rows encoded without their compound, (batch,), bool; needs `guidance_dropout`.

        Raises:
            ShapeError: If the profile or the embedding does not have the encoder's width.
        """
        networks = (self.basal, self.compound, self.dose, self.time)
        inputs = (
            self._scaled_basal(condition.x_basal),
            self._checked_compound(condition.compound),
            *self._scalars(condition.dose_um, condition.time_h),
        )
        basal, compound, dose, time = side_by_side(networks, inputs, keys)
        if self.no_compound is not None and without_compound is not None:
            compound = torch.where(without_compound[:, None], self.no_compound, compound)
        return self._compressed(basal, compound, dose, time, keys)

    def encode_basal(self, x_basal: Tensor, keys: Tensor | None = None) -> Tensor:
        """Encode control profiles (batch, n_genes), independently of the other parts of a condition."""
        out: Tensor = self.basal(self._scaled_basal(x_basal), keys)
        return out

    def encode_compound(self, compound: Tensor, keys: Tensor | None = None) -> Tensor:
        """Encode compound embeddings (batch, embedding_dim), independently of the other parts of a condition."""
        out: Tensor = self.compound(self._checked_compound(compound), keys)
        return out

    def join(
        self, basal: Tensor, compound: Tensor, dose_um: Tensor, time_h: Tensor, keys: Tensor | None = None
    ) -> Tensor:
        """Combine encoded controls and compounds with dose and time, (batch, width)."""
        dose, time = self._scalars(dose_um, time_h)
        return self._compressed(basal, compound, self.dose(dose, keys), self.time(time, keys), keys)

    def _scaled_basal(self, x_basal: Tensor) -> Tensor:
        if x_basal.shape[1] != self.n_genes:
            raise ShapeError(f"x_basal must have {self.n_genes} genes; got {x_basal.shape[1]}")
        return (x_basal - self.basal_mean) / self.basal_scale

    def _checked_compound(self, compound: Tensor) -> Tensor:
        if compound.shape[1] != self.embedding_dim:
            raise ShapeError(f"compound must have width {self.embedding_dim}; got {compound.shape[1]}")
        return compound[:, : self.seen_dim]

    def _scalars(self, dose_um: Tensor, time_h: Tensor) -> tuple[Tensor, Tensor]:
        """Dose and time as their networks see them, each (batch, 1)."""
        dose, time = dose_um[:, None], time_h[:, None]
        return (dose, time) if self.raw_inputs else (torch.log10(dose), time / 24.0)

    def _compressed(self, basal: Tensor, compound: Tensor, dose: Tensor, time: Tensor, keys: Tensor | None) -> Tensor:
        out: Tensor = self.joint(torch.cat([basal, compound, dose, time], dim=1), keys)
        return out
