"""The published rivals, PRnet and PertDiT."""

from ldm_ray.models.rivals.build import build_baseline

__all__ = ["build_baseline"]
