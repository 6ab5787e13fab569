"""The commands that train: `ldm-ray train vae`, `train ldm` and `train baseline`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Data, Json, Overrides, Overwrite, Resume, Seed, begin_of, settings
from ldm_ray.config import Config
from ldm_ray.console import print_json, say, show_table
from ldm_ray.errors import SettingsError
from ldm_ray.settings import RIVAL_KINDS

if TYPE_CHECKING:
    from ldm_ray.bundle.metadata import Metadata
    from ldm_ray.data.dataset import PairedDataset

train_app = typer.Typer(no_args_is_help=True, help="Train the autoencoder, then the diffusion model; or a rival model.")


@train_app.command(
    "vae",
    epilog="Examples:\n\n\n\n- `ldm-ray train vae --data runs/data --out runs/vae`\n\n"
    "- `ldm-ray train vae --data runs/data --out runs/folds --folds all`",
)
def train_vae(
    *,
    data: Data,
    out: Annotated[str, typer.Option(help="Folder for the bundle, path or URL; with --folds, for all bundles.")],
    cross_validate: Annotated[
        str | None, typer.Option("--folds", help="all: cross-validate, one model per fold.")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Train the autoencoder, or cross-validate it."""
    resolved = settings(config, overrides, seed)
    if cross_validate is not None:
        _cross_validate(which=cross_validate, data=data, out=out, config=resolved, overwrite=overwrite, json=json)
        return
    begin = begin_of(resume=resume, overwrite=overwrite)
    dataset = _opened(data, resolved)
    from ldm_ray.cluster.train.run import Run
    from ldm_ray.workflows.steps import train_now

    bundle = train_now(Run(kind="vae", dataset=dataset, out=out, config=resolved, begin=begin), "autoencoder")
    _show_training(out, bundle.metadata, json=json)


@train_app.command("ldm", epilog="Example: `ldm-ray train ldm --data runs/data --vae runs/vae --out runs/ldm`")
def train_ldm(
    *,
    data: Data,
    vae: Annotated[str, typer.Option(help="Bundle of a trained autoencoder, path or URL.")],
    out: Annotated[str, typer.Option(help="Folder for the bundle, path or URL.")],
    resume: Resume = False,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Train the diffusion model on an autoencoder's latents; missing compound embeddings are computed first."""
    resolved = settings(config, overrides, seed)
    begin = begin_of(resume=resume, overwrite=overwrite)
    dataset = _opened(data, resolved)
    from ldm_ray.bundle.presence import require_bundle

    require_bundle(vae, resolved.storage_options)
    from ldm_ray.bundle.bundle import load_bundle
    from ldm_ray.cluster.train.run import Run
    from ldm_ray.workflows.steps import train_now

    autoencoder = load_bundle(vae, "vae", resolved.storage_options)
    run = Run(kind="ldm", dataset=dataset, out=out, config=resolved, vae=autoencoder, begin=begin)
    _show_training(out, train_now(run, "latent diffusion").metadata, json=json)


@train_app.command(
    "baseline", epilog="Example: `ldm-ray train baseline --kind prnet --data runs/data --out runs/prnet`"
)
def train_baseline(
    *,
    kind: Annotated[str, typer.Option(help="prnet, pertdit-cross, pertdit-catcross or pertdit-ada.")],
    data: Data,
    out: Annotated[str, typer.Option(help="Folder for the bundle, path or URL.")],
    resume: Resume = False,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Train a published rival model on the same wells; its bundle can be evaluated and queried too."""
    resolved = settings(config, overrides, seed)
    begin = begin_of(resume=resume, overwrite=overwrite)
    rival = next((name for name in RIVAL_KINDS if name == kind), None)
    if rival is None:
        raise SettingsError(f"--kind must be one of {', '.join(RIVAL_KINDS)}; got {kind!r}")
    dataset = _opened(data, resolved)
    from ldm_ray.cluster.train.run import Run
    from ldm_ray.workflows.steps import train_now

    bundle = train_now(Run(kind=rival, dataset=dataset, out=out, config=resolved, begin=begin), kind)
    _show_training(out, bundle.metadata, json=json)


def _opened(data: str, config: Config) -> "PairedDataset":
    from ldm_ray.data.dataset import open_dataset

    return open_dataset(data, config.storage_options)


def _cross_validate(*, which: str, data: str, out: str, config: Config, overwrite: bool, json: bool) -> None:
    if which != "all":
        raise SettingsError(f"--folds must be all; got {which!r}")
    dataset = _opened(data, config)
    from ldm_ray.cluster.train.folds import SCORES
    from ldm_ray.workflows.steps import cross_validated

    table = cross_validated(dataset, out, config, overwrite=overwrite)
    if json:
        print_json(table)
    body = [[str(row["fold"]), *(f"{row[key]:.4f}" for key in SCORES), str(row["epochs"])] for row in table["folds"]]
    body += [[what, *(f"{table[what][key]:.4f}" for key in SCORES), ""] for what in ("mean", "sd")]
    n = int(table["folds"][0]["n"])
    show_table(
        f"reconstruction of {n:,} test wells, {table['at_once']} folds at once",
        ["fold", "PCC", "R2", "RMSE", "epochs"],
        body,
    )
    for row in table["folds"]:
        for line in row["failed"]:
            say(f"fold {row['fold']}: check failed: {line}")
    say(f"bundles and folds.json in {out}")


def _show_training(out: str, metadata: "Metadata", *, json: bool) -> None:
    kept = metadata["history"][metadata["best_epoch"]]
    if json:
        health = metadata.get("health", {})
        print_json({"bundle": out, "epochs": len(metadata["history"]), "best": kept, "health": health})
    say(f"bundle in {out}: epoch {kept['epoch'] + 1:.0f} kept, validation loss {kept['valid_loss']:.4f}")
