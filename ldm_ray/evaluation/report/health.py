"""The report's section on the parts of each model."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldm_ray.bundle.health import Health
from ldm_ray.bundle.health_tables import (
    DENOISER_HEAD,
    RECONSTRUCTION_HEAD,
    denoiser_rows,
    denoiser_text,
    latent_text,
    reconstruction_rows,
)
from ldm_ray.evaluation.scores.record import ModelDescription
from ldm_ray.pages.picture import ACCENT, INK
from ldm_ray.pages.table import ScoreTable

MEANING = (
    "Left: what each latent dimension of the autoencoder says about a well, in nats; dimensions near 0 are noise."
    " Right, if measured: the error of the denoiser's estimate of the clean latent, by decile of t; at the dotted line"
    " it predicts nothing."
)


def failed_lines(models: Sequence[ModelDescription]) -> list[str]:
    """Return a line for each check that a model's parts failed."""
    return [
        f"{model['name']}: check failed: {line}"
        for model in models
        for line in model.get("health", {}).get("failed", [])
    ]


def health_tables(models: Sequence[ModelDescription]) -> list[ScoreTable]:
    """Return the tables of each model's parts."""
    tables = []
    for model in models:
        health = model.get("health", {})
        if "autoencoder" in health:
            measured = health["autoencoder"]
            title = f"the autoencoder of {model['name']}"
            rows = reconstruction_rows(measured)
            tables.append(ScoreTable(title, RECONSTRUCTION_HEAD, rows, latent_text(measured)))
        if "denoiser" in health:
            title, rows = f"the denoiser of {model['name']}", denoiser_rows(health["denoiser"])
            tables.append(ScoreTable(title, DENOISER_HEAD, rows, denoiser_text(health["denoiser"])))
    return tables


def draw_health(models: Sequence[ModelDescription]) -> Figure | None:
    """Draw each model's parts in a row; None if nothing was measured."""
    measured = [(model["name"], model["health"]) for model in models if "autoencoder" in model.get("health", {})]
    if not measured:
        return None
    columns = 2 if any("denoiser" in health for _, health in measured) else 1
    figure = Figure(figsize=(5 * columns, 3.4 * len(measured)), layout="constrained")
    for (name, health), axes in zip(measured, figure.subplots(len(measured), columns, squeeze=False), strict=True):
        _draw_latent(axes[0], name, health)
        if columns == 2:
            _draw_denoiser(axes[1], name, health)
    return figure


def _draw_latent(axes: Axes, name: str, health: Health) -> None:
    kl_nats = health["autoencoder"]["kl_nats"]
    axes.bar(np.arange(1, len(kl_nats) + 1), kl_nats, width=1.0, color=INK)
    axes.set(title=f"{name}: divergence by latent dimension", xlabel="dimension, largest first", ylabel="nats")


def _draw_denoiser(axes: Axes, name: str, health: Health) -> None:
    errors = health["denoiser"]["x0_error"] if "denoiser" in health else []
    axes.bar(np.arange(1, len(errors) + 1), errors, color=INK)
    axes.axhline(1.0, color=ACCENT, linestyle=":")
    axes.set(title=f"{name}: error of the clean latent", xlabel="decile of t, from clean to noise", ylabel="x0 error")
