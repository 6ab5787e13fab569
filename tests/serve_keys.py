"""What Serve's configuration may say: Serve itself takes most misspelt keys without a word."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema


def unknown_keys(settings: Any, kind: Any = ServeDeploySchema, path: str = "") -> list[str]:
    """Paths of keys, at every level, that Serve's schema does not have.

    Args:
        settings: The configuration, or a part of it.
        kind: Serve's annotation of that part; a plain dict may have any keys.
        path: Path of that part.
    """
    if isinstance(settings, list):
        return [key for n, item in enumerate(settings) for key in unknown_keys(item, kind, f"{path}{n}.")]
    kinds = list(models(kind))
    if not isinstance(settings, dict) or not kinds:
        return []
    fields = {name: field.annotation for model in kinds for name, field in model.model_fields.items()}
    unknown = [f"{path}{name}" for name in settings if name not in fields]
    known = [(name, value) for name, value in settings.items() if name in fields]
    return unknown + [key for name, value in known for key in unknown_keys(value, fields[name], f"{path}{name}.")]


def models(kind: Any) -> Iterator[type[BaseModel]]:
    """Models that an annotation names: itself, members of a union, items of a list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from models(part)
