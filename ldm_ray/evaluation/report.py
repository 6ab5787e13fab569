"""The report folder: scores as JSON and CSV, a table to read, pictures, and what they mean."""

import csv
import io
from dataclasses import dataclass
from typing import Any

from ldm_ray.config import Config, dump_config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.store import Store
from ldm_ray.evaluation import plots
from ldm_ray.evaluation.predictions import row_name
from ldm_ray.evaluation.suite import Evaluation
from ldm_ray.training.bundle import Bundle

METRICS = "metrics.json"
EXPRESSION = {
    "rmse": "RMSE",
    "pcc": "PCC",
    "r2": "R2",
    "mse_gain_over_best_trivial": "MSE gain",
    "rmse_normalised": "of ceiling",
}
CHANGE = {
    "delta_pcc": "delta corr",
    "systematic_pcc": "plate-centred",
    "delta_pcc_normalised": "of ceiling",
    "explained_share": "share of delta",
}
DISTRIBUTION = {
    "energy_distance": "energy dist",
    "correlation_error": "corr error",
    "correlation_spearman": "corr Spearman",
    "top30_overlap": "top-30",
}
TABLES = (
    ("expression", EXPRESSION),
    ("change from the control", CHANGE),
    ("distribution over wells: only draws can match it", DISTRIBUTION),
)
NORMALISED = ("rmse_normalised", "delta_pcc_normalised")
WITH_INTERVAL = ("rmse", "delta_pcc", "systematic_pcc", "explained_share", "mse_gain_over_best_trivial")
PAPER_ROWS = (
    ("PRnet", 1.726, 0.751, 0.437, 3),
    ("PertDiT", 1.370, 0.830, 0.665, 2),
    ("the paper", 1.340, 0.832, 0.669, 12),
)
MEANING = """\
How to read it. RMSE, PCC and R2 are the paper's scores of absolute expression, where copying the control is
already good. `delta corr` correlates the predicted with the measured change, the latter against controls that
no prediction has seen. `plate-centred` does the same after subtracting what the plate's other compounds have in
common: a predictor that says the same for every compound scores 0. `MSE gain` is the squared error saved over the
best trivial row, well by well. `share of delta` (simulated data only) is how much of the true compound-specific
change is predicted: 0 is the mean change of the cell line, 1 the truth. `one draw` rows are simulated wells, with
their noise: judge them by `energy dist`, `corr error` and `top-30`, and the means by the other columns.
Brackets are 95% intervals over compounds.
"""


@dataclass(frozen=True)
class ScoreTable:
    """One printed table."""

    title: str
    head: list[str]
    body: list[list[str]]


def describe_wells(metrics: dict[str, Any]) -> str:
    """Say what was judged."""
    seen = (
        "compounds unseen in training" if metrics["split"] == "test" else "validation compounds (they stopped training)"
    )
    return f"{metrics['n_profiles']:,} wells of {metrics['n_compounds']:,} {seen}"


def score_tables(metrics: dict[str, Any]) -> list[ScoreTable]:
    """Return the printed tables."""
    tables = []
    for title, columns in TABLES:
        keys = [key for key in columns if any(row.get(key) is not None for row in metrics["rows"]) or key in NORMALISED]
        body = [[row_name(row), *(_cell(row, key) for key in keys)] for row in metrics["rows"]]
        tables.append(ScoreTable(title, ["prediction", *(columns[key] for key in keys)], body))
    return tables


def caption(metrics: dict[str, Any]) -> str:
    """Return the lines under the table: ceilings, best trivial row, what was left out."""
    ceiling, lines = metrics["ceiling"], []
    if "rmse_floor" in ceiling:
        lines.append(
            f"ceilings from {ceiling['n_pairs']} replicate pairs: a perfect mean reaches RMSE"
            f" {ceiling['rmse_floor']:.3f}, delta corr {ceiling['delta_pcc_ceiling']:.3f}; a replicate"
            f" well reaches RMSE {ceiling['replicate_rmse']:.3f}, PCC {ceiling['replicate_pcc']:.3f},"
            f" R2 {ceiling['replicate_r2']:.3f}"
        )
    if ceiling.get("energy_distance_real") is not None:
        lines.append(
            f"real against real: energy dist {ceiling['energy_distance_real']:.3f},"
            f" top-30 overlap of halves {ceiling['top30_overlap_half_half']}"
        )
    for row in metrics["rows"]:
        if "rmse_infinite_samples" in row:
            lines.append(f"{row_name(row)}: RMSE {row['rmse_infinite_samples']:.3f} without its sampling noise")
    lines.append(f"best trivial row by RMSE: {metrics['best_trivial']}")
    return "\n".join(lines + metrics["notes"])


def write_report(url: str, evaluation: Evaluation, bundle: Bundle, dataset: PairedDataset, config: Config) -> list[str]:
    """Write the report folder; `metrics.json` comes last.

    Returns:
        URLs of the pictures.
    """
    store, metrics = Store(url, config.storage_options), evaluation.metrics
    store.remove(METRICS)
    history = (bundle.metadata["vae_history"], bundle.metadata["history"])
    figures = {
        "scores.png": plots.scores_by_model(metrics["rows"], metrics["ceiling"]),
        "learning_curves.png": plots.learning_curves(*history),
        "predicted_against_measured.png": plots.predicted_against_measured(evaluation.wells, evaluation.predictions),
        "correlation_heatmaps.png": plots.correlation_heatmaps(
            evaluation.wells, evaluation.predictions, dataset.gene_symbols
        ),
    }
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130, format="png")
        store.write_bytes(name, buffer.getvalue())
    store.write_bytes("settings.yaml", dump_config(config).encode())
    store.write_bytes("table.csv", _csv(metrics).encode())
    store.write_bytes("report.md", _markdown(metrics, list(figures)).encode())
    store.write_json(METRICS, metrics)
    return [store.path(name) for name in figures]


def _cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return "undefined" if key in NORMALISED else "-"
    if key in NORMALISED:
        return f"{round(100 * value)}%"
    if key == "top30_overlap":
        return str(value)
    if key == "mse_gain_over_best_trivial":
        low, high = (f"{100 * bound:+.1f}" for bound in row[f"{key}_interval"])
        return f"{100 * value:+.1f}% [{low}, {high}]"
    text = f"{value:.3f}"
    if key in WITH_INTERVAL:
        low, high = row[f"{key}_interval"]
        text += f" [{low:.3f}, {high:.3f}]"
    return text


def _csv(metrics: dict[str, Any]) -> str:
    keys = sorted({key for row in metrics["rows"] for key in row} - {"model", "prediction"})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "prediction", *keys])
    for row in metrics["rows"]:
        writer.writerow([row["model"], row["prediction"], *(row.get(key, "") for key in keys)])
    return buffer.getvalue()


def _markdown(metrics: dict[str, Any], figures: list[str]) -> str:
    lines = [
        f"# {metrics['dataset']}: {describe_wells(metrics)}",
        "",
        f"Split `{metrics['split']}`, seed {metrics['seed']}"
        + (", **simulated data: not biology**." if metrics["simulated"] else "."),
        "",
        *(line for table in score_tables(metrics) for line in _markdown_table(table)),
        *(f"- {line}" for line in caption(metrics).split("\n")),
        "",
        MEANING,
        "Published numbers, **measured on other data** (836,841 profiles of GSE92742), one draw each:",
        "",
        "| | RMSE | PCC | R2 | top-30 |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {name} | {rmse:.3f} | {pcc:.3f} | {r2:.3f} | {top} |" for name, rmse, pcc, r2, top in PAPER_ROWS),
        "",
        *(f"![{name}]({name})\n" for name in figures),
    ]
    return "\n".join(lines)


def _markdown_table(table: ScoreTable) -> list[str]:
    rows = ["| " + " | ".join(cells) + " |" for cells in (table.head, *table.body)]
    return [f"**{table.title}**", "", rows[0], "|" + " --- |" * len(table.head), *rows[1:], ""]
