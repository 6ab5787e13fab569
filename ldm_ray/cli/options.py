"""Options that several commands share, and how a command's settings are resolved."""

from typing import TYPE_CHECKING, Annotated

import typer

from ldm_ray.config import Config, load_config
from ldm_ray.errors import SettingsError

if TYPE_CHECKING:
    from ldm_ray.bundle.run_folder import Begin

ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        help="Shipped settings (demo, paper, ...), or the path or URL of a YAML file.",
        rich_help_panel="Settings",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: key.path=value; repeatable.", rich_help_panel="Settings"),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Random seed: same seed, same numbers.", rich_help_panel="Settings")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]
Root = Annotated[str, typer.Argument(help="Folder of a paired dataset, path or URL.")]
Data = Annotated[str, typer.Option("--data", help="Folder of a paired dataset, path or URL.")]
Gctx = Annotated[list[str] | None, typer.Option(help="Level 3 expression matrix, path or URL; repeatable.")]
InstInfo = Annotated[list[str] | None, typer.Option(help="Table of wells, path or URL; repeatable.")]
PertInfo = Annotated[list[str] | None, typer.Option(help="Table of compounds with SMILES, path or URL; repeatable.")]
GeneInfo = Annotated[str | None, typer.Option(help="Table of genes with the 978 landmarks, path or URL.")]
H5ad = Annotated[str | None, typer.Option(help="An h5ad file or zarr store instead of matrix and table of wells.")]
Layer = Annotated[str, typer.Option(help="Layer of the h5ad to read instead of X.")]
DoseUnit = Annotated[str, typer.Option(help="Unit of doses where the files say none, such as um.")]
TimeUnit = Annotated[str, typer.Option(help="Unit of times where the files say none, such as h.")]
AllowMissingGenes = Annotated[bool, typer.Option(help="Accept a release that lacks some landmark genes.")]


def settings(config: str | None, overrides: list[str] | None, seed: int | None, *more: str) -> Config:
    """Resolve a command's settings: file, then `--set`, then its own options."""
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
