"""Profiles per second of the product's sampler, and molecules per second of MoLFormer."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.on_gpu.checks import build_molformer, tokens
from benchmarks.on_gpu.device import Row, Work, attempted, flops, graphs, launches, peak_memory, timed
from benchmarks.on_gpu.inputs import SAMPLER, Wells, precision
from ldm_ray.chem.molformer import MolformerConfig
from ldm_ray.models.generate import ProfileGenerator, Sampling
from ldm_ray.models.row_sampler import DenoiserTerms

LONGEST = 40
"""Tokens of the longest molecule, about that of a drug."""


def profiles(wells: Wells, n: int, number: str, ways: Sequence[str], rounds: int) -> dict[str, Row]:
    """Time the sampling of n conditions, and one step of it, in one precision.

    Args:
        wells: Shapes, settings and device.
        n: Conditions.
        number: The precision.
        ways: Some of `eager`, `graph` (the product's), `compiled graph` (the denoiser too).
        rounds: Calls to time.
    """
    torch._dynamo.reset()
    how = Sampling(wells.config.predict.n_samples, SAMPLER, seed=0)
    condition, base, keys = wells.conditions(n)

    def measure(way: str) -> Row:
        with precision(number, wells.device), graphs(on="graph" in way):
            generator = wells.generator()
            if "compiled" in way:
                generator._prepared.output = torch.compile(generator._prepared.output, dynamic=False)  # type: ignore[method-assign]
            tick_s = timed(_tick(generator, generator.encode(condition)), wells.device, 10 * rounds)
            call_s = timed(lambda: generator.sample(condition, base, keys, how), wells.device, rounds)
        return {"tick_ms": 1000 * tick_s, "profiles_per_s": n * how.n_samples / call_s}

    return {way: attempted(partial(measure, way), way) for way in ways}


def anatomy(wells: Wells, n: int) -> dict[str, Any]:
    """Count operations, launches and memory of sampling n conditions, and time one query alone, in float32."""
    generator, (condition, base, keys) = wells.generator(), wells.conditions(n)
    how = Sampling(wells.config.predict.n_samples, SAMPLER, seed=0)

    def sample() -> Tensor:
        return generator.sample(condition, base, keys, how).mean

    with peak_memory(wells.device) as memory, graphs(on=False):
        traced = launches(sample, wells.device)

    def query() -> Tensor:
        return generator.sample(condition.rows(slice(0, 1)), base[:1], keys[:1], how).mean.cpu()

    with graphs(on=False):
        call_flops = flops(sample)
    one_s = timed(query, wells.device, 10)
    counted = {"call_flops": call_flops, "peak_mb": memory.peak_mb - memory.before_mb, "one_query_ms": 1000 * one_s}
    return counted | (asdict(traced) if traced else {})


def molecules(
    config: MolformerConfig, device: torch.device, number: str, ways: Sequence[str], rounds: int
) -> dict[str, Row]:
    """Time MoLFormer on padded batches of random tokens, as large as `MolformerEncoder` makes them."""
    torch._dynamo.reset()
    batch = 8192 // LONGEST if device.type == "cuda" else 32
    ids, mask = (part.to(device) for part in tokens(batch, LONGEST, config))
    model = build_molformer(config).to(device)

    def measure(way: str) -> Row:
        embed = torch.compile(model.embed, dynamic=False) if way == "compiled" else model.embed
        with precision(number, device), torch.inference_mode():
            return {"molecules_per_s": batch / timed(lambda: embed(ids, mask), device, rounds)}

    return {way: attempted(partial(measure, way), way) for way in ways}


def _tick(generator: ProfileGenerator, encoded: DenoiserTerms) -> Work:
    """Return one noisy step of a full pass."""
    rows, (first, _) = generator.row_sampler(), generator.lines(SAMPLER)
    owner = torch.arange(rows.n_rows, device=generator.device) % len(encoded.mean)
    rows.start(torch.arange(rows.n_rows), encoded.rows(owner), owner, torch.full((rows.n_rows,), first))

    def tick() -> None:
        rows.tick()
        rows._line_on_host.fill_(first)
        rows._line.fill_(first)

    return tick
