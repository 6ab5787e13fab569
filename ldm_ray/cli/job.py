"""Runs an `ldm-ray` command as a Ray job: same arguments, and a last line for machines."""

import io
import json
import os
import sys
import time
import traceback
from contextlib import redirect_stdout
from typing import Any

from ldm_ray.cli.app import main
from ldm_ray.console import say_error

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for processes that `ray job submit` starts."""


def run_job(*command: str) -> None:
    """Run a command with this process's arguments, and exit with its code.

    The last line on standard output is one JSON object: `job`, `exit_code`, `seconds`, `out` if `--out` was given,
    and the plain values that the command prints with `--json`. Exit codes are those of the command line, or 1 after a
    traceback.

    Args:
        command: Words of the command, for instance `train`, `vae`.
    """
    arguments = sys.argv[1:]
    asked_for_help = "--help" in arguments
    as_json = [] if asked_for_help or "--json" in arguments else ["--json"]
    sys.argv = [sys.argv[0], *command, *as_json, *arguments]
    printed, began, code = io.StringIO(), time.monotonic(), 0
    try:
        with redirect_stdout(printed):
            _check_out(_out(arguments))
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except Exception:  # our bug or the cluster's; print the last line anyway
        traceback.print_exc()
        code = 1
    if asked_for_help:
        sys.stdout.write(printed.getvalue())
        sys.exit(code)
    last = {"job": " ".join(command), "exit_code": code, "seconds": round(time.monotonic() - began, 1)}
    sys.stderr.flush()
    sys.stdout.write(json.dumps(last | _out(arguments) | _plain(printed.getvalue())) + "\n")
    sys.stdout.flush()
    sys.exit(code)


def _check_out(out: dict[str, str]) -> None:
    """Refuse to write results into the job's own copy of the working directory, which is deleted with the job."""
    url = out.get("out", "/")
    if SUBMITTED in os.environ and "://" not in url and not os.path.isabs(url):
        say_error(f"--out {url!r} would be deleted with the job's working directory; wanted a URL or an absolute path")
        sys.exit(2)


def _out(arguments: list[str]) -> dict[str, str]:
    for number, argument in enumerate(arguments):
        if argument.startswith("--out="):
            return {"out": argument.removeprefix("--out=")}
        if argument == "--out" and number + 1 < len(arguments):
            return {"out": arguments[number + 1]}
    return {}


def _plain(printed: str) -> dict[str, Any]:
    """Return the numbers and texts of a command's JSON object; tables and lists would not fit in a line."""
    lines = printed.strip().splitlines()
    try:
        values = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return {key: value for key, value in values.items() if isinstance(value, str | int | float)}
