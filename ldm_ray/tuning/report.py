"""The report of a search: a page, its pictures, and the trials as CSV."""

import csv
import io
from collections import Counter

from matplotlib.figure import Figure as Drawing

from ldm_ray.layout import PAGE, TRIALS
from ldm_ray.pages.page import LIBRARIES, Figure, Page
from ldm_ray.pages.picture import png_of
from ldm_ray.storage.store import Store
from ldm_ray.tuning import plots, settings_plots
from ldm_ray.tuning.analysis import (
    FEWEST_TRIALS,
    Importance,
    best_trial,
    comparable,
    epochs_of,
    importance,
    pareto_front,
    sign_of,
)
from ldm_ray.tuning.tables import failed_table, measured, settings_table, shown, trials_table
from ldm_ray.tuning.trials import Search, Trial

PICTURES = "pictures"
ENDS = {"complete": "complete", "stopped": "stopped early", "failed": "failed", "running": "still running"}


def write_tune_report(store: Store, search: Search) -> list[str]:
    """Write the report of a search, replacing an earlier one; there need not be a complete trial yet.

    Returns:
        Names of the files, below the store's folder.
    """
    rows = importance(search)
    pictures = {
        f"{PICTURES}/{name}.png": Figure(title, meaning, png_of(drawing))
        for name, title, meaning, drawing in draw_figures(search, rows)
    }
    store.remove(PICTURES)
    for name, figure in pictures.items():
        store.write_bytes(name, figure.png)
    write_trials(store, search)
    store.write_bytes(PAGE, build_page(search, rows, list(pictures.values())).render().encode())
    return [PAGE, TRIALS, *pictures]


def write_trials(store: Store, search: Search) -> None:
    """Write only the table of trials."""
    store.write_bytes(TRIALS, trials_csv(search).encode())


def build_page(search: Search, rows: list[Importance], figures: list[Figure]) -> Page:
    """Build the page; the best trial's row is accented, or with several objectives those of the Pareto front."""
    front = pareto_front(search) if len(search.objectives) > 1 else []
    accented = front or ([best_trial(search).number] if search.complete else [])
    aims = "; ".join(f"{o.title}, {'lower' if sign_of(o) > 0 else 'higher'} is better" for o in search.objectives)
    tables = [trials_table(search), *failed_table(search), settings_table(search, rows, why_no_importance(search))]
    return Page(
        title=f"Search over settings: {search.name}",
        subtitle=f"Objectives: {aims}. Settings searched: {len(search.space)}. Seed of the sampler: {search.seed}.",
        tables=tables,
        figures=figures,
        summary=in_short(search, rows),
        notes=notes(search),
        settings=search.settings,
        models=tuple(str(number) for number in accented),
        libraries=("optuna", *LIBRARIES),
    )


def in_short(search: Search, rows: list[Importance]) -> list[str]:
    """Return the main results in sentences."""
    counts: Counter[str] = Counter(trial.state for trial in search.trials)
    states = ", ".join(f"{counts[state]} {words}" for state, words in ENDS.items() if counts[state])
    lines = [f"{len(search.trials)} of {search.wanted} trials" + (f": {states}." if states else " started.")]
    if search.complete:
        best, objective = best_trial(search), search.objectives[0]
        lines.append(f"Best: trial {best.number}, {objective.title} {measured(best.metrics[objective.name])}.")
        lines.append("Its settings: " + ", ".join(f"{key}={shown(value)}" for key, value in best.params.items()) + ".")
        if len(search.objectives) > 1:
            numbers = ", ".join(str(number) for number in pareto_front(search))
            lines.append(f"On the Pareto front, where no objective improves without another getting worse: {numbers}.")
    else:
        lines.append("No trial is complete, so there is no best trial.")
    lines += [what_mattered(rows)] if rows else []
    hours = sum(trial.seconds for trial in search.trials) / 3600
    return [*lines, f"{hours:.2f} hours of training in all trials together.", *saved_by_stops(search)]


def what_mattered(rows: list[Importance]) -> str:
    """Name the most important setting, or say that it does not stand out from the next."""
    first, *others = rows
    share = f"{100 * first.share:.0f} ± {100 * first.spread:.0f} % of importance"
    equal = f"equal shares would be {100 / len(rows):.0f} %"
    if others and first.share - first.spread <= others[0].share + others[0].spread:
        return (
            f"No setting stands out: {first.key} leads with {share}, but {others[0].key} may matter as much; {equal}."
        )
    return f"{first.key} mattered most: {share}, where {equal}."


def saved_by_stops(search: Search) -> list[str]:
    """Say what early stops saved, if any trial was stopped."""
    stopped = [trial for trial in search.trials if trial.state == "stopped"]
    full = [epochs_of(trial) for trial in search.complete if trial.curve]
    if not stopped or not full:
        return []
    length = sum(full) / len(full)
    trained = sum(epochs_of(trial) for trial in search.trials)
    unstopped = trained + sum(max(0.0, length - epochs_of(trial)) for trial in stopped)
    return [
        f"Early stops saved {100 * (1 - trained / unstopped):.0f} % of epochs: {trained:,} were trained instead of"
        f" {unstopped:,.0f}, if each of the {len(stopped)} stopped trials had taken {length:.0f} like the average"
        " complete trial."
    ]


def notes(search: Search) -> list[str]:
    """Return what a reader needs to know to judge the results."""
    lines = [
        "All values are of validation wells, at each trial's best epoch. The best of many trials is partly luck, so its"
        " value is optimistic: judge the chosen settings on test wells, which no trial has seen.",
        "Each trial is one training run. Differences as small as those between training seeds mean nothing; retrain the"
        " best few with other seeds before believing their order.",
    ]
    if any(trial.state == "stopped" for trial in search.trials):
        lines.append(
            "Trials stopped early had fewer epochs than complete trials, so their values would have improved, and a"
            " slow starter may have been stopped too soon."
        )
    if len(search.space) > settings_plots.MOST_AXES:
        lines.append(f"The pictures of settings show {settings_plots.MOST_AXES} of {len(search.space)}.")
    return lines


def why_no_importance(search: Search) -> str:
    """Say why importance is missing."""
    known = len(comparable(search))
    if known < FEWEST_TRIALS:
        return f"Importance needs at least {FEWEST_TRIALS} complete or stopped trials; there are {known}."
    return "Importance is missing, since all trials have the same value, or share no varied setting."


def draw_figures(search: Search, rows: list[Importance]) -> list[tuple[str, str, str, Drawing]]:
    """Return name, title, meaning and drawing of each picture that has something to show."""
    keys = ([row.key for row in rows] or list(search.space))[: settings_plots.MOST_AXES]
    valued = any(plots.values_of(search, state) for state in plots.MARKERS)
    drawn = []
    if search.trials:
        drawn.append(("history", "How the search went", HISTORY, plots.history(search)))
    if any(trial.curve for trial in search.trials):
        drawn.append(("curves", "Learning curves", CURVES, plots.curves(search)))
    if len(search.objectives) > 1 and search.complete:
        drawn.append(("pareto", "Trade-offs between objectives", PARETO, plots.pareto(search)))
    if rows:
        drawn.append(("importance", "Which settings mattered", IMPORTANCE, plots.importance_bars(rows)))
    if valued and keys:
        drawn.append(("slices", "Each setting alone", SLICES, settings_plots.slices(search, keys)))
    if search.complete and len(keys) > 1:
        drawing = settings_plots.parallel_coordinates(search, keys)
        drawn.append(("parallel", "Settings together", PARALLEL, drawing))
    return drawn


def trials_csv(search: Search) -> str:
    """Return one row per trial, with metrics under their names and settings under their keys."""
    metrics = list(dict.fromkeys([o.name for o in search.objectives] + [k for t in search.trials for k in t.metrics]))
    buffer = io.StringIO()
    head = ["number", "state", "seconds", "epochs", *metrics, *search.space, "error"]
    writer = csv.DictWriter(buffer, head, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(_csv_row(trial) for trial in search.trials)
    return buffer.getvalue()


def _csv_row(trial: Trial) -> dict[str, object]:
    row = {"number": trial.number, "state": trial.state, "seconds": trial.seconds, "epochs": epochs_of(trial)}
    return {**row, **trial.metrics, **trial.params, "error": trial.error}


HISTORY = (
    "Each mark is a trial; the line is the best complete trial so far. If the line still improves at its end, more"
    " trials may find better settings; after a long flat end they hardly will. Stopped trials are shown at their last"
    " value, not at the one they would have reached."
)
"""What to look for in each picture."""
CURVES = (
    "The first objective after each epoch; pale curves end where the scheduler stopped them. If pale curves end among"
    " complete ones, the scheduler had little to go by; if complete curves still improve at their ends, trials were too"
    " short."
)
PARETO = (
    "One panel per pair of objectives. Choose among the numbered trials by what matters to you: no complete trial is"
    " better than any of them in every objective. With three or more objectives, a trial on the front may lie inside"
    " the cloud of a panel. Small differences within the front may be luck."
)
IMPORTANCE = (
    "How much of a trial's wins and losses against other trials each setting explains, averaged over the other"
    " settings. Red bars are standard deviations over forests on resampled trials; settings whose bars overlap cannot"
    " be ranked, and those below the dotted line may not matter at all. This holds only for the ranges searched: a"
    " setting with a narrow range looks unimportant."
)
SLICES = (
    "The first objective against one setting at a time, the most important first. Look for a slope or valley in the"
    " cloud, and for a best trial at the edge of a range, which calls for a wider range. The sampler tries more where"
    " it found good values, so crowds show its interest, not an effect."
)
PARALLEL = (
    "Each line is a trial; dark lines are good, grey ones were stopped early, failed trials are left out. Where dark"
    " lines meet in a narrow place, the setting is decided; where they fan out, it hardly matters. With few complete"
    " trials any such pattern may be chance."
)
