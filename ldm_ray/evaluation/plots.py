"""The pictures of a report. Every function returns a figure and shows nothing."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldm_ray.evaluation.correlation import centre_within, correlation_matrix, top_genes
from ldm_ray.evaluation.predictions import Prediction, row_name
from ldm_ray.evaluation.wells import Wells

INK = "#1f3a5f"
ACCENT = "#c8553d"
MAX_POINTS = 200_000


def learning_curves(vae_history: list[dict[str, float]], ldm_history: list[dict[str, float]]) -> Figure:
    """Training and validation losses of both models by epoch, the kept epoch marked."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, title, history in zip(
        figure.subplots(1, 2), ("autoencoder", "latent diffusion"), (vae_history, ldm_history), strict=True
    ):
        epochs = [row["epoch"] + 1 for row in history]
        axes.plot(epochs, [row["train_loss"] for row in history], color=INK, label="training")
        axes.plot(
            epochs,
            [row["valid_loss"] for row in history],
            color=ACCENT,
            label="validation (averaged weights)",
        )
        best = min(history, key=lambda row: row["valid_loss"])
        axes.axvline(best["epoch"] + 1, color="0.6", linestyle=":", label=f"kept: epoch {best['epoch'] + 1:.0f}")
        axes.set(title=f"{title}: loss by epoch", xlabel="epoch", ylabel="loss")
        axes.legend(frameon=False, fontsize=8)
    return figure


def predicted_against_measured(wells: Wells, predictions: list[Prediction], seed: int = 0) -> Figure:
    """Predicted against measured log2 values of wells x genes, as expression and as change from the control."""
    shown = [p for p in predictions if (p.model, p.kind) in (("ldm", "mean_direct"), ("ldm", "one_draw"))]
    shown = [p for p in predictions if p.model == "mean_delta"] + shown
    names = {
        "mean_delta": "mean delta (baseline)",
        "one_draw": "LDM, one draw",
        "mean_direct": "LDM, direct mean",
    }
    figure = Figure(figsize=(4 * len(shown), 7.6), layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False)
    flat = np.random.default_rng([seed, 8]).permutation(wells.y.size)[:MAX_POINTS]
    for column, prediction in enumerate(shown):
        name = names["mean_delta" if prediction.model == "mean_delta" else prediction.kind]
        _density(grid[0, column], wells.y.flat[flat], prediction.y_hat.flat[flat], f"{name}\nexpression (log2)")
        delta, measured = prediction.y_hat - wells.basal, wells.y - wells.reserved
        _density(grid[1, column], measured.flat[flat], delta.flat[flat], "change from control (log2)")
    return figure


def correlation_heatmaps(wells: Wells, predictions: list[Prediction], symbols: list[str]) -> Figure:
    """Correlation of the truth's top 30 genes, measured and in each prediction, within cell line and time.

    Source: Kim & Yoo, Fig. 3.
    """
    group = wells.group("cell_id", "time_h")
    real = correlation_matrix(centre_within(wells.y, group))
    genes = top_genes(real)
    wanted = (("ldm", "one_draw"), ("ldm", "mean_direct"), ("ridge", "mean"), ("oracle", "mean"))
    panels = [("measured", real)] + [
        (f"{p.model}, {p.kind.replace('_', ' ')}", correlation_matrix(centre_within(p.y_hat, group)))
        for p in predictions
        if (p.model, p.kind) in wanted
    ]
    figure = Figure(figsize=(3.6 * len(panels) + 0.8, 4.6), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, matrix) in zip(grid, panels, strict=True):
        image = axes.imshow(matrix[np.ix_(genes, genes)], cmap="RdBu_r", vmin=-1, vmax=1)
        overlap = len(set(top_genes(matrix).tolist()) & set(genes.tolist()))
        axes.set_title(name if name == "measured" else f"{name}\n{overlap} of 30 top genes shared", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks(range(len(genes)) if axes is grid[0] else [])
        if axes is grid[0]:
            axes.set_yticklabels([symbols[g] for g in genes], fontsize=5)
    figure.colorbar(image, ax=list(grid), shrink=0.8, label="correlation of genes over wells")
    figure.suptitle("The 30 genes most correlated with all others in the measurements", fontsize=10)
    return figure


def scores_by_model(rows: list[dict[str, Any]], ceiling: dict[str, Any]) -> Figure:
    """RMSE, delta correlation and (if known) explained share of every row, with 95% intervals."""
    wanted = [("rmse", "RMSE (log2), lower is better"), ("delta_pcc", "delta correlation, higher is better")]
    wanted.append(("systematic_pcc", "plate-centred correlation, higher is better"))
    if any("explained_share" in row for row in rows):
        wanted.append(("explained_share", "share of explainable delta, higher is better"))
    figure = Figure(figsize=(3.6 * len(wanted), 0.3 * len(rows) + 1.6), layout="constrained")
    limits = {"rmse": ceiling.get("rmse_floor"), "delta_pcc": ceiling.get("delta_pcc_ceiling")}
    for number, (axes, (key, title)) in enumerate(
        zip(figure.subplots(1, len(wanted), sharey=True), wanted, strict=True)
    ):
        for place, row in enumerate(rows):
            if row.get(key) is None:
                continue
            low, high = row[f"{key}_interval"]
            color = ACCENT if row["model"] == "ldm" else INK
            axes.plot([low, high], [place, place], color=color, linewidth=2)
            axes.plot(row[key], place, "o", color=color, markersize=4)
        if limits.get(key) is not None:
            axes.axvline(limits[key], color="0.5", linestyle=":", label="replicate ceiling")
            axes.legend(frameon=False, fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        _keep_one_draw_from_hiding_the_rest(axes, rows, key)
        if number == 0:
            axes.set_yticks(range(len(rows)), [row_name(r) for r in rows])
            axes.invert_yaxis()
    return figure


def _keep_one_draw_from_hiding_the_rest(axes: Axes, rows: list[dict[str, Any]], key: str) -> None:
    """A single draw's share is far below 0 by nature; cut the axis and say so."""
    if key == "explained_share":
        axes.set_xlim(left=-1.0)
        axes.set_xlabel("axis cut at -1 (one draw lies below)", fontsize=7)


def _density(axes: Axes, x: np.ndarray, y: np.ndarray, title: str) -> None:
    low, high = np.quantile(x, [0.0005, 0.9995])
    axes.hexbin(x, y, gridsize=70, bins="log", cmap="Blues", extent=(low, high, low, high), mincnt=1, linewidths=0)
    axes.plot([low, high], [low, high], color=ACCENT, linewidth=1)
    axes.set(title=title, xlabel="measured", ylabel="predicted", xlim=(low, high), ylim=(low, high))
    axes.set_aspect("equal")
