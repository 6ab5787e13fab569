"""The printed tables of an evaluation: columns, formats, and meanings."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ldm_ray.evaluation.scores.predicted import row_name
from ldm_ray.evaluation.scores.record import Metrics, MetricsRow, ModelDescription, Score, interval_of
from ldm_ray.pages.table import ScoreTable


@dataclass(frozen=True)
class Column:
    """One column: its key in a row, its head, and how its value is written."""

    key: Score
    head: str
    form: Literal["number", "percent", "share", "count", "gain"] = "number"


@dataclass(frozen=True)
class Section:
    """A table of related columns, and an explanation for readers new to them."""

    title: str
    columns: tuple[Column, ...]
    meaning: str


SECTIONS = (
    Section(
        "expression",
        (
            Column("rmse", "RMSE"),
            Column("pcc", "PCC"),
            Column("r2", "R2"),
            Column("mse_gain_over_best_baseline", "MSE gain", "gain"),
            Column("rmse_normalised", "of ceiling", "percent"),
        ),
        "How close is the predicted expression? RMSE, PCC and R2 are the paper's scores; copying the control already"
        " does well on them. MSE gain is the squared error saved over the best baseline, well by well. of ceiling says"
        " where the RMSE lies between the best trivial row (0%) and a perfect mean without knowledge of the plate"
        " (100%).",
    ),
    Section(
        "change from the control",
        (
            Column("delta_pcc", "delta corr"),
            Column("delta_pcc_normalised", "of ceiling", "percent"),
            Column("systematic_pcc", "plate-centred"),
            Column("explained_share", "share of delta"),
        ),
        "Is the predicted change right? delta corr correlates it with the measured change, taken against controls that"
        " no prediction has seen. plate-centred is the same after subtracting what the plate's other compounds have in"
        " common: predicting the same for every compound scores 0. share of delta (simulated data only) is the share of"
        " the true compound-specific change that is found: 0 is the cell line's mean change, 1 the truth.",
    ),
    Section(
        "strong genes and telling conditions apart",
        (
            Column("top50_rmse", "top-50 RMSE"),
            Column("top50_pcc", "top-50 corr"),
            Column("precision_at_50", "precision@50"),
            Column("discrimination", "discrimination"),
            Column("discrimination_cosine", "by angle"),
        ),
        "Replicates are averaged first. The first three columns score the 50 genes that go up most and the 50 that go"
        " down most: their error, their correlation, and how many of them are found. discrimination asks whether a"
        " prediction is nearer to its own condition than to the cell line's other conditions: 0.5 is chance, 1 always."
        " By angle, the size of a predicted change does not matter.",
    ),
    Section(
        "distribution over wells: only draws can match it",
        (
            Column("energy_distance", "energy dist"),
            Column("mmd", "MMD"),
            Column("correlation_error", "corr error"),
            Column("correlation_spearman", "corr Spearman"),
            Column("top30_overlap", "top-30", "count"),
        ),
        "Do predicted wells, as a cloud, look like measured ones? energy dist and MMD are 0 for equal distributions."
        " corr error is the distance between gene-gene correlations, in units of that between two halves of the"
        " measurements; top-30 counts how many of the 30 most correlated genes (as in the paper) are the same. A mean"
        " always has too little spread: judge draws here, and means above.",
    ),
    Section(
        "calibration of the predicted spread",
        (
            Column("coverage_50", "in 50%", "share"),
            Column("coverage_80", "in 80%", "share"),
            Column("coverage_95", "in 95%", "share"),
            Column("crps", "CRPS"),
        ),
        "Is the stated uncertainty right? The share of measured values inside the 50, 80 and 95% intervals should be"
        " 50, 80 and 95%. CRPS is the error of the whole predicted distribution, in log2; lower is better.",
    ),
)
NORMALISED: tuple[Score, ...] = ("rmse_normalised", "delta_pcc_normalised")
SHORT = {"expression", "change from the control"}
"""Sections printed with intervals."""


def score_tables(metrics: Metrics) -> list[ScoreTable]:
    """Return the printed tables, without empty columns and rows."""
    tables = []
    for section in SECTIONS:
        columns = [c for c in section.columns if c.key in NORMALISED or _any(metrics["rows"], c.key)]
        rows = [row for row in metrics["rows"] if any(row.get(column.key) is not None for column in columns)]
        if rows:
            body = [
                [row_name(row), *(cell(row, column, with_interval=section.title in SHORT) for column in columns)]
                for row in rows
            ]
            heads = ["prediction", *(column.head for column in columns)]
            tables.append(ScoreTable(section.title, heads, body, section.meaning))
    return tables


def cell(row: MetricsRow, column: Column, *, with_interval: bool) -> str:
    """Format one value, with its interval if it has one and it is wanted."""
    value = row.get(column.key)
    if value is None:
        return "undefined" if column.key in NORMALISED else "-"
    if column.form == "count":
        return str(value)
    if column.form == "percent":
        return f"{round(100 * value)}%"
    if column.form == "share":
        return f"{100 * value:.1f}%"
    bounds = interval_of(row, column.key) or []
    if column.form == "gain":
        low, high = (f"{100 * bound:+.1f}" for bound in bounds)
        return f"{100 * value:+.1f}% [{low}, {high}]"
    text = f"{value:.3f}"
    return f"{text} [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds and with_interval else text


def csv_text(scored: Sequence[Mapping[str, object]]) -> str:
    """Return all rows with all scores as CSV; an interval takes two columns.

    Args:
        scored: `MetricsRow`s, possibly with more columns.
    """
    rows = []
    for row in scored:
        flat: dict[str, object] = {}
        for key, value in row.items():
            if isinstance(value, list):
                flat |= {key.replace("_interval", "_low"): value[0], key.replace("_interval", "_high"): value[1]}
            else:
                flat[key] = value
        rows.append(flat)
    keys = sorted({key for row in rows for key in row} - {"model", "prediction"})
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["model", "prediction", *keys], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


UNSEEN = {
    "compound": "compounds",
    "cell": "cell lines",
    "plate": "batches of plates",
    "both": "compounds and cell lines",
    "scaffold": "scaffolds",
}


def describe_wells(metrics: Metrics) -> str:
    """Describe the scored wells."""
    what = UNSEEN[metrics["unseen"]]
    seen = f"{what} unseen in training" if metrics["split"] == "test" else f"validation {what} (used to stop training)"
    return (
        f"{metrics['n_profiles']:,} wells, {metrics['n_compounds']:,} compounds, {metrics['n_cell_lines']:,} cell"
        f" lines: {seen}"
    )


def caption(metrics: Metrics) -> list[str]:
    """Return the lines under the tables: ceilings, best rows, models, and what was left out."""
    ceiling = metrics["ceiling"]
    lines: list[str] = []
    if "rmse_floor" in ceiling:
        floor = _range(ceiling["rmse_floor"], ceiling["rmse_floor_interval"])
        best = f"a perfect mean that does not know the plate reaches RMSE {floor}"
        if "delta_pcc_ceiling" in ceiling:
            best += f", delta corr {_range(ceiling['delta_pcc_ceiling'], ceiling['delta_pcc_ceiling_interval'])}"
            best += f" (root of the averaged replicate correlation: {ceiling['delta_pcc_root_of_mean']:.3f})"
        lines.append(
            f"ceilings from {ceiling['n_pairs']:,} pairs of {ceiling['n_wells']:,} wells on different plates,"
            f" {ceiling['n_cell_lines']} cell lines: {best}; a replicate well reaches RMSE"
            f" {ceiling['replicate_rmse']:.3f}, PCC {ceiling['replicate_pcc']:.3f}, R2 {ceiling['replicate_r2']:.3f}"
        )
    if ceiling.get("energy_distance_real") is not None:
        lines.append(
            f"real against real: energy dist {ceiling['energy_distance_real']:.3f}, MMD {ceiling['mmd_real']:.4f},"
            f" top-30 overlap of halves {ceiling['top30_overlap_half_half']}"
            f" ({ceiling['top30_overlap_half_half_pooled']} pooled over cell lines)"
        )
    for row in metrics["rows"]:
        if "rmse_infinite_samples" in row:
            lines.append(f"{row_name(row)}: RMSE {row['rmse_infinite_samples']:.3f} without its sampling noise")
    lines.append(f"best trivial row by RMSE: {metrics['best_trivial']}; best baseline: {metrics['best_baseline']}")
    for model in metrics["models"]:
        lines.append(f"{model_line(model)}, epoch {model['best_epoch']} of {model['epochs']} kept")
    return [*lines, *metrics["notes"]]


def model_line(model: ModelDescription) -> str:
    """Describe a model in one line."""
    small = "" if model.get("published_size", True) else " (NOT THE PUBLISHED SIZE)"
    return f"{model['name']}: {model['n_parameters']:,} parameters{small}, {model['encoder']}"


def _range(value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _any(rows: Sequence[MetricsRow], key: Score) -> bool:
    return any(row.get(key) is not None for row in rows)
