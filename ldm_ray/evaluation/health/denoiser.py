"""What a diffusion model knows at each noise level, and whether its draws look like latents, on validation wells."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldm_ray.bundle.bundle import LARGEST_LATENT, Bundle
from ldm_ray.bundle.health import UNBOUNDED, DenoiserHealth
from ldm_ray.diffusion.deciles import count_deciles, stratified_steps
from ldm_ray.keys import Purpose
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ProfileGenerator
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import reparameterise
from ldm_ray.noise import mix, standard_normal

ROWS_AT_ONCE = 1024
QUANTILES = (0.01, 0.5, 0.99)


@dataclass(frozen=True)
class Examined:
    """Validation wells to examine a model on, and what it says of them.

    Attributes:
        target: The autoencoder's target, log2, (n, n_genes).
        condition: The model's input.
        keys: Keys of the profile ids, (n,), int64.
        drawn: Scaled latents that the model samples, (n, n_samples, latent_dim).
    """

    target: Tensor
    condition: ConditionBatch
    keys: Tensor
    drawn: Tensor


@torch.inference_mode()
def examine_denoiser(bundle: Bundle, generator: ProfileGenerator, wells: Examined) -> DenoiserHealth:
    """Measure a diffusion model.

    Args:
        bundle: Its bundle.
        generator: Its networks, on the device of the wells.
        wells: The wells.
    """
    model, keys = generator.model, mix(wells.keys, bundle.config.seed, Purpose.HEALTH)
    pieces = _pieces(len(keys))
    moments = [torch.cat(generator.vae.encode(wells.target[some]), dim=1) for some in pieces]
    mu, log_var = torch.cat(moments).chunk(2, dim=1)
    eps = standard_normal(mix(keys, Purpose.LATENT), model.latent_dim)
    z = model.scale_latent(reparameterise(mu, log_var, eps))
    encoded = torch.cat([model.condition_encoder(wells.condition.rows(some)) for some in pieces])
    errors, quantiles = errors_by_decile(model, z - model.mean_latent(wells.condition, encoded), encoded, keys)
    return {
        "n_wells": len(keys),
        "x0_error": errors,
        "s_quantiles": quantiles,
        "largest_draw": _storable(wells.drawn.abs().max()),
        "largest_latent": _storable(bundle.tensors[LARGEST_LATENT]),
        "draw_variance_ratio": _storable(_variance(wells.drawn.flatten(0, 1)).cpu() / _variance(z).cpu()),
        "sampler": bundle.metadata["recommended_sampler"],
    }


@torch.inference_mode()
def errors_by_decile(
    model: LatentDiffusion, z_0: Tensor, encoded: Tensor, keys: Tensor
) -> tuple[list[float], list[list[float]]]:
    """Measure the denoiser in each tenth of the chain, at steps spread evenly over it.

    Args:
        model: A model in eval mode.
        z_0: What its denoiser models, the scaled latents less the regression head's mean, (n, latent_dim).
        encoded: Encoded conditions, (n, condition_dim).
        keys: Keys of steps and noise, (n,), int64.

    Returns:
        The squared error of x0_hat over the mean square of z_0, and the 1st, 50th and 99th percentile of the fraction s
        of Eq. (7), of each tenth.
    """
    num_steps, errors, quantiles = model.diffusion.num_steps, [], []
    for decile in range(count_deciles(num_steps)):
        own = mix(keys, decile)
        t = stratified_steps(decile, mix(own, Purpose.STEP), num_steps)
        z_t = model.diffusion.q_sample(z_0, t, standard_normal(mix(own, Purpose.FORWARD), model.latent_dim))
        steps = [model.reverse_step(z_t[some], t[some], encoded[some]) for some in _pieces(len(z_0))]
        difference = torch.cat([step.x0_hat for step in steps]) - z_0
        errors.append(_storable((difference.double() ** 2).mean() / (z_0.double() ** 2).mean()))
        s = torch.cat([step.s for step in steps]).cpu().numpy()
        quantiles.append(np.quantile(s.astype(np.float64), QUANTILES).tolist())
    return errors, quantiles


def _pieces(n: int) -> list[slice]:
    return [slice(start, start + ROWS_AT_ONCE) for start in range(0, n, ROWS_AT_ONCE)]


def _variance(z: Tensor) -> Tensor:
    """Mean over dimensions of the variance over rows."""
    return z.double().var(dim=0).mean()


def _storable(value: Tensor) -> float:
    """Return a number of at least 0 as health stores it."""
    return float(value) if float(value) < UNBOUNDED else UNBOUNDED
