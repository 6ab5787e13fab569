"""Profiles from the published rivals, with the interface of the latent diffusion model's generator."""

import torch
from torch import Tensor

from ldm_ray.diffusion.samplers import ancestral, run_plan
from ldm_ray.diffusion.schedule import Schedule, scaled_linear_schedule
from ldm_ray.errors import QueryError
from ldm_ray.keys import Purpose
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import Samples, Sampling
from ldm_ray.models.rivals.pertdit import PertDit
from ldm_ray.models.rivals.prnet import NOISE_DIM, Prnet, scaled_drug
from ldm_ray.noise import mix, standard_normal
from ldm_ray.settings import PertditSettings

ROWS = 1024


class RivalGenerator:
    """Samples conditions a few at a time; subclasses define one sample.

    Args:
        rows: Rows per pass; 0 means 1024.
    """

    has_direct_mean = False

    def __init__(self, rows: int = 0) -> None:
        self._rows = rows or ROWS

    def direct_mean(self, condition: ConditionBatch, base: Tensor) -> Tensor:
        """Not available: PRnet averages over input noise, and at t = T PertDiT's error is multiplied by 64.

        Raises:
            QueryError: Always.
        """
        raise QueryError("a rival has no direct mean; sample one")

    @torch.inference_mode()
    def sample(self, condition: ConditionBatch, base: Tensor, keys: Tensor, how: Sampling) -> Samples:
        """Sample profiles, see `ProfileSampler`; `base` and `how.sampler` are ignored."""
        parts, n_samples = [], how.n_samples
        for rows in torch.arange(len(keys), device=keys.device).split(max(1, self._rows // n_samples)):
            repeated = rows.repeat_interleave(n_samples)
            number = torch.arange(n_samples, device=keys.device).repeat(len(rows))
            sampled = self._sample(condition.rows(repeated), mix(keys[repeated], how.seed, number))
            mean, variance, drawn = (value.unflatten(0, (len(rows), n_samples)) for value in sampled)
            spread = mean.var(dim=1) if n_samples > 1 else torch.zeros_like(mean[:, 0])
            nothing = mean.new_zeros(len(rows), 0, 0)  # a rival has no latents
            own = (mean.mean(dim=1), spread, drawn[:, : how.n_draws], variance.mean(dim=1))
            parts.append((*own, mean.new_zeros(len(rows)), nothing))
        return Samples(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _sample(self, condition: ConditionBatch, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, variance around it, and a draw of each row's sample, each (n, n_genes), log2."""
        raise NotImplementedError


class PrnetGenerator(RivalGenerator):
    """PRnet's Gaussian, with one input noise per sample.

    Args:
        model: A model in eval mode.
        rows: See `RivalGenerator`.
    """

    def __init__(self, model: Prnet, rows: int = 0) -> None:
        super().__init__(rows)
        self.model = model

    def _sample(self, condition: ConditionBatch, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        drug = scaled_drug(condition.compound, condition.dose_um)
        mean, variance = self.model(condition.x_basal, drug, standard_normal(mix(keys, Purpose.START), NOISE_DIM))
        noise = standard_normal(mix(keys, Purpose.OBSERVATION), mean.shape[1])
        return mean, variance, mean + torch.sqrt(variance) * noise


class PertditGenerator(RivalGenerator):
    """PertDiT's ancestral sampling over its whole chain, with the small fixed variance and no clipping.

    A sample is already a draw: it includes all noise.

    Args:
        model: A model in eval mode.
        settings: Settings with its schedule.
        rows: See `RivalGenerator`.
    """

    def __init__(self, model: PertDit, settings: PertditSettings, rows: int = 0) -> None:
        super().__init__(rows)
        self.model, self.schedule = model, pertdit_schedule(settings)
        self._plan = ancestral(self.schedule, torch.arange(settings.num_steps))

    def _sample(self, condition: ConditionBatch, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, alpha_bar = self.model, self.schedule.alpha_bar.tolist()
        control = model.scale(condition.x_basal)
        drug = model.drug_tokens(condition.compound, condition.dose_um)

        def denoise(z_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
            eps = model(z_t, control, drug, torch.full((len(z_t),), t, device=z_t.device))
            # s = 0 is the small variance, beta_tilde
            return (z_t - (1 - alpha_bar[t]) ** 0.5 * eps) / alpha_bar[t] ** 0.5, torch.zeros_like(z_t)

        start = standard_normal(mix(keys, Purpose.START), model.n_genes)
        z = run_plan(
            denoise, self._plan, start, lambda t: standard_normal(mix(keys, Purpose.REVERSE, t), model.n_genes)
        )
        profiles = model.unscale(z)
        return profiles, torch.zeros_like(profiles), profiles


def pertdit_schedule(settings: PertditSettings) -> Schedule:
    """Return PertDiT's schedule: linear in the square root of beta."""
    return scaled_linear_schedule(settings.num_steps, settings.beta_first, settings.beta_last)
