"""Profiles from the published rivals, through the interface of the latent diffusion model's own generator."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm_ray.baselines.pertdit import PertDit
from ldm_ray.baselines.prnet import NOISE_DIM, Prnet, scaled_drug
from ldm_ray.diffusion.samplers import ancestral_sample, respace, spaced_steps
from ldm_ray.diffusion.schedule import Schedule, scaled_linear_schedule
from ldm_ray.errors import QueryError
from ldm_ray.models.condition import Condition
from ldm_ray.models.generate import OBSERVATION, REVERSE, START, Samples
from ldm_ray.noise import mix, standard_normal
from ldm_ray.settings import PertditSettings


def _in_chunks(
    keys: Tensor, n_samples: int, rows_per_batch: int, sample: Callable[[Tensor], Samples], noise_rows: bool
) -> Samples:
    """Sample a few conditions at a time."""
    index = torch.arange(len(keys), device=keys.device).split(max(1, rows_per_batch // n_samples))
    parts = [sample(rows) for rows in index]
    mean, latent_var, draws = (torch.cat([getattr(p, name) for p in parts]) for name in ("mean", "latent_var", "draws"))
    noise_var = torch.cat([part.noise_var for part in parts]) if noise_rows else parts[0].noise_var
    return Samples(mean, latent_var, draws, noise_var)


def _spread(grouped: Tensor) -> Tensor:
    """Variance over samples, (n, n_genes); 0 for one sample."""
    return grouped.var(dim=1) if grouped.shape[1] > 1 else torch.zeros_like(grouped[:, 0])


class PrnetGenerator:
    """PRnet's mean over its input noise, and draws of its Gaussian.

    Args:
        model: In eval mode.
    """

    has_direct_mean = False

    def __init__(self, model: Prnet) -> None:
        self.model = model

    def direct_mean(self, condition: Condition, base: Tensor) -> Tensor:
        """Not to be had: the mean over the input noise is a mean of samples."""
        raise QueryError("PRnet has no direct mean; sample one")

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        base: Tensor,
        keys: Tensor,
        n_samples: int,
        steps: int,
        seed: int,
        rows_per_batch: int,
        n_draws: int = 0,
    ) -> Samples:
        """Sample profiles; `base` and `steps` mean nothing here."""

        def chunk(rows: Tensor) -> Samples:
            asked, n = condition.rows(rows), len(rows)
            number = torch.arange(n_samples, device=keys.device).repeat(n)
            own = mix(keys[rows].repeat_interleave(n_samples), seed, number)
            drug = scaled_drug(asked.compound, asked.dose_um).repeat_interleave(n_samples, dim=0)
            noise = standard_normal(mix(own, START), NOISE_DIM)
            mean, variance = self.model(asked.x_basal.repeat_interleave(n_samples, dim=0), drug, noise)
            drawn = mean + torch.sqrt(variance) * standard_normal(mix(own, OBSERVATION), mean.shape[1])
            grouped = mean.view(n, n_samples, -1)
            draws = drawn.view(n, n_samples, -1)[:, :n_draws]
            return Samples(grouped.mean(1), _spread(grouped), draws, variance.view(n, n_samples, -1).mean(1))

        return _in_chunks(keys, n_samples, rows_per_batch, chunk, noise_rows=True)


class PertditGenerator:
    """PertDiT's ancestral sampling over its whole chain, with the small fixed variance and no clipping.

    Args:
        model: In eval mode.
        settings: Its schedule.
    """

    has_direct_mean = False

    def __init__(self, model: PertDit, settings: PertditSettings) -> None:
        self.model, self.schedule = model, pertdit_schedule(settings)

    def direct_mean(self, condition: Condition, base: Tensor) -> Tensor:
        """Not to be had: at t = T the noise estimate's error is multiplied by 64."""
        raise QueryError("PertDiT has no direct mean; sample one")

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        base: Tensor,
        keys: Tensor,
        n_samples: int,
        steps: int,
        seed: int,
        rows_per_batch: int,
        n_draws: int = 0,
    ) -> Samples:
        """Sample profiles; `base` and `steps` mean nothing here. A sample is a draw: no noise is left out of it."""
        full = respace(self.schedule, spaced_steps(self.schedule.num_steps, self.schedule.num_steps))
        signal, noise = torch.sqrt(self.schedule.alpha_bar), torch.sqrt(1 - self.schedule.alpha_bar)
        model, n_genes = self.model, self.model.n_genes

        def chunk(rows: Tensor) -> Samples:
            asked, n = condition.rows(rows), len(rows)
            number = torch.arange(n_samples, device=keys.device).repeat(n)
            own = mix(keys[rows].repeat_interleave(n_samples), seed, number)
            control = model.scale(asked.x_basal).repeat_interleave(n_samples, dim=0)
            drug = model.drug_tokens(asked.compound, asked.dose_um).repeat_interleave(n_samples, dim=0)

            def denoise(z_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
                eps = model(z_t, control, drug, torch.full((len(z_t),), t, device=z_t.device))
                # s = 0 is the small variance, beta_tilde
                return (z_t - float(noise[t]) * eps) / float(signal[t]), torch.zeros_like(z_t)

            start = standard_normal(mix(own, START), n_genes)
            z = ancestral_sample(denoise, full, start, lambda t: standard_normal(mix(own, REVERSE, t), n_genes))
            grouped = model.unscale(z).view(n, n_samples, -1)
            none = torch.zeros(1, n_genes, device=z.device)
            return Samples(grouped.mean(1), _spread(grouped), grouped[:, :n_draws], none)

        return _in_chunks(keys, n_samples, rows_per_batch, chunk, noise_rows=False)


def pertdit_schedule(settings: PertditSettings) -> Schedule:
    """Return PertDiT's schedule: linear in the square root of beta."""
    return scaled_linear_schedule(settings.num_steps, settings.beta_first, settings.beta_last)
