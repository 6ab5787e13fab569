"""Table 1 over several kinds of unseen test sides and several seeds."""

from statistics import fmean, stdev
from typing import Any

from ldm_ray.config import Config, dump_config
from ldm_ray.data.store import Store
from ldm_ray.evaluation.page import Page
from ldm_ray.evaluation.predictions import row_name
from ldm_ray.evaluation.report import PAPER, SIMULATED
from ldm_ray.evaluation.tables import SECTIONS, UNSEEN, ScoreTable, cell, csv_text

SHOWN = (
    "rmse", "pcc", "r2", "mse_gain_over_best_baseline", "rmse_normalised", "delta_pcc", "delta_pcc_normalised",
    "systematic_pcc", "explained_share", "precision_at_50", "discrimination", "energy_distance", "correlation_error",
    "top30_overlap", "coverage_95", "crps",
)  # fmt: skip
COLUMNS = [column for section in SECTIONS for column in section.columns if column.key in SHOWN]


def write_campaign(store: Store, runs: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    """Summarise the metrics of runs over seeds, and write `table1.html`, `.csv` and `.json`."""
    result = {"runs": len(runs), "simulated": runs[0]["simulated"], "sides": summarise(runs)}
    page = Page(
        title="Table 1: drug-induced expression of what was unseen in training",
        subtitle=f"{runs[0]['dataset']}; seeds {', '.join(map(str, config.table1.seeds))}",
        tables=[*campaign_tables(result), PAPER],
        figures=[],
        summary=[_verdict(side) for side in result["sides"]],
        notes=_notes(runs),
        settings=dump_config(config),
        banner=SIMULATED if result["simulated"] else "",
        models=("ldm", *config.table1.rivals),
    )
    store.write_bytes("table1.html", page.render().encode())
    rows = [{"unseen": side["unseen"]} | row for side in result["sides"] for row in side["rows"]]
    store.write_bytes("table1.csv", csv_text({"rows": rows}).encode())
    store.write_json("table1.json", result)
    return result


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and sd over seeds of every score, by side; one seed keeps its intervals."""
    sides = []
    for unseen in dict.fromkeys(run["unseen"] for run in runs):
        own = [run for run in runs if run["unseen"] == unseen]
        names = [(row["model"], row["prediction"]) for row in own[0]["rows"]]
        rows = []
        for model, prediction in names:
            same = [r for run in own for r in run["rows"] if (r["model"], r["prediction"]) == (model, prediction)]
            row: dict[str, Any] = {"model": model, "prediction": prediction}
            for key in (column.key for column in COLUMNS):
                values = [r[key] for r in same if r.get(key) is not None]
                if len(values) < len(own):
                    row[key] = None
                    continue
                row[key] = fmean(values)
                if len(own) > 1:
                    row[f"{key}_sd"] = stdev(values)
                elif f"{key}_interval" in same[0]:
                    row[f"{key}_interval"] = same[0][f"{key}_interval"]
            rows.append(row)
        ceilings = [run["ceiling"] for run in own]
        first = {key: own[0][key] for key in ("n_profiles", "n_compounds", "n_cell_lines", "best_baseline")}
        sides.append({"unseen": unseen, "seeds": [run["seed"] for run in own], **first, "rows": rows,
                      "ceiling": ceilings[0]})  # fmt: skip
    return sides


def campaign_tables(result: dict[str, Any]) -> list[ScoreTable]:
    """Return one table a side; with several seeds values are mean and sd."""
    tables = []
    for side in result["sides"]:
        seeds = len(side["seeds"])
        columns = [c for c in COLUMNS if any(row.get(c.key) is not None for row in side["rows"])]
        body = [[row_name(row), *(_value(row, column) for column in columns)] for row in side["rows"]]
        title = (
            f"unseen {UNSEEN[side['unseen']]}: {side['n_profiles']:,} wells, {side['n_compounds']:,} compounds,"
            f" {side['n_cell_lines']:,} cell lines, {seeds} seed{'s' if seeds > 1 else ''}"
        )
        meaning = "Mean and sd over seeds." if seeds > 1 else "One seed; intervals stand in its own report."
        tables.append(ScoreTable(title, ["prediction", *(c.head for c in columns)], body, meaning))
    return tables


def _value(row: dict[str, Any], column: Any) -> str:
    value, sd = row.get(column.key), row.get(f"{column.key}_sd")
    if value is not None and column.form == "gain":
        return f"{100 * value:+.1f}%" + (f" ± {100 * sd:.1f}" if sd is not None else "")
    if value is not None and column.form == "count":
        return f"{value:.3g}"
    text = cell(row, column, with_interval=False)
    return f"{text} ± {sd:.3f}" if sd is not None and column.form == "number" else text


def _verdict(side: dict[str, Any]) -> str:
    means = [r for r in side["rows"] if r["model"] == "ldm" and r["prediction"] != "one_draw"]
    best = min(means, key=lambda row: row["rmse"])
    gain = 100 * best["mse_gain_over_best_baseline"]
    return f"unseen {UNSEEN[side['unseen']]}: {row_name(best)} saves {gain:+.1f}% of the best baseline's squared error."


def _notes(runs: list[dict[str, Any]]) -> list[str]:
    notes = dict.fromkeys(f"unseen {run['unseen']}: {note}" for run in runs for note in run["notes"])
    for model in runs[0]["models"]:
        small = "" if model.get("published_size", True) else ", SMALL PRESET, not the published size"
        notes[f"{model['name']}: {model['n_parameters']:,} parameters{small}, {model['encoder']}"] = None
    return list(notes)
