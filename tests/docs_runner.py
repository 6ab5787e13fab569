"""Runs every command of README and of the pages of `docs/`, small, as a reader would: `make docs-test`.

python -m tests.docs_runner [--page docs/data.md]

Each page gets a folder of its own with a reader's files: the repository with small settings, a small release under the
names that the pages use, tables of queries, a bucket `s3://bucket/`, a Ray head where the page starts one. What a page
takes from another one is copied from where README's commands have made it.
"""

import argparse
import contextlib
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs_pages import LANGUAGES, Command, Fence, commands, ending, fences, pages, simple_commands
from tests.docs_reader import Reader
from tests.docs_shell import DocsError, Shell
from tests.s3_server import S3Server, free_port

ONE = "--set cleaning.min_profiles_per_compound=1"
SHORT = "--set train_vae.epochs=2 --set train_ldm.epochs=2 --set train_prnet.epochs=2"
SUBSTITUTIONS = (
    ("", "train vae ", "train vae --set train_vae.epochs=2 ", "without --config it is 30 epochs; --set of a page wins"),
    ("", "train ldm ", "train ldm --set train_ldm.epochs=2 ", "the same"),
    ("", "train baseline ", "train baseline --set train_prnet.epochs=2 ", "the same"),
    ("", "evaluate --data", "evaluate --set evaluate.max_profiles=100 --data", "240 wells, for each row of the report"),
    ("docs/samplers.md", "bench samplers", "bench samplers --wells 8 --samples 8", "the full chain takes minutes"),
    ("docs/real-data.md", "--out runs/prnet-data", f"--out runs/prnet-data {ONE}", "PRnet's demo file has few wells"),
    ("docs/reports.md", "[compound,cell,both,plate]", "[plate]", "each side trains all models anew"),
    ("docs/reports.md", "'table1.seeds=[0,1,2]'", f"'table1.seeds=[0]' {SHORT}", "so does each seed"),
    ("docs/tuning.md", " --retrain 102 --retrain 103", "", "each seed trains a model"),
)
"""Page or any, what it says, what is run instead, and why; everything else is run as written."""


@dataclass
class Tally:
    """What was run of a page."""

    page: str
    run: int = 0
    not_run: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def run_page(page: str, reader: Reader) -> Tally:
    """Run a page's blocks in order, up to the first failure."""
    tally, began = Tally(page), time.monotonic()
    blocks = fences(page)
    if not any(block.language in ("sh", "python") for block in blocks):
        for block in blocks:
            _show_only(block, tally)
        return tally
    shell = reader.shell(page)
    try:
        for block in blocks:
            _run_block(block, shell, tally)
    except DocsError as error:
        tally.failures.append(str(error))
    finally:
        try:
            shell.end()
        except DocsError as error:
            tally.failures.append(str(error))
    tally.seconds = time.monotonic() - began
    return tally


def _run_block(block: Fence, shell: Shell, tally: Tally) -> None:
    if block.language == "sh":
        for command in commands(block):
            with _timed(command.place, substituted(command)) as text:
                shell.run(Command(command.page, command.line, text))
            tally.run += 1
    elif block.language == "python":
        with _timed(f"{block.page}:{block.line}", substituted(Command(block.page, block.line, block.text))) as text:
            shell.python(text)
        tally.run += 1
    else:
        _show_only(block, tally)


def _show_only(block: Fence, tally: Tally) -> None:
    if block.language == "console":
        tally.not_run += 1
        for line in block.text.splitlines():
            print(f"not run          {block.page}: {line}", flush=True)


@contextlib.contextmanager
def _timed(place: str, text: str) -> Iterator[str]:
    began = time.monotonic()
    try:
        yield text
    except DocsError as error:
        say("FAILED", time.monotonic() - began, text)
        raise DocsError(f"{place}: {text}\n{error}") from None
    say("ok", time.monotonic() - began, text)


def say(state: str, seconds: float, text: str) -> None:
    """Print one line of progress."""
    line = textwrap.shorten(text.replace("\\\n", " "), 160)
    print(f"{state:<7} {seconds:6.1f} s {line}", flush=True)


def substituted(command: Command) -> str:
    """Return a command as it is run."""
    text = command.text
    for page, old, new, _ in SUBSTITUTIONS:
        if page in ("", command.page):
            text = text.replace(old, new)
    return text


def problems(names: list[str]) -> list[str]:
    """Return what prevents running the pages: fences without a language, commands that are not known to end."""
    found = []
    for block in (block for page in names for block in fences(page)):
        if block.language not in LANGUAGES:
            found.append(f"{block.page}:{block.line}: the block's language is {block.language!r}")
        elif block.language == "sh":
            found += [
                f"{command.place}: how does {' '.join(words)!r} end? write `console` where it cannot be run"
                for command in commands(block)
                for words in simple_commands(command.text)
                if ending(words) is None
            ]
    return found


def unused_substitutions(names: list[str]) -> list[str]:
    """Return replacements in the table that no page needs any more."""
    return [
        f"{page}: {old!r} is not said there"
        for page, old, *_ in SUBSTITUTIONS
        if page in names and not any(old in block.text for block in fences(page))
    ]


def main() -> None:
    """Run the pages, print a table, and exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Run the commands of README and of docs/.")
    parser.add_argument("--page", action="append", choices=pages(), help="only this page; repeatable")
    names: list[str] = parser.parse_args().page or pages()
    wrong = problems(names) + unused_substitutions(names)
    print("\n".join(wrong) if wrong else f"{len(names)} pages", flush=True)
    unreadable = {line.split(":")[0] for line in wrong}
    tallies = []
    with (
        tempfile.TemporaryDirectory(prefix="ldm-ray-docs-") as name,
        S3Server(Path(name) / "s3", free_port()) as s3,
    ):
        reader = Reader(Path(name), s3)
        for page in names:
            print(f"--- {page}", flush=True)
            tallies.append(Tally(page, failures=["not readable"]) if page in unreadable else run_page(page, reader))
            for failure in tallies[-1].failures:
                print(failure, flush=True)
    print(f"\n{'page':<28} {'run':>4} {'not run':>8} {'seconds':>8}")
    total = Tally("all", *(sum(getattr(tally, key) for tally in tallies) for key in ("run", "not_run", "seconds")))
    for tally in [*tallies, total]:
        failed = "FAILED" if tally.failures else ""
        print(f"{tally.page:<28} {tally.run:>4} {tally.not_run:>8} {tally.seconds:>8.0f} {failed}")
    for page, old, new, why in SUBSTITUTIONS:
        if page in ("", *names):
            print(f"instead of {old.strip()!r} {page or 'every page'} ran {new.strip()!r}: {why}")
    sys.exit(1 if wrong or any(tally.failures for tally in tallies) else 0)


if __name__ == "__main__":
    main()
