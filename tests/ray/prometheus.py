"""What Ray exports to Prometheus, read at the port of this machine's node as Prometheus reads it: again and again.

Ray shows a gauge for two of its intervals of 10 s after the last report. A process that has ended is then gone, so a
test that looks only afterwards may be too late on a busy machine.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx
import ray

from ldm_ray.cluster.metrics import PREFIX

AT_MOST_S, EVERY_S = 60.0, 0.5
Wanted = Callable[[dict[str, float]], bool]


class Scraper:
    """The latest value of every series of ours that Ray has exported since the scraper began."""

    def __init__(self) -> None:
        self._port = ray.nodes()[0]["MetricsExportPort"]
        self._series: dict[str, float] = {}
        self._done = threading.Event()

    def run(self) -> None:
        """Read the metrics until `stop`."""
        while not self._done.wait(EVERY_S):
            lines = httpx.get(f"http://127.0.0.1:{self._port}/metrics", timeout=AT_MOST_S).text.splitlines()
            found = (re.match(rf"(ray_{PREFIX}.*}}) (\S+)$", line) for line in lines)
            self._series |= {match[1]: float(match[2]) for match in found if match}

    def stop(self) -> None:
        """Let `run` return."""
        self._done.set()

    def wait_for(self, names: Sequence[str], *tags: str, enough: Wanted = lambda seen: True) -> dict[str, float]:
        """Wait until metrics with these tags were exported, and return their values, summed over processes.

        Args:
            names: Names without prefixes; a counter's with `_total`.
            tags: Tags in Prometheus's form, `run="vae"`.
            enough: Whether the values of all processes are there.
        """
        deadline = time.monotonic() + AT_MOST_S
        while True:
            seen: dict[str, float] = {}
            for series, value in self._series.copy().items():
                if all(tag in series for tag in tags):
                    name = series.removeprefix(f"ray_{PREFIX}").split("{")[0]
                    seen[name] = seen.get(name, 0.0) + value
            if set(names) <= seen.keys() and enough(seen):
                return seen
            assert time.monotonic() < deadline, f"wanted {names} of {tags}; got {seen}"
            time.sleep(EVERY_S)


@contextmanager
def scraping() -> Iterator[Scraper]:
    """Read the metrics of this machine's node for as long as the block runs."""
    scraper = Scraper()
    thread = threading.Thread(target=scraper.run, daemon=True)
    thread.start()
    try:
        yield scraper
    finally:
        scraper.stop()
        thread.join()
