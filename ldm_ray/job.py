"""Runs a command of the command line as a Ray job: same arguments, and a last line for machines."""

import io
import json
import sys
import time
from contextlib import redirect_stdout
from typing import Any

from ldm_ray.cli import main


def run_job(*command: str) -> None:
    """Run a command with this process's arguments and exit as it does.

    The last line on standard output is one JSON object: `job`, `exit_code`, `seconds`, `out` where `--out` was given,
    and the plain values of what the command prints with `--json`.

    Args:
        command: For instance `train`, `vae`.
    """
    arguments = sys.argv[1:]
    asked_for_help = "--help" in arguments
    sys.argv = [sys.argv[0], *command, *arguments]
    if not asked_for_help and "--json" not in arguments:
        sys.argv.append("--json")
    printed, began, code = io.StringIO(), time.monotonic(), 0
    try:
        with redirect_stdout(printed):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    if asked_for_help:
        sys.stdout.write(printed.getvalue())
        sys.exit(code)
    last = {"job": " ".join(command), "exit_code": code, "seconds": round(time.monotonic() - began, 1)}
    sys.stderr.flush()
    sys.stdout.write(json.dumps(last | _out(arguments) | _plain(printed.getvalue())) + "\n")
    sys.stdout.flush()
    sys.exit(code)


def _out(arguments: list[str]) -> dict[str, str]:
    for number, argument in enumerate(arguments):
        if argument.startswith("--out="):
            return {"out": argument.removeprefix("--out=")}
        if argument == "--out" and number + 1 < len(arguments):
            return {"out": arguments[number + 1]}
    return {}


def _plain(printed: str) -> dict[str, Any]:
    """Return the numbers and texts of a command's JSON object; tables in it would make no line."""
    lines = printed.strip().splitlines()
    try:
        values = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return {key: value for key, value in values.items() if isinstance(value, str | int | float)}
