"""The commands of a search: `ldm-ray tune`, `tune report` and `tune export`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Json, Overrides, Overwrite, Seed, settings
from ldm_ray.console import print_json, say, searching, show_table, spinning, training
from ldm_ray.errors import SettingsError

if TYPE_CHECKING:
    from ldm_ray.tuning.trials import Search

tune_app = typer.Typer(
    help="Search settings with Ray Tune and Optuna; to resume a search, run the same command again.",
    epilog="Examples:\n\n\n\n"
    "- `ldm-ray tune --data demo/data --vae demo/vae --out runs/search --config tune_demo`\n\n"
    "- `ldm-ray tune report runs/search`\n\n- `ldm-ray tune export runs/search --out runs/best`",
)


@tune_app.callback(invoke_without_command=True)
def tune(
    *,
    context: typer.Context,
    data: Annotated[str, typer.Option(help="Folder of a paired dataset, path or URL.")] = "",
    out: Annotated[str, typer.Option(help="Folder for the search, path or URL.")] = "",
    vae: Annotated[
        str, typer.Option(help="Bundle of the autoencoder that all trials use; leave out if trials train their own.")
    ] = "",
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Search settings with Ray Tune and Optuna; to resume a search, run the same command again."""
    if context.invoked_subcommand:
        return
    if not data or not out:
        raise SettingsError("tune needs --data and --out; see ldm-ray tune --help")
    resolved = settings(config, overrides, seed)
    from ldm_ray.data.dataset import open_dataset

    open_dataset(data, resolved.storage_options)  # the search does so too, after seconds of imports
    from ldm_ray.cluster.tune.search import run_search
    from ldm_ray.storage.store import Store
    from ldm_ray.tuning.report import write_tune_report
    from ldm_ray.tuning.tables import summary

    with searching() as progress:
        search = run_search(data, vae, out, resolved, lambda search: progress(*summary(search)))
    with spinning("writing the report"):
        store = Store(out, resolved.storage_options)
        written = write_tune_report(store, search)
    _show(search)
    say(f"written: {', '.join(store.path(name) for name in written[:2])}")
    say(f"next: ldm-ray tune export {out} --out BUNDLE")
    if json:
        print_json(_as_json(search))


@tune_app.command(epilog="Example: `ldm-ray tune report runs/search`")
def report(
    *,
    search: Annotated[str, typer.Argument(help="Folder of a search, running or ended; path or URL.")],
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Write a search's report: trials, which settings mattered, learning curves, Pareto front."""
    options = settings(None, overrides, None).storage_options
    from ldm_ray.storage.store import Store
    from ldm_ray.tuning.report import write_tune_report
    from ldm_ray.tuning.state import load_search

    with spinning("writing the report"):
        loaded = load_search(search, options)
        store = Store(search, options)
        written = [store.path(name) for name in write_tune_report(store, loaded)]
    _show(loaded)
    say("written: " + ", ".join(written))
    if json:
        print_json(_as_json(loaded) | {"written": written})


@tune_app.command(
    epilog="Examples:\n\n\n\n- `ldm-ray tune export runs/search --out best`\n\n"
    "- `ldm-ray tune export runs/search --out best --retrain 101 --retrain 102 --retrain 103`"
)
def export(
    *,
    search: Annotated[str, typer.Argument(help="Folder of a search, path or URL.")],
    out: Annotated[
        str, typer.Option(help="Folder for the bundle, path or URL; with --retrain, for one bundle per seed.")
    ],
    trial: Annotated[int | None, typer.Option(help="Trial to export; default: the best.", min=0)] = None,
    retrain: Annotated[list[int] | None, typer.Option(help="Retrain with this seed; repeatable.")] = None,
    overwrite: Overwrite = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Turn a search's best trial into a bundle: the trial's own model, or models retrained with other seeds."""
    options = settings(None, overrides, None).storage_options
    from ldm_ray.workflows.export_trial import export_trial

    with training("latent diffusion") as status:
        written = export_trial(
            search, out, trial, tuple(retrain or ()), overwrite=overwrite, storage_options=options, on_status=status
        )
    say("written: " + ", ".join(written))
    if json:
        print_json({"bundles": written})


def _show(search: "Search") -> None:
    from ldm_ray.tuning.tables import terminal_table

    title, head, body = terminal_table(search)
    show_table(title, head, body)


def _as_json(search: "Search") -> dict[str, object]:
    return {"name": search.name, "wanted": search.wanted, "trials": [asdict(trial) for trial in search.trials]}
