"""The command `ldm-ray runs`: the table of training runs."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Json, Overrides, settings
from ldm_ray.console import print_json, say

if TYPE_CHECKING:
    from ldm_ray.tracking.record import RunRecord

EPILOG = "Examples:\n\n\n\n- `ldm-ray runs runs`\n\n- `ldm-ray runs s3://bucket/models --json`"
HEAD = ["run", "started (UTC)", "kind", "status", "epochs", "best valid", "health", "git", "dataset", "settings"]
NOT_OF_THE_MODEL = ("simulate.", "prepare.", "evaluate.", "table1.", "ic50.", "track.")
"""Settings that did not affect training; only `--json` shows them."""

SETTINGS_WIDTH = 60


def runs(
    *,
    root: Annotated[str, typer.Argument(help="Folder to search, with all folders below it; path or URL.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """List training runs, newest first: status, losses, settings, git revision, dataset."""
    options = settings(config, overrides, None).storage_options
    from ldm_ray.storage.store import Store
    from ldm_ray.tracking.record import changed_settings, runs_table

    found = runs_table(Store(root, options))
    if json:
        print_json({"runs": [asdict(run) | {"changed": changed_settings(run)} for run in found]})
        return
    rows = [HEAD, *(_row(run, root, changed_settings(run)) for run in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # one line per run, however long: folders are there to be copied
        say("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _row(run: "RunRecord", root: str, changed: dict[str, object]) -> list[str]:
    """Return a run as a row of the table.

    Args:
        run: The run.
        root: The folder that was searched.
        changed: Settings that differ from the defaults.
    """
    from ldm_ray.tracking.summary import health_summary

    revision, dirty = run.git_revision[:8], "+" if run.git_revision.endswith("-dirty") else ""
    return [
        run.folder.removeprefix(root).strip("/") or run.name,
        run.started[:16].replace("T", " "),
        run.kind,
        run.status,
        str(run.epochs),
        f"{run.best['valid_loss']:.4f}" if run.best else "-",
        health_summary(run.health),
        revision + dirty or "-",
        run.dataset_sha256[:8],
        _short([f"{key}={value}" for key, value in changed.items() if not key.startswith(NOT_OF_THE_MODEL)]),
    ]


def _short(texts: list[str]) -> str:
    """Join as many texts as fit, then the number of the rest."""
    shown = 0
    while shown < len(texts) and len(" ".join(texts[: shown + 1])) <= SETTINGS_WIDTH:
        shown += 1
    left = len(texts) - shown
    return " ".join([*texts[:shown], *([f"+{left}"] if left else [])]) or "-"
