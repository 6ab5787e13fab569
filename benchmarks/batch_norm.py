"""Time of a training step of preset `paper` with one and two workers, and what batch normalisation adds to it.

    python benchmarks/batch_norm.py [--size small|full] [--json OUT]

Two gloo processes of one thread each share a global batch of 256 made-up wells, in the published sizes. They alternate
between three ways of normalising, so that all see the same machine:

- `one_by_one`: the reference, as this project did it before: each layer sums its mean, then its variance, and likewise
  backwards;
- `together`: as the model does it; layers of equal depth share one exchange each way;
- `in_groups`: with `denoiser.norm_groups=2`; each worker normalises its own rows, and running moments are exchanged.

`ratio_to_one_by_one` is steps/s of `together` over those of the reference, `ratio_in_groups` that of `in_groups`.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import machine, write
from ldm_ray.config import load_config
from ldm_ray.models.batch_norm import GlobalBatchNorm, share_running_moments
from ldm_ray.models.blocks import HiddenBlock
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.training.gradients import Gradients
from ldm_ray.training.loop import start_fit
from ldm_ray.training.rows import LatentRows, Tables
from ldm_ray.training.steps import Latents, LdmTask
from tests.s3_server import free_port

N_GENES, N_CONDITIONS, ROWS, WARMUP = 978, 64, 256, 3
ROUNDS = {"small": 4, "full": 20}
STEPS_A_ROUND = 10


class OneByOne(GlobalBatchNorm):
    """The reference: mean and variance of each layer are summed one after the other, and so are their gradients."""

    exchanges = False  # so that layers are not taken together

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (batch, features)."""
        count = len(input) * dist.get_world_size()
        mean = Sum.apply(input.sum(dim=0)) / count
        centred = input - mean
        var = Sum.apply((centred**2).sum(dim=0)) / count
        with torch.no_grad():
            self.update_running(mean, var, count)
        out: Tensor = centred * torch.rsqrt(var + self.eps) * self.weight + self.bias
        return out


class Sum(torch.autograd.Function):
    """Sum over workers; the gradient of a sum is again a sum over workers."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Sum a copy."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Sum the gradient."""
        return Sum.forward(ctx, gradients[0].contiguous())


class InGroups(GlobalBatchNorm):
    """A group of rows for each of two workers."""

    groups = lanes = 2


WAYS = {"one_by_one": OneByOne, "together": GlobalBatchNorm, "in_groups": InGroups}


class Trainer:
    """The model of preset `paper`, trained on this worker's part of one batch."""

    def __init__(self, norm: type[GlobalBatchNorm], rank: int, workers: int) -> None:
        config = load_config(None, ["preset=paper"])
        generator = torch.Generator().manual_seed(1)
        widths = (N_GENES, N_GENES, config.encoder.n_bits, N_GENES)
        tables = Tables(*(torch.rand(N_CONDITIONS, width, generator=generator) for width in widths))
        model = LatentDiffusion(N_GENES, config.encoder.n_bits, config)
        for block in model.modules():
            if isinstance(block, HiddenBlock):
                block.norm = norm(block.linear.out_features)
        task = LdmTask(model, Latents(Vae(N_GENES, config.vae), tables), tables, config)
        module = task.module.train()
        wrapped = DistributedDataParallel(module, broadcast_buffers=False) if workers > 1 else module
        self._fit = start_fit(module, config.train_ldm)
        self._gradients = Gradients(task, wrapped, config.train_ldm.gradient_clip_norm, seed=0)
        index = torch.randint(N_CONDITIONS, (ROWS,), generator=generator)
        rows = LatentRows(
            keys=torch.arange(ROWS),
            moments=torch.randn(ROWS, 2 * config.vae.latent_dim, generator=generator),
            basal=index,
            compound=index,
            dose_um=10 ** (3 * torch.rand(ROWS, generator=generator) - 1),
            time_h=torch.where(index % 2 == 0, 6.0, 24.0),
        )
        self._rows = rows.take(torch.arange(rank, ROWS, workers))

    def step(self, epoch: int) -> None:
        """Train one step."""
        self._gradients(self._rows, epoch)
        self._fit.optimiser.step()
        share_running_moments(self._fit.module)
        self._fit.ema.update()


def work(rank: int, workers: int, port: int, ways: tuple[str, ...], rounds: int, out: str) -> None:
    """Time the ways in turn; the first worker writes the milliseconds of all steps, and the exchanges of one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if workers > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=workers)
    trainers = {way: Trainer(WAYS[way], rank, workers) for way in ways}
    found: dict[str, dict[str, Any]] = {way: {"ms": [], "exchanges": 0} for way in ways}
    for trainer in trainers.values():
        for step in range(WARMUP):
            trainer.step(step)
    for _ in range(rounds):
        for way, trainer in trainers.items():
            for step in range(STEPS_A_ROUND):
                started = time.perf_counter()
                trainer.step(step)
                found[way]["ms"].append(1000 * (time.perf_counter() - started))
    for way, trainer in trainers.items():
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            trainer.step(0)
        events = profiled.key_averages()
        found[way]["exchanges"] = sum(event.count for event in events if event.key.startswith("gloo:"))
    if rank == 0:
        torch.save(found, out)
    if workers > 1:
        dist.destroy_process_group()


def measured(workers: int, ways: tuple[str, ...], rounds: int) -> dict[str, dict[str, float]]:
    """Return median time and exchanges of a step by way."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/found.pt"
        torch.multiprocessing.spawn(work, (workers, free_port(), ways, rounds, out), nprocs=workers)
        found = torch.load(out, weights_only=True)
    return {
        way: {"step_ms": round(statistics.median(own["ms"]), 1), "exchanges": own["exchanges"]}
        for way, own in found.items()
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=ROUNDS, default="small")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = ROUNDS[arguments.size]
    alone = measured(1, ("together",), rounds)["together"]["step_ms"]
    two = measured(2, tuple(WAYS), rounds)
    result: dict[str, Any] = {
        "what": f"preset paper, a global batch of {ROWS} made-up wells, gloo, one thread a worker",
        "one_worker_step_ms": alone,
        "two_workers": two,
        "ratio_to_one_by_one": round(two["one_by_one"]["step_ms"] / two["together"]["step_ms"], 2),
        "ratio_in_groups": round(two["one_by_one"]["step_ms"] / two["in_groups"]["step_ms"], 2),
        "ratio_to_one_worker": round(alone / two["together"]["step_ms"], 2),
    }
    write(result | machine(), arguments.json)


if __name__ == "__main__":
    main()
