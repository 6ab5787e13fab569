"""What was measured of a finished model, in a few words."""

from collections.abc import Mapping

from ldm_ray.bundle.health import said


def health_summary(figures: Mapping[str, float]) -> str:
    """Summarise the `health` of a run's record; `-` if nothing was measured."""
    words = []
    if "autoencoder_active_units" in figures:
        words.append(f"units {figures['autoencoder_active_units']:.0f}/{figures['autoencoder_latent_dim']:.0f}")
        words.append(f"R2 {figures['autoencoder_decoder_r2']:.2f} (PCA {figures['autoencoder_pca_r2']:.2f})")
    if errors := [error for name, error in figures.items() if name.startswith("denoiser_x0_error_")]:
        words.append(f"x0 error {said(min(errors), '.2f')}-{said(max(errors), '.2f')}")
    if not words:
        return "-"
    return ("FAILED: " if figures.get("failed_checks") else "") + ", ".join(words)
