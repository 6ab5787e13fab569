"""Speed-up of the default sampler over a straightforward loop, and how far their samples differ.

    python benchmarks/samplers.py [--bundle demo/ldm] [--data demo/data] [--size small|full] [--json OUT]

The reference is the loop as usually written: the same network, 50 correctly respaced ancestral steps, the condition
encoded again at each step, nothing cached. Both sample 256 conditions once each. Quality is measured on test wells; the
sampler was chosen on validation wells. `matmul_share` is our sampler's multiply-adds per second at batch 1024 over
those of one large matrix product.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine, write
from ldm_ray.bundle.bundle import load_bundle
from ldm_ray.data.dataset import open_dataset
from ldm_ray.data.wells import load_wells
from ldm_ray.diffusion.samplers import SamplerChoice, build_plan, run_plan
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.evaluation.samplers import profiles_per_s, score_samplers
from ldm_ray.keys import Purpose
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ProfileGenerator
from ldm_ray.noise import mix, standard_normal

BATCH, NAIVE_STEPS, PEAK_SIZE = 256, 50, 2048
WELLS = {"small": 48, "full": 96}
ROUNDS = 5


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="demo/ldm")
    parser.add_argument("--data", default="demo/data")
    parser.add_argument("--size", choices=WELLS, default="small")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bundle, dataset = load_bundle(arguments.bundle, "ldm"), open_dataset(arguments.data)
    wells = load_wells(dataset, "test", BATCH, 0)
    model = Model(model_inputs(dataset, bundle, wells.frame["compound_id"].to_numpy(), "ldm"), (2,), 0)
    generator, condition = model.predictor.sampler, model.condition(wells)
    assert isinstance(generator, ProfileGenerator)
    many = condition.rows(torch.arange(1024) % len(wells))
    choice, keys = bundle.sampler_choice(), torch.arange(len(wells))
    naive, ours = interleaved(
        lambda: len(wells) / timed(lambda: naive_loop(generator, condition, keys)),
        lambda: profiles_per_s(generator, condition, choice, 1.0),
    )
    at_1024, peak = interleaved(lambda: profiles_per_s(generator, many, choice, 1.0), matmul_peak)
    n_wells = WELLS[arguments.size]
    (score,) = score_samplers(bundle, dataset, "test", n_wells, n_wells, [choice])
    result: dict[str, Any] = {"size": arguments.size} | machine()
    result |= {"threads": torch.get_num_threads(), "sampler": asdict(choice), "n_wells": n_wells}
    result |= {
        "speedup_over_naive": ours / naive,
        "profiles_per_s": ours,
        "naive_profiles_per_s": naive,
        "energy_ratio": score.energy_ratio,
        "mean_rmse_ratio": score.mean_rmse_ratio,
        "spread_ratio": score.spread_ratio,
        "matmul_share": at_1024 * multiply_adds(generator, choice) / peak,
        "profiles_per_s_at_1024": at_1024,
        "matmul_gflops": 2 * peak / 1e9,
    }
    write(result, arguments.json)


def interleaved(*measures: Callable[[], float]) -> list[float]:
    """Return the median of several rounds of each measure, taken in turn."""
    rounds = [[measure() for measure in measures] for _ in range(ROUNDS)]
    return [float(np.median(values)) for values in zip(*rounds, strict=True)]


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@torch.inference_mode()
def naive_loop(generator: ProfileGenerator, condition: ConditionBatch, keys: Tensor) -> Tensor:
    """Sample once per condition, encoding the condition at every step."""
    model, own = generator.model, mix(keys, 0, 0)

    def denoise(z_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        step = model.reverse_step(z_t, torch.full((len(z_t),), t), model.condition_encoder(condition))
        return step.x0_hat, step.s

    z_0 = run_plan(
        denoise,
        build_plan(model.diffusion.schedule, SamplerChoice(steps=NAIVE_STEPS)),
        standard_normal(mix(own, Purpose.START), model.latent_dim),
        lambda t: standard_normal(mix(own, Purpose.REVERSE, t), model.latent_dim),
    )
    mean = model.mean_latent(condition, model.condition_encoder(condition))
    return generator.vae.decode(model.unscale_latent(mean + z_0))


def multiply_adds(generator: ProfileGenerator, choice: SamplerChoice) -> int:
    """Multiply-adds per profile of our sampler: all steps, and encoding and decoding once."""
    model, condition_dim = generator.model, generator.model.condition_encoder.width

    def weights(module: torch.nn.Module) -> int:
        return sum(m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Linear))

    blocks = [block.linear for block in model.denoiser.blocks]  # type: ignore[union-attr]
    of_condition = sum(linear.out_features * condition_dim for linear in blocks)
    of_time = weights(model.denoiser.time) + model.denoiser.time.width * blocks[0].out_features  # type: ignore[operator,arg-type,union-attr]
    a_step = weights(model.denoiser) - of_condition - of_time
    head = 0 if model.mean_head is None else weights(model.mean_head)
    once = weights(model.condition_encoder) + of_condition + head + weights(generator.vae.decoder)
    return choice.steps * a_step + once


def matmul_peak() -> float:
    """Multiply-adds per second of one large matrix product."""
    a, b = torch.randn(PEAK_SIZE, PEAK_SIZE), torch.randn(PEAK_SIZE, PEAK_SIZE)
    out = a @ b
    return PEAK_SIZE**3 / min(timed(lambda: torch.mm(a, b, out=out)) for _ in range(4))


if __name__ == "__main__":
    main()
