"""What was measured of a model's parts, as text for its card and its report."""

from ldm_ray.bundle.health import AutoencoderHealth, DenoiserHealth, said

RECONSTRUCTION_HEAD = ["reconstruction of validation wells", "PCC", "R2", "RMSE"]
DENOISER_HEAD = ["decile of t", "x0 error", "s: 1%", "median", "99%"]


def reconstruction_rows(health: AutoencoderHealth) -> list[list[str]]:
    """Return a row for the decoder and for each of its two rivals."""
    named = [
        ("decoder, from the mean latent", health["decoder"]),
        (f"{health['pca_components']} principal components of training wells", health["pca"]),
        ("mean of the training wells", health["constant"]),
    ]
    return [[name, *(f"{scores[key]:.3f}" for key in ("pcc", "r2", "rmse"))] for name, scores in named]


def latent_text(health: AutoencoderHealth) -> str:
    """Say in two sentences how much of the latent is used."""
    kl_nats = health["kl_nats"]
    return (
        f"Measured on {health['n_wells']:,} validation wells: {health['active_units']} of {health['latent_dim']} latent"
        " dimensions are active, that is, their mean varies over wells with a variance above 0.01. Their divergence"
        f" from N(0, 1) is {min(kl_nats):.2g} to {max(kl_nats):.2g} nats a dimension, {sum(kl_nats):.4g} in total."
    )


def denoiser_rows(health: DenoiserHealth) -> list[list[str]]:
    """Return a row for each decile of t, from clean to noise."""
    deciles = zip(health["x0_error"], health["s_quantiles"], strict=True)
    return [
        [str(number), said(error, ".3f"), *(f"{quantile:.3f}" for quantile in quantiles)]
        for number, (error, quantiles) in enumerate(deciles, start=1)
    ]


def denoiser_text(health: DenoiserHealth) -> str:
    """Say what the deciles are, and how far draws reach."""
    return (
        f"Measured on {health['n_wells']:,} validation wells. The x0 error is the mean squared error of the clean"
        " latent that the network estimates at step t; 1 is that of predicting nothing. s is the fraction of Eq. (7)."
        f" The largest absolute value of a drawn latent is {said(health['largest_draw'])}, that of a training latent"
        f" {health['largest_latent']:.3g}. The variance of draws is {said(health['draw_variance_ratio'])} times that of"
        f" latents ({health['sampler']['kind']}, {health['sampler']['steps']} steps)."
    )
