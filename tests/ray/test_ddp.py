"""One worker equals two at the same global batch: weights, gradients and losses, with real gloo processes."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_ray.config import Config
from tests.conftest import World, small_config


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def train(
    world: World, config: Config, world_size: int, kind: str, folder: Path, precision: str = "float32"
) -> list[dict[str, Any]]:
    """Run the workers as processes and return what each wrote."""
    port = free_port()
    outs = [folder / f"{kind}-{world_size}-{rank}.pt" for rank in range(world_size)]
    command = [sys.executable, "-m", "tests.ray.two_processes"]
    arguments = [str(port), config.model_dump_json(), world.dataset.url, kind, precision]
    workers = [
        subprocess.Popen([*command, str(rank), str(world_size), *arguments, str(out)], cwd=Path(__file__).parents[2])
        for rank, out in enumerate(outs)
    ]
    assert [worker.wait(timeout=240) for worker in workers] == [0] * world_size
    return [torch.load(out, weights_only=True) for out in outs]


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of any tensor, by norm."""
    assert a.keys() == b.keys()
    assert a
    return max(float((a[n].double() - b[n].double()).norm() / b[n].double().norm().clamp_min(1e-6)) for n in a)


PAPER_LIKE = (
    "target=absolute",
    "denoiser.head=mean",
    "denoiser.loss=nll",
    "denoiser.norm=batch",
    "denoiser.dropout=0.2",
)


# 20 steps of the chain, so that importance is in use before the run ends.
SEARCHED = (
    "target=residual", "schedule.kind=cosine", "schedule.num_steps=20", "denoiser.step_sampling=importance",
    "denoiser.architecture=adaln", "denoiser.time_embedding=sinusoidal", "denoiser.mean_head=true",
    "denoiser.min_snr_gamma=5",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "overrides", "precision"),
    [
        ("vae", (), "float32"),
        ("ldm", (), "float32"),
        ("vae", ("vae.free_bits=0.3", "vae.dropout=0.3", "vae.kl_warmup_steps=10"), "float32"),
        ("ldm", SEARCHED, "float32"),
        # Batch normalisation on raw inputs lets rounding grow to 1e-4 through Adam; in float64 the equality shows.
        ("ldm", (*PAPER_LIKE, "denoiser.basal_input=matched", "vae.standardise=false"), "float64"),
    ],
    ids=[
        "vae default",
        "ldm default",
        "vae as searched",
        "ldm as searched",
        "ldm with batch normalisation as in the paper",
    ],
)
def test_two_workers_equal_one(
    world: World, tmp_path: Path, kind: str, overrides: tuple[str, ...], precision: str
) -> None:
    config = small_config(*overrides, "train_vae.warmup_steps=5", "train_ldm.warmup_steps=5")
    (alone,) = train(world, config, 1, kind, tmp_path, precision)
    first, second = train(world, config, 2, kind, tmp_path, precision)
    assert difference(first["gradients"], second["gradients"]) == 0.0
    assert difference(first["weights"], second["weights"]) == 0.0
    assert difference(first["weights"], alone["weights"]) < 1e-5
    for name, value in alone["history"][-1].items():
        assert first["history"][-1][name] == pytest.approx(value, rel=1e-4), name


def test_unsynchronised_workers_would_be_noticed(world: World, tmp_path: Path) -> None:
    """The comparison can fail: other seeds, other weights."""
    (one,) = train(world, small_config("seed=0"), 1, "ldm", tmp_path)
    (other,) = train(world, small_config("train_ldm.learning_rate=0.00101"), 1, "ldm", tmp_path)
    assert difference(one["weights"], other["weights"]) > 1e-4


def test_torch_sync_batch_norm_still_refuses_the_cpu(tmp_path: Path) -> None:
    """The reason for GlobalBatchNorm; when this fails, torch can do it itself."""
    script = tmp_path / "two.py"
    script.write_text(
        "import os, sys, torch, torch.distributed as dist\n"
        "os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=sys.argv[2])\n"
        "dist.init_process_group('gloo', rank=int(sys.argv[1]), world_size=2)\n"
        "torch.nn.SyncBatchNorm(5)(torch.randn(6, 5))\n"
    )
    port = str(free_port())
    workers = [
        subprocess.Popen([sys.executable, str(script), rank, port], stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert all("SyncBatchNorm expected input tensor to be on" in error for error in errors)
