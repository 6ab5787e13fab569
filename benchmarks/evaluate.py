"""Speed and memory of the evaluation suite.

    python benchmarks/evaluate.py [--size small|full] [--json OUT]

Scores every baseline, a diffusion model of the default size with random weights (speed does not depend on training),
its ablations and the oracle on a simulated dataset's test wells, in blocks on Ray; `full` scores 200,000 wells. Two
samples per well in 5 steps, so that the suite and not the sampler is measured. The reference is the least that any
scoring must do: read the same wells once from the same files and compute the squared error of one prediction.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import machine, peak_memory, seconds, write

WELLS = {"small": 4_000, "full": 200_000}
TEST_FRACTION = {"small": 0.5, "full": 0.8}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=WELLS, default="small")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write({"size": arguments.size} | machine() | measure(Path(folder), arguments.size), arguments.json)


def measure(folder: Path, size: str) -> dict[str, Any]:
    """Simulate, prepare and score."""
    import torch

    from ldm_ray.bundle.bundle import Bundle, prefixed
    from ldm_ray.bundle.metadata import answering_parts, dataset_metadata
    from ldm_ray.cluster.batch.evaluate import block_runner
    from ldm_ray.cluster.batch.prepare import part_runner
    from ldm_ray.config import load_config
    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.data.prepare import prepare
    from ldm_ray.data.releases.l1000 import read_l1000
    from ldm_ray.data.simulate import simulate_release
    from ldm_ray.evaluation.suite import evaluate
    from ldm_ray.models.ldm import LatentDiffusion
    from ldm_ray.models.vae import Vae

    total = int(WELLS[size] / TEST_FRACTION[size])
    config = load_config(None, [
        f"simulate.n_profiles={total}", "simulate.n_cell_lines=20", f"simulate.n_compounds={max(60, total // 50)}",
        f"splits.test_fraction={TEST_FRACTION[size]}", "splits.valid_fraction=0.05", "predict.steps=5",
        f"evaluate.max_profiles={WELLS[size]}", "evaluate.n_samples=[2]", "predict.rows_per_batch=4096",
    ])  # fmt: skip
    files = simulate_release(config.simulate, folder / "release", 0)
    release = read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info)
    prepare(release, str(folder / "data"), config, run=part_runner(config))
    files.gctx.unlink()
    dataset = open_dataset(str(folder / "data"))
    torch.manual_seed(0)
    answering, tensors = answering_parts(dataset, config)
    tensors |= prefixed("vae.", Vae(dataset.n_genes, config.vae))
    tensors |= prefixed("ldm.", LatentDiffusion(dataset.n_genes, answering["encoder"]["dim"], config))
    tensors |= {"noise.factor": torch.zeros(dataset.n_genes, 1), "noise.sd": torch.full((dataset.n_genes,), 0.8)}
    metadata = dataset_metadata(dataset) | answering | {"history": [], "best_epoch": 0}
    bundle = Bundle("ldm", config, metadata, tensors)
    stages: dict[str, float] = {}
    started = time.monotonic()

    def on_progress(what: str, done: int, of: int) -> None:
        stages[what] = seconds(started)

    with peak_memory() as peak:
        metrics = evaluate(dataset, [bundle], config.evaluate, 0, on_progress, block_runner(config)).metrics
    wall_s = seconds(started)
    reference_s = read_and_square(dataset, config.evaluate.max_profiles)
    return {
        "n_wells": metrics["n_profiles"],
        "n_rows": len(metrics["rows"]),
        "n_train_wells": dataset.manifest["splits"]["split"]["train"],
        "wall_s": round(wall_s, 1),
        "wells_per_s": round(metrics["n_profiles"] / wall_s, 1),
        "peak_mb": round(peak.mb),
        "all_wells_once_mb": round(metrics["n_profiles"] * dataset.n_genes * 4 / 1e6),
        "stage_ends_s": {name: round(value, 1) for name, value in stages.items()},
        "reference_wells_per_s": round(metrics["n_profiles"] / reference_s, 1),
        "ratio": round(reference_s / wall_s, 4),
    }


def read_and_square(dataset: Any, max_profiles: int) -> float:
    """Read the scored wells once and compute the squared error of copying the control; returns seconds."""
    from ldm_ray.data.wells import open_wells
    from ldm_ray.evaluation.scores.metrics import squared_error_per_profile

    started = time.monotonic()
    for wells in open_wells(dataset, "test", max_profiles).stream(4096):
        squared_error_per_profile(wells.y, wells.basal)
    return seconds(started)


if __name__ == "__main__":
    main()
