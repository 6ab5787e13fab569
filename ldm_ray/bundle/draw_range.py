"""Whether sampled latents stay in the range of training."""

from ldm_ray.bundle.health import Health
from ldm_ray.diffusion.samplers import SamplerChoice

FACTOR = 3.0
"""Sampled latents may reach this many times as far as those of training.

A denoiser's best estimate of a latent is a mean of training latents, so it never leaves their range, and a chain ends
at such an estimate. The margin is for new compounds, guidance and short trainings; draws of a chain that amplifies its
errors leave it by orders of magnitude.
"""


def leaves_range(draw: float, training: float) -> bool:
    """Tell whether a draw is out of range or not a number.

    Args:
        draw: Largest absolute value of a scaled latent that was sampled.
        training: The same of training.
    """
    return not draw <= FACTOR * training


def explodes(health: Health) -> bool:
    """Tell whether a bundle's own sampler was found to leave the range of training."""
    return "denoiser" in health and leaves_range(
        health["denoiser"]["largest_draw"], health["denoiser"]["largest_latent"]
    )


def range_note(draw: float, training: float, own: SamplerChoice | None) -> str:
    """Warn of a prediction whose draws leave the range of training; an empty text if they do not.

    Args:
        draw: See `leaves_range`.
        training: See `leaves_range`.
        own: The bundle's sampler; None if that was found to leave the range as well.
    """
    if not leaves_range(draw, training):
        return ""
    remedy = (
        f"the bundle's own sampler is {own.described()}" if own else "the bundle's own sampler does not hold either"
    )
    return f"do not use: draws reach {draw:.3g}, training latents {training:.3g}; {remedy}"
