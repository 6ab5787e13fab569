"""Results of a search: its best trial, its Pareto front, and which settings mattered."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from ldm_ray.errors import DataError
from ldm_ray.keys import Purpose, generator
from ldm_ray.tuning.study import study_of
from ldm_ray.tuning.trials import Search, SearchObjective, Trial, Value

FEWEST_TRIALS = 6
"""With fewer, a random forest says nothing."""
SEEDS = 8
TREES = 32


class Importance(NamedTuple):
    """How much a setting mattered.

    Attributes:
        key: Key of the setting.
        share: Share of all settings' importance, in [0, 1]; shares sum to 1.
        spread: Standard deviation of the share over forests, each on resampled trials.
    """

    key: str
    share: float
    spread: float


def sign_of(objective: SearchObjective) -> float:
    """Return the factor that makes lower better."""
    return 1.0 if objective.direction == "minimize" else -1.0


def value_of(search: Search, trial: Trial, objective: SearchObjective) -> float | None:
    """Return a trial's metric at its best epoch; if missing, the best of the curve for the first objective."""
    if objective.name in trial.metrics or objective != search.objectives[0] or not trial.curve:
        return trial.metrics.get(objective.name)
    factor = sign_of(objective)
    return factor * min(factor * value for _, value in trial.curve)


def epochs_of(trial: Trial) -> int:
    """Return how many epochs a trial has trained."""
    return max((epoch for epoch, _ in trial.curve), default=0)


def best_trial(search: Search) -> Trial:
    """Return the complete trial with the best first objective; if tied, the earliest.

    Raises:
        DataError: If no trial is complete.
    """
    if not search.complete:
        states = Counter(trial.state for trial in search.trials)
        got = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no trial at all"
        raise DataError(f"the best trial of {search.name} needs at least one complete trial; got {got}")
    return min(search.complete, key=lambda trial: (_losses(trial, search)[0], trial.number))


def pareto_front(search: Search) -> list[int]:
    """Return the numbers of the complete trials that no other complete trial dominates.

    One trial dominates another if it is as good in every objective and better in at least one.
    """
    numbers = [trial.number for trial in search.complete]
    losses = np.array([_losses(trial, search) for trial in search.complete]).reshape(
        len(numbers), len(search.objectives)
    )
    as_good = (losses[:, None] <= losses[None]).all(axis=2)
    better = (losses[:, None] < losses[None]).any(axis=2)
    dominated = np.any(as_good & better, axis=0).tolist()
    return [number for number, beaten in zip(numbers, dominated, strict=True) if not beaten]


def _losses(trial: Trial, search: Search) -> list[float]:
    return [sign_of(objective) * trial.metrics[objective.name] for objective in search.objectives]


def comparable(search: Search) -> list[Trial]:
    """Return complete trials, and trials stopped after at least one epoch."""
    return [*search.complete, *(trial for trial in search.trials if trial.state == "stopped" and trial.curve)]


def wins(search: Search) -> dict[int, float]:
    """Return, by trial number, the share of other trials that it beats in the first objective; a tie is half a win.

    Two complete trials are compared by their metric, other pairs by their best values up to the last epoch that both
    have trained. So a trial stopped early is never compared with one that was trained for longer.
    """
    trials = comparable(search)
    won = {}
    for trial in trials:
        pairs = [(_loss(search, trial, other), _loss(search, other, trial)) for other in trials if other is not trial]
        won[trial.number] = sum((own < theirs) + (own == theirs) / 2 for own, theirs in pairs) / max(1, len(pairs))
    return won


def _loss(search: Search, trial: Trial, other: Trial) -> float:
    """Return the value by which a trial is compared with another; lower is better."""
    factor = sign_of(search.objectives[0])
    epochs = min(epochs_of(trial), epochs_of(other))
    if trial.state == other.state == "complete" or not epochs:
        value = value_of(search, trial, search.objectives[0])
        assert value is not None  # every comparable trial has one
        return factor * value
    return min(factor * value for epoch, value in trial.curve if epoch <= epochs)


def importance(search: Search) -> list[Importance]:
    """Return the share of each setting in wins and losses of trials, the largest first.

    fANOVA (Hutter, Hoos & Leyton-Brown 2014) fits a random forest to a score over the space, and splits its variance by
    setting, averaged over all others. It shows what a setting does in the whole space, and needs no quantile. Optuna's
    default, PED-ANOVA, compares the best tenth with all: two or three of the few dozen trials in our searches.

    The score is `wins`, so that stopped trials count as much as complete ones, which are a third of a search or less.
    Last values would favour settings that make training fast. Since wins are ranks, one diverged trial cannot take the
    whole variance.

    Returns:
        Importance per setting; an empty list if fewer than `FEWEST_TRIALS` trials can be compared, or all are equal.

    Note:
        Optuna's fANOVA weighs a setting evenly over its range, even if it is searched on a log scale, so such settings
        are passed as logarithms. Failed trials, and settings that not every trial has, are left out. The evaluator
        needs scikit-learn.
    """
    won = wins(search)
    if len(won) < FEWEST_TRIALS or len(set(won.values())) == 1:
        return []
    judged = _on_even_scales(search, won)
    if not judged.space:
        return []
    found = [_shares(judged, seed) for seed in range(SEEDS)]
    rows = [
        Importance(key, float(np.mean([f[key] for f in found])), float(np.std([f[key] for f in found], ddof=1)))
        for key in judged.space
    ]
    return sorted(rows, key=lambda row: (-row.share, row.key))


def _shares(search: Search, seed: int) -> dict[str, float]:
    """Return the shares that one forest finds on trials resampled with replacement."""
    values = [trial.metrics["wins"] for trial in search.trials]
    drawn = generator(search.seed, Purpose.FOREST, seed).integers(len(values), size=len(values))
    drawn[:2] = np.argmin(values), np.argmax(values)  # at least two different values, or there is no variance to split
    study = study_of(replace(search, trials=[search.trials[i] for i in drawn]))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=seed))


def _on_even_scales(search: Search, won: Mapping[int, float]) -> Search:
    """Return a search whose trials are all complete and have their wins as value, with settings on even scales."""
    trials = [trial for trial in search.trials if trial.number in won]
    keys = [key for key, d in search.space.items() if not d.single() and all(key in trial.params for trial in trials)]
    objective = SearchObjective("wins", "maximize", "wins")
    judged = [
        Trial(t.number, "complete", {k: _even(search.space[k], t.params[k]) for k in keys}, {"wins": won[t.number]})
        for t in trials
    ]
    space = {key: _even_range(search.space[key]) for key in keys}
    return replace(search, objectives=(objective,), space=space, trials=judged)


def _is_log(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log


def _even_range(distribution: BaseDistribution) -> BaseDistribution:
    if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log:
        return FloatDistribution(math.log(distribution.low), math.log(distribution.high))
    return distribution


def _even(distribution: BaseDistribution, value: Value) -> Value:
    return math.log(float(value)) if _is_log(distribution) else value
