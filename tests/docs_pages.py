"""README and the pages of `docs/`, read as data: their fences, the commands in them, links and headings."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
LANGUAGES = ("sh", "python", "yaml", "json", "console", "text", "mermaid", "html")
"""`sh` and `python` are run by `tests.docs_runner`, `console` is shown only, the others are no commands."""

ENDS = frozenset(
    (
        *("cat", "cd", "cp", "curl", "cut", "df", "du", "echo", "export", "find", "grep", "gunzip", "head", "jq", "ls"),
        *("ldm-ray", "make", "mkdir", "mv", "pip", "printf", "python", "ray", "rm", "sed", "serve", "sort", "source"),
        *("tail", "tar", "test", "unset", "wc", "zcat"),
    )
)
"""Programs that end by themselves, but for what `ending` says of them."""

NEVER_HERE = {
    "ray": ("attach", "dashboard", "down", "exec", "rsync-down", "rsync-up", "submit", "up"),
    "serve": ("run",),
    "make": ("test", "test-full", "docs-test", "lint", "clean"),
}
"""What these programs would do to a cloud, to this machine, or for too long."""

Ending = Literal["ends", "serves", "starts a head", "stops a head"]


@dataclass(frozen=True)
class Fence:
    """A fenced block.

    Attributes:
        page: Path of its page from the top of the repository.
        line: Line of its opening, from 1.
        language: As written after the backticks.
        text: Its content.
    """

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command of a block, with its continuation lines."""

    page: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """Page and line of the command."""
        return f"{self.page}:{self.line}"


def pages(root: Path = ROOT) -> list[str]:
    """Return README and the pages of `docs/`, in the order in which they are run."""
    found = sorted(path.name for path in (root / "docs").glob("*.md"))
    first = ("quickstart.md", "data.md", "real-data.md")
    return ["README.md", *(f"docs/{name}" for name in sorted(found, key=lambda name: (name not in first, name)))]


def fences(page: str, root: Path = ROOT) -> list[Fence]:
    """Return the fenced blocks of a page."""
    found: list[Fence] = []
    opened: tuple[int, str, list[str]] | None = None
    for number, line in enumerate((root / page).read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            if opened is None:
                opened = (number, line.strip().removeprefix("```").strip(), [])
            else:
                found.append(Fence(page, opened[0], opened[1], "\n".join(opened[2])))
                opened = None
        elif opened is not None:
            opened[2].append(line)
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: the block is not closed")
    return found


def commands(fence: Fence) -> list[Command]:
    """Split a block of `sh` into commands; a line that bash finds unfinished continues on the next."""
    found: list[Command] = []
    lines: list[str] = []
    began = fence.line + 1
    for number, line in enumerate(fence.text.splitlines(), start=fence.line + 1):
        if not lines and (not line.strip() or line.lstrip().startswith("#")):
            continue
        began = number if not lines else began
        lines.append(line)
        if not line.endswith("\\") and _is_whole("\n".join(lines)):
            found.append(Command(fence.page, began, "\n".join(lines)))
            lines = []
    if lines:
        raise ValueError(f"{fence.page}:{began}: bash finds the command unfinished")
    return found


def _is_whole(text: str) -> bool:
    checked = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True)
    return checked.returncode == 0 and not checked.stderr


def simple_commands(text: str) -> list[list[str]]:
    """Return the words of each program that a command starts, without preceding assignments."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").replace("$(", " ( ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found.append([])
        for word in lexer:
            if set(word) <= set("();|&"):
                found.append([])
            elif found[-1] or not re.match(r"[A-Za-z_]\w*=", word):
                found[-1].append(word)
    return [words for words in found if words]


def ending(words: list[str]) -> Ending | None:
    """Return how a program ends; None if the runner does not know.

    Args:
        words: The program and its arguments.
    """
    program, arguments = words[0].rsplit("/", 1)[-1], words[1:]
    first = arguments[0] if arguments else ""
    if (program, first) in (("ldm-ray", "serve"), ("make", "s3")):
        return "serves"
    if program == "ray" and first in ("start", "stop"):
        return "stops a head" if first == "stop" else "starts a head" if "--head" in arguments else None
    if program not in ENDS or first in NEVER_HERE.get(program, ()):
        return None
    return "ends"


def headings(page: str, root: Path = ROOT) -> set[str]:
    """Return the anchors of a page's headings, as the repository's viewers make them."""
    text = re.sub(r"^```.*?^```", "", (root / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: str, root: Path = ROOT) -> list[str]:
    """Return the targets of a page's links that are not web addresses."""
    text = re.sub(r"^```.*?^```", "", (root / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]
