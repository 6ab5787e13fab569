"""Speed of streaming treated wells from an S3 server to training workers, compared with a bare scan of the same files.

    python benchmarks/stream.py [--size small|full] [--folder KEEP] [--json OUT]

`ratio_to_pyarrow_scan` is rows/s through Ray Data, shuffled, over rows/s of one process that scans the same Parquet
files from the same server with `pyarrow.dataset` into torch batches of the same size and columns, unshuffled. Scans and
streams alternate, and medians are compared. The dataset is simulated, with all wells in the training split.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import machine, peak_memory, seconds, write
from tests.s3_server import BUCKET, S3Server, free_port

ROWS = {"small": 60_000, "full": 836_841}
FEW_ROWS = {"small": 20_000, "full": 200_000}
BATCH = 256
OBJECT_STORE_MB = 1024
ROUNDS = 3
ROW_BYTES = 978 * 4


def main() -> None:
    """Make the dataset, run each measurement in its own process, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=ROWS, default="small")
    parser.add_argument("--folder", type=Path, help="keep the server's data here, and reuse it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, options, url, rows = arguments.measure
        print(json.dumps(MEASURES[what](url, json.loads(options), int(rows))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        with S3Server(folder / "s3", free_port()) as server:
            n_rows, few = ROWS[arguments.size], FEW_ROWS[arguments.size]
            url = f"s3://{BUCKET}/stream-{n_rows}"
            made = make_dataset(url, server, n_rows, folder)

            def measure(what: str, rows: int = n_rows) -> dict[str, Any]:
                command = [sys.executable, "-W", "ignore", __file__, "--measure", what, json.dumps(server.options)]
                run = subprocess.run([*command, url, str(rows)], stdout=subprocess.PIPE, text=True, check=True)
                found: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
                print(what, rows, found, file=sys.stderr, flush=True)
                return found

            scans, ones, twos = [], [], []
            for _ in range(ROUNDS):
                scans.append(measure("scan"))
                ones.append(measure("one"))
                twos.append(measure("two"))
            few_rows = [measure("one", few), measure("two", few)]
            resident = measure("resident")
    write(summary(n_rows, few, scans, ones, twos, few_rows, resident) | {"made": made} | machine(), arguments.json)


def summary(
    n_rows: int,
    few: int,
    scans: list[dict[str, Any]],
    ones: list[dict[str, Any]],
    twos: list[dict[str, Any]],
    few_rows: list[dict[str, Any]],
    resident: dict[str, Any],
) -> dict[str, Any]:
    """Return the figures to record."""

    def middle(runs: list[dict[str, Any]], key: str) -> float:
        return round(statistics.median(run[key] for run in runs), 1)

    scan = middle(scans, "rows_per_s")
    result: dict[str, Any] = {
        "what": f"{n_rows} wells x 978 float32 from SeaweedFS on the same two cores, batches of {BATCH}",
        "object_store_mb": OBJECT_STORE_MB,
        "pyarrow_scan_rows_per_s": scan,
        "pyarrow_scan_runs": [run["rows_per_s"] for run in scans],
        "pyarrow_scan_peak_pss_mb": middle(scans, "peak_pss_mb"),
        "ratio_to_pyarrow_scan": round(middle(ones, "rows_per_s") / scan, 3),
    }
    for name, runs, at_few in (("one_consumer", ones, few_rows[0]), ("two_consumers", twos, few_rows[1])):
        rate = middle(runs, "rows_per_s")
        result[name] = {
            "rows_per_s": rate,
            "rows_per_s_runs": [run["rows_per_s"] for run in runs],
            "mb_per_s": round(rate * ROW_BYTES / 1e6, 1),
            "ratio_to_pyarrow_scan": round(rate / scan, 3),
            "cold_rows_per_s": middle(runs, "cold_rows_per_s"),
            "peak_pss_mb": middle(runs, "peak_pss_mb"),
            f"peak_pss_mb_at_{few}_rows": round(at_few["peak_pss_mb"], 1),
            "peak_growth": round(middle(runs, "peak_pss_mb") / at_few["peak_pss_mb"], 3),
        }
    return result | {"resident": resident}


def make_dataset(url: str, server: S3Server, n_rows: int, folder: Path) -> dict[str, float]:
    """Simulate a release and prepare it into the bucket, with all wells in the training split."""
    from ldm_ray.cluster.batch.prepare import part_runner
    from ldm_ray.config import load_config
    from ldm_ray.data.prepare import prepare
    from ldm_ray.data.releases.l1000 import read_l1000
    from ldm_ray.data.simulate import simulate_release
    from ldm_ray.storage.store import Store

    if Store(url, server.options).exists("manifest.json"):
        return {}
    cells = 82 if n_rows > 500_000 else 12
    overrides = [f"simulate.n_profiles={n_rows}", f"simulate.n_cell_lines={cells}"]
    overrides += ["splits.test_fraction=0", "splits.valid_fraction=0"]
    config = load_config(None, overrides).model_copy(update={"storage_options": server.options})
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        started = time.monotonic()
        files = simulate_release(config.simulate, Path(scratch) / "release", 0)
        simulated = seconds(started)
        release = read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info)
        started = time.monotonic()
        prepare(release, url, config, run=part_runner(config))
        return {"simulate_s": round(simulated, 1), "prepare_s": round(seconds(started), 1)}


def scan(url: str, options: dict[str, Any], rows: int) -> dict[str, Any]:
    """Scan in this process, with pyarrow at its simplest and fastest."""
    import pyarrow.dataset as pads
    import torch

    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.data.slices import ID_COLUMNS

    dataset = open_dataset(url, options)
    fs, _ = dataset.store.arrow()
    files = pads.dataset(dataset.profile_paths, filesystem=fs, format="parquet")
    columns, n = [*ID_COLUMNS, "expression"], 0
    with peak_memory() as peak:
        started = time.monotonic()
        for block in files.to_batches(columns=columns):
            small = [torch.from_numpy(block[name].to_numpy(zero_copy_only=False).copy()) for name in ID_COLUMNS]
            values = torch.from_numpy(block["expression"].flatten().to_numpy().reshape(-1, 978).copy())
            for parts in zip(*(column.split(BATCH) for column in (*small, values)), strict=True):
                n += len(parts[0])
        took = seconds(started)
    assert n == rows
    return {"rows_per_s": round(n / took, 1), "peak_pss_mb": round(peak.mb, 1)}


def stream(url: str, options: dict[str, Any], rows: int, world_size: int) -> dict[str, Any]:
    """Stream an epoch to actors in the place of training workers, once cold and once warm."""
    import ray

    from ldm_ray.cluster.connect import connect
    from ldm_ray.cluster.placement import cpus_per_worker
    from ldm_ray.config import load_config

    config = load_config(None, ["ingest.mode=stream", f"ray.object_store_mb={OBJECT_STORE_MB}"])
    config = config.model_copy(update={"storage_options": options})
    with peak_memory() as peak:
        connect(config.ray)
        consumer = ray.remote(Consumer).options(num_cpus=cpus_per_worker(world_size))
        consumers = [consumer.remote(url, config, rank, world_size, rows) for rank in range(world_size)]
        ray.get([actor.ready.remote() for actor in consumers])
        rates = []
        for epoch in range(2):
            started = time.monotonic()
            counts = ray.get([actor.epoch.remote(epoch) for actor in consumers])
            rates.append(sum(counts) / seconds(started))
            assert sum(counts) == rows // (BATCH * world_size) * BATCH * world_size
        ray.shutdown()
    return {
        "cold_rows_per_s": round(rates[0], 1),
        "rows_per_s": round(rates[1], 1),
        "peak_pss_mb": round(peak.mb, 1),
    }


class Consumer:
    """Takes batches and does nothing with them."""

    def __init__(self, url: str, config: Any, rank: int, world_size: int, rows: int) -> None:
        import torch

        from ldm_ray.cluster.train.ingest import open_source
        from ldm_ray.data.dataset import open_dataset
        from ldm_ray.data.slices import profile_files
        from ldm_ray.training.source import stream_plan

        torch.set_num_threads(1)
        files = profile_files(open_dataset(url, config.storage_options), config.ingest)
        settings = config.train_vae.model_copy(update={"global_batch_size": BATCH * world_size})
        source = open_source(files, {}, config, settings, rank, world_size, torch.device("cpu"))
        from dataclasses import replace

        self.source = replace(source, plan=stream_plan(rows, BATCH * world_size, world_size))

    def ready(self) -> bool:
        """Return once the actor has started."""
        return True

    def epoch(self, epoch: int) -> int:
        """Take an epoch's batches; return the number of rows."""
        return sum(len(batch) for batch in self.source.batches(epoch))


def resident(url: str, options: dict[str, Any], rows: int) -> dict[str, Any]:
    """Hold all wells in one process; compare an epoch with a plain index_select of as many values."""
    import torch

    from ldm_ray.cluster.connect import connect
    from ldm_ray.cluster.train.ingest import collect, own_keys, stream_tables
    from ldm_ray.cluster.train.stream import sorted_keys
    from ldm_ray.config import load_config
    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.data.slices import profile_files
    from ldm_ray.training.source import ResidentSource, lane_plan

    config = load_config(None, ["ingest.mode=resident", f"ray.object_store_mb={OBJECT_STORE_MB}"])
    connect(config.ray)
    dataset = open_dataset(url, options)
    files, keys = profile_files(dataset, config.ingest), sorted_keys(dataset, "train")
    started = time.monotonic()
    own = own_keys(keys, 16, 0, 1)
    held = collect(stream_tables(files, files.slices("train")), files, own, "train")
    collected = seconds(started)
    lane = torch.arange(len(own)) % 16
    source = ResidentSource({"train": held}, lane, lane_plan(len(own), 16, BATCH, 1), BATCH // 16, 0)
    rates, bounds = [], []
    for epoch in range(1, ROUNDS + 1):
        order = torch.randperm(len(own))
        started = time.monotonic()
        n = sum(len(held.expression.index_select(0, index)) for index in order.split(BATCH))
        bounds.append(n / seconds(started))
        started = time.monotonic()
        n = sum(len(batch) for batch in source.batches(epoch))
        rates.append(n / seconds(started))
    rate, bound = statistics.median(rates), statistics.median(bounds)
    return {
        "collect_rows_per_s": round(rows / collected, 1),
        "rows_per_s": round(rate, 1),
        "index_select_rows_per_s": round(bound, 1),
        "ratio_to_index_select": round(rate / bound, 3),
    }


MEASURES = {
    "scan": scan,
    "one": lambda url, options, rows: stream(url, options, rows, 1),
    "two": lambda url, options, rows: stream(url, options, rows, 2),
    "resident": resident,
}

if __name__ == "__main__":
    main()
