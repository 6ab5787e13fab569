"""The report folder: scores as JSON and CSV, the page, pictures, and the sampled wells."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Drawing

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.config import Config, dump_config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.evaluation.report import plots
from ldm_ray.evaluation.report.export import write_exports
from ldm_ray.evaluation.report.health import MEANING, draw_health, failed_lines, health_tables
from ldm_ray.evaluation.report.tables import caption, csv_text, describe_wells, score_tables
from ldm_ray.evaluation.scores.predicted import row_name
from ldm_ray.evaluation.scores.record import Metrics, Score
from ldm_ray.evaluation.suite import Evaluation
from ldm_ray.layout import METRICS, PAGE, SETTINGS
from ldm_ray.pages.page import Figure, Page
from ldm_ray.pages.picture import png_of
from ldm_ray.pages.table import ScoreTable
from ldm_ray.storage.store import Store

PAPER = ScoreTable(
    "published numbers, measured on other data",
    ["model", "RMSE", "PCC", "R2", "top-30"],
    [
        ["PRnet", "1.726", "0.751", "0.437", "3"],
        ["PertDiT", "1.370", "0.830", "0.665", "2"],
        ["the paper", "1.340", "0.832", "0.669", "12"],
    ],
    "As reported by Kim & Yoo, on 836,841 profiles of GSE92742, one draw each. They are not comparable with the rows"
    " above, which score other wells; they are listed here for convenience.",
)
FIGURE_3: tuple[Score, ...] = (
    "top30_overlap",
    "correlation_error",
    "correlation_spearman",
    "top30_overlap_pooled",
    "correlation_error_pooled",
    "correlation_spearman_pooled",
)
"""Scores reported with Fig. 3."""
FEWEST_COMPOUNDS = 10
SIMULATED = "Simulated data: the genes are made up, and nothing on this page is biology."


def write_report(
    url: str, evaluation: Evaluation, bundles: Sequence[Bundle], dataset: PairedDataset, config: Config
) -> list[str]:
    """Write the report folder; `metrics.json` is written last.

    Returns:
        URLs of the page and the pictures.
    """
    store, metrics = Store(url, config.storage_options), evaluation.metrics
    store.remove(METRICS)
    figures = draw_figures(evaluation, bundles, dataset)
    pictures = {name: Figure(title, meaning, png_of(drawing)) for name, title, meaning, drawing in figures}
    for name, figure in pictures.items():
        store.write_bytes(name, figure.png)
    page = Page(
        title=f"How well is drug-induced expression predicted? {describe_wells(metrics)}",
        subtitle=f"{metrics['dataset']}, split {metrics['split']}, seed {metrics['seed']}; {dataset_summary(dataset)}",
        tables=[*score_tables(metrics), *health_tables(metrics["models"]), PAPER],
        figures=list(pictures.values()),
        summary=in_short(metrics),
        notes=caption(metrics),
        settings=dump_config(config),
        banner=SIMULATED if metrics["simulated"] else "",
        models=tuple(model["name"] for model in metrics["models"]),
    )
    store.write_bytes(PAGE, page.render().encode())
    store.write_bytes(SETTINGS, dump_config(config).encode())
    store.write_bytes("table.csv", csv_text(metrics["rows"]).encode())
    write_exports(store, dataset, evaluation.wells, evaluation.predictions)
    store.write_json(METRICS, metrics)
    return [store.path(name) for name in (PAGE, *pictures)]


def draw_figures(
    evaluation: Evaluation, bundles: Sequence[Bundle], dataset: PairedDataset
) -> list[tuple[str, str, str, Drawing]]:
    """Return file name, title, meaning and drawing of every picture."""
    metrics = evaluation.metrics
    drawn = [
        (
            "scores.png",
            "Scores of all rows",
            "Points are scores, bars their 95% intervals over compounds, the dotted line the replicate ceiling.",
            plots.scores_by_model(metrics["rows"], metrics["ceiling"], [model["name"] for model in metrics["models"]]),
        ),
        figure_3(evaluation, dataset),
    ]
    if (parts := draw_health(metrics["models"])) is not None:
        drawn.append(("parts.png", "The models' parts", MEANING, parts))
    if any(bundle.kind == "ldm" for bundle in bundles):
        drawn += [
            (
                "predicted_against_measured.png",
                "Predicted against measured",
                "Each point is a gene of a well: expression above, change from the control below. Expression looks"
                " good for anything that knows the gene's level; the change is the purpose of a prediction.",
                plots.predicted_against_measured(evaluation.wells, evaluation.predictions),
            ),
            (
                "calibration.png",
                "Calibration",
                "Share of measured values inside the stated interval; on the dashed line the stated uncertainty is"
                " right.",
                plots.coverage(metrics["rows"]),
            ),
            (
                "learning_curves.png",
                "Learning curves",
                "Training and validation losses by epoch; the dotted line marks the kept epoch.",
                plots.learning_curves(next(bundle for bundle in bundles if bundle.kind == "ldm").metadata),
            ),
        ]
    return drawn


def figure_3(evaluation: Evaluation, dataset: PairedDataset) -> tuple[str, str, str, Drawing]:
    """Draw the paper's Fig. 3: gene-gene correlations, measured and in every model."""
    ceiling = evaluation.metrics["ceiling"]["top30_overlap_half_half"]
    meaning = (
        "Correlation, within cell line and time, of the 30 genes most correlated with all others in the measured wells:"
        " first as measured, then in each model's wells. A model that has learned which genes vary together reproduces"
        f" the first panel. Two random halves of the measurements share {ceiling} of 30 such genes, which is the most"
        " to expect; the error is in units of the distance between the halves."
    )
    drawing = plots.correlation_heatmaps(evaluation, dataset.gene_symbols)
    return "correlation_heatmaps.png", "Fig. 3: which genes go together", meaning, drawing


def write_figure_3(url: str, evaluation: Evaluation, dataset: PairedDataset, config: Config) -> list[str]:
    """Write only Fig. 3 and its numbers."""
    store, metrics = Store(url, config.storage_options), evaluation.metrics
    name, _, _, drawing = figure_3(evaluation, dataset)
    store.write_bytes(name, png_of(drawing))
    ceilings = {key: value for key, value in metrics["ceiling"].items() if key.startswith("top30")}
    rows = [
        {"model": row["model"], "prediction": row["prediction"]} | {score: row[score] for score in FIGURE_3}
        for row in metrics["rows"]
    ]
    store.write_json("fig3.json", {"dataset": metrics["dataset"], "rows": rows, "ceiling": ceilings})
    return [store.path(name), store.path("fig3.json")]


def in_short(metrics: Metrics) -> list[str]:
    """Return the main findings as sentences."""
    lines = failed_lines(metrics["models"])
    if metrics["n_compounds"] < FEWEST_COMPOUNDS:
        return [*lines, f"{metrics['n_compounds']} compounds are too few for a verdict."]
    for model in metrics["models"]:
        means = [r for r in metrics["rows"] if r["model"] == model["name"] and r["prediction"] != "one_draw"]
        shown = next((row for row in means if row["prediction"] == "mean_direct"), means[0])
        if model["name"] == metrics["best_baseline"]:
            lines.append(f"{row_name(shown)} is itself the best baseline.")
            continue
        low, high = shown["mse_gain_over_best_baseline_interval"]
        verdict = "lower than" if low > 0 else "higher than" if high < 0 else "not distinguishable from"
        lines.append(
            f"{row_name(shown)}: squared error {verdict} that of the best baseline ({metrics['best_baseline']}), saving"
            f" {100 * shown['mse_gain_over_best_baseline']:+.1f}% [{100 * low:+.1f}, {100 * high:+.1f}]."
        )
        if shown.get("systematic_pcc") is not None:
            low, high = shown["systematic_pcc_interval"]
            what = "tells treatments apart" if low > 0 else "does not tell treatments apart"
            lines.append(
                f"{row_name(shown)}: {what} on a plate (plate-centred correlation {shown['systematic_pcc']:.3f}"
                f" [{low:.3f}, {high:.3f}]); the ablation rows show whether by structure."
            )
    return lines


def dataset_summary(dataset: PairedDataset) -> str:
    """Describe the dataset in one line."""
    manifest = dataset.manifest
    sides = ", ".join(f"{manifest['splits']['split'].get(side, 0):,} {side}" for side in ("train", "valid", "test"))
    return (
        f"{manifest['n_profiles']:,} treated wells of {manifest['n_compounds']:,} compounds in"
        f" {manifest['n_cell_lines']:,} cell lines ({sides})"
    )
