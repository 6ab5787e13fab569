"""Builds the published rivals by name."""

from ldm_ray.errors import SettingsError
from ldm_ray.models.rivals.pertdit import PertDit
from ldm_ray.models.rivals.prnet import Prnet
from ldm_ray.settings import RIVAL_KINDS, PertditSettings


def build_baseline(
    kind: str, n_genes: int = 978, embedding_dim: int = 1024, settings: PertditSettings | None = None
) -> Prnet | PertDit:
    """Build a rival's network with fresh weights.

    Args:
        kind: One of `RIVAL_KINDS`.
        n_genes: Length of a profile.
        embedding_dim: Width of the drug vector.
        settings: Sizes of a PertDiT; the published ones by default.

    Raises:
        SettingsError: For another kind, or a width that the heads do not divide.
    """
    if kind == "prnet":
        return Prnet(n_genes, embedding_dim)
    settings = settings or PertditSettings()
    if settings.model_dim % settings.n_heads:
        raise SettingsError(
            f"pertdit.model_dim must be a multiple of n_heads = {settings.n_heads}; got {settings.model_dim}"
        )
    if kind == "pertdit-cross":
        return PertDit("cross", n_genes, embedding_dim, settings)
    if kind == "pertdit-catcross":
        return PertDit("catcross", n_genes, embedding_dim, settings)
    if kind == "pertdit-ada":
        return PertDit("ada", n_genes, embedding_dim, settings)
    raise SettingsError(f"--kind must be one of {', '.join(RIVAL_KINDS)}; got {kind!r}")
