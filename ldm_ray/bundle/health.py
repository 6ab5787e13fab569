"""What was measured of a trained model's parts, and the checks that it failed."""

from typing import TypedDict

from ldm_ray.diffusion.samplers import SamplerFields

UNBOUNDED = 3.4028234663852886e38
"""The largest float32, which JSON and every tracker can hold, in place of infinity."""


def said(value: float, form: str = ".3g") -> str:
    """Write a stored figure in a format."""
    return "infinity" if value == UNBOUNDED else f"{value:{form}}"


class Reconstruction(TypedDict):
    """How well wells are given back: PCC and R2 per profile across genes, then averaged; RMSE pooled, log2."""

    pcc: float
    r2: float
    rmse: float


class AutoencoderHealth(TypedDict):
    """An autoencoder on validation wells.

    Attributes:
        n_wells: Number of wells.
        latent_dim: Number of latent dimensions.
        active_units: Latent dimensions whose mean varies over wells, with a variance above 0.01 (Burda et al. 2016,
            arXiv:1509.00519, section 4.1.2).
        kl_nats: Divergence of each latent dimension from N(0, 1), nats, averaged over wells, largest first.
        decoder: Reconstruction from each well's mean latent.
        constant: The same by the mean of the training wells.
        pca: The same by as many principal components of training wells as the latent has dimensions.
        pca_components: Number of those components; fewer than `latent_dim` if there are fewer wells.
    """

    n_wells: int
    latent_dim: int
    active_units: int
    kl_nats: list[float]
    decoder: Reconstruction
    constant: Reconstruction
    pca: Reconstruction
    pca_components: int


class DenoiserHealth(TypedDict):
    """A diffusion model on validation wells.

    Attributes:
        n_wells: Number of wells.
        x0_error: Mean squared error of x0_hat by decile of t, from clean to noise; 1 is that of predicting nothing, the
            mean square of the scaled latents (with a regression head: of what the head does not explain).
        s_quantiles: The 1st, 50th and 99th percentile of the fraction s of Eq. (7), by decile of t.
        largest_draw: Largest absolute value of a scaled latent among the calibration's draws.
        largest_latent: The same among scaled training latents.
        draw_variance_ratio: Variance of the calibration's draws over that of the same wells' latents.
        sampler: The sampler of those draws.

    Note:
        A value that is larger than any float32, or not a number, is stored as `UNBOUNDED`.
    """

    n_wells: int
    x0_error: list[float]
    s_quantiles: list[list[float]]
    largest_draw: float
    largest_latent: float
    draw_variance_ratio: float
    sampler: SamplerFields


class Health(TypedDict, total=False):
    """What a bundle stores; `failed` holds a line for each check that failed, empty if all is well."""

    autoencoder: AutoencoderHealth
    denoiser: DenoiserHealth
    failed: list[str]
