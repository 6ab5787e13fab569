"""The measurements of a model's parts as plain numbers by name, for records and trackers."""

from typing import cast

from ldm_ray.bundle.health import Health


def health_figures(health: Health) -> dict[str, float]:
    """Return the measurements as numbers, for example `autoencoder_active_units` and `autoencoder_decoder_r2`.

    `autoencoder_kl_nats` is the sum over dimensions, `denoiser_x0_error_1` the first of ten deciles; quantiles are left
    out. `failed_checks` counts the checks that failed. Empty if nothing was measured.
    """
    figures: dict[str, float] = {}
    for part, measured in health.items():
        if isinstance(measured, dict):
            figures |= _flat(measured, f"{part}_")
    return figures | {"failed_checks": float(len(health.get("failed", [])))} if figures else {}


def _flat(values: dict[str, object], prefix: str) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict):
            flat |= _flat(value, f"{key}_")
        elif isinstance(value, int | float):
            flat[key] = float(value)
        elif name == "kl_nats":
            flat[key] = float(sum(cast("list[float]", value)))
        elif name == "x0_error":
            flat |= {f"{key}_{decile}": error for decile, error in enumerate(cast("list[float]", value), start=1)}
    return flat
