"""Says in words whether the paper's claims hold, from the scores and their intervals."""

from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from ldm_ray.evaluation.scores.record import Comparison, Metrics, MetricsRow

Verdict = Literal["better", "worse", "no clear difference"]
PAPER = "paper"
SCORE_NAMES = {"mse_gain": "squared error saved", "pcc": "PCC", "r2": "R2"}


def verdict_of(intervals: Sequence[Sequence[float]]) -> Verdict:
    """Judge a difference by its interval for each training seed: all must lie on the same side of 0."""
    if all(low > 0 for low, _ in intervals):
        return "better"
    if all(high < 0 for _, high in intervals):
        return "worse"
    return "no clear difference"


def verdict_without_intervals(differences: Sequence[float]) -> Verdict:
    """Judge a difference that has no interval: all training seeds must agree, and be at least two."""
    return verdict_of([(value, value) for value in differences]) if len(differences) > 1 else "no clear difference"


def claims(runs: Sequence[Metrics]) -> list[str]:
    """Return a sentence for each claim of the paper: its model beats each rival, and its correlations are better.

    Args:
        runs: One evaluation for each training seed, with a row `paper`.
    """
    rivals = [model["name"] for model in runs[0]["models"] if model["kind"] not in ("ldm", "vae")]
    lines = []
    for rival in rivals:
        lines += [line for kind in ("one_draw", "mean") if (line := _scores_against(runs, rival, kind))]
        lines.append(_correlations_against(runs, rival))
    return lines


def _scores_against(runs: Sequence[Metrics], rival: str, prediction: str) -> str:
    found, verdicts = [], list[Verdict]()
    for score, name in SCORE_NAMES.items():
        pairs = [pair for run in runs for pair in run.get("comparisons", []) if _is(pair, rival, prediction, score)]
        if len(pairs) < len(runs):
            continue
        verdict = verdict_of([pair["interval"] for pair in pairs])
        verdicts.append(verdict)
        value, low, high = (
            fmean(values) for values in zip(*[(p["value"], *p["interval"]) for p in pairs], strict=True)
        )
        text = f"{100 * value:+.1f}% [{100 * low:+.1f}, {100 * high:+.1f}]" if score == "mse_gain" else ""
        found.append(f"{verdict} on {name} ({text or f'{value:+.3f} [{low:+.3f}, {high:+.3f}]'})")
    if not found:
        return ""
    # What the paper published are scores of one draw a well.
    start, what = ("", "means of draws") if prediction == "mean" else (f"{_as_published(verdicts)} ", "one draw each")
    return f"{start}The paper's model against {rival}, {what}: {'; '.join(found)}."


def _is(pair: Comparison, rival: str, prediction: str, score: str) -> bool:
    return (pair["model"], pair["than"], pair["prediction"], pair["score"]) == (PAPER, rival, prediction, score)


def _correlations_against(runs: Sequence[Metrics], rival: str) -> str:
    own, others = ([row for run in runs if (row := draw_of(run, name))] for name in (PAPER, rival))
    if len(own) < len(runs) or len(others) < len(runs):
        return f"Correlation structure of {rival}: not measured, as it gives no draws."
    errors = [
        (b["correlation_error"] or 0.0) - (a["correlation_error"] or 0.0) for a, b in zip(own, others, strict=True)
    ]
    shared = [(a["top30_overlap"] or 0.0) - (b["top30_overlap"] or 0.0) for a, b in zip(own, others, strict=True)]
    verdicts = [verdict_without_intervals(differences) for differences in (errors, shared)]
    parts = [
        f"{verdict} on {name} ({_mean(own, key):.1f} against {_mean(others, key):.1f})"
        for verdict, name, key in (
            (verdicts[0], "the error of the correlations", "correlation_error"),
            (verdicts[1], "shared top-30 genes", "top30_overlap"),
        )
    ]
    caution = "" if len(runs) > 1 else " (one training seed and no interval: no verdict)"
    half = runs[0]["ceiling"]["top30_overlap_half_half"]
    said = f"Correlation structure against {rival}, one draw each: {'; '.join(parts)}{caution}."
    return f"{_as_published(verdicts)} {said} Two halves of the measurements share {half} of 30 genes."


def _as_published(verdicts: Sequence[Verdict]) -> str:
    """Compare with the paper, which found its model better than both rivals on every score."""
    if "worse" in verdicts:
        return "Not as published."
    return "As published." if set(verdicts) == {"better"} else "Undecided."


def draw_of(run: Metrics, model: str) -> MetricsRow | None:
    """Return the row of a model's draws; None if it has none."""
    return next((row for row in run["rows"] if (row["model"], row["prediction"]) == (model, "one_draw")), None)


def _mean(rows: Sequence[MetricsRow], key: str) -> float:
    return fmean(float(value) for row in rows if isinstance(value := row.get(key), int | float))


def why_data_differ(runs: Sequence[Metrics], what: str, basal_mode: str) -> list[str]:
    """Say what sets these wells apart from the paper's, so that absolute scores cannot be compared."""
    run, ceiling = runs[0], runs[0]["ceiling"]
    kind = "simulated wells, not biology" if run["simulated"] else "real wells"
    lines = [
        f"These are {kind}: {what}. The paper has 836,841 profiles of GSE92742. So absolute scores cannot be compared;"
        " the order of the models can, with care."
    ]
    if basal_mode != "well":
        lines.append(
            "The paper conditions on one control well. The controls of this dataset are means of matched wells; prepare"
            " it with pairing.basal_mode=well to change that."
        )
    if "replicate_rmse" in ceiling:
        lines.append(
            f"A measured replicate well here reaches RMSE {ceiling['replicate_rmse']:.3f}, PCC"
            f" {ceiling['replicate_pcc']:.3f}, R2 {ceiling['replicate_r2']:.3f}; one draw of a perfect model would too."
        )
    control = next((row for row in run["rows"] if row["model"] == "control"), None)
    if control:
        lines.append(
            f"Copying the matched control reaches RMSE {control['rmse']:.3f}, PCC {control['pcc'] or 0:.3f}, R2"
            f" {control['r2'] or 0:.3f}."
        )
    return lines
