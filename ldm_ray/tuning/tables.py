"""The tables of a search's page: trials, failed trials and settings."""

from collections.abc import Collection, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ldm_ray.pages.table import ScoreTable
from ldm_ray.tuning.analysis import Importance, best_trial, epochs_of, sign_of, value_of
from ldm_ray.tuning.trials import Search, Trial, Value

LONGEST_REASON = 200
ORDER = ("complete", "stopped", "running", "failed")


def trials_table(search: Search) -> ScoreTable:
    """Return the table of all trials: complete (best first), stopped, running, failed."""
    keys = short_names(search.space)
    head = ["trial", "state", *(o.title for o in search.objectives), "epochs", "minutes", *keys.values()]
    body = [
        [
            str(trial.number),
            trial.state,
            *(measured(value_of(search, trial, objective)) for objective in search.objectives),
            str(epochs_of(trial)),
            f"{trial.seconds / 60:.1f}",
            *(shown(trial.params.get(key)) for key in keys),
        ]
        for trial in ranked(search)
    ]
    accented = "; the Pareto front is accented" if len(search.objectives) > 1 else "; the best trial is accented"
    meaning = (
        f"Complete trials (best {search.objectives[0].title} first), trials stopped early (best first), running and"
        f" failed trials{accented if search.complete else ''}. Values are of validation wells, at each trial's best"
        " epoch."
    )
    return ScoreTable("trials", head, body, meaning)


def failed_table(search: Search) -> list[ScoreTable]:
    """Return the reasons why trials failed; an empty list if none did."""
    body = [
        [str(t.number), str(epochs_of(t)), " ".join((t.error or "unknown").split())[:LONGEST_REASON]]
        for t in search.trials
        if t.state == "failed"
    ]
    meaning = "If many of these share a setting, leave it out of the next search. The rest of this page ignores them."
    return [ScoreTable("trials that failed", ["trial", "epochs", "reason"], body, meaning)] if body else []


def settings_table(search: Search, rows: Sequence[Importance], why_none: str) -> ScoreTable:
    """Return what was searched, the best trial's choices, and how much each setting mattered."""
    best = best_trial(search).params if search.complete else {}
    found = {row.key: f"{100 * row.share:.1f} ± {100 * row.spread:.1f} %" for row in rows}
    keys = [*found, *(key for key in search.space if key not in found)]
    body = [[key, range_of(search.space[key]), shown(best.get(key)), found.get(key, "-")] for key in keys]
    meaning = why_none
    if rows:
        meaning = (
            "The values searched, the best trial's choice, and the share of importance (fANOVA) ± its standard"
            " deviation over forests on resampled trials. Complete and stopped trials are compared in pairs, up to the"
            " last epoch that both trained. With few trials, shares are uncertain and say little beyond the first rows."
        )
    return ScoreTable(
        "settings and their importance", ["setting", "searched", "best trial", "importance"], body, meaning
    )


def ranked(search: Search) -> list[Trial]:
    """Return all trials in the order of the table."""
    objective = search.objectives[0]

    def place(trial: Trial) -> tuple[int, float, int]:
        value = value_of(search, trial, objective)
        loss = float("inf") if value is None else sign_of(objective) * value
        return ORDER.index(trial.state), loss if trial.state in ("complete", "stopped") else 0.0, trial.number

    return sorted(search.trials, key=place)


def short_names(keys: Collection[str]) -> dict[str, str]:
    """Return the last part of each key, or the whole key if another has the same last part."""
    lasts = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)}


def shown(value: Value | None) -> str:
    """Format a setting for people; the CSV has exact values."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def measured(value: float | None) -> str:
    """Format a metric with four digits, trailing zeros included."""
    return "-" if value is None else f"{value:#.4g}".rstrip(".")


def range_of(distribution: BaseDistribution) -> str:
    """Describe the choices or range of a setting."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    step = f", step {distribution.step:g}" if distribution.step not in (None, 1) else ""
    scale = ", log scale" if distribution.log else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}{scale}"


def terminal_table(search: Search, rows: int = 12) -> tuple[str, list[str], list[list[str]]]:
    """Return title, head and body of a table of the best trials, without settings so that it fits a terminal."""
    head = ["trial", "state", *(objective.name for objective in search.objectives), "epochs", "minutes"]
    body = [
        [
            str(trial.number),
            trial.state,
            *(measured(value_of(search, trial, objective)) for objective in search.objectives),
            str(epochs_of(trial)),
            f"{trial.seconds / 60:.1f}",
        ]
        for trial in ranked(search)[:rows]
    ]
    ended = sum(trial.state != "running" for trial in search.trials)
    stopped = sum(trial.state == "stopped" for trial in search.trials)
    return f"{ended} of {search.wanted} trials ended, {stopped} of them stopped early; validation wells", head, body


def summary(search: Search) -> tuple[int, int, str]:
    """Return the trials ended, the trials wanted and the best so far, for a progress bar."""
    ended = sum(trial.state != "running" for trial in search.trials)
    if not search.complete:
        return ended, search.wanted, "none complete yet"
    best, objective = best_trial(search), search.objectives[0]
    return (
        ended,
        search.wanted,
        f"best {objective.name} {measured(value_of(search, best, objective))}, trial {best.number}",
    )
