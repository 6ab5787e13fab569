"""The page of `ldm-ray reproduce`: the paper's section 3, its published numbers beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from ldm_ray.evaluation.ic50.record import Ic50Metrics
from ldm_ray.evaluation.ic50.report import ic50_tables
from ldm_ray.evaluation.predictions import ABLATIONS
from ldm_ray.evaluation.report.agreement import claims, why_data_differ
from ldm_ray.evaluation.report.folder import PAPER, SIMULATED, in_short
from ldm_ray.evaluation.report.health import failed_lines
from ldm_ray.evaluation.report.table1 import summarise
from ldm_ray.evaluation.report.tables import caption
from ldm_ray.evaluation.scores.predicted import row_name
from ldm_ray.evaluation.scores.record import Metrics, interval_of
from ldm_ray.pages.page import Figure, Page
from ldm_ray.pages.table import ScoreTable
from ldm_ray.settings import RivalKind

PUBLISHED_VAE = {"pcc": 0.956, "r2": 0.914}
LEFT_OUT = (
    "Table 2 was left out, as no drug sensitivities were given. Run the same command again with --ic50 GDSC.csv.gz"
    " --basal-profiles BASAL.csv.gz to add it."
)


@dataclass(frozen=True)
class Folds:
    """The cross-validated autoencoder: mean and standard deviation (n - 1) over folds of its scores on test wells.

    `failed` has a line for each check that a fold failed.
    """

    n_folds: int
    n_wells: int
    mean: Mapping[str, float]
    sd: Mapping[str, float]
    failed: Sequence[str] = ()


class PertditPlan(TypedDict):
    """What is trained: pace of the trial, wells of each side, epochs, steps, and wells that are judged."""

    kind: RivalKind
    budget_s: float
    wells_per_s: float
    n_train: int
    n_valid: int
    epochs: int
    steps: int


class PublishedPertdit(TypedDict):
    """The plan, and the scores on a seeded sample of the test wells."""

    plan: PertditPlan
    metrics: Metrics


@dataclass(frozen=True)
class Reproduction:
    """Everything that the page shows.

    Attributes:
        dataset: URL of the dataset.
        what: The dataset in a line.
        runs: The evaluation of each training seed.
        folds: The cross-validated autoencoder; None if it was left out.
        ic50: Table 2; None if it was left out.
        pertdit: PertDiT at its published size; None if it was left out.
        basal_mode: How the dataset made its controls, `pairing.basal_mode`; empty if unknown.
        seconds: Seconds that each stage has taken.
        heatmaps: Fig. 3 of the first seed, PNG.
        settings: All settings, as YAML.
    """

    dataset: str
    what: str
    runs: list[Metrics]
    folds: Folds | None
    ic50: Ic50Metrics | None
    pertdit: PublishedPertdit | None
    basal_mode: str
    seconds: Mapping[str, float]
    heatmaps: bytes
    settings: str


def reproduction_page(result: Reproduction) -> str:
    """Return the page as HTML."""
    runs, first = result.runs, result.runs[0]
    tables = [table1_beside_published(runs)]
    if result.folds:
        tables.append(folds_beside_published(result.folds))
    if result.pertdit:
        tables.append(pertdit_table(result.pertdit))
    if result.ic50:
        tables += [
            replace(table, title=f"Table 2, drug sensitivity: {table.title}") for table in ic50_tables(result.ic50)
        ]
    times = ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in result.seconds.items())
    page = Page(
        title="The paper's section 3, reproduced",
        subtitle=f"{result.dataset}; {result.what}; seeds {', '.join(str(run['seed']) for run in runs)}",
        tables=tables,
        figures=[Figure("Fig. 3: which genes go together", _figure_3(first), result.heatmaps)],
        summary=summary_of(result),
        notes=[*caption(first), *([] if result.ic50 else [LEFT_OUT]), f"wall times: {times}"],
        settings=result.settings,
        banner=SIMULATED if first["simulated"] else "",
        models=tuple(model["name"] for model in first["models"]),
    )
    return page.render()


def summary_of(result: Reproduction) -> list[str]:
    """Return the answer in words."""
    lines = [*claims(result.runs)]
    if result.folds:
        lines += [_folds_in_words(result.folds), *result.folds.failed]
    lines += why_data_differ(result.runs, result.what, result.basal_mode)
    lines += [f"seed {run['seed']}: {line}" for run in result.runs[1:] for line in failed_lines(run["models"])]
    return [*lines, *in_short(result.runs[0]), *([] if result.ic50 else [LEFT_OUT])]


def table1_beside_published(runs: list[Metrics]) -> ScoreTable:
    """Return Table 1: rows of ours, means over seeds, then the published rows."""
    side = summarise(runs)[0]
    keys = ("rmse", "pcc", "r2", "top30_overlap", "correlation_error")
    body = []
    for row in side["rows"]:
        if row["model"].endswith(ABLATIONS):
            continue
        cells = []
        for key in keys:
            value, interval = row.get(key), interval_of(row, key)
            text = "-" if not isinstance(value, int | float) else f"{value:.3g}" if "top30" in key else f"{value:.3f}"
            cells.append(f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else text)
        body.append([row_name(row), *cells])
    ceiling = side["ceiling"]
    if "replicate_rmse" in ceiling:
        real = [f"{ceiling['replicate_rmse']:.3f}", f"{ceiling['replicate_pcc']:.3f}", f"{ceiling['replicate_r2']:.3f}"]
        body.append(
            ["a measured replicate well", *real, f"{ceiling['top30_overlap_half_half']} (half against half)", "1"]
        )
    body += [[f"{name} (published, other wells)", *scores, "-"] for name, *scores in PAPER.body]
    seeds = len(runs)
    return ScoreTable(
        f"Table 1: {side['n_profiles']:,} wells of {side['n_compounds']:,} unseen compounds,"
        f" {seeds} training seed{'s' if seeds > 1 else ''}",
        ["prediction", "RMSE", "PCC", "R2", "top-30", "corr error"],
        body,
        "Means over training seeds, with 95% intervals over compounds. paper is the paper's model, ldm this project's"
        " default. Published rows score one draw a well, on other wells: compare them with rows one draw, and the order"
        " of models rather than their scores."
        " Ablations and further scores are in the report of each seed, below table1/.",
    )


def folds_beside_published(folds: Folds) -> ScoreTable:
    """Return the table of the cross-validated autoencoder."""
    ours = [f"{folds.mean[key]:.3f} ± {folds.sd[key]:.3f}" for key in ("pcc", "r2", "rmse")]
    published = [f"{PUBLISHED_VAE[key]:.3f}" for key in ("pcc", "r2")]
    return ScoreTable(
        f"the autoencoder, {folds.n_folds} folds",
        ["", "PCC", "R2", "RMSE"],
        [["preset paper, here", *ours], ["the paper (published, other wells)", *published, "-"]],
        f"Reconstruction of the same {folds.n_wells:,} test wells of unseen compounds; mean ± sd over folds.",
    )


def pertdit_table(found: PublishedPertdit) -> ScoreTable:
    """Return the scores of PertDiT at its published size, beside the rows without a model on the same few wells."""
    plan, metrics = found["plan"], found["metrics"]
    kind = plan["kind"]
    shown = [row for row in metrics["rows"] if row["model"] in ("control", "train_mean", "mean_delta", kind)]
    keys: tuple[Literal["rmse", "pcc", "r2"], ...] = ("rmse", "pcc", "r2")
    values = [[row.get(key) for key in keys] for row in shown]
    numbers = [["-" if value is None else f"{value:.3f}" for value in row] for row in values]
    body = [[row_name(row), *cells] for row, cells in zip(shown, numbers, strict=True)]
    return ScoreTable(
        f"{kind} at its published size, trained on {plan['n_train']:,} wells for {plan['steps']:,} steps",
        ["prediction", "RMSE", "PCC", "R2"],
        body,
        f"What {plan['budget_s'] / 3600:g} h allow at {plan['wells_per_s']:.1f} wells/s here, in {plan['epochs']}"
        " epochs; the published training is far longer. Scored on"
        f" {metrics['n_profiles']} test wells only, since sampling is slow; so compare within this table. The row in"
        " Table 1 is the small preset, if the settings chose it.",
    )


def _folds_in_words(folds: Folds) -> str:
    parts = []
    for key, name in (("pcc", "PCC"), ("r2", "R2")):
        gap = folds.mean[key] - PUBLISHED_VAE[key]
        where = "as published" if abs(gap) <= 2 * folds.sd[key] else "above" if gap > 0 else "below"
        parts.append(f"{name} {folds.mean[key]:.3f} ± {folds.sd[key]:.3f}, {where} ({PUBLISHED_VAE[key]:.3f})")
    return f"The paper's autoencoder over {folds.n_folds} folds: {'; '.join(parts)}; the wells differ."


def _figure_3(run: Metrics) -> str:
    half = run["ceiling"]["top30_overlap_half_half"]
    return (
        "Correlation, within cell line and time, of the 30 genes most correlated with all others: as measured, then in"
        f" each model's wells, first seed. Two halves of the measurements share {half} of 30 such genes, the most to"
        " expect. Published: PRnet 3, PertDiT 2, the paper 12."
    )
