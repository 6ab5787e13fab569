"""Made-up searches with a known truth: only the learning rate matters, and trials are stopped by successive halving."""

import math

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ldm_ray.tuning.trials import Search, SearchObjective, Trial, TrialStatus, Value

RMSE = SearchObjective("rmse", "minimize", "validation RMSE (log2)")
DELTA = SearchObjective("delta_pcc", "maximize", "delta correlation")
ENERGY = SearchObjective("energy_distance", "minimize", "energy distance")
RATE = "train_ldm.learning_rate"
SPACE: dict[str, BaseDistribution] = {
    RATE: FloatDistribution(1e-5, 1e-2, log=True),
    "denoiser.dropout": FloatDistribution(0.0, 0.6),
    "denoiser.head": CategoricalDistribution(["mean", "x0", "v"]),
    "denoiser.raw_inputs": CategoricalDistribution([True, False]),
    "vae.latent_dim": IntDistribution(16, 256, log=True),
    "train_ldm.warmup_steps": IntDistribution(0, 500, step=50),
}
EPOCHS, RUNGS = 9, (1, 3)


def planted_search(n_trials: int = 24, *objectives: SearchObjective, seed: int = 0) -> Search:
    """A search in which the loss is lowest at a rate near 1e-3 and depends on nothing else.

    Two trials of three are stopped at each rung; trial 5 has failed and the last one is running.
    """
    rng = np.random.default_rng(seed)
    wanted, trials = objectives or (RMSE,), []
    seen: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    for number in range(n_trials):
        params = {key: draw(distribution, rng) for key, distribution in SPACE.items()}
        distance = abs(math.log10(float(params[RATE])) + 3)
        curve = [1.3 + 0.1 * distance + 0.3 / epoch + rng.normal(0, 0.002) for epoch in range(1, EPOCHS + 1)]
        state, epochs = halved(curve, seen)
        if number in (5, n_trials - 1):
            state, epochs = ("failed", 1) if number == 5 else ("running", 2)
        values = (min(curve[:epochs]), rng.uniform(0.3, 0.5), rng.uniform(0.1, 0.2))
        metrics = {o.name: float(value) for o, value in zip((RMSE, DELTA, ENERGY), values, strict=True) if o in wanted}
        error = "the loss became nan in epoch 2: <script>alert(1)</script>" if state == "failed" else ""
        points = tuple((epoch, float(value)) for epoch, value in enumerate(curve[:epochs], 1))
        trials.append(Trial(number, state, params, metrics, points, 60.0 * epochs, error))
    return Search("planted", wanted, SPACE, trials, n_trials + 2, "seed: 0\n", seed)


def halved(curve: list[float], seen: dict[int, list[float]]) -> tuple[TrialStatus, int]:
    """Stop a trial at the first rung where it is not in the better third so far."""
    for rung in RUNGS:
        seen[rung].append(curve[rung - 1])
        if curve[rung - 1] > np.quantile(seen[rung], 1 / 3):
            return "stopped", rung
    return "complete", EPOCHS


def draw(distribution: BaseDistribution, rng: np.random.Generator) -> Value:
    """Draw a value evenly on the scale that is searched."""
    if isinstance(distribution, CategoricalDistribution):
        value = distribution.choices[rng.integers(len(distribution.choices))]
        assert value is not None
        return value
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if distribution.log else rng.uniform(low, high)
    if isinstance(distribution, FloatDistribution):
        return float(value)
    return int(round((value - low) / distribution.step) * distribution.step + low)
