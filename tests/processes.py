"""The processes of this machine, from /proc."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

AGENTS = ("", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    return found


def tree(pid: int) -> list[int]:
    """Return a process and its descendants: Ray starts its processes in separate sessions."""
    above, found = parents(), [pid]
    for own in found:
        found += [child for child, parent in above.items() if parent == own]
    return found


def name_of(pid: int) -> str:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def kill_tree(pid: int) -> None:
    """Kill a process and its descendants."""
    for own in tree(pid):
        try:
            os.kill(own, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_driver(process: "subprocess.Popen[bytes] | subprocess.Popen[str]", within_s: float = 120.0) -> None:
    """Kill a process that drives Ray, and wait until Ray's processes, which follow it, have ended.

    A raylet's agents notice only after a minute that it is gone, so they are killed.
    """
    below = [pid for pid in tree(process.pid) if pid != process.pid]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + within_s
    while left := [pid for pid in below if name_of(pid)]:
        assert time.monotonic() < deadline, f"{left} have not ended"
        if all(name_of(pid).strip() in AGENTS for pid in left):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
