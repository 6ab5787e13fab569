"""Speed-up of diffusion training by cached latents: steps/s with latents over steps/s with the encoder in the loop.

    python benchmarks/latents.py [--size small|full] [--json OUT]

Real Ray Train runs of the shipped model with one worker, uncached and cached in turn. steps/s leave out the first epoch
of each run. `loss_difference` is the largest relative difference between the two validation curves.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import machine, write

PROFILES = {"small": 4000, "full": 24_000}
EPOCHS = {"small": 4, "full": 6}
MODES = {
    "resident": ("ingest.mode=resident",),
    "stream": ("ingest.mode=stream",),
}


def main() -> None:
    """Train uncached and cached, resident and streamed, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=PROFILES, default="small")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"what": f"{PROFILES[arguments.size]} simulated wells, default model, one worker"}
    with tempfile.TemporaryDirectory() as scratch:
        result |= run(Path(scratch), PROFILES[arguments.size], EPOCHS[arguments.size])
    write(result | machine(), arguments.json)


def run(folder: Path, profiles: int, epochs: int) -> dict[str, Any]:
    """Train each pair and compare."""
    from ldm_ray.cluster.batch.embed import embed
    from ldm_ray.cluster.train.run import Run, train
    from ldm_ray.config import load_config
    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.data.prepare import prepare
    from ldm_ray.data.releases.l1000 import read_l1000
    from ldm_ray.data.simulate import simulate_release

    shared = [f"simulate.n_profiles={profiles}", "ray.num_workers=1", "train_vae.epochs=4"]
    shared += [f"train_ldm.epochs={epochs}", "ray.lanes=16"]
    config = load_config(None, shared)
    files = simulate_release(config.simulate, folder / "release", 0)
    prepare(read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info), str(folder / "data"), config)
    dataset = open_dataset(str(folder / "data"))
    embed(dataset, config)
    vae = train(Run(kind="vae", dataset=dataset, out=str(folder / "vae"), config=config))
    found: dict[str, Any] = {}
    for mode, overrides in MODES.items():
        runs = {}
        for name in ("uncached", "cached"):
            settings = [*shared, *overrides, f"ingest.latents={str(name == 'cached').lower()}"]
            times: dict[int, float] = {}

            def note(status: dict[str, Any], times: dict[int, float] = times) -> None:
                if "step" in status:
                    times.setdefault(int(status["step"]), time.monotonic())

            out = str(folder / f"{mode}-{name}")
            bundle = train(
                Run(kind="ldm", dataset=dataset, vae=vae, out=out, config=load_config(None, settings), on_status=note)
            )
            history = bundle.metadata["history"]
            per_epoch = int(history[0]["step"])
            late = {step: at for step, at in times.items() if step > per_epoch}
            rate = (max(late) - min(late)) / (late[max(late)] - late[min(late)])
            runs[name] = {"steps_per_s": round(rate, 1), "valid_loss": [round(row["valid_loss"], 6) for row in history]}
        curves = zip(runs["uncached"]["valid_loss"], runs["cached"]["valid_loss"], strict=True)
        ratio = runs["cached"]["steps_per_s"] / runs["uncached"]["steps_per_s"]
        found[mode] = runs | {
            "ratio_to_uncached": round(ratio, 3),
            "loss_difference": max(abs(a - b) / abs(a) for a, b in curves),
        }
    found["ratio_to_uncached"] = round(statistics.median(found[mode]["ratio_to_uncached"] for mode in MODES), 3)
    return found


if __name__ == "__main__":
    main()
