"""Scores a model's mean after each epoch, because the loss alone does not show which epoch predicts best."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ldm_ray.data.wells import Wells
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ObservationNoise, ProfileGenerator, Sampling
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.training.reduce import rank, sum_over_workers, world_size
from ldm_ray.training.rows import Tables

MONITOR_WELLS = 1024
SAMPLES, STEPS, SAMPLED_WELLS = 4, 10, 256
"""For models without a direct mean: sampling on all wells would take longer than an epoch of training, so their mean is
measured on fewer wells, with sampling noise."""


@dataclass(frozen=True)
class MonitorWells:
    """A sample of n validation wells.

    Attributes:
        keys: Key of the profile id, (n,), int64.
        basal: Row of `Tables.basal`, (n,).
        compound: Row of `Tables.embeddings`, (n,).
        dose_um: Micromolar, (n,).
        time_h: Hours, (n,).
        y: Measured profile, log2, (n, n_genes).
        unseen_control: The plate's reserved control, which no model sees, log2, (n, n_genes).
        has_control: Whether the plate has one, (n,), bool.
    """

    keys: Tensor
    basal: Tensor
    compound: Tensor
    dose_um: Tensor
    time_h: Tensor
    y: Tensor
    unseen_control: Tensor
    has_control: Tensor


def monitor_wells(wells: Wells) -> MonitorWells:
    """Turn wells into tensors."""
    frame = wells.frame

    def column(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor(frame[name].to_numpy(), dtype=dtype)

    return MonitorWells(
        keys=torch.tensor(wells.keys),
        basal=column("basal_id", torch.int64),
        compound=column("compound_id", torch.int64),
        dose_um=column("dose_um", torch.float32),
        time_h=column("time_h", torch.float32),
        y=torch.tensor(wells.y),
        unseen_control=torch.tensor(wells.reserved),
        has_control=torch.tensor(wells.has_reserved),
    )


class MeanMonitor:
    """Scores a model's mean on a sample of validation wells, split among the workers.

    Args:
        wells: The sample, the same on every worker.
        tables: Tables that the wells refer to.
        guidance: Guidance of predictions.
        mean_is_base: See `ProfileGenerator`.
    """

    def __init__(
        self, wells: MonitorWells, tables: Tables, guidance: float = 1.0, *, mean_is_base: bool = False
    ) -> None:
        device = tables.basal.device
        own = {field.name: getattr(wells, field.name)[rank() :: world_size()].to(device) for field in fields(wells)}
        self._wells, self._tables, self._guidance = MonitorWells(**own), tables, guidance
        self._mean_is_base = mean_is_base
        few = -(-SAMPLED_WELLS // world_size())
        self._few = MonitorWells(**{name: value[:few] for name, value in own.items()})

    @torch.no_grad()
    def measure(self, model: LatentDiffusion, vae: Vae) -> dict[str, float]:
        """Return `mse` (squared error per gene) and `delta_pcc` (correlation of the change over genes), over wells.

        The measured change is taken from the reserved control; wells without one do not count for `delta_pcc`.
        """
        tables = self._tables
        none = torch.zeros(tables.basal.shape[1], device=tables.basal.device)
        noise = ObservationNoise(none[:, None], none)
        generator = ProfileGenerator(model, vae, noise, self._guidance, mean_is_base=self._mean_is_base)
        wells = self._wells if generator.has_direct_mean else self._few
        condition = ConditionBatch(
            tables.basal_input[wells.basal], tables.embeddings[wells.compound], wells.dose_um, wells.time_h
        )
        base = tables.base_at(wells.basal, wells.compound, wells.dose_um, wells.time_h)
        if generator.has_direct_mean:
            mean = generator.direct_mean(condition, base)
        else:
            how = Sampling(SAMPLES, SamplerChoice(steps=min(STEPS, model.diffusion.num_steps)), seed=0)
            mean = generator.sample(condition, base, wells.keys, how).mean
        squared = ((mean - wells.y) ** 2).mean(dim=1).double()
        correlation = pearson(mean - tables.basal[wells.basal], wells.y - wells.unseen_control).double()
        scored = wells.has_control & torch.isfinite(correlation)
        sums = torch.stack(
            [squared.sum(), torch.ones_like(squared).sum(), correlation[scored].sum(), scored.sum().double()]
        )
        error, count, total, number = sum_over_workers(sums).tolist()
        return {"mse": error / count, "delta_pcc": total / number if number else 0.0}


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row over its columns, (n,); NaN where a row is constant."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return (a * b).sum(dim=1) / torch.sqrt((a**2).sum(dim=1) * (b**2).sum(dim=1))
