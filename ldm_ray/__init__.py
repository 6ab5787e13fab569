"""Latent diffusion of drug-induced gene expression, trained and served on Ray.

from ldm_ray import Client, Predictor, Query
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldm_ray.prediction.predictor import Predictor
    from ldm_ray.prediction.queries import Query
    from ldm_ray.serving.client import Client

__all__ = ["Client", "Predictor", "Query"]
__version__ = "0.1.0"

_HOMES = {
    "Client": "ldm_ray.serving.client",
    "Predictor": "ldm_ray.prediction.predictor",
    "Query": "ldm_ray.prediction.queries",
}


def __getattr__(name: str) -> object:
    """Import a name on first use: torch takes seconds, which users of other parts should not wait for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
