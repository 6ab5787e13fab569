"""Output: progress bars, tables and errors on standard error; JSON on standard output."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ldm_ray.log_lines import DetailLines, LineProgress
from ldm_ray.training.status import OnStatus, TrainingStatus

console = Console(stderr=True, highlight=False)

MIN_TABLE_WIDTH = 128

Counter = Callable[[int, int], None]
Bar = Progress | LineProgress


def say(text: str) -> None:
    """Print a line for people."""
    console.print(text, markup=False, soft_wrap=True)


def say_error(text: str) -> None:
    """Print an error as one line, without markup."""
    console.print(f"error: {text}", style="bold red", markup=False, soft_wrap=True)


def print_json(values: Any) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")


@contextmanager
def counting(what: str) -> Iterator[Counter]:
    """Show a bar; the yielded function takes the number done and the total."""
    with _bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training(what: str) -> Iterator[OnStatus]:
    """Show a spinner, then bars of steps and later stages; the yielded function takes the run's status."""
    with ExitStack() as stack:
        waiting = console.status(f"{what}: starting workers")
        waiting.start()
        stack.callback(waiting.stop)
        bars: list[Bar] = []
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int | None, news: str) -> None:
            if not bars:
                waiting.stop()
                bars.append(cast(Bar, stack.enter_context(_narrow_bar(TextColumn("{task.fields[news]}")))))
            if name not in tasks:
                tasks[name] = bars[0].add_task(name, total=total, news=news)
            bars[0].update(tasks[name], completed=done, total=total, news=news)

        def update(status: TrainingStatus) -> None:
            if "step" in status:
                losses = f"epoch {status['epoch'] + 1}  loss {status['loss']:.3f}"
                if "valid_loss" in status:
                    losses += f"  valid {status['valid_loss']:.3f}"
                show(what, status["step"], status["total"], losses)
            if "stage" in status:
                show(f"{what}: {status['stage']}", status.get("stage_done", 0), status.get("stage_total"), "")

        yield update


@contextmanager
def searching() -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar of trials; the yielded function takes the trials ended, the trials wanted, and the best so far."""
    with _narrow_bar(TextColumn("{task.fields[best]}")) as bar:
        task = bar.add_task("trials", total=None, best="starting")
        yield lambda done, total, best: bar.update(task, completed=done, total=total, best=best)


@contextmanager
def staged() -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar per stage; the yielded function takes the stage's name, the number done and the total."""
    with _bar() as bar:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield update


@contextmanager
def spinning(what: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner; the yielded function takes a detail to show. Without a terminal it is a line now and then."""
    if not console.is_terminal:
        yield DetailLines(say, what).tell
        return
    with console.status(what) as status:
        yield lambda detail: status.update(f"{what}: {detail}")


def show_table(title: str, columns: list[str], rows: list[list[str]], caption: str = "") -> None:
    """Print a table; the first column is left-aligned and may wrap, the others are right-aligned."""
    # Text, not markup: a SMILES may contain [nH].
    table = Table(title=Text(title), caption=Text(caption), title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number == 0 else "right", no_wrap=number > 0)
    for row in rows:
        table.add_row(*map(Text, row))
    wide = Console(stderr=True, highlight=False, width=max(console.width, MIN_TABLE_WIDTH))
    wide.print(table)


def _narrow_bar(*more: TextColumn) -> Bar:
    """Return a bar that leaves room for more columns at a width of 80."""
    if not console.is_terminal:
        return LineProgress(say)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=8), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, *more, console=console)


def _bar() -> Bar:
    if not console.is_terminal:
        return LineProgress(say)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
