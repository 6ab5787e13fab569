"""Conditions per second that bulk prediction writes to S3, as a share of the sampler's speed in one process.

    python benchmarks/bulk.py [--bundle demo/ldm] [--data demo/data] [--size small|full] [--json OUT]

One latent sample per condition, the bundle's own sampler, means as Parquet on an S3 server on this machine. The
reference is the sampler in this process with all cores, on conditions that are already read and checked; it includes
encoding, as in `samplers.json`, but neither reads nor writes. `rows_per_s_steady` leaves out the start of Ray, of its
actors and of the first parts. The S3 server shares the cores with the actors, so everything is repeated with a local
folder (`*_folder`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd

from benchmarks.machine import machine, write
from ldm_ray.data.dataset import open_dataset
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.storage.store import Store
from tests.s3_server import S3Server, free_port

ROWS = {"small": 40_000, "full": 200_000}
ROWS_PER_PART = 4000
REFERENCE_ROWS, REFERENCE_S = 4096, 5.0
FIRST_PARTS, POLL_S = 2, 0.4  # listing uses the cores being measured


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="demo/ldm")
    parser.add_argument("--data", default="demo/data")
    parser.add_argument("--size", choices=ROWS, default="small")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    frame = conditions(arguments.bundle, arguments.data, ROWS[arguments.size])
    before = sampler_rows_per_s(arguments.bundle, frame)
    with tempfile.TemporaryDirectory() as folder, S3Server(Path(folder) / "s3", free_port()) as server:
        took, steady = bulk("s3://ldm-ray/bulk", server, arguments.bundle, frame, Path(folder))
    between = sampler_rows_per_s(arguments.bundle, frame)
    with tempfile.TemporaryDirectory() as folder:
        _, steady_folder = bulk(f"{folder}/bulk", None, arguments.bundle, frame, Path(folder))
    after = sampler_rows_per_s(arguments.bundle, frame)
    sampler, sampler_folder = (before + between) / 2, (between + after) / 2
    result: dict[str, Any] = {"size": arguments.size} | machine()
    result |= {
        "share_of_sampler": steady / sampler,
        "share_of_sampler_folder": steady_folder / sampler_folder,
        "n_rows": len(frame),
        "rows_per_s_steady": steady,
        "rows_per_s_steady_folder": steady_folder,
        "rows_per_s_with_start": len(frame) / took,
        "sampler_rows_per_s": sampler,
        "sampler_rows_per_s_folder": sampler_folder,
        "wall_s": took,
    }
    write(result, arguments.json)


def conditions(bundle: str, data: str, n: int) -> pd.DataFrame:
    """Draw training compounds on known cell lines at random doses."""
    reader, rng = Predictor.from_bundle(bundle, "cpu").reader, np.random.default_rng(0)
    smiles = np.array(open_dataset(data).parent_smiles)
    return pd.DataFrame(
        {
            "smiles": rng.choice(smiles, n),
            "cell": rng.choice(reader.cell_lines, n),
            "dose_um": np.round(10 ** rng.uniform(-2, 2, n), 4),
            "time_h": 24.0,
        }
    )


def sampler_rows_per_s(bundle: str, frame: pd.DataFrame) -> float:
    """Measure conditions per second of the sampler alone."""
    predictor = Predictor.from_bundle(bundle, "cpu")
    asked = frame[["smiles", "dose_um", "time_h", "cell"]][:REFERENCE_ROWS]
    queries = [Query(*row) for row in asked.itertuples(index=False, name=None)]
    prepared = [predictor.reader.prepare(query) for query in queries]
    how = predictor.sampling(1, None, 0)
    predictor.sample(prepared, how)
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < REFERENCE_S:
        predictor.sample(prepared, how)
        rounds += 1
    return rounds * len(queries) / (time.perf_counter() - began)


def bulk(out: str, server: S3Server | None, bundle: str, frame: pd.DataFrame, folder: Path) -> tuple[float, float]:
    """Return seconds of the whole command, and rows per second after the first parts."""
    frame.to_parquet(folder / "conditions.parquet")
    environment, options = (server.environment, server.options) if server else ({}, {})
    command = [sys.executable, "-m", "ldm_ray.cli", "predict", "--bundle", bundle, "--out", out, "--n-samples", "1"]
    command += ["--conditions", str(folder / "conditions.parquet"), "--set", f"predict.rows_per_part={ROWS_PER_PART}"]
    command += ["--set", "predict.columns=[mean]", "--json"]
    n_parts, seen = -(-len(frame) // ROWS_PER_PART), [(0.0, 0)]
    began = time.monotonic()
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            store = Store(out, options)
            n = sum(name.startswith("part-") for name in store.names())
            if n > seen[-1][1]:
                seen.append((time.monotonic(), n))
            time.sleep(POLL_S)
        took = time.monotonic() - began
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["n_predicted"] == len(frame)
    first = next(at for at in seen if at[1] >= FIRST_PARTS)
    last = seen[-1]
    assert last[1] == n_parts
    return took, (last[1] - first[1]) * ROWS_PER_PART / (last[0] - first[0])


if __name__ == "__main__":
    main()
