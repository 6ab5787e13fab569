"""Time of a training step with 1, 2 and 4 workers with equal work each, and a model of up to 64 GPUs.

    python benchmarks/scaling.py [--size small|full] [--json OUT]

Each worker takes 128 rows per step of the demo's diffusion model (made-up wells, real arithmetic) in the project's own
loop, under Ray Train with gloo. More workers than cores share the cores, so the same is measured with as many processes
that do not communicate (`step_ms_without_talk`).

The model (docs/scaling.md): step_ms(n) = compute_ms + 2 (n - 1) / n x gradient_bytes / bandwidth + 2 (n - 1) x latency,
a ring of n workers without overlap of communication (Patarasuk & Yuan 2009, doi:10.1016/j.jpdc.2008.09.002).
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import Tensor

from benchmarks.machine import machine, write
from ldm_ray.config import Config, load_config
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.training.loop import run_fit, start_fit
from ldm_ray.training.rows import LatentRows, Rows, Tables
from ldm_ray.training.source import EpochPlan
from ldm_ray.training.steps import Latents, LdmTask

WORKERS = (1, 2, 4)
ROWS, N_GENES, WARMUP = 128, 978, 20
STEPS = {"small": 100, "full": 300}
GPUS = (1, 8, 16, 32, 64)
BANDWIDTHS_GB_S = {"10 Gb/s Ethernet": 1.25, "100 Gb/s": 12.5, "NVLink within a node": 200.0}
LATENCY_US = 20.0


class MadeUpWells:
    """One worker's wells: a new batch at each step, and a few for validation."""

    device = torch.device("cpu")

    def __init__(self, steps: int, latent_dim: int) -> None:
        self.plan, self._latent_dim = EpochPlan(steps=steps, dropped=0), latent_dim

    def count(self, split: str) -> int:
        """Return the number of wells in a split."""
        return ROWS

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Rows]:
        """Yield the batches of an epoch."""
        for step in range(first_step, self.plan.steps):
            yield made_up_rows(step, self._latent_dim)

    def sweep(self, split: str) -> Iterator[Rows]:
        """Yield each well once."""
        yield made_up_rows(0, self._latent_dim)


def made_up_rows(seed: int, latent_dim: int) -> Rows:
    """Return a batch of encoded wells."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(64, (ROWS,), generator=generator)
    values = torch.randn(ROWS, 2 * latent_dim, generator=generator)
    ones = torch.ones(ROWS)
    keys = torch.arange(ROWS) + seed
    return LatentRows(keys=keys, moments=values, basal=index, compound=index, dose_um=10 * ones, time_h=24 * ones)


class Clock:
    """Hooks that record when each step ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        """Record the time."""
        self.ended.append(time.perf_counter())

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        """Keep nothing."""

    @property
    def step_ms(self) -> float:
        """Median time of a step after the first ones."""
        ended = self.ended[WARMUP:]
        return 1000 * statistics.median(after - before for before, after in itertools.pairwise(ended))


def steps(config: Config, n_steps: int) -> dict[str, float]:
    """Train for `n_steps` steps; return their median time and the bytes of a gradient."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tables = Tables(*(torch.randn(64, width) for width in (N_GENES, N_GENES, config.encoder.n_bits, N_GENES)))
    vae = Vae(N_GENES, config.vae).eval().requires_grad_(requires_grad=False)
    task = LdmTask(LatentDiffusion(N_GENES, config.encoder.n_bits, config), Latents(vae, tables), tables, config)
    settings = config.train_ldm.model_copy(update={"epochs": 1, "checkpoint_every_steps": 10**9})
    clock, fit = Clock(), start_fit(task.module, settings)
    run_fit(fit, task, MadeUpWells(n_steps, config.vae.latent_dim), settings, 0, clock)
    return {"step_ms": clock.step_ms, "gradient_bytes": 4.0 * sum(value.numel() for value in fit.module.parameters())}


def train(arguments: dict[str, Any]) -> None:
    """Entry point of a Ray Train worker; writes a file, since metrics without a checkpoint do not reach the driver."""
    measured = steps(arguments["config"], arguments["steps"])
    if ray.train.get_context().get_world_rank() == 0:
        Path(arguments["out"]).write_text(json.dumps(measured))


def talking(workers: int, config: Config, n_steps: int) -> dict[str, float]:
    """Measure under Ray Train."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        TorchTrainer(
            train,
            train_loop_config={"config": config, "steps": n_steps, "out": str(out)},
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=f"scaling-{workers}", storage_path=folder),
        ).fit()
        return dict(json.loads(out.read_text()))


def silent(workers: int, config: Config, n_steps: int) -> float:
    """Measure as many processes that do not communicate; return the median over them."""
    ended = ray.get([ray.remote(steps).remote(config, n_steps) for _ in range(workers)])
    return statistics.median(result["step_ms"] for result in ended)


def modelled_step_ms(compute_ms: float, gradient_bytes: float, workers: int, gb_per_s: float) -> float:
    """Return the time of a step of n workers in a ring; see the top of this file."""
    moved = 2 * (workers - 1) / workers * gradient_bytes / (gb_per_s * 1e9)
    return compute_ms + 1000 * moved + 2 * (workers - 1) * LATENCY_US / 1000


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=STEPS, default="small")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config, n_steps = load_config("demo"), STEPS[arguments.size]
    ray.init(num_cpus=max(WORKERS) + 1, object_store_memory=300 * 2**20, logging_level="ERROR", log_to_driver=False)
    silent(1, config, n_steps)  # imports
    with_talk = {n: talking(n, config, n_steps) for n in WORKERS}
    alone = {n: silent(n, config, n_steps) for n in WORKERS}
    result: dict[str, Any] = {"size": arguments.size} | machine()
    gradient = with_talk[1]["gradient_bytes"]
    compute = with_talk[1]["step_ms"]
    result |= {
        "rows_per_worker": ROWS,
        "gradient_bytes": gradient,
        "step_ms": {n: own["step_ms"] for n, own in with_talk.items()},
        "step_ms_without_talk": alone,
        "overhead_ms": {n: own["step_ms"] - compute for n, own in with_talk.items()},
        "talk_ms": {n: own["step_ms"] - alone[n] for n, own in with_talk.items()},
        "talk_gb_per_s": {n: 2 * (n - 1) / n * gradient / (own["step_ms"] - alone[n]) / 1e6
                          for n, own in with_talk.items() if n > 1},
        "model": {
            "compute_ms": compute,
            "latency_us": LATENCY_US,
            "efficiency": {
                link: {n: compute / modelled_step_ms(compute, gradient, n, speed) for n in GPUS}
                for link, speed in BANDWIDTHS_GB_S.items()
            },
        },
    }  # fmt: skip
    write(result, arguments.json)


if __name__ == "__main__":
    main()
