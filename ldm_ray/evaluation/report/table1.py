"""Table 1 over several kinds of held-out sides and several seeds."""

from statistics import fmean, stdev
from typing import TypedDict, cast

from ldm_ray.config import Config, dump_config
from ldm_ray.evaluation.report.folder import PAPER, SIMULATED, in_short
from ldm_ray.evaluation.report.tables import SECTIONS, UNSEEN, Column, caption, cell, csv_text
from ldm_ray.evaluation.scores.predicted import row_name
from ldm_ray.evaluation.scores.record import Ceilings, Metrics, MetricsRow
from ldm_ray.pages.page import Page
from ldm_ray.pages.table import ScoreTable
from ldm_ray.storage.store import Store

WITH_INTERVAL = (
    "rmse",
    "mse_gain_over_best_baseline",
    "delta_pcc",
    "systematic_pcc",
    "explained_share",
)
"""Scores printed with their intervals; the files hold all intervals."""
COLUMNS = [column for section in SECTIONS for column in section.columns]


class SeedsRow(MetricsRow):
    """A row over seeds: means and, with two or more seeds, the standard deviation of each score as `<score>_sd`."""


class Side(TypedDict):
    """Scores with one kind of held-out side; seeds share the wells, so counts and ceiling are the first seed's."""

    unseen: str
    seeds: list[int]
    rows: list[SeedsRow]
    n_profiles: int
    n_compounds: int
    n_cell_lines: int
    n_plates: int
    ceiling: Ceilings
    best_baseline: list[str]
    notes: list[str]


class Campaign(TypedDict):
    """Contents of `table1.json`."""

    dataset: str
    simulated: bool
    sides: list[Side]


def write_campaign(store: Store, runs: list[Metrics], config: Config) -> Campaign:
    """Summarise the runs' metrics over seeds, and write `table1.html`, `.csv` and `.json`."""
    result: Campaign = {"dataset": runs[0]["dataset"], "simulated": runs[0]["simulated"], "sides": summarise(runs)}
    page = Page(
        title="Table 1: drug-induced expression of what was unseen in training",
        subtitle=f"{runs[0]['dataset']}; seeds {', '.join(map(str, config.table1.seeds))}",
        tables=[*campaign_tables(result), PAPER],
        figures=[],
        summary=[
            f"unseen {UNSEEN[run['unseen']]}, seed {run['seed']}: {line}" for run in runs for line in in_short(run)
        ],
        notes=[f"unseen {UNSEEN[side['unseen']]}: {note}" for side in result["sides"] for note in side["notes"]],
        settings=dump_config(config),
        banner=SIMULATED if result["simulated"] else "",
        models=tuple(model["name"] for model in runs[0]["models"]),
    )
    store.write_bytes("table1.html", page.render().encode())
    rows = [{"unseen": side["unseen"], **row} for side in result["sides"] for row in side["rows"]]
    store.write_bytes("table1.csv", csv_text(rows).encode())
    store.write_json("table1.json", result)
    return result


def summarise(runs: list[Metrics]) -> list[Side]:
    """Return each side's rows over seeds: mean, mean bounds of the interval and, with two or more seeds, the sd.

    The sd shows the effect of training's randomness (weights, order, draws) on the same held-out wells; the interval
    that of the choice of compounds.
    """
    sides: list[Side] = []
    for unseen in dict.fromkeys(run["unseen"] for run in runs):
        own = [run for run in runs if run["unseen"] == unseen]
        sides.append(
            {
                "unseen": unseen,
                "seeds": [run["seed"] for run in own],
                "rows": _rows(own),
                "n_profiles": own[0]["n_profiles"],
                "n_compounds": own[0]["n_compounds"],
                "n_cell_lines": own[0]["n_cell_lines"],
                "n_plates": own[0]["n_plates"],
                "ceiling": own[0]["ceiling"],
                "best_baseline": sorted({run["best_baseline"] for run in own}),
                "notes": caption(own[0]),
            }
        )
    return sides


def _rows(runs: list[Metrics]) -> list[SeedsRow]:
    rows: list[SeedsRow] = []
    for first in runs[0]["rows"]:
        name = (first["model"], first["prediction"])
        same = [r for run in runs for r in run["rows"] if (r["model"], r["prediction"]) == name]
        row: dict[str, object] = {"model": name[0], "prediction": name[1]}
        for key in first:
            values = [r.get(key) for r in same]
            scores = [value for value in values if isinstance(value, int | float)]
            intervals = [value for value in values if isinstance(value, list)]
            if len(scores) == len(runs):
                row[key] = fmean(scores)
                row |= {f"{key}_sd": stdev(scores)} if len(runs) > 1 else {}
            elif len(intervals) == len(runs):
                row[key] = [fmean(interval[i] for interval in intervals) for i in range(2)]
            else:
                row.setdefault(key, None)
        rows.append(cast(SeedsRow, row))
    return rows


def campaign_tables(result: Campaign) -> list[ScoreTable]:
    """Return the tables of each side; with several seeds, values have an sd."""
    tables = []
    for side in result["sides"]:
        seeds = len(side["seeds"])
        head = (
            f"unseen {UNSEEN[side['unseen']]}: {side['n_profiles']:,} wells, {side['n_compounds']:,} compounds,"
            f" {side['n_cell_lines']:,} cell lines, {seeds} seed{'s' if seeds > 1 else ''}"
        )
        spread = " ± is the sd over training seeds, on the same wells." if seeds > 1 else ""
        for section in SECTIONS:
            columns = [c for c in section.columns if any(row.get(c.key) is not None for row in side["rows"])]
            rows = [row for row in side["rows"] if any(row.get(c.key) is not None for c in columns)]
            if rows:
                body = [[row_name(row), *(_value(row, column) for column in columns)] for row in rows]
                heads = ["prediction", *(c.head for c in columns)]
                tables.append(ScoreTable(f"{head}: {section.title}", heads, body, section.meaning + spread))
    return tables


def _value(row: SeedsRow, column: Column) -> str:
    value, sd = row.get(column.key), row.get(f"{column.key}_sd")
    if value is not None and column.form == "count":
        return f"{value:.3g}"
    text = cell(row, column, with_interval=column.key in WITH_INTERVAL)
    if not isinstance(sd, float) or column.form == "percent":
        return text
    return f"{text} ± {100 * sd:.1f}" if column.form in ("gain", "share") else f"{text} ± {sd:.3f}"
