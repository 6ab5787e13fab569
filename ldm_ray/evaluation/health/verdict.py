"""When a trained part has failed its checks, and what follows."""

import math
from collections.abc import Sequence
from typing import Literal

from ldm_ray.bundle.draw_range import FACTOR, leaves_range
from ldm_ray.bundle.health import AutoencoderHealth, DenoiserHealth, said
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.errors import CheckError

LEAST_ACTIVE_SHARE = 0.01
"""A good autoencoder may gather what it knows in few dimensions: preset `paper` after 5,400 steps on the demo has 12 of
256, and its best reconstruction. A collapsed one has none."""
WORST_ERROR_RATIO = 2.0
"""Squared error of the decoder over that of the mean of the training wells. A training well drawn at random has 2: the
variance around the mean, twice. Few epochs leave a decoder a little above 1, which is not yet a reason to stop."""
WHAT_HELPS = (
    "what helps: vae.standardise=true, a warm-up (vae.kl_warmup_steps), vae.reduction=sum, a smaller vae.kl_weight,"
    " more epochs"
)

WORST_X0_ERROR = 1.05
"""A twentieth above predicting nothing: more than chance explains, even on few wells."""
LEAST_VARIANCE, MOST_VARIANCE = 0.25, 4.0
"""Half and twice the spread of latents."""
HELPS_DRAWS = "what helps: more steps (predict.steps), longer training or another denoiser.head"


def autoencoder_failures(health: AutoencoderHealth) -> list[str]:
    """Return a line if the latents, or what the decoder makes of them, say nothing of a well.

    Note:
        Both thresholds are ours. Source of active units: Burda et al. 2016 (arXiv:1509.00519), section 4.1.2.
    """
    latent_dim, active = health["latent_dim"], health["active_units"]
    least = max(1, math.ceil(LEAST_ACTIVE_SHARE * latent_dim))
    ours, mean, pca = (health[row]["rmse"] for row in ("decoder", "constant", "pca"))
    decoder = (
        f"its decoder has RMSE {ours:.3g} (mean of the training wells {mean:.3g}, {health['pca_components']} principal"
        f" components {pca:.3g}); {WHAT_HELPS}"
    )
    if active < least:
        units = f"{active} of {latent_dim} latent dimensions are active (at least {least} wanted)"
        return [f"the autoencoder has collapsed: {units}, {decoder}"]
    if not ours**2 < WORST_ERROR_RATIO * mean**2:  # NaN fails too
        return [f"the autoencoder does not give wells back: {decoder}"]
    return []


def denoiser_failures(health: DenoiserHealth) -> list[str]:
    """Return a line if the calibration's draws leave the range of training: such a model answers nonsense."""
    if not leaves_range(health["largest_draw"], health["largest_latent"]):
        return []
    sampler = SamplerChoice(**health["sampler"]).described()
    return [
        "draws leave the range of training: scaled latents must stay below"
        f" {FACTOR:g} x {health['largest_latent']:.3g}, the largest in training; got {said(health['largest_draw'])}"
        f" ({sampler}); {HELPS_DRAWS}"
    ]


def denoiser_doubts(health: DenoiserHealth) -> list[str]:
    """Return a line for each other sign of a badly trained denoiser; its predictions are finite, so none is an error.

    Note:
        All thresholds are ours. Where all is noise and the condition says nothing, an x0 error of 1 is the best there
        is, so a little more is let pass.
    """
    worse = [number for number, error in enumerate(health["x0_error"]) if error > WORST_X0_ERROR]
    doubts = []
    if worse:
        levels = ", ".join(f"{number + 1} ({said(health['x0_error'][number])})" for number in worse)
        doubts.append(
            f"the denoiser's x0 error is above 1, that of predicting nothing, in these tenths of the chain: {levels}"
        )
    if not LEAST_VARIANCE <= health["draw_variance_ratio"] <= MOST_VARIANCE:
        doubts.append(f"the variance of draws is {said(health['draw_variance_ratio'])} times that of latents; wanted 1")
    return doubts


def require_passed(failed: Sequence[str], checks: Literal["error", "warn"]) -> None:
    """Refuse a part that failed a check, one line of `failed` for each, unless `checks` is `warn`.

    Raises:
        CheckError: If `checks` is `error` and a check failed.
    """
    if failed and checks == "error":
        raise CheckError(f"{'; '.join(failed)} (--set checks=warn goes on all the same)")
