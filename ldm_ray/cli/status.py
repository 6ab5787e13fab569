"""The command `ldm-ray status`: one look at a run's folder, or a look every few seconds until it ends."""

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
    "Examples: `ldm-ray status runs/ldm`; `ldm-ray status s3://bucket/run --watch`; `ldm-ray status runs/many --json`"
)
NAME_WIDTH = 17


def status(
    *,
    run: Annotated[str, typer.Argument(help="Folder URL of a run of any kind, or of a dataset.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again until it has ended; --json: a line a look.")
    ] = False,
    every_s: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 5.0,
    config: ConfigFile = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Say what a folder holds, how far it is, when it was last heard of, how to go on and where to look."""
    options = settings(config, overrides, None).storage_options
    from ldm_ray.workflows.status import read_status

    found = read_status(run, options)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while watch and found.state == "running":
            if json:
                print_json(asdict(found))
                sys.stdout.flush()  # whoever reads a pipe would wait for the end
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
    """Return a status as people read it, a line each."""
    at_most = "at most " if found.unit == "epochs" and found.state != "finished" else ""  # it may stop early
    of = "" if found.total is None else f" of {at_most}{found.total:,}"
    rows = [
        ("progress", f"{found.done:,}{of} {found.unit}"),
        *((name.replace("_", " "), shown(value)) for name, value in found.figures.items()),
        ("rows/s", "" if found.rows_per_s is None else f"{found.rows_per_s:,.0f}"),
        ("last sign of life", "" if found.age_s is None else f"{age(found.age_s)} ago, {found.seen}"),
        ("said", found.said),
        ("to go on", found.go_on),
        *(("look" if number == 0 else " ", where) for number, where in enumerate(found.look)),
    ]
    head = f"{found.kind} ({found.what}): {found.state}"
    steps = [f"  {step['state']:<{NAME_WIDTH}} {step['name']}, {age(float(step['seconds']))}" for step in found.steps]
    body = [f"  {name:<{NAME_WIDTH}} {text}" for name, text in rows if text]
    inner = [f"  {line}" for line in lines(found.within)] if found.within else []
    return [head, *body, *steps, *inner]


def shown(value: float | int | str) -> str:
    """Write a figure for people; exact ones are in the JSON."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return value if isinstance(value, str) else f"{value:,.0f}"


def age(seconds: float) -> str:
    """Write a duration in its largest fitting unit."""
    for unit, length_s in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"
