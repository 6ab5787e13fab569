"""Options that several commands share, and how their settings are resolved."""

from pathlib import Path
from typing import Annotated

import typer

from ldm_ray.config import Config, load_config

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings.", rich_help_panel="Settings")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, key.path=value; repeatable.", rich_help_panel="Settings"),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same numbers.", rich_help_panel="Settings")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, the rest on standard error.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Root = Annotated[str, typer.Argument(help="Folder URL of a dataset.")]
Data = Annotated[str, typer.Option("--data", help="Folder URL of a paired dataset.")]


def settings(config: Path | None, overrides: list[str] | None, seed: int | None, *more: str) -> Config:
    """Resolve the settings of a command: file, `--set`, then its own options."""
    own = list(more) if seed is None else [f"seed={seed}", *more]
    return load_config(config, [*(overrides or []), *own])
