"""Options that several commands share, and how their settings are resolved."""

from typing import TYPE_CHECKING, Annotated

import typer

from ldm_ray.config import Config, load_config
from ldm_ray.errors import SettingsError

if TYPE_CHECKING:
    from ldm_ray.bundle.run_folder import Begin

ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config", help="Shipped settings (demo, paper, ...), or a YAML file, path or URL.", rich_help_panel="Settings"
    ),
]
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
Gctx = Annotated[str | None, typer.Option(help="Level 3 matrix, path or URL.")]
InstInfo = Annotated[str | None, typer.Option(help="Table of wells.")]
PertInfo = Annotated[str | None, typer.Option(help="Table of perturbagens, with SMILES.")]
GeneInfo = Annotated[str | None, typer.Option(help="Table of genes, 978 of them landmarks.")]
H5ad = Annotated[str | None, typer.Option(help="PRnet-style h5ad, instead of the four files.")]
AllowMissingGenes = Annotated[bool, typer.Option(help="Go on with the landmarks that are there.")]


def settings(config: str | None, overrides: list[str] | None, seed: int | None, *more: str) -> Config:
    """Resolve the settings of a command: file, `--set`, then its own options."""
    own = list(more) if seed is None else [f"seed={seed}", *more]
    return load_config(config, [*(overrides or []), *own])


def begin_of(*, resume: bool, overwrite: bool) -> "Begin":
    """Return how a run begins, from what the command line was given.

    Raises:
        SettingsError: If it was given both.
    """
    if resume and overwrite:
        raise SettingsError("give --resume or --overwrite, not both")
    return "resume" if resume else "overwrite" if overwrite else "fresh"
