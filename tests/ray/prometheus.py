"""What Ray exports to Prometheus, read at the port of this machine's node."""

import re
import time
from collections.abc import Callable, Sequence

import httpx
import ray

from ldm_ray.cluster.metrics import PREFIX

AT_MOST_S = 60.0
"""Ray tells its figures every 10 s, and those of a process that ends at once."""


def exported(
    names: Sequence[str], *tags: str, enough: Callable[[dict[str, float]], bool] = lambda seen: True
) -> dict[str, float]:
    """Wait until Ray exports metrics with these tags, and return their values, summed over processes.

    Args:
        names: Names without prefixes; a counter's with `_total`.
        tags: Tags in Prometheus's form, `run="vae"`.
        enough: Whether the values of all processes are there.
    """
    port, deadline = ray.nodes()[0]["MetricsExportPort"], time.monotonic() + AT_MOST_S
    while True:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        lines = [line for line in text.splitlines() if all(tag in line for tag in tags)]
        seen: dict[str, float] = {}
        for match in (re.match(rf"ray_{PREFIX}(\w+){{.*}} (\S+)$", line) for line in lines):
            if match:
                seen[match[1]] = seen.get(match[1], 0.0) + float(match[2])
        if set(names) <= seen.keys() and enough(seen):
            return seen
        assert time.monotonic() < deadline, f"wanted {names} of {tags}; got {seen}"
        time.sleep(0.5)
