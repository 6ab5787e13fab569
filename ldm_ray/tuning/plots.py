"""Pictures of how a search went. Each function returns a figure and does not display it."""

from collections.abc import Sequence
from itertools import combinations
from typing import NotRequired, TypedDict

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ldm_ray.pages.picture import ACCENT, INK
from ldm_ray.tuning.analysis import Importance, best_trial, pareto_front, sign_of, value_of
from ldm_ray.tuning.trials import Search, SearchObjective, Trial

PALE = "#9db4d0"
GREY = "0.55"
FAR = 5.0
"""Values this many times as far from the best as the median are cut off the axis."""
SIDES = [(8, 6), (-8, 6), (8, -6), (-8, -6), (0, 9), (0, -9), (11, 0), (-11, 0)]
"""Possible positions of a number beside its mark, in points (1/72 inch)."""
FRONT = "complete, on the front"


class MarkerLook(TypedDict):
    """How trials of a state are marked."""

    marker: str
    color: str
    markersize: float
    fillstyle: NotRequired[str]


class CurveLook(TypedDict):
    """How curves of a state are drawn."""

    color: str
    linewidth: float
    marker: NotRequired[str]
    markersize: NotRequired[float]
    linestyle: NotRequired[str]


MARKERS: dict[str, MarkerLook] = {
    "complete": {"marker": "o", "color": INK, "markersize": 5},
    "stopped": {"marker": "v", "color": PALE, "markersize": 5},
    "running": {"marker": "o", "color": INK, "markersize": 5, "fillstyle": "none"},
}
CURVES: dict[str, CurveLook] = {
    "stopped": {"color": PALE, "linewidth": 0.9, "marker": "v", "markersize": 4},
    "failed": {"color": ACCENT, "linewidth": 0.8, "marker": "x", "markersize": 5, "linestyle": "--"},
    "running": {"color": INK, "linewidth": 0.8, "marker": ">", "markersize": 4},
    "complete": {"color": INK, "linewidth": 0.8},
    "best": {"color": ACCENT, "linewidth": 2.2},
}


def history(search: Search) -> Figure:
    """Draw the first objective of every trial by number, and the best complete trial so far."""
    objective, figure = search.objectives[0], Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    for state, look in MARKERS.items():
        points = values_of(search, state)
        if points:
            axes.plot(*np.array(points).T, linestyle="", label=f"{state} ({len(points)})", **look)
    if search.complete:
        done = np.array(sorted(values_of(search, "complete")))
        best = np.minimum.accumulate(sign_of(objective) * done[:, 1]) * sign_of(objective)
        numbers = [*done[:, 0], max(trial.number for trial in search.trials)]
        axes.step(numbers, [*best, best[-1]], where="post", color=ACCENT, label="best complete so far")
        axes.plot(best_trial(search).number, best[-1], "*", color=ACCENT, markersize=12, zorder=4)
    cut_far(axes, [value for state in MARKERS for _, value in values_of(search, state)], objective)
    mark_failed(axes, objective, [trial.number for trial in search.trials if trial.state == "failed"])
    axes.set(xlabel="trial", ylabel=better(objective))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finish(figure)


def curves(search: Search) -> Figure:
    """Draw the first objective by epoch, in full and near the best; marks at the ends of curves show how they ended."""
    objective, ends = search.objectives[0], [t.curve[-1][1] for t in search.trials if t.curve and t.state != "failed"]
    best = best_trial(search).number if search.complete else None
    figure = Figure(figsize=(11 if search.complete else 7, 4.4), layout="constrained")
    panels = figure.subplots(1, 2 if search.complete else 1, squeeze=False)[0]
    for axes in panels:
        for name, look in CURVES.items():
            own = [t for t in search.trials if t.curve and ("best" if t.number == best else t.state) == name]
            label = f"best (trial {best})" if name == "best" else name
            for place, trial in enumerate(own):
                axes.plot(*np.array(trial.curve).T, markevery=[-1], label="" if place else label, **look)
        axes.set(xlabel="epoch", ylabel=better(objective))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    cut_far(panels[0], ends, objective)
    if search.complete:
        _zoom(panels[1], [t for t in search.complete if t.curve], objective)
    return finish(figure)


def importance_bars(rows: Sequence[Importance]) -> Figure:
    """Draw the share of each setting and its spread; the dotted line marks equal shares."""
    figure = Figure(figsize=(8, 1.0 + 0.32 * len(rows)), layout="constrained")
    axes, places = figure.subplots(), range(len(rows))
    axes.barh(
        places,
        [100 * row.share for row in rows],
        xerr=[100 * row.spread for row in rows],
        color=INK,
        height=0.62,
        error_kw={"ecolor": ACCENT, "elinewidth": 1.5, "capsize": 3},
    )
    axes.axvline(100 / len(rows), color=GREY, linestyle=":", label="equal shares")
    axes.set_yticks(places, [row.key for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("share of importance, %")
    return finish(figure)


def pareto(search: Search) -> Figure:
    """Draw each pair of objectives; trials on the Pareto front are accented and numbered."""
    pairs = list(combinations(search.objectives, 2))
    n_columns = min(3, len(pairs))
    n_rows = -(-len(pairs) // n_columns)
    figure = Figure(figsize=(max(5.5, 4 * n_columns), 3.9 * n_rows + 0.3), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, gridspec_kw={"wspace": 0.06}).ravel()
    for axes in grid[len(pairs) :]:
        axes.set_axis_off()
    front = pareto_front(search)
    groups = {
        "stopped": ([trial for trial in search.trials if trial.state == "stopped"], PALE, 4),
        "complete": ([trial for trial in search.complete if trial.number not in front], INK, 5),
        FRONT: ([trial for trial in search.complete if trial.number in front], ACCENT, 6),
    }
    for axes, (across, up) in zip(grid, pairs, strict=False):
        for name, (trials, color, size) in groups.items():
            points = [(t.metrics[across.name], t.metrics[up.name]) for t in trials if up.name in t.metrics]
            if points:
                axes.plot(*np.array(points).T, "o", color=color, markersize=size, label=name)
        axes.set(xlabel=better(across), ylabel=better(up))
        axes.margins(0.12)
    finish(figure)
    figure.draw_without_rendering()  # positions are known only after layout
    for axes, (across, up) in zip(grid, pairs, strict=False):
        front_points = [(t.number, t.metrics[across.name], t.metrics[up.name]) for t in groups[FRONT][0]]
        _number(axes, front_points, figure.dpi)
    return figure


def values_of(search: Search, state: str) -> list[tuple[int, float]]:
    """Return number and first objective of the trials in a state that have a value."""
    values = [(t.number, value_of(search, t, search.objectives[0])) for t in search.trials if t.state == state]
    return [(number, value) for number, value in values if value is not None]


def better(objective: SearchObjective) -> str:
    """Label an axis with an objective and the direction that is better."""
    return f"{objective.title}\n({'lower' if sign_of(objective) > 0 else 'higher'} is better)"


def mark_failed(axes: Axes, objective: SearchObjective, places: Sequence[float]) -> None:
    """Mark failed trials, which have no value, with crosses at the worse edge."""
    if places:
        edge = [0.97 if sign_of(objective) > 0 else 0.03] * len(places)
        label, across = f"failed ({len(places)})", axes.get_xaxis_transform()
        axes.plot(places, edge, "x", transform=across, color=ACCENT, markersize=5, label=label)


def finish(figure: Figure) -> Figure:
    """Remove frames, and put one legend above all panels if anything is labelled."""
    labelled: dict[str, Artist] = {}
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        labelled |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if labelled:
        handles, names = list(labelled.values()), list(labelled)
        figure.legend(handles, names, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    return figure


def cut_far(axes: Axes, values: Sequence[float], objective: SearchObjective) -> None:
    """Cut the axis if far values would hide the rest; a title says so."""
    factor = sign_of(objective)
    losses = factor * np.array(values)
    if not len(losses):
        return
    best = losses.min()
    near = losses[losses <= best + FAR * (np.median(losses) - best)]
    slack, n_far = 0.07 * (near.max() - best), len(losses) - len(near)
    if n_far and slack > 0:
        ends = (factor * (best - slack), factor * (near.max() + slack))
        axes.set_ylim(min(ends), max(ends))
        axes.set_title(f"axis cut: {n_far} value{'s' if n_far > 1 else ''} beyond {ends[1]:.3g}", fontsize=8)


def _zoom(axes: Axes, trials: Sequence[Trial], objective: SearchObjective) -> None:
    """Zoom in to the ends of complete trials, from the best value of any epoch to the worst last value."""
    factor = sign_of(objective)
    if trials:
        best = min(factor * value for trial in trials for _, value in trial.curve)
        span = max(factor * trial.curve[-1][1] for trial in trials) - best or 1e-6
        ends = (factor * (best - 0.05 * span), factor * (best + 1.3 * span))
        axes.set_ylim(min(ends), max(ends))
    axes.set_title("zoomed in to the ends of complete trials", fontsize=8)


def _number(axes: Axes, points: Sequence[tuple[int, float, float]], dpi: float) -> None:
    """Write trial numbers beside points, each where there is most room."""
    offsets = np.array(SIDES) * dpi / 72
    taken = [place for line in axes.lines for place in axes.transData.transform(np.asarray(line.get_xydata()))]
    for number, x, y in points:
        at = axes.transData.transform((x, y))
        others = [place for place in taken if not np.allclose(place, at)]
        room = [min((float(np.hypot(*(at + offset - other))) for other in others), default=0.0) for offset in offsets]
        chosen = int(np.argmax(room))
        taken.append(at + offsets[chosen])
        axes.annotate(
            str(number), (x, y), SIDES[chosen], textcoords="offset points", fontsize=8, ha="center", va="center"
        )
