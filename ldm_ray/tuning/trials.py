"""A search: its objectives and its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from optuna.distributions import BaseDistribution

Value = float | int | str | bool
TrialStatus = Literal["complete", "stopped", "failed", "running"]


@dataclass(frozen=True)
class SearchObjective:
    """A metric that a search optimises.

    Attributes:
        name: Key in `Trial.metrics`.
        direction: Whether lower or higher is better.
        title: Title in tables and on axes, with its unit if it has one.
    """

    name: str
    direction: Literal["minimize", "maximize"]
    title: str


@dataclass(frozen=True)
class Trial:
    """One point of the search.

    Attributes:
        number: Counted from 0; an interrupted trial keeps it when it resumes.
        state: `stopped` early by the scheduler, `failed` (for instance diverged), `running` when last seen.
        params: Settings key to value.
        metrics: Metrics of its best epoch, on validation wells; empty if it failed before.
        curve: (epoch, first objective) of each epoch trained, counted from 1.
        seconds: Seconds of training, over all attempts.
        error: Error of a failed trial, in one line.
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
    """The current state of a search.

    Attributes:
        name: Name of the search, for titles.
        objectives: The first decides about early stops; with several there is a Pareto front.
        space: Settings key to its choices or range.
        trials: Trials by number.
        wanted: Number of trials asked for.
        settings: Settings that every trial starts from, and the search's own, as YAML.
        seed: Seed of the sampler.
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
        """Complete trials that have every objective."""
        return [t for t in self.trials if t.state == "complete" and all(o.name in t.metrics for o in self.objectives)]
