"""A reader's terminal, as `tests.docs_runner` needs it: commands that end, commands that serve, a Ray head."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs_pages import ROOT, Command, ending, simple_commands
from tests.head import Head
from tests.processes import kill_tree

PORTS = {"ldm-ray serve": 8000, "make s3": 8333}
COMMAND_S, READY_S, END_S = 600.0, 180.0, 90.0
ENDED_BY_CTRL_C = (0, 2, 130, -signal.SIGINT)
"""Exit codes of what Ctrl-C ends; 2 is make's."""


class DocsError(Exception):
    """A command that did not do what its page says."""


@dataclass
class Service:
    """A command that serves until Ctrl-C."""

    command: Command
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path


class Shell:
    """A reader's terminal in one page's folder; exported variables persist.

    Args:
        folder: Working folder.
        environment: Environment variables.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment, self._at = folder, dict(environment), folder
        self._services: list[Service] = []
        self._head: Head | None = None

    def run(self, command: Command) -> None:
        """Run a command to its end, or until it serves.

        Raises:
            DocsError: With what it printed, if it fails.
        """
        kinds = {ending(words) for words in simple_commands(command.text)}
        if "starts a head" in kinds:
            self._start_head()
        elif "stops a head" in kinds:
            self._stop_head()
        elif "serves" in kinds:
            self._serve(command)
        else:
            self._bash(command.text)

    def python(self, text: str) -> None:
        """Run a block of Python in its own process."""
        self._finish([str(ROOT / ".venv/bin/python"), "-c", text])

    def end(self) -> None:
        """End what still serves, as Ctrl-C does, and the head.

        Raises:
            DocsError: If something does not end.
        """
        try:
            self._stop_services()
        finally:
            self._stop_head()

    def _stop_services(self) -> None:
        while self._services:
            self._interrupt(self._services.pop())

    def _bash(self, text: str) -> None:
        with tempfile.TemporaryDirectory() as name:
            after = Path(name)
            keep = f"trap 'code=$?; env -0 > {after}/env; pwd > {after}/pwd; exit $code' EXIT"
            self._finish(["bash", "-c", f"{keep}\n{text}"])
            pairs = (entry.split("=", 1) for entry in (after / "env").read_text().split("\0") if entry)
            self.environment = {name: value for name, value in pairs if name not in ("_", "SHLVL")}
            self._at = Path((after / "pwd").read_text().strip())

    def _finish(self, command: list[str]) -> None:
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                command, cwd=self._at, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            try:
                code = process.wait(COMMAND_S)
            except subprocess.TimeoutExpired:
                kill_tree(process.pid)
                process.wait()
                raise DocsError(f"did not end in {COMMAND_S:g} s\n{_text(log)}") from None
            if code:
                raise DocsError(f"exit code {code}\n{_text(log)}")

    def _serve(self, command: Command) -> None:
        words = next(words for words in simple_commands(command.text) if ending(words) == "serves")
        name = " ".join([words[0].rsplit("/", 1)[-1], words[1]])
        port = int(words[words.index("--port") + 1]) if "--port" in words else PORTS[name]
        for service in [service for service in self._services if service.port == port]:
            self._services.remove(service)
            self._interrupt(service)
        if _answers(port):
            raise DocsError(f"port {port} is in use by another process of this machine")
        log = self.folder.parent / f"{self.folder.name}-{port}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", command.text], cwd=self._at, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self._services.append(Service(command, port, process, log))
        until = time.monotonic() + READY_S
        while not _answers(port) or "Ctrl-C" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > until:
                raise DocsError(f"does not answer at port {port}\n{log.read_text(errors='replace')}")
            time.sleep(0.5)

    def _interrupt(self, service: Service) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGINT)
        try:
            code = service.process.wait(END_S)
        except subprocess.TimeoutExpired:
            kill_tree(service.process.pid)
            service.process.wait()
            raise DocsError(f"{service.command.text}: did not end in {END_S:g} s after Ctrl-C") from None
        if code not in ENDED_BY_CTRL_C:
            said = service.log.read_text(errors="replace")
            raise DocsError(f"{service.command.text}: exit code {code} after Ctrl-C\n{said}")

    def _start_head(self) -> None:
        """Start a head beside other clusters of this machine, and tell `ray` and `serve` where it is."""
        self._stop_services()
        self._stop_head()
        with contextlib.chdir(self.folder):
            self._head = Head(self.environment)
            self._head.__enter__()
        self.environment |= {"RAY_API_SERVER_ADDRESS": self._head.address, "RAY_DASHBOARD_ADDRESS": self._head.address}

    def _stop_head(self) -> None:
        """`ray stop` itself would stop every cluster of this machine."""
        if self._head is not None:
            self._head.__exit__()
            self._head = None


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _text(log: Any) -> str:
    log.seek(0)
    return str(log.read().decode(errors="replace"))[-6000:]
