"""What a search teaches: its best trial, its Pareto front, and which settings mattered."""

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
"""Of fewer, a forest of trees says nothing."""
SEEDS = 8
TREES = 32


class Importance(NamedTuple):
    """How much a setting mattered.

    Attributes:
        key: Of the setting.
        share: Of all settings' importance, in [0, 1]; the shares sum to 1.
        spread: Standard deviation over forests, each of other trials drawn from the same.
    """

    key: str
    share: float
    spread: float


def sign_of(objective: SearchObjective) -> float:
    """Return the factor that makes lower better."""
    return 1.0 if objective.direction == "minimize" else -1.0


def value_of(search: Search, trial: Trial, objective: SearchObjective) -> float | None:
    """Return a trial's metric at its best epoch; of the first objective, else the best of its curve."""
    if objective.name in trial.metrics or objective != search.objectives[0] or not trial.curve:
        return trial.metrics.get(objective.name)
    factor = sign_of(objective)
    return factor * min(factor * value for _, value in trial.curve)


def epochs_of(trial: Trial) -> int:
    """Return the epochs that a trial has trained."""
    return max((epoch for epoch, _ in trial.curve), default=0)


def best_trial(search: Search) -> Trial:
    """Return the best complete trial by the first objective; of equals the first.

    Raises:
        DataError: If no trial is complete.
    """
    if not search.complete:
        states = Counter(trial.state for trial in search.trials)
        got = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no trial at all"
        raise DataError(f"the best trial of {search.name} wants at least one complete trial; got {got}")
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
    """Return the complete trials and those stopped after at least one epoch."""
    return [*search.complete, *(trial for trial in search.trials if trial.state == "stopped" and trial.curve)]


def wins(search: Search) -> dict[int, float]:
    """Share of the other trials that each trial beats in the first objective, by number; a tie is half a win.

    Two complete trials are compared by their metric, others by their best value up to the last epoch that both have
    trained. A trial stopped early is thus never held against one that was trained for longer, which the last value
    itself would do.
    """
    trials = comparable(search)
    won = {}
    for trial in trials:
        pairs = [(_loss(search, trial, other), _loss(search, other, trial)) for other in trials if other is not trial]
        won[trial.number] = sum((own < theirs) + (own == theirs) / 2 for own, theirs in pairs) / max(1, len(pairs))
    return won


def _loss(search: Search, trial: Trial, other: Trial) -> float:
    """Return what a trial is compared by with another: lower is better."""
    factor = sign_of(search.objectives[0])
    epochs = min(epochs_of(trial), epochs_of(other))
    if trial.state == other.state == "complete" or not epochs:
        value = value_of(search, trial, search.objectives[0])
        assert value is not None  # every comparable trial has one
        return factor * value
    return min(factor * value for epoch, value in trial.curve if epoch <= epochs)


def importance(search: Search) -> list[Importance]:
    """Return the share of each setting in what made trials win or lose, the largest first.

    fANOVA (Hutter, Hoos & Leyton-Brown 2014) fits a random forest to a score over the space and splits its variance
    by setting, averaging over all others: it answers what a setting does in the whole space that was searched, and
    has no quantile to choose. Optuna's default, PED-ANOVA, compares the best tenth with all; of the few dozen trials
    of our searches that is two or three.

    The score is `wins`, so that complete and stopped trials count alike: only a third of a search or less is complete
    once a scheduler stops trials, and last values would find the settings that make training quick. Being ranks, wins
    also keep one diverged trial from taking the whole variance.

    Returns:
        Nothing where fewer than `FEWEST_TRIALS` trials can be compared, or all are equal.

    Note:
        Optuna's fANOVA weighs a setting evenly over its range even where that is searched on a log scale, so such
        settings are given to it as logarithms. Failed trials are left out, and settings that not every trial has. The
        evaluator needs scikit-learn.
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
    """Return the shares that one forest finds in as many trials drawn with replacement."""
    values = [trial.metrics["wins"] for trial in search.trials]
    drawn = generator(search.seed, Purpose.FOREST, seed).integers(len(values), size=len(values))
    drawn[:2] = np.argmin(values), np.argmax(values)  # equal values everywhere would have no variance to split
    study = study_of(replace(search, trials=[search.trials[i] for i in drawn]))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=seed))


def _on_even_scales(search: Search, won: Mapping[int, float]) -> Search:
    """Return a search of complete trials whose value is their wins, over settings that are searched evenly."""
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
