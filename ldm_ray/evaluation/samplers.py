"""Speed of samplers and their closeness to the full chain; recommends one for a bundle (`ldm-ray bench samplers`)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.metadata import SamplerRow
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import load_wells
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.diffusion.subsets import Spacing
from ldm_ray.errors import BundleError
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.evaluation.scores.metrics import pairwise
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ProfileGenerator, Sampling

STEPS = (4, 5, 6, 8, 10, 15, 25, 50)
SPACINGS: tuple[Spacing, ...] = ("linear", "quadratic")
MAX_ENERGY_RATIO, MAX_RMSE_ERROR, MAX_SPREAD_ERROR = 1.08, 0.0075, 0.015
"""Limits for a recommended sampler, below the targets of 1.1, 1% and 2% because other wells will be predicted."""
CORRECTIONS = (0.0, 0.05, 0.1, 0.15, 0.2)
INTERVAL = 0.9
BATCH = 256


@dataclass(frozen=True)
class SamplerScore:
    """One sampler compared with the full chain with learned variance, on the same wells.

    Attributes:
        choice: The sampler.
        profiles_per_s: Profiles per second, one per condition, 256 conditions at once.
        energy_ratio: Energy distance between its samples and the full chain's of a condition, mean over conditions,
            divided by that of another run of the full chain; pairs of a sample with itself count, so 1 is the least.
        mean_rmse_ratio: RMSE of its mean against measured wells, divided by the full chain's.
        spread_ratio: Root mean variance of its samples of a condition, divided by the full chain's.
        coverage: Share of measured values in its central 90% interval.
    """

    choice: SamplerChoice
    profiles_per_s: float
    energy_ratio: float
    mean_rmse_ratio: float
    spread_ratio: float
    coverage: float

    @property
    def within_tolerance(self) -> bool:
        """Whether it is as good as the full chain within the limits."""
        return (
            self.energy_ratio <= MAX_ENERGY_RATIO
            and abs(self.mean_rmse_ratio - 1) <= MAX_RMSE_ERROR
            and abs(self.spread_ratio - 1) <= MAX_SPREAD_ERROR
        )


def candidates(num_steps: int) -> list[SamplerChoice]:
    """Return the samplers worth measuring for a chain of `num_steps` steps."""
    counts = [count for count in STEPS if count <= num_steps]
    found = [
        SamplerChoice("ancestral", count, spacing, correction=correction)
        for count in counts
        for spacing in SPACINGS
        for correction in CORRECTIONS
    ]
    for kind, eta in (("ddim", 0.0), ("ddim", 1.0), ("dpm++2m", 0.0), ("dpm++2m-sde", 0.0)):
        found += [SamplerChoice(kind, count, "log_snr", eta) for count in counts]  # type: ignore[arg-type]
    return found


def score_samplers(
    bundle: Bundle,
    dataset: PairedDataset,
    split: str = "valid",
    n_wells: int = 48,
    n_samples: int = 48,
    choices: Sequence[SamplerChoice] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[SamplerScore]:
    """Measure samplers against the full chain.

    Args:
        bundle: A bundle of kind `ldm`.
        dataset: A dataset with the bundle's genes and splits.
        split: Split of the wells.
        n_wells: Number of wells, drawn by seed.
        n_samples: Latent samples per well.
        choices: Samplers to measure; `candidates` by default.
        progress: Called with samplers measured and in total, counting two runs of the full chain.

    Raises:
        BundleError: If the bundle is of another kind.
    """
    if bundle.kind != "ldm":
        raise BundleError(f"samplers are measured on a bundle of kind 'ldm'; got {bundle.kind!r}")
    wells = load_wells(dataset, split, n_wells, bundle.config.seed)
    model = Model(model_inputs(dataset, bundle, wells.frame["compound_id"].to_numpy(), "ldm"), (2,), 0)
    generator = model.predictor.sampler
    assert isinstance(generator, ProfileGenerator)
    num_steps = bundle.config.schedule.num_steps
    choices = candidates(num_steps) if choices is None else choices
    condition, keys = model.condition(wells), torch.from_numpy(np.array(wells.keys))
    device = model.predictor.device
    keys, many = keys.to(device), condition.rows(torch.arange(BATCH, device=device) % len(wells))

    def draw(choice: SamplerChoice, seed: int) -> np.ndarray:
        """Changes from the base, without observation noise, (n_wells, n_samples, n_genes)."""
        return generator.latent_profiles(condition, keys, Sampling(n_samples, choice, seed)).cpu().numpy()

    full = SamplerChoice(steps=num_steps)
    progress(0, len(choices) + 2)
    reference = draw(full, seed=0)
    progress(1, len(choices) + 2)
    again = draw(full, seed=1)
    progress(2, len(choices) + 2)
    within = [pairwise(rows, rows) for rows in reference]
    itself = _energy(again, reference, within)
    measured = wells.y - model.base(wells).cpu().numpy()
    rmse = _rmse(again.mean(axis=1), measured)
    spread = float(np.sqrt(again.var(axis=1, ddof=1).mean()))
    noise = generator.noise.total_var().cpu().numpy()
    scores = []
    for number, choice in enumerate(choices):
        # Same seed as the full chain's second run: both start from the same noise, which cancels in the ratios.
        drawn = draw(choice, seed=1)
        sd = np.sqrt(drawn.var(axis=1, ddof=1) + noise) * model.predictor.sd_scale.cpu().numpy()
        z = 1.6448536269514722
        scores.append(
            SamplerScore(
                choice=choice,
                profiles_per_s=profiles_per_s(generator, many, choice),
                energy_ratio=_energy(drawn, reference, within) / itself,
                mean_rmse_ratio=_rmse(drawn.mean(axis=1), measured) / rmse,
                spread_ratio=float(np.sqrt(drawn.var(axis=1, ddof=1).mean())) / spread,
                coverage=float((np.abs(drawn.mean(axis=1) - measured) <= z * sd).mean()),
            )
        )
        progress(number + 3, len(choices) + 2)
    return scores


def recommended(scores: Sequence[SamplerScore]) -> SamplerScore | None:
    """Return the sampler within tolerance with the fewest steps, then the lowest energy ratio; None without any."""
    good = [score for score in scores if score.within_tolerance]
    return min(good, key=lambda score: (score.choice.steps, score.energy_ratio), default=None)


def as_rows(scores: Sequence[SamplerScore]) -> list[SamplerRow]:
    """Return flat rows for JSON and for the bundle."""
    return [
        {
            **score.choice.fields(),
            "profiles_per_s": round(score.profiles_per_s, 5),
            "energy_ratio": round(score.energy_ratio, 5),
            "mean_rmse_ratio": round(score.mean_rmse_ratio, 5),
            "spread_ratio": round(score.spread_ratio, 5),
            "coverage": round(score.coverage, 5),
        }
        for score in scores
    ]


def profiles_per_s(
    generator: ProfileGenerator, condition: ConditionBatch, choice: SamplerChoice, seconds: float = 0.1
) -> float:
    """Measure conditions sampled per second, once each in one batch, including encoding and decoding."""
    n, device = len(condition.dose_um), condition.dose_um.device
    keys, base = torch.arange(n, device=device), torch.zeros(n, generator.vae.n_genes, device=device)
    how = Sampling(1, choice, 0)
    generator.sample(condition, base, keys, how)
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        generator.sample(condition, base, keys, how)
        rounds += 1
    if keys.is_cuda:
        torch.cuda.synchronize()
    return rounds * n / (time.perf_counter() - began)


def _energy(x: np.ndarray, y: np.ndarray, within_y: Sequence[np.ndarray]) -> float:
    """Energy distance between two samples of each condition, mean over conditions; at least 0.

    Source: Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018 (pairs of a sample with itself counted).
    """
    return float(
        np.mean(
            [
                2 * pairwise(own, others).mean() - pairwise(own, own).mean() - within.mean()
                for own, others, within in zip(x, y, within_y, strict=True)
            ]
        )
    )


def _rmse(y_hat: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((y_hat - y) ** 2, dtype=np.float64)))
