"""The IC50 benchmark's report: tables, picture and page."""

import csv
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from ldm_ray.config import Config, dump_config
from ldm_ray.evaluation.ic50.benchmark import SCORES
from ldm_ray.evaluation.ic50.record import Ic50Metrics, Ic50Row, Ic50Score, Ic50Side, interval_of, rmse_of
from ldm_ray.layout import SETTINGS
from ldm_ray.pages.page import Figure, Page
from ldm_ray.pages.picture import ACCENT, INK, png_of
from ldm_ray.pages.table import ScoreTable
from ldm_ray.storage.store import Store

HEAD = {"rmse": "RMSE (ln uM)", "r2": "R2", "pcc": "PCC"}
PICTURE = "Points are means over seeds, bars 95% intervals over drugs; the dotted line is the best row without a model."
TABLE = (
    "A network predicts LN_IC50 from the named input. A model's predicted expression is useful only if its row beats"
    " the rows without a model, above all basal + embedding, which knows the same compound and cell line."
)
SPLIT_TITLES = {"random": "random rows (the paper's)", "drug": "unseen drugs", "cell": "unseen cell lines"}


def ic50_table(metrics: Ic50Metrics) -> tuple[list[str], list[list[str]]]:
    """Return the head and the body of the table, published rows last.

    Args:
        metrics: From `evaluate_ic50`.
    """
    head = ["split", "input", *HEAD.values(), "sd over seeds", "MSE gain", "rows"]
    body = []
    for split, found in metrics["splits"].items():
        for row in found["rows"]:
            mark = " (best baseline)" if row["model"] == found["best_baseline"] else ""
            scores = [_with_interval(row, key) for key in SCORES]
            gain = _with_interval(row, "mse_gain_over_best_baseline", percent=True)
            body.append([split, row["model"] + mark, *scores, _number(row["rmse_sd"]), gain, f"{row['n_rows']:,}"])
    for published in metrics["published"]:
        name = f"{published['model']} (published, other rows)"
        body.append(["random", name, _number(published["rmse"]), _number(published["r2"]), *"----"])
    return head, body


def ic50_tables(metrics: Ic50Metrics) -> list[ScoreTable]:
    """Return one table per split."""
    head, body = ic50_table(metrics)
    return [
        ScoreTable(title, head[1:], [row[1:] for row in body if row[0] == split], TABLE)
        for split, title in SPLIT_TITLES.items()
    ]


def ic50_figure(metrics: Ic50Metrics) -> Drawing:
    """Draw RMSE of every row with its 95% interval over drugs, one panel per split; models in another colour."""
    splits = metrics["splits"]
    n_rows = len(next(iter(splits.values()))["rows"])
    figure = Drawing(figsize=(3.6 * len(splits) + 1.5, 0.3 * n_rows + 1.6), layout="constrained")
    grid = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, (split, found) in zip(grid, splits.items(), strict=True):
        _panel(axes, found["rows"])
        best = next(row for row in found["rows"] if row["model"] == found["best_baseline"])
        axes.axvline(best["rmse"], color="0.5", linestyle=":")
        axes.set_title(f"{SPLIT_TITLES.get(split, split)}\nRMSE (ln uM), lower is better", fontsize=9)
        axes.set_xlabel("dotted: best baseline", fontsize=7)
    grid[0].set_yticks(range(n_rows), [row["model"] for row in next(iter(splits.values()))["rows"]])
    grid[0].invert_yaxis()
    return figure


def _panel(axes: Axes, rows: list[Ic50Row]) -> None:
    for place, row in enumerate(rows):
        if (interval := interval_of(row, "rmse")) is None:
            continue
        color = INK if row["baseline"] else ACCENT
        axes.plot(interval, [place, place], color=color, linewidth=2)
        axes.plot(rmse_of(row), place, "o", color=color, markersize=4)
    axes.grid(axis="x", alpha=0.3)


def _with_interval(row: Ic50Row, key: Ic50Score, *, percent: bool = False) -> str:
    value, interval = row[key], interval_of(row, key)
    if value is None or interval is None:
        return "undefined"
    low, high = interval
    if percent:
        return f"{100 * value:+.1f}% [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def write_ic50_report(url: str, metrics: Ic50Metrics, config: Config) -> list[str]:
    """Write the benchmark's page, picture and table; `ic50.json` is written last.

    Returns:
        URLs of the written files.
    """
    store = Store(url, config.storage_options)
    head, body = ic50_table(metrics)
    picture = Figure("Table 2 as a picture", PICTURE, png_of(ic50_figure(metrics)))
    counts = metrics["counts"]
    page = Page(
        title=f"Does predicted expression help to predict drug sensitivity? LN_IC50 of {metrics['dataset']}",
        subtitle=f"{counts['rows_used']:,} rows, {counts['cell_lines']:,} cell lines, {counts['drugs']:,} drugs;"
        f" profiles at {metrics['dose_um']:g} um, {metrics['time_h']:g} h; {len(metrics['seeds'])} seeds",
        tables=ic50_tables(metrics),
        figures=[picture],
        summary=[_verdict(split, found) for split, found in metrics["splits"].items()],
        notes=list(metrics["notes"]),
        settings=dump_config(config),
        models=tuple(row["model"] for row in next(iter(metrics["splits"].values()))["rows"] if not row["baseline"]),
    )
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *body])
    store.write_bytes("ic50.html", page.render().encode())
    store.write_bytes("ic50.png", picture.png)
    store.write_bytes("ic50.csv", buffer.getvalue().encode())
    store.write_bytes(SETTINGS, dump_config(config).encode())
    store.write_json("ic50.json", metrics)
    return [store.path(name) for name in ("ic50.html", "ic50.png", "ic50.csv", "ic50.json")]


def _verdict(split: str, found: Ic50Side) -> str:
    best = min((row for row in found["rows"] if not row["baseline"]), key=rmse_of, default=None)
    if best is None:
        return f"{SPLIT_TITLES[split]}: no model was given"
    gain = _with_interval(best, "mse_gain_over_best_baseline", percent=True)
    return f"{SPLIT_TITLES[split]}: {best['model']} saves {gain} of the squared error of {found['best_baseline']}."
