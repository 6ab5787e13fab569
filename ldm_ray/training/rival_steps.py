"""The loss modules of the published rivals, which DDP wraps."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm_ray.config import Config
from ldm_ray.diffusion.gaussian import GaussianDiffusion
from ldm_ray.keys import Purpose
from ldm_ray.models.rivals.generate import pertdit_schedule
from ldm_ray.models.rivals.pertdit import PertDit
from ldm_ray.models.rivals.prnet import NOISE_DIM, Prnet, scaled_drug
from ldm_ray.noise import mix, standard_normal, uniform_integers
from ldm_ray.training.rows import Rows, Tables, expression_of
from ldm_ray.training.steps import StepLosses

SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True)
class ProfileBatch:
    """Treated profiles and matched controls, log2, (batch, n_genes); compounds, doses and keys."""

    y: Tensor
    x_basal: Tensor
    compound: Tensor
    dose_um: Tensor
    keys: Tensor


class PrnetLossModule(nn.Module):
    """Gaussian negative log-likelihood of the treated profile."""

    def __init__(self, model: Prnet) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ProfileBatch) -> StepLosses:
        """Loss with input noise keyed by row."""
        noise = standard_normal(mix(batch.keys, Purpose.LATENT), NOISE_DIM)
        drug = scaled_drug(batch.compound, batch.dose_um)
        mean, variance = self.model(batch.x_basal, drug, noise, batch.keys)
        loss = gaussian_nll_loss(mean, batch.y, variance)
        return StepLosses(loss, {"mse": ((mean - batch.y) ** 2).mean().detach()})


def gaussian_nll_loss(mean: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    """Return torch's function of this name, without its check of the variance, for which a GPU has to wait."""
    variance = variance.clone()
    with torch.no_grad():
        variance.clamp_(min=SMALLEST_VARIANCE)
    return (0.5 * (torch.log(variance) + (mean - y) ** 2 / variance)).mean()


class PertditLossModule(nn.Module):
    """Mean squared error of the noise, at one uniformly drawn step per row."""

    def __init__(self, model: PertDit, diffusion: GaussianDiffusion) -> None:
        super().__init__()
        self.model, self.diffusion = model, diffusion

    def forward(self, batch: ProfileBatch) -> StepLosses:
        """Loss with step and noise keyed by row."""
        model = self.model
        t = uniform_integers(mix(batch.keys, Purpose.STEP), self.diffusion.num_steps)
        eps = standard_normal(mix(batch.keys, Purpose.FORWARD), model.n_genes)
        z_t = self.diffusion.q_sample(model.scale(batch.y), t, eps)
        tokens = model.drug_tokens(batch.compound, batch.dose_um)
        predicted = model(z_t, model.scale(batch.x_basal), tokens, t)
        return StepLosses(((predicted - eps) ** 2).mean(), {})


class RivalTask:
    """Train a rival on raw log2 profiles, given their matched controls."""

    def __init__(self, model: Prnet | PertDit, tables: Tables, config: Config, device: torch.device) -> None:
        self.model, self.tables = model.to(device), tables
        self.module: nn.Module = (
            PrnetLossModule(model)
            if isinstance(model, Prnet)
            else PertditLossModule(model, GaussianDiffusion(pertdit_schedule(config.pertdit), device))
        )

    def monitor(self, means: Mapping[str, Tensor]) -> dict[str, float]:
        """Return nothing besides the losses."""
        return {}

    def batch(self, rows: Rows, keys: Tensor) -> ProfileBatch:
        """Gather controls and compounds."""
        x_basal, compound = self.tables.basal[rows.basal], self.tables.embeddings[rows.compound]
        return ProfileBatch(expression_of(rows), x_basal, compound, rows.dose_um, keys)
