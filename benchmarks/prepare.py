"""Speed of `prepare` on a wide GCTX from an S3 server, compared with a bare h5py read of the same columns.

    python benchmarks/prepare.py [--size small|full] [--layout auto|rows|contiguous] [--json OUT]

`ratio_to_h5py` is wells/s of the whole prepare (tables, cleaning, pairing, reading, encoding, writing back to S3) over
rows/s of h5py reading the 978 landmark columns of the same object, block by block, in one process, through fsspec. The
matrix is random float32 with every chunk written, 12,328 genes wide, with scattered landmarks.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import machine, peak_memory, seconds, write
from tests.s3_server import BUCKET, S3Server, free_port

ROWS = {"small": 6_000, "full": 100_000}
N_GENES = 12_328
ROOT = f"s3://{BUCKET}/wide"
BLOCK_ROWS = 2000
LAYOUTS: dict[str, Any] = {"auto": True, "rows": (16, N_GENES), "contiguous": None}


def main() -> None:
    """Make the release, run each reader in its own process, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=ROWS, default="small")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="chunks of the matrix; auto: h5py's choice")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, options = arguments.measure
        print(json.dumps(MEASURES[what](json.loads(options))))
        return
    with tempfile.TemporaryDirectory() as scratch, S3Server(Path(scratch) / "s3", free_port()) as server:
        size_gb = make_release(Path(scratch), server, ROWS[arguments.size], LAYOUTS[arguments.layout])

        def measure(what: str) -> dict[str, Any]:
            command = [sys.executable, "-W", "ignore", __file__, "--measure", what, json.dumps(server.options)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
            print(what, found, file=sys.stderr, flush=True)
            return found

        before, prepared, after = measure("h5py"), measure("prepare"), measure("h5py")
    bare = (before["rows_per_s"] + after["rows_per_s"]) / 2
    result = {
        "what": f"{before['rows']} x {N_GENES} random float32, {size_gb:.2f} GB on SeaweedFS",
        "chunks": arguments.layout,
        "rows_per_s": prepared["rows_per_s"],
        "seconds": prepared["seconds"],
        "reading_and_writing_rows_per_s": prepared["reading_and_writing_rows_per_s"],
        "peak_pss_mb": prepared["peak_pss_mb"],
        "h5py_rows_per_s": round(bare, 1),
        "h5py_runs": [before["rows_per_s"], after["rows_per_s"]],
        "h5py_peak_pss_mb": before["peak_pss_mb"],
        "ratio_to_h5py": round(prepared["rows_per_s"] / bare, 3),
    }
    write(result | machine(), arguments.json)


def make_release(folder: Path, server: S3Server, n_rows: int, chunks: Any) -> float:
    """Put a release with simulated tables and a wide random matrix into the bucket; return its GB."""
    import h5py
    import pandas as pd
    import s3fs

    from ldm_ray.config import load_config
    from ldm_ray.data.releases.gctx import COLUMN_IDS, MATRIX, ROW_IDS, open_gctx
    from ldm_ray.data.simulate import simulate_release

    # Some wells of a release are controls or planted errors, so fewer profiles are asked for than rows are needed.
    config = load_config(None, [f"simulate.n_profiles={int(n_rows * 0.93)}", "simulate.n_cell_lines=12"])
    files = simulate_release(config.simulate, folder / "narrow", 0)
    ids = open_gctx(files.gctx).profile_ids[:n_rows]
    genes = pd.read_csv(files.gene_info, sep="\t", dtype=str)
    more = pd.DataFrame({"pr_gene_id": [str(980_000_001 + i) for i in range(N_GENES - len(genes))], "pr_is_lm": "0"})
    genes = pd.concat([genes, more.assign(pr_gene_symbol=more["pr_gene_id"])], ignore_index=True).fillna("x")
    genes.to_csv(folder / "gene_info.txt", sep="\t", index=False)
    rng = np.random.default_rng(0)
    path = folder / "wide.gctx"
    with h5py.File(path, "w") as file:
        file.create_dataset(ROW_IDS, data=rng.permutation(genes["pr_gene_id"].to_numpy(dtype="S")))
        file.create_dataset(COLUMN_IDS, data=ids.astype("S"))
        matrix = file.create_dataset(MATRIX, (len(ids), N_GENES), "f4", chunks=chunks)
        for start in range(0, len(ids), BLOCK_ROWS):
            shape = (min(BLOCK_ROWS, len(ids) - start), N_GENES)
            matrix[start : start + BLOCK_ROWS] = 2 + 12 * rng.random(shape, dtype=np.float32)
    size_gb = path.stat().st_size / 1e9
    fs = s3fs.S3FileSystem(**server.options["s3"])
    for local in (path, folder / "gene_info.txt", files.inst_info, files.pert_info):
        name = {files.inst_info: "inst_info.txt", files.pert_info: "pert_info.txt"}.get(local, local.name)
        fs.put_file(str(local), f"{ROOT.removeprefix('s3://')}/{name}")
        local.unlink()
    files.gctx.unlink()
    return size_gb


def bare(options: dict[str, Any]) -> dict[str, Any]:
    """Read the landmark columns with h5py alone, block by block."""
    import fsspec
    import h5py
    import pandas as pd

    from ldm_ray.data.releases.gctx import MATRIX, ROW_IDS

    fs, path = fsspec.core.url_to_fs(f"{ROOT}/wide.gctx", **options["s3"])
    genes = pd.read_csv(fs.open(f"{path.rsplit('/', 1)[0]}/gene_info.txt"), sep="\t", dtype=str)
    landmarks = genes.loc[genes["pr_is_lm"] == "1", "pr_gene_id"]
    with peak_memory() as peak, fs.open(path, "rb") as raw, h5py.File(raw, "r") as file:
        place = {name: i for i, name in enumerate(file[ROW_IDS].asstr()[:])}
        columns = np.array([place[name] for name in landmarks])
        matrix, rows = file[MATRIX], 0
        started = time.monotonic()
        for start in range(0, matrix.shape[0], BLOCK_ROWS):
            rows += len(matrix[start : start + BLOCK_ROWS][:, columns])
        took = seconds(started)
    return {"rows": rows, "rows_per_s": round(rows / took, 1), "peak_pss_mb": round(peak.mb, 1)}


def prepared(options: dict[str, Any]) -> dict[str, Any]:
    """Prepare from the bucket into the bucket."""
    from ldm_ray.cluster.batch.prepare import part_runner
    from ldm_ray.config import load_config
    from ldm_ray.data.prepare import prepare
    from ldm_ray.data.releases.l1000 import read_l1000
    from ldm_ray.storage.source import source_file

    # Small files, so that both cores have parts to write; with Ray, however few there are.
    config = load_config(None, ["prepare.workers=2", "prepare.rows_per_file=8192", "ray.object_store_mb=256"])
    config = config.model_copy(update={"storage_options": options})
    first: list[float] = []
    with peak_memory() as peak:
        started = time.monotonic()
        names = ("wide.gctx", "inst_info.txt", "pert_info.txt", "gene_info.txt")
        release = read_l1000(*(source_file(f"{ROOT}/{name}", options) for name in names))
        run = part_runner(config)

        def timed(writer: Any, parts: Any) -> Any:
            first.append(time.monotonic())
            yield from run(writer, parts)
            first.append(time.monotonic())

        manifest = prepare(release, f"{ROOT}/data", config, overwrite=True, run=timed)
        took = seconds(started)
    wells = len(release.wells)
    return {
        "profiles": manifest["n_profiles"],
        "seconds": round(took, 1),
        "rows_per_s": round(wells / took, 1),
        "reading_and_writing_rows_per_s": round(wells / (first[1] - first[0]), 1),
        "peak_pss_mb": round(peak.mb, 1),
    }


MEASURES = {"h5py": bare, "prepare": prepared}

if __name__ == "__main__":
    main()
