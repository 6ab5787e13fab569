"""What every model must beat, from copying the control to the published rivals."""

from ldm_ray.models.rivals.build import build_baseline

__all__ = ["build_baseline"]
