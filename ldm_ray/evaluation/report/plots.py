"""The pictures of a report; every function returns a figure without showing it."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldm_ray.bundle.metadata import EpochRow, Metadata
from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.predictions import ABLATIONS
from ldm_ray.evaluation.scores.correlation import top_genes
from ldm_ray.evaluation.scores.predicted import PredictedWells, row_name
from ldm_ray.evaluation.scores.record import MetricsRow, ReplicateCeiling, Score, interval_of
from ldm_ray.evaluation.suite import Evaluation
from ldm_ray.keys import Purpose, generator
from ldm_ray.pages.picture import ACCENT, INK

COVERAGES: dict[int, Score] = {50: "coverage_50", 80: "coverage_80", 95: "coverage_95"}
"""Coverage scores by the stated percentage."""
MAX_POINTS = 200_000


def learning_curves(metadata: Metadata) -> Figure:
    """Draw training and validation losses of autoencoder and diffusion model by epoch, with the kept epoch marked."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")

    def lowest(history: list[EpochRow]) -> int:
        return int(min(history, key=lambda row: row["valid_loss"])["epoch"])

    for axes, title, history, kept in zip(
        figure.subplots(1, 2),
        ("autoencoder", "latent diffusion"),
        (metadata["vae_history"], metadata["history"]),
        (lowest(metadata["vae_history"]), metadata["best_epoch"]),  # a setting decides the latter
        strict=True,
    ):
        epochs = [row["epoch"] + 1 for row in history]
        axes.plot(epochs, [row["train_loss"] for row in history], color=INK, label="training")
        axes.plot(
            epochs,
            [row["valid_loss"] for row in history],
            color=ACCENT,
            label="validation (averaged weights)",
        )
        axes.axvline(kept + 1, color="0.6", linestyle=":", label=f"kept: epoch {kept + 1}")
        axes.set(title=f"{title}: loss by epoch", xlabel="epoch", ylabel="loss")
        axes.legend(frameon=False, fontsize=8)
    return figure


def predicted_against_measured(wells: Wells, predictions: list[PredictedWells], seed: int = 0) -> Figure:
    """Draw predicted against measured log2 values of wells x genes, as expression and as change from the control."""
    shown = [p for p in predictions if p.model == "ldm" and p.kind in ("mean_direct", "one_draw")]
    shown = [p for p in predictions if p.model == "mean_delta"] + shown
    names = {
        "mean_delta": "mean delta (baseline)",
        "one_draw": "LDM, one draw",
        "mean_direct": "LDM, direct mean",
    }
    figure = Figure(figsize=(4 * len(shown), 7.6), layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False)
    rng = generator(seed, Purpose.SCATTER_POINTS)
    flat = rng.permutation(wells.y.size)[:MAX_POINTS]
    scored = np.flatnonzero(wells.has_reserved)  # changes are measured from controls that no model has seen
    some = rng.permutation(len(scored) * wells.y.shape[1])[:MAX_POINTS]
    for column, prediction in enumerate(shown):
        name = names["mean_delta" if prediction.model == "mean_delta" else prediction.kind]
        _density(grid[0, column], wells.y.flat[flat], prediction.y_hat.flat[flat], f"{name}\nexpression (log2)")
        if len(scored):
            delta, measured = ((a - b)[scored] for a, b in ((prediction.y_hat, wells.basal), (wells.y, wells.reserved)))
            _density(grid[1, column], measured.flat[some], delta.flat[some], "change from control (log2)")
    return figure


def correlation_heatmaps(evaluation: Evaluation, symbols: list[str]) -> Figure:
    """Draw correlations, within cell line and time, of the measured top 30 genes: measured, and in each model.

    A model is shown by its draws if it has any, else by its mean.

    Source: Kim & Yoo, Fig. 3.
    """
    real, *others = evaluation.correlations
    genes, rows = top_genes(real), evaluation.metrics["rows"]
    drawing = {row["model"] for row in rows if row["prediction"] == "one_draw"}
    panels = [("measured", real)]
    for row, matrix in zip(rows, others, strict=True):
        if row["model"].endswith(ABLATIONS) or (row["model"] in drawing) != (row["prediction"] == "one_draw"):
            continue
        scores = f"{row['top30_overlap']} of 30 shared, error {row['correlation_error']:.1f}"
        panels.append((f"{row_name(row)}\n{scores}", matrix))
    n_columns = min(4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(3.2 * n_columns + 1.2, 3.3 * n_rows + 0.5), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, matrix) in zip(grid, panels, strict=False):
        image = axes.imshow(matrix[np.ix_(genes, genes)], cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_title(name, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks(range(len(genes)) if axes is grid[0] else [])
        if axes is grid[0]:
            axes.set_yticklabels([symbols[g] for g in genes], fontsize=4)
    figure.colorbar(image, ax=list(grid), shrink=0.6, label="correlation of genes over wells")
    figure.suptitle("The 30 genes most correlated with all others in the measurements", fontsize=10)
    return figure


def coverage(rows: list[MetricsRow]) -> Figure:
    """Draw the share of measured values inside the stated intervals against the stated share."""
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([40, 100], [40, 100], color="0.6", linestyle="--", linewidth=1)
    for row in rows:
        seen = [100 * inside for level in COVERAGES.values() if (inside := row.get(level)) is not None]
        if seen:
            axes.plot(list(COVERAGES), seen, "o-", markersize=4, linewidth=1, label=row_name(row))
    axes.set(xlabel="stated, %", ylabel="measured values inside, %", xlim=(45, 100), ylim=(40, 100))
    axes.legend(frameon=False, fontsize=8)
    return figure


def scores_by_model(rows: list[MetricsRow], ceiling: ReplicateCeiling, models: list[str]) -> Figure:
    """Draw RMSE, correlations and (if known) explained share of every row, with 95% intervals; models in colour."""
    wanted: list[tuple[Score, str]] = [
        ("rmse", "RMSE (log2), lower is better"),
        ("delta_pcc", "delta correlation, higher is better"),
    ]
    wanted.append(("systematic_pcc", "plate-centred correlation, higher is better"))
    if any("explained_share" in row for row in rows):
        wanted.append(("explained_share", "share of explainable delta, higher is better"))
    figure = Figure(figsize=(3.6 * len(wanted), 0.3 * len(rows) + 1.6), layout="constrained")
    limits: dict[Score, float | None] = {
        "rmse": ceiling.get("rmse_floor"),
        "delta_pcc": ceiling.get("delta_pcc_ceiling"),
    }
    for number, (axes, (key, title)) in enumerate(
        zip(figure.subplots(1, len(wanted), sharey=True), wanted, strict=True)
    ):
        for place, row in enumerate(rows):
            if (interval := interval_of(row, key)) is None:
                continue
            low, high = interval
            color = ACCENT if row["model"] in models else INK
            axes.plot([low, high], [place, place], color=color, linewidth=2)
            axes.plot(row[key], place, "o", color=color, markersize=4)
        if limits.get(key) is not None:
            axes.axvline(limits[key], color="0.5", linestyle=":", label="replicate ceiling")
            axes.legend(frameon=False, fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=4)
        _keep_far_rows_from_hiding_the_rest(axes, rows, key)
        if number == 0:
            axes.set_yticks(range(len(rows)), [row_name(r) for r in rows])
            axes.invert_yaxis()
    return figure


def _keep_far_rows_from_hiding_the_rest(axes: Axes, rows: list[MetricsRow], key: Score) -> None:
    """Cut the axis, and say so: a draw's share is far below 0 by nature, and a bad model's RMSE far above the rest."""
    if key == "explained_share":
        axes.set_xlim(left=-1.0)
        axes.set_xlabel("axis cut at -1 (draws lie below)", fontsize=7)
    if key == "rmse":
        limit = 1.6 * max(row["rmse"] for row in rows if row["model"] in ("control", "train_mean"))
        if max(row["rmse"] for row in rows) > limit:
            axes.set_xlim(right=limit)
            axes.set_xlabel(f"axis cut at {limit:.1f}", fontsize=7)


def _density(axes: Axes, x: np.ndarray, y: np.ndarray, title: str) -> None:
    low, high = np.quantile(x, [0.0005, 0.9995])
    axes.hexbin(x, y, gridsize=70, bins="log", cmap="Blues", extent=(low, high, low, high), mincnt=1, linewidths=0)
    axes.plot([low, high], [low, high], color=ACCENT, linewidth=1)
    axes.set(title=title, xlabel="measured", ylabel="predicted", xlim=(low, high), ylim=(low, high))
    axes.set_aspect("equal")
