"""What each of two gloo processes finds out about batch normalisation; called by `two_processes.py`."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from ldm_ray.config import load_config
from ldm_ray.models.batch_norm import GlobalBatchNorm, normalise_together, share_running_moments
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.training.steps import DiffusionBatch, LdmLossModule

ROWS, BATCHES = 24, 3
WIDTHS = (4, 3)
DTYPES = (torch.float32, torch.float64)
Assignment = Literal["dealt", "neighbours"]
ASSIGNMENTS: tuple[Assignment, ...] = get_args(Assignment)


def batches() -> list[tuple[Tensor, Tensor]]:
    """Inputs of two layers: raw doses, one time for all rows, a small spread on a large mean; and normal numbers.

    They are drawn in float32, so that both precisions normalise the same numbers.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(BATCHES, ROWS, sum(WIDTHS), generator=generator, dtype=torch.float64)
    drawn[..., 0] = 10 ** (2 * drawn[..., 0]).clamp(-2, 2)
    drawn[..., 1] = 24.0
    drawn[..., 2] = 1000 + drawn[..., 2] / 10
    drawn[..., 3] += torch.linspace(-50, 50, ROWS)  # neighbouring rows on a worker: means differ between workers
    return [(x[:, : WIDTHS[0]], x[:, WIDTHS[0] :]) for x in drawn.float()]


def build(layer: type[nn.BatchNorm1d], dtype: torch.dtype) -> list[nn.BatchNorm1d]:
    """Two layers with uneven scales and shifts, and a momentum of their own."""
    layers = [layer(width, momentum=0.3).to(dtype) for width in WIDTHS]
    with torch.no_grad():
        for own in layers:
            own.weight.copy_(torch.linspace(0.5, 2.0, len(own.weight)))
            own.bias.copy_(torch.linspace(-1.0, 1.0, len(own.bias)))
    return layers


def apply(layers: list[nn.BatchNorm1d], rows: slice, dtype: torch.dtype) -> dict[str, Tensor]:
    """Normalise this process's rows of each batch; return outputs, gradients and running moments by name."""
    found: dict[str, Tensor] = {}
    for number, inputs in enumerate(batches()):
        own = [x[rows].to(dtype).requires_grad_() for x in inputs]
        outputs = normalise_together(layers, own)
        uneven = torch.linspace(-1, 2, ROWS, dtype=dtype)[rows, None]
        sum((y**2 * uneven).sum() for y in outputs).backward()  # type: ignore[union-attr]
        for name, x, y in zip("ab", own, outputs, strict=True):
            assert x.grad is not None
            found |= {f"{name} {number} output": y.detach(), f"{name} {number} gradient": x.grad}
    for name, layer, x in zip("ab", layers, own, strict=True):
        found |= {f"{name} {key} gradient": parameter.grad for key, parameter in layer.named_parameters()}  # type: ignore[misc]
        found |= {f"{name} {key}": buffer.clone() for key, buffer in layer.named_buffers()}
        found[f"{name} in evaluation"] = layer.eval()(x).detach()
    return found


def own_rows(assignment: Assignment, rank: int, world_size: int) -> slice:
    """Return which rows of a batch are a worker's."""
    share = ROWS // world_size
    return slice(rank, None, world_size) if assignment == "dealt" else slice(rank * share, (rank + 1) * share)


def findings(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    """Return the results by precision and assignment of rows."""
    return {
        f"{dtype} {assignment}": apply(build(GlobalBatchNorm, dtype), own_rows(assignment, rank, world_size), dtype)
        for dtype in DTYPES
        for assignment in ASSIGNMENTS
    }


def exchanges(groups: int) -> int:
    """Count the exchanges of a training step of preset `paper`; its layers are as many as published."""
    narrow = {"basal_widths": [8] * 4, "compound_widths": [8] * 3, "condition_widths": [8] * 3}
    sizes = {**narrow, "hidden_widths": [8] * 3, "scalar_dim": 4, "time_dim": 4, "norm_groups": groups}
    overrides = ["preset=paper", "ray.lanes=8", *(f"denoiser.{key}={value}" for key, value in sizes.items())]
    config = load_config(None, overrides)
    module = LdmLossModule(LatentDiffusion(5, 6, config), config).train()
    ones = torch.ones(ROWS)
    condition = ConditionBatch(torch.randn(ROWS, 5), torch.randn(ROWS, 6), ones, 24 * ones)
    batch = DiffusionBatch(torch.randn(ROWS, config.vae.latent_dim), condition, torch.arange(ROWS))
    wrapped = DistributedDataParallel(module, broadcast_buffers=False)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        wrapped(batch).loss.backward()
        share_running_moments(module)
    return sum(event.count for event in profiled.key_averages() if event.key.startswith("gloo:"))
