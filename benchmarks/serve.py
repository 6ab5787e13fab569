"""The endpoint's latency, its throughput as a share of the sampler's, and its behaviour under overload.

    python benchmarks/serve.py [--bundle demo/ldm] [--data demo/data] [--size small|full] [--json OUT]

`ldm-ray serve`, with all of Ray, is pinned to the first core; the load comes from this process on the second. Every
query is a known compound on a known cell line, with 16 latent samples and the bundle's sampler. Requests are sent at
times drawn beforehand, whether or not earlier ones are answered, and latency counts from the drawn time. The reference
is the sampler alone in a process on the first core, before and after, with the same queries in one batch. Every answer
is compared with the sampler's own, bit for bit.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import numpy as np
import pyarrow as pa
import torch

from benchmarks.machine import machine, tree_mb, write
from ldm_ray.data.dataset import open_dataset
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.serving.client import ARROW
from tests.processes import kill_tree
from tests.s3_server import free_port

SERVER_CORE, LOAD_CORE = 0, 1
N_SAMPLES, N_QUERIES, SEED = 16, 128, 7
LOW_RATE, OVERLOAD = 4.0, 3.0
SECONDS = {"small": 10.0, "full": 30.0}
PER_REQUEST = (1, 64, 256)
START_S, RECOVERY_S, PROBE_S = 180.0, 60.0, 0.25
REFUSED = frozenset({429, 503})


@dataclass
class Tally:
    """Answers to a series of requests.

    Attributes:
        latency_s: Latencies of answers with status 200, from the time at which their requests were due.
        statuses: Number of answers by status; 0 means no answer.
        wrong: Number of answers that differ from the sampler's.
        seconds: Time from the first request to the last answer.
    """

    latency_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    seconds: float = 0.0

    @property
    def wrong_or_5xx(self) -> int:
        """Number of answers that should not occur."""
        return self.wrong + sum(n for status, n in self.statuses.items() if status not in REFUSED | {200})


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="demo/ldm")
    parser.add_argument("--data", default="demo/data")
    parser.add_argument("--size", choices=SECONDS, default="small")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    conditions = known_conditions(arguments.bundle, arguments.data)
    means, before = sampler_alone(arguments.bundle, conditions, SECONDS[arguments.size])
    port = free_port()
    command = [sys.executable, "-m", "ldm_ray.cli", "serve", "--bundle", arguments.bundle, "--port", str(port)]
    server = subprocess.Popen(["taskset", "-c", str(SERVER_CORE), *command], start_new_session=True)
    try:
        figures = asyncio.run(
            campaign(f"http://127.0.0.1:{port}", server.pid, conditions, means, SECONDS[arguments.size])
        )
    finally:
        server.terminate()
        try:
            server.wait(60)
        finally:
            kill_tree(server.pid)
    _, after = sampler_alone(arguments.bundle, conditions, SECONDS[arguments.size])
    sampler_per_s = (before + after) / 2
    share = figures["profiles_per_s"] / sampler_per_s
    result: dict[str, Any] = {"size": arguments.size} | machine() | {"n_samples": N_SAMPLES}
    result |= {"throughput_share_of_sampler": share, "sampler_profiles_per_s": sampler_per_s} | figures
    write(result, arguments.json)


def known_conditions(url: str, data: str) -> list[dict[str, Any]]:
    """Draw conditions of training compounds by seed."""
    reader, rng = Predictor.from_bundle(url, "cpu").reader, np.random.default_rng(0)
    compounds, cells = open_dataset(data).parent_smiles, reader.cell_lines
    return [
        {
            "smiles": str(rng.choice(compounds)),
            "cell": (cell := str(rng.choice(cells))),
            "dose_um": float(np.round(10 ** rng.uniform(-1, 1), 3)),
            "time_h": float(rng.choice(reader.times_h(cell))),
        }
        for _ in range(N_QUERIES)
    ]


def sampler_alone(url: str, conditions: list[dict[str, Any]], seconds: float) -> tuple[np.ndarray, float]:
    """Run `in_process` in a process on the server's core."""
    with multiprocessing.get_context("spawn").Pool(1, os.sched_setaffinity, (0, {SERVER_CORE})) as alone:
        return alone.apply(in_process, (url, conditions, seconds))


def in_process(url: str, conditions: list[dict[str, Any]], seconds: float) -> tuple[np.ndarray, float]:
    """Return the sampler's means of the conditions, and its profiles per second with everything cached."""
    torch.set_num_threads(1)
    predictor = Predictor.from_bundle(url, "cpu")
    queries = [Query(c["smiles"], c["dose_um"], c["time_h"], c["cell"]) for c in conditions]
    mean = predictor.predict(queries, N_SAMPLES, seed=SEED).mean
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        predictor.predict(queries, N_SAMPLES, seed=SEED)
        rounds += 1
    return mean, rounds * len(queries) * N_SAMPLES / (time.perf_counter() - began)


async def campaign(
    url: str, pid: int, conditions: list[dict[str, Any]], means: np.ndarray, seconds: float
) -> dict[str, Any]:
    """Send queries at low load, at full speed, under overload, and under overload again."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(120)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        await ready(session)
        asking = Asking(session, conditions, means)
        await asking.closed(8, 3.0, 1)  # replicas learn the compounds
        low = await asking.open(LOW_RATE, seconds)
        figures: dict[str, Any] = {f"p{q}_ms": 1000 * float(np.percentile(low.latency_s, q)) for q in (50, 95, 99)}
        per_s, wrong = {}, low.wrong_or_5xx
        for n in PER_REQUEST:
            full = await asking.closed(max(2, 32 // n), seconds, n)
            per_s[n] = (full.statuses[200] - full.wrong) * n * N_SAMPLES / full.seconds
            wrong += full.wrong_or_5xx
        figures |= {
            "profiles_per_s": max(per_s.values()),
            "profiles_per_s_by_conditions_a_request": per_s,
            "wrong_or_5xx_before_overload": wrong,
        }
        before = tree_mb(pid)
        capacity = per_s[1] / N_SAMPLES
        over = await asking.open(OVERLOAD * capacity, seconds)
        recovered = over.seconds - seconds + await asking.recovered(2 * figures["p95_ms"] / 1000)
        during = tree_mb(pid)
        again = await asking.open(OVERLOAD * capacity, seconds)
        figures |= {
            "overload": OVERLOAD,
            "overload_statuses": dict(over.statuses + again.statuses),
            "overload_accepted_profiles_per_s": over.statuses[200] * N_SAMPLES / over.seconds,
            "wrong_or_5xx": over.wrong_or_5xx + again.wrong_or_5xx,
            "overload_accepted_p99_ms": 1000 * float(np.percentile(over.latency_s, 99)),
            "recovery_s": recovered,
            "memory_mb": {"before": before, "after_first_overload": during, "after_second_overload": tree_mb(pid)},
        }
        return figures


async def ready(session: aiohttp.ClientSession) -> None:
    """Wait until the endpoint can answer queries."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            async with session.get("/readyz") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.5)
    sys.exit("the server does not start")


class Asking:
    """Sends queries and checks answers.

    Args:
        session: Session with the server.
        conditions: Conditions to query.
        means: The sampler's means, in the same order.
    """

    def __init__(self, session: aiohttp.ClientSession, conditions: list[dict[str, Any]], means: np.ndarray) -> None:
        self._session, self._conditions, self._means = session, conditions, means
        self._rng = np.random.default_rng(1)

    async def open(self, rate: float, seconds: float) -> Tally:
        """Query single conditions at random times, `rate` per second on average."""
        tally, began = Tally(), time.monotonic()
        gaps = self._rng.exponential(1 / rate, int(rate * seconds) or 1)
        tasks = []
        for due in began + np.cumsum(gaps):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(self._ask(tally, due, 1)))
        await asyncio.gather(*tasks)
        tally.seconds = time.monotonic() - began
        return tally

    async def closed(self, at_once: int, seconds: float, n: int) -> Tally:
        """Keep `at_once` requests of n conditions each in flight."""
        tally, began = Tally(), time.monotonic()

        async def one() -> None:
            while time.monotonic() - began < seconds:
                await self._ask(tally, time.monotonic(), n)

        await asyncio.gather(*(one() for _ in range(at_once)))
        tally.seconds = time.monotonic() - began
        return tally

    async def recovered(self, within_s: float) -> float:
        """Return the seconds until a query is answered as fast as at low load."""
        stopped = time.monotonic()
        while time.monotonic() - stopped < RECOVERY_S:
            tally = Tally()
            await self._ask(tally, time.monotonic(), 1)
            if tally.latency_s and tally.latency_s[0] <= within_s:
                return time.monotonic() - stopped
            await asyncio.sleep(PROBE_S)
        return float("nan")

    async def _ask(self, tally: Tally, due: float, n: int) -> None:
        chosen = self._rng.integers(0, len(self._conditions), n)
        body = {"conditions": [self._conditions[i] for i in chosen], "n_samples": N_SAMPLES, "seed": SEED}
        headers = {"Accept": ARROW, "Content-Type": "application/json"}
        try:
            async with self._session.post("/v1/predict", data=json.dumps(body), headers=headers) as response:
                content, status = await response.read(), response.status
        except (aiohttp.ClientError, TimeoutError):
            tally.statuses[0] += 1
            return
        tally.statuses[status] += 1
        if status == 200:
            tally.latency_s.append(time.monotonic() - due)
            mean = pa.ipc.open_stream(content).read_all()["mean"].combine_chunks()
            got = mean.values.to_numpy().reshape(n, -1)
            tally.wrong += not np.array_equal(got, self._means[chosen])


if __name__ == "__main__":
    main()
