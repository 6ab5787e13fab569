"""The command `ldm-ray status`: look at a run's folder once, or every few seconds until the run ends."""

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from ldm_ray.cli.options import ConfigFile, Json, Overrides, settings
from ldm_ray.console import console, print_json, say

if TYPE_CHECKING:
    from ldm_ray.workflows.folder import FolderStatus

EPILOG = (
    "Examples:\n\n\n\n- `ldm-ray status runs/ldm`\n\n- `ldm-ray status s3://bucket/run --watch`\n\n"
    "- `ldm-ray status runs/many --json`"
)
NAME_WIDTH = 17


def status(
    *,
    run: Annotated[str, typer.Argument(help="Folder of a run, search, pipeline, prediction or dataset; path or URL.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep looking until it ends; with --json, one line per look.")
    ] = False,
    every_s: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 5.0,
    config: ConfigFile = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Show what a folder holds, its progress and last activity, and how to resume it."""
    options = settings(config, overrides, None).storage_options
    from ldm_ray.workflows.status import read_status

    found = read_status(run, options)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while watch and found.state == "running":
            if json:
                print_json(asdict(found))
                sys.stdout.flush()  # a reader of a pipe would otherwise wait for the end
            else:
                live.update(Text("\n".join(lines(found)), no_wrap=True, overflow="ellipsis"), refresh=True)
            time.sleep(every_s)
            found = read_status(run, options)
    if json:
        print_json(asdict(found))
        return
    for line in lines(found):
        say(line)


def lines(found: "FolderStatus") -> list[str]:
    """Return a status as lines to print."""
    at_most = "at most " if found.unit == "epochs" and found.state != "finished" else ""  # it may stop early
    of = "" if found.total is None else f" of {at_most}{found.total:,}"
    rows = [
        ("progress", f"{found.done:,}{of} {found.unit}"),
        *((name.replace("_", " "), shown(value)) for name, value in found.figures.items()),
        ("rows/s", "" if found.rows_per_s is None else f"{found.rows_per_s:,.0f}"),
        ("last activity", "" if found.age_s is None else f"{age(found.age_s)} ago, {found.seen}"),
        ("message", found.said),
        ("to resume", found.go_on),
        *(("see also" if number == 0 else " ", where) for number, where in enumerate(found.look)),
    ]
    head = f"{found.kind} ({found.what}): {found.state}"
    steps = [f"  {step['state']:<{NAME_WIDTH}} {step['name']}, {age(float(step['seconds']))}" for step in found.steps]
    body = [f"  {name:<{NAME_WIDTH}} {text}" for name, text in rows if text]
    inner = [f"  {line}" for line in lines(found.within)] if found.within else []
    return [head, *body, *steps, *inner]


def shown(value: float | int | str) -> str:
    """Format a figure for people; the JSON has exact ones."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return value if isinstance(value, str) else f"{value:,.0f}"


def age(seconds: float) -> str:
    """Format a duration in the largest unit that fits."""
    for unit, length_s in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"
