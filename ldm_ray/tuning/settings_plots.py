"""Pictures of a search's settings and their results. Each function returns a figure and does not display it."""

import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ldm_ray.pages.picture import ACCENT
from ldm_ray.tuning.analysis import best_trial, sign_of
from ldm_ray.tuning.plots import GREY, MARKERS, better, cut_far, finish, mark_failed, values_of
from ldm_ray.tuning.trials import Search, Trial, Value

MOST_AXES = 12
NEAREST_TICKS = 0.1
LONGEST_LABEL = 14
CROWDED = 26
"""Tick labels are slanted if they have more characters than this together."""


def parallel_coordinates(search: Search, keys: Sequence[str]) -> Figure:
    """Draw one axis per setting and one line per trial, coloured by the first objective; stopped trials are grey.

    Args:
        search: A search with at least one complete trial.
        keys: Settings, at most `MOST_AXES`, from left to right.
    """
    objective, best = search.objectives[0], best_trial(search)
    figure = Figure(figsize=(min(11.5, 2.6 + 1.15 * len(keys)), 4.8), layout="constrained")
    axes = figure.subplots()
    losses = [sign_of(objective) * value for _, value in values_of(search, "complete")]
    low, high = sorted((best.metrics[objective.name], sign_of(objective) * float(np.quantile(losses, 0.9))))
    colors = ScalarMappable(Normalize(low, high), _shades(dark_is_low=sign_of(objective) > 0))
    for trial in search.trials:
        if trial.state == "stopped":
            axes.plot(*_line(search, trial, keys), color="0.88", linewidth=0.8, zorder=1, label="stopped")
    for trial in sorted(search.complete, key=lambda t: -sign_of(objective) * t.metrics[objective.name]):
        accent = trial.number == best.number
        color = ACCENT if accent else colors.to_rgba(np.array([trial.metrics[objective.name]]))[0]
        width, above = (2.4, 4) if accent else (1.3, 3)
        label = f"best (trial {best.number})" if accent else ""
        axes.plot(*_line(search, trial, keys), color=color, label=label, linewidth=width, zorder=above)
    for place, key in enumerate(keys):
        _draw_axis(axes, place, search.space[key])
    axes.set_xticks(range(len(keys)), [wrapped(key, max(10, 120 // len(keys))) for key in keys], fontsize=8)
    axes.tick_params(axis="x", length=0, top=False, pad=8)
    axes.set(xlim=(-0.35, len(keys) - 1 + 0.65), ylim=(-0.03, 1.03), yticks=[])
    axes.spines[:].set_visible(False)
    figure.colorbar(
        colors, ax=axes, pad=0.01, label=better(objective), extend="max" if sign_of(objective) > 0 else "min"
    )
    return finish(figure)


def slices(search: Search, keys: Sequence[str]) -> Figure:
    """Draw the first objective against each setting, one panel per setting; other settings vary within a panel."""
    objective, n_columns = search.objectives[0], min(4, len(keys))
    n_rows = -(-len(keys) // n_columns)
    figure = Figure(figsize=(max(4, 2.8 * n_columns), 2.5 * n_rows + 0.5), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
    for axes in grid.ravel()[len(keys) :]:
        axes.set_axis_off()
    for axes, key in zip(grid.ravel(), keys, strict=False):
        _draw_slice(axes, search, key)
    cut_far(grid[0, 0], [value for state in MARKERS for _, value in values_of(search, state)], objective)
    for axes in grid[:, 0]:
        axes.set_ylabel(better(objective), fontsize=8)
    return finish(figure)


def place_of(distribution: BaseDistribution, value: Value) -> float:
    """Return the position of a value in its range, in [0, 1]; on a log scale if the search uses one."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, at = float(distribution.low), float(distribution.high), float(value)
    if distribution.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else 0.5


def ticks_of(distribution: BaseDistribution) -> list[tuple[float, str]]:
    """Return positions and labels: each choice, or both ends of the range and round values between them."""
    if isinstance(distribution, CategoricalDistribution):
        n = len(distribution.choices)
        return [((place + 0.5) / n, shortened(str(choice))) for place, choice in enumerate(distribution.choices)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    round_values = LogLocator() if distribution.log else MaxNLocator(4, integer=isinstance(low, int))
    kept: list[tuple[float, str]] = []
    for value in (low, high, *round_values.tick_values(low, high)):
        place = place_of(distribution, value) if low <= value <= high else -1.0
        if place >= 0 and all(abs(place - other) > NEAREST_TICKS for other, _ in kept):
            kept.append((place, f"{value:.3g}"))
    return kept


def wrapped(key: str, width: int) -> str:
    """Break a settings key after dots and underscores into lines of at most `width` characters, if possible."""
    lines = [""]
    for part in re.findall(r"[^._]+[._]?", key):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def shortened(text: str) -> str:
    """Shorten a label that is too long."""
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def _line(search: Search, trial: Trial, keys: Sequence[str]) -> tuple[list[int], list[float]]:
    places = [_jittered(search, trial, key) for key in keys]
    return list(range(len(keys))), places


def _jittered(search: Search, trial: Trial, key: str) -> float:
    """Return the position of a trial's value; trials with the same choice are spread side by side."""
    if key not in trial.params:
        return math.nan
    distribution = search.space[key]
    place = place_of(distribution, trial.params[key])
    if not isinstance(distribution, CategoricalDistribution):
        return place
    golden = (trial.number * 0.618034) % 1  # spreads consecutive trials evenly, however many
    return place + 0.3 * (golden - 0.5) / len(distribution.choices)


def _shades(*, dark_is_low: bool) -> Colormap:
    ends = ["#16304f", "#5d9ccc", "#c3dbec"]
    return LinearSegmentedColormap.from_list("better", ends if dark_is_low else ends[::-1])


def _draw_axis(axes: Axes, place: int, distribution: BaseDistribution) -> None:
    axes.plot([place, place], [0, 1], color=GREY, linewidth=1, zorder=2)
    for height, label in ticks_of(distribution):
        axes.plot([place, place + 0.04], [height, height], color=GREY, linewidth=1, zorder=2)
        box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.6}
        axes.text(place + 0.06, height, label, fontsize=7, va="center", bbox=box, zorder=5)


def _draw_slice(axes: Axes, search: Search, key: str) -> None:
    trials = {trial.number: trial for trial in search.trials if key in trial.params}
    for state, look in MARKERS.items():
        known = [(_jittered(search, trials[n], key), value) for n, value in values_of(search, state) if n in trials]
        if known:
            axes.plot(*np.array(known).T, linestyle="", label=state, **(look | {"markersize": 4}))
    failed = [_jittered(search, trial, key) for trial in trials.values() if trial.state == "failed"]
    mark_failed(axes, search.objectives[0], failed)
    if search.complete:
        best = best_trial(search)
        place, value = _jittered(search, best, key), best.metrics[search.objectives[0].name]
        axes.plot(place, value, "*", color=ACCENT, markersize=11, zorder=4, label=f"best (trial {best.number})")
    places, labels = zip(*ticks_of(search.space[key]), strict=True)
    crowded = sum(map(len, labels)) > CROWDED
    axes.set_xticks(places, labels, fontsize=7, rotation=20 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel(wrapped(key, 30), fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
