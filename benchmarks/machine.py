"""What every benchmark records besides its own figures."""

import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import name_of, tree

ROOT = Path(__file__).parents[1]


def machine() -> dict[str, Any]:
    """Describe the machine and the commit."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def write(result: dict[str, Any], out: Path | None) -> None:
    """Print a result, and write it if `out` is given."""
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if out:
        out.write_text(text)


class Peak:
    """Peak proportional set size of this process and its descendants, in MB, without S3 servers."""

    mb = 0.0


@contextmanager
def peak_memory(every_s: float = 0.25) -> Iterator[Peak]:
    """Watch the memory of the process tree while the block runs."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            peak.mb = max(peak.mb, tree_mb(os.getpid()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def tree_mb(pid: int) -> float:
    """Sum the proportional set size of a process and its descendants, without S3 servers."""
    total = 0.0
    for own in tree(pid):
        try:
            text = Path(f"/proc/{own}/smaps_rollup").read_text()
        except OSError:
            continue
        if not name_of(own).split(" ")[0].endswith("weed"):
            total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0) / 1000
    return total


def seconds(started: float) -> float:
    """Return the time since `started`."""
    return time.monotonic() - started
