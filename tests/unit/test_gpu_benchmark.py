"""The benchmark for GPUs, at toy size on the CPU: that it runs, and that it would notice wrong numbers."""

import json
from functools import reduce
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.on_gpu import checks
from benchmarks.on_gpu.inputs import KINDS, PRECISIONS
from ldm_ray.models.replayed import Replayed

ROOT = Path(__file__).parents[2]
FIGURES = {
    "takes 2.3 s": ("vae.epoch.epoch_s", 1, 1),
    "(3.6 GB)": ("vae.epoch.peak_mb", 1000, 1),
    "and 7.4 s": ("ldm.epoch.epoch_s", 1, 1),
    "(1.2 GB)": ("ldm.epoch.peak_mb", 1000, 1),
    "12.1 and": ("vae.ratio_to_cpu", 1, 1),
    "13.7 times": ("ldm.ratio_to_cpu", 1, 1),
    "1,040 kernels": ("ldm.steps.256.kernels", 1, 0),
    "21.3 ms": ("ldm.steps.256.ways.fp32 eager.step_ms", 1, 1),
    "works 1.8 ms": ("ldm.steps.256.busy_ms", 1, 1),
    "in 2.2 ms": ("ldm.steps.256.ways.fp32 graph.step_ms", 1, 1),
    "it 1.4 ms": ("ldm.steps.256.ways.fp32 compiled graph.step_ms", 1, 1),
    "and 17 s": ("ldm.steps.256.ways.fp32 compiled graph.ready_s", 1, 0),
    "1.77 million": ("sampling.ways.fp32 graph.profiles_per_s", 1e6, 2),
}
"""What docs/scaling.md says of a GPU: the figure's key, its unit and its decimals."""


@pytest.mark.parametrize("said", FIGURES)
def test_the_page_quotes_the_result(said: str) -> None:
    assert said in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    key, unit, decimals = FIGURES[said]
    result = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text())
    value = reduce(lambda values, part: values[part], key.split("."), result) / unit
    assert f"{value:,.{decimals}f}" in said


def test_it_runs_without_a_gpu_and_finds_the_numbers_right() -> None:
    result = gpu.run("toy", torch.device("cpu"))
    assert result["wrong"] == []
    for kind in KINDS:
        (found,) = result[kind]["steps"].values()
        assert set(found["ways"]) == {f"{number} eager" for number in PRECISIONS}
        assert found["ways"]["fp32 eager"]["ratio_to_eager_fp32"] == 1.0
    assert result["sampling"]["ways"]["bf16 eager"]["profiles_per_s"] > 0
    assert "| gradients, ldm, default |" in gpu.table(result)


def test_wrong_numbers_are_named() -> None:
    found = {"losses": {"fp32": 1e-6, "bf16": 0.01}, "noise": {"fp32": 1e-2}, "sampler": {"tf32": float("nan")}}
    assert checks.too_large(found) == ["noise in fp32: 1.0e-02", "sampler in tf32: nan"]
    assert checks.distance(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])) == 1 / 18**0.5


def test_work_off_the_gpu_is_just_called() -> None:
    count = torch.zeros(())
    work = Replayed(lambda: count.add_(1), torch.device("cpu"))
    assert [float(work()) for _ in range(5)] == [1, 2, 3, 4, 5]
