"""One worker equals two at the same global batch: weights, gradients and losses, with real gloo processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import World, small_config
from tests.ray import normalised
from tests.s3_server import free_port


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
    "denoiser.basal_widths=[16,12,8]",
    "denoiser.compound_widths=[16,12]",
)


# 20 steps of the chain, so that importance is in use before the run ends.
SEARCHED = (
    "target=residual", "schedule.kind=cosine", "schedule.num_steps=20", "denoiser.step_sampling=importance",
    "denoiser.architecture=adaln", "denoiser.time_embedding=sinusoidal", "denoiser.mean_head=true",
    "denoiser.min_snr_gamma=5",
)  # fmt: skip


CASES = {
    "vae default": ("vae", (), "float32"),
    "ldm default": ("ldm", (), "float32"),
    "vae as searched": ("vae", ("vae.free_bits=0.3", "vae.dropout=0.3", "vae.kl_warmup_steps=10"), "float32"),
    "ldm as searched": ("ldm", SEARCHED, "float32"),
    # Batch normalisation on raw inputs lets rounding grow to 1e-4 through Adam; in float64 the equality shows.
    "ldm with batch normalisation as in the paper": (
        "ldm", (*PAPER_LIKE, "denoiser.basal_input=matched", "vae.standardise=false"), "float64",
    ),
    "ldm with batch normalisation in groups": ("ldm", (*PAPER_LIKE, "denoiser.norm_groups=4"), "float64"),
}  # fmt: skip
OTHER = "ldm at another rate"
ALONE, FIRST, SECOND = "alone", "first of two", "second of two"


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three processes: one that trains every case alone, and two that train each together."""
    folder, port = tmp_path_factory.mktemp("ddp"), str(free_port())
    warmup = ("train_vae.warmup_steps=5", "train_ldm.warmup_steps=5")
    cases = {
        name: {"settings": settings_of(*overrides, *warmup), "kind": kind, "precision": precision}
        for name, (kind, overrides, precision) in CASES.items()
    }
    slower = settings_of(*warmup, "train_ldm.learning_rate=0.00101")
    alone = cases | {OTHER: {"settings": slower, "kind": "ldm", "precision": "float32"}}
    workers = []
    for name, rank, size, own in ((ALONE, "0", "1", alone), (FIRST, "0", "2", cases), (SECOND, "1", "2", cases)):
        (folder / name).mkdir()
        command = [sys.executable, "-m", "tests.ray.two_processes", rank, size, port, world.dataset.url]
        command += [str(folder / name), json.dumps(own)]
        workers.append(subprocess.Popen(command, cwd=Path(__file__).parents[2]))
    assert [worker.wait(timeout=400) for worker in workers] == [0, 0, 0]
    return folder


def settings_of(*overrides: str) -> dict[str, Any]:
    return small_config(*overrides).model_dump(mode="json")


def result(trained: Path, process: str, case: str) -> dict[str, Any]:
    return dict(torch.load(trained / process / f"{case}.pt", weights_only=True))


@pytest.mark.parametrize("case", CASES)
def test_two_workers_equal_one(trained: Path, case: str) -> None:
    alone, first, second = (result(trained, process, case) for process in (ALONE, FIRST, SECOND))
    assert difference(first["gradients"], second["gradients"]) == 0.0
    assert difference(first["weights"], second["weights"]) == 0.0
    assert difference(first["weights"], alone["weights"]) < 1e-5
    for name, value in alone["history"][-1].items():
        assert first["history"][-1][name] == pytest.approx(value, rel=1e-4), name


def test_unsynchronised_workers_would_be_noticed(trained: Path) -> None:
    """The comparison can fail: another learning rate gives other weights."""
    weights = [result(trained, ALONE, case)["weights"] for case in ("ldm default", OTHER)]
    assert difference(*weights) > 1e-4


def test_torch_sync_batch_norm_still_refuses_the_cpu(trained: Path) -> None:
    """The reason for GlobalBatchNorm; when this fails, torch can do it itself."""
    for process in (FIRST, SECOND):
        said = (trained / process / "sync_batch_norm.txt").read_text()
        assert "SyncBatchNorm expected input tensor to be on" in said


@pytest.mark.parametrize("assignment", normalised.ASSIGNMENTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.float64, 1e-10)])
def test_batch_normalisation_is_torch_s_on_the_whole_batch(
    trained: Path, dtype: torch.dtype, tolerance: float, assignment: normalised.Assignment
) -> None:
    """Outputs, gradients, running moments and evaluation; with raw doses, and a time that is the same in all rows.

    In float32 a mean of 1000 is rounded by 3e-5, hence the tolerance; sums of squares would lose all of that variance.
    """
    whole = normalised.apply(normalised.build(torch.nn.BatchNorm1d, torch.float64), slice(None), torch.float64)
    found = [torch.load(trained / process / "normalised.pt", weights_only=True) for process in (FIRST, SECOND)]
    first, second = (own[f"{dtype} {assignment}"] for own in found)
    for name, wanted in whole.items():
        if "running" in name or "tracked" in name:
            assert torch.equal(first[name], second[name]), name
            both = first[name]
        elif first[name].shape == wanted.shape:  # a parameter's gradient, which DDP adds up
            both = first[name] + second[name]
        else:
            both = torch.zeros_like(wanted, dtype=dtype)
            for rank, own in enumerate((first, second)):
                both[normalised.own_rows(assignment, rank, 2)] = own[name]
        error, size = (torch.atleast_2d(values.double()).norm(dim=0) for values in (both - wanted, wanted))
        assert (error / size.clamp_min(1e-2)).max() < tolerance, name


def test_layers_of_equal_depth_share_an_exchange(trained: Path) -> None:
    """15 layers at 10 depths: one exchange each way. The rest is DDP's gradients and the step sampler's moments."""
    for process in (FIRST, SECOND):
        whole, grouped = json.loads((trained / process / "exchanges.json").read_text())
        assert whole == 10 + 10 + 2  # forward, backward; gradients and the sampler of steps
        assert grouped == 1 + 2
