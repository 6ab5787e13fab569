"""How far a device is from float64 on the CPU: training steps, samplers, MoLFormer and noise.

An error is ||out - ref|| / ||ref||. The wells are drawn on the CPU, so both sides get the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.on_gpu.device import graphs
from benchmarks.on_gpu.inputs import KINDS, PRECISIONS, SAMPLER, Sizes, Wells, demo_config, precision
from ldm_ray.chem.molformer import Molformer, MolformerConfig
from ldm_ray.diffusion.samplers import SamplerChoice, build_plan, run_plan
from ldm_ray.keys import Purpose
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import Sampling, row_keys
from ldm_ray.noise import mix, standard_normal
from ldm_ray.training.loop import run_fit, start_fit
from ldm_ray.training.rows import Rows
from ldm_ray.training.source import EpochPlan
from ldm_ray.training.steps import StepLosses, Task

LIMITS = {"fp32": 1e-3, "tf32": 5e-2, "bf16": 2e-1}
"""Largest error of each precision."""
NETWORKS: dict[str, tuple[str, ...]] = {
    "default": (),
    "adaln": (
        "denoiser.architecture=adaln",
        "denoiser.time_embedding=sinusoidal",
        "denoiser.head=x0",
        "denoiser.mean_head=true",
        "denoiser.step_sampling=importance",
        "schedule.kind=cosine",
        "schedule.zero_terminal_snr=true",
    ),
    "paper": ("preset=paper", "denoiser.head=v", "denoiser.loss=hybrid"),
}
SAMPLERS = (
    SAMPLER,
    SamplerChoice("ancestral", 25),
    SamplerChoice("ddim", 10, eta=0.5),
    SamplerChoice("dpm++2m", 10, "log_snr"),
    SamplerChoice("dpm++2m-sde", 10, "quadratic"),
)
BATCH, STEPS, SAMPLES = 32, 6, 2
CPU = torch.device("cpu")
Errors = dict[str, dict[str, float]]


def errors(device: torch.device, sizes: Sizes, molformer: MolformerConfig) -> Errors:
    """Return the error of everything in each precision, by name and precision."""
    found: Errors = {"noise": {"fp32": noise_error(device)}}
    for network, overrides in NETWORKS.items():
        wells = Wells(sizes, demo_config(*sizes.settings, *overrides), device, drawn_on=CPU)
        for kind in KINDS:
            if kind == "ldm" or network != "adaln":  # which has the default's autoencoder
                # Batch normalisation of raw doses amplifies rounding, so only float32 is of use there.
                numbers = ("fp32",) if (kind, network) == ("ldm", "paper") else PRECISIONS
                found |= training_errors(wells, kind, f"{kind}, {network}", numbers)
        found |= sampler_errors(wells, network)
    return found | {"molformer": molformer_errors(device, molformer)}


def changes_by_graphs(device: torch.device, sizes: Sizes) -> dict[str, float]:
    """Return the largest difference that CUDA graphs make, in training and sampling of each network."""
    found = {}
    for network, overrides in NETWORKS.items():
        wells = Wells(sizes, demo_config(*sizes.settings, *overrides), device, drawn_on=CPU)
        for kind in KINDS:
            found[f"{kind}, {network}"] = graph_changes(partial(_trained, wells, kind))
        found[f"sampling, {network}"] = graph_changes(partial(_sampled, wells))
    return found


def _sampled(wells: Wells) -> list[Tensor]:
    """Sample twice as many conditions as the checks do, twice, by one generator and more than one plan."""
    generator, (condition, base, keys) = wells.generator(), wells.conditions(2 * BATCH)
    plans = [Sampling(SAMPLES, choice, seed=0, n_draws=1) for choice in (*SAMPLERS, *SAMPLERS)]
    return [generator.sample(condition, base, keys, how).draws for how in plans]


def too_large(found: Errors) -> list[str]:
    """Name the errors above their precision's limit, NaN included."""
    return [
        f"{name} in {kind}: {error:.1e}"
        for name, by_precision in found.items()
        for kind, error in by_precision.items()
        if not error <= LIMITS[kind]
    ]


def in_float64(wells: Wells) -> Wells:
    """Return the same wells for the reference."""
    return replace(wells, device=CPU, dtype=torch.float64)


def noise_error(device: torch.device) -> float:
    """Compare keyed normals with the CPU's; their keys must be equal bit for bit."""
    keys = mix(torch.arange(1000), 3)
    own = mix(torch.arange(1000, device=device), 3)
    assert torch.equal(own.cpu(), keys), "keys differ from the CPU's"
    return distance(standard_normal(own, 129), standard_normal(keys, 129))


def training_errors(wells: Wells, kind: str, name: str, numbers: Sequence[str]) -> Errors:
    """Compare gradients of one step, and the losses of a few steps of the training loop."""
    reference = _trained(in_float64(wells), kind)
    found: Errors = {f"gradients, {name}": {}, f"losses, {name}": {}}
    for number in numbers:
        with precision(number, wells.device):
            gradients, losses, _ = _trained(wells, kind)
        found[f"gradients, {name}"][number] = distance(gradients, reference[0])
        found[f"losses, {name}"][number] = distance(losses, reference[1])
    return found


def _trained(wells: Wells, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a step, the losses of some, and the weights after them."""
    source, task = wells.source(kind, BATCH), wells.task(kind)
    gradients = _gradients(task, next(iter(source.batches(0))))
    settings = wells.config.optimiser(kind).model_copy(update={"epochs": 1, "warmup_steps": 0})
    curve = Curve()
    run_fit(start_fit(task.module, settings), task, replace(source, plan=EpochPlan(STEPS, 0)), settings, 0, curve)
    weights = torch.cat([p.detach().flatten() for p in task.module.parameters()])
    return gradients, torch.stack(curve.losses), weights


def _gradients(task: Task, rows: Rows) -> Tensor:
    losses: StepLosses = task.module.train()(task.batch(rows, mix(rows.keys, 0, 0)))
    losses.loss.backward()
    return torch.cat([p.grad.flatten() for p in task.module.parameters() if p.grad is not None])


def graph_changes(run: Callable[[], Sequence[Tensor]]) -> float:
    """Return the largest difference that CUDA graphs make to the results of a run."""
    runs = []
    for on in (False, True):
        with graphs(on=on):
            runs.append(run())
    return max(float((a - b).abs().max()) for a, b in zip(*runs, strict=True))


@dataclass
class Curve:
    """Hooks that keep the losses."""

    losses: list[Tensor] = field(default_factory=list)

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        """Keep the loss."""
        self.losses.append(loss.double())

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        """Keep the validation loss."""
        self.losses.append(torch.full_like(self.losses[-1], metrics["valid_loss"]))


def sampler_errors(wells: Wells, network: str) -> Errors:
    """Compare sampled profiles with the plain loop in float64, which encodes the condition at every step."""
    found: Errors = {}
    for choice in SAMPLERS:
        how = Sampling(SAMPLES, choice, seed=0)
        reference = plain_profiles(in_float64(wells), how)
        condition, _, keys = wells.conditions(BATCH)
        name = f"sampler {choice.kind} {choice.steps}, {network}"
        found[name] = {}
        for kind in PRECISIONS:
            with precision(kind, wells.device):
                profiles = wells.generator().latent_profiles(condition, keys, how)
            found[name][kind] = distance(profiles, reference)
    return found


@torch.no_grad()
def plain_profiles(wells: Wells, how: Sampling) -> Tensor:
    """Sample with `run_plan`, (n, n_samples, n_genes)."""
    vae, model = (module.eval() for module in wells.models())
    condition, _, keys = wells.conditions(BATCH)
    owner, own = row_keys(keys, how.n_samples, how.seed)
    condition = ConditionBatch(*(getattr(condition, item.name)[owner] for item in fields(condition)))

    def denoise(z_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        step = model.reverse_step(z_t, torch.full((len(z_t),), t), model.condition_encoder(condition))
        return step.x0_hat, step.s

    def noise(purpose: Purpose, *parts: int) -> Tensor:
        return standard_normal(mix(own, purpose, *parts), model.latent_dim).to(wells.dtype)

    plan = build_plan(model.diffusion.schedule, how.sampler)
    z_0 = run_plan(denoise, plan, noise(Purpose.START), lambda t: noise(Purpose.REVERSE, t))
    latents = model.mean_latent(condition, model.condition_encoder(condition)) + z_0
    return vae.decode(model.unscale_latent(latents)).view(len(keys), how.n_samples, -1)


def molformer_errors(device: torch.device, config: MolformerConfig) -> dict[str, float]:
    """Compare embeddings of padded random tokens, at random weights."""
    model, (ids, mask) = build_molformer(config), tokens(16, 40, config)
    with torch.inference_mode():
        reference = model.double().embed(ids, mask)
        own = build_molformer(config).to(device)
        found = {}
        for kind in PRECISIONS:
            with precision(kind, device):
                found[kind] = distance(own.embed(ids.to(device), mask.to(device)), reference)
    return found


def build_molformer(config: MolformerConfig) -> Molformer:
    """Build the encoder with random weights."""
    torch.manual_seed(0)
    return Molformer(config).eval()


def tokens(molecules: int, longest: int, config: MolformerConfig) -> tuple[Tensor, Tensor]:
    """Draw token ids and mask, (molecules, longest) each, of lengths from half of the longest."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (molecules, longest), generator=generator)
    length = torch.randint(longest // 2, longest + 1, (molecules, 1), generator=generator)
    length[0] = longest
    mask = (torch.arange(longest)[None] < length).long()
    return torch.where(mask.bool(), ids, config.pad_token_id), mask


def distance(out: Tensor, reference: Tensor) -> float:
    """||out - ref|| / ||ref||, in float64 on the CPU."""
    reference = reference.double().cpu()
    return float((out.double().cpu() - reference).norm() / reference.norm())
