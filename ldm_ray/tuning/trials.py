"""What a search has found: its objectives and its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from optuna.distributions import BaseDistribution

Value = float | int | str | bool
TrialStatus = Literal["complete", "stopped", "failed", "running"]


@dataclass(frozen=True)
class SearchObjective:
    """A metric that is searched for.

    Attributes:
        name: Key in `Trial.metrics`.
        direction: Which way is better.
        title: For tables and axes, with its unit if it has one.
    """

    name: str
    direction: Literal["minimize", "maximize"]
    title: str


@dataclass(frozen=True)
class Trial:
    """One point of the search.

    Attributes:
        number: Counted from 0; a trial that is interrupted and goes on keeps it.
        state: `stopped` early by the scheduler, `failed` (for instance diverged), `running` when last seen.
        params: Settings key to value.
        metrics: Of its best epoch, on validation wells; empty where it failed before one.
        curve: (epoch from 1, value of the first objective) of each epoch trained.
        seconds: Spent training, over all attempts.
        error: One line, of a failed trial.
    """

    number: int
    state: TrialStatus
    params: Mapping[str, Value]
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Search:
    """A search as it stands.

    Attributes:
        name: Of the search, for titles.
        objectives: The first one decides about early stops; with several there is a Pareto front.
        space: Settings key to what it may be.
        trials: By number.
        wanted: Trials the search was asked for.
        settings: The settings that every trial starts from, and the search's own, as YAML.
        seed: Of the sampler.
    """

    name: str
    objectives: tuple[SearchObjective, ...]
    space: Mapping[str, BaseDistribution]
    trials: Sequence[Trial]
    wanted: int
    settings: str
    seed: int

    @property
    def complete(self) -> list[Trial]:
        """Trials that ran to their end, with every objective."""
        return [t for t in self.trials if t.state == "complete" and all(o.name in t.metrics for o in self.objectives)]
