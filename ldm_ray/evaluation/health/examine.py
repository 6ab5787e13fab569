"""Adds to a trained autoencoder what its checks found, and refuses one that failed them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.health import Health
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.evaluation.health.autoencoder import examine_autoencoder
from ldm_ray.evaluation.health.verdict import autoencoder_failures, require_passed


def examined(
    bundle: Bundle, dataset: PairedDataset, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Bundle:
    """Return an autoencoder's bundle with its health; arguments and errors as `examine_autoencoder`."""
    measured = examine_autoencoder(bundle, dataset, on_progress)
    health: Health = {"autoencoder": measured, "failed": autoencoder_failures(measured)}
    return replace(bundle, metadata=bundle.metadata | {"health": health})


def passed(vae: Bundle, dataset: PairedDataset, checks: Literal["error", "warn"]) -> Bundle:
    """Return an autoencoder with its health, if a diffusion model may be trained on it.

    An older version's bundle has no health; it is examined now.

    Raises:
        CheckError: If it failed a check and `checks` is `error`.
    """
    vae = vae if "health" in vae.metadata else examined(vae, dataset)
    require_passed(vae.metadata["health"].get("failed", []), checks)
    return vae
