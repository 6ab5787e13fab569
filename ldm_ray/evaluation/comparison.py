"""Compares models on the same wells, paired by well, with intervals over compounds."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ldm_ray.evaluation.scores.bootstrap import Bootstrap, Interval
from ldm_ray.evaluation.scores.record import Comparison
from ldm_ray.evaluation.tally import RowTally

SCORES: tuple[Literal["mse_gain", "pcc", "r2"], ...] = ("mse_gain", "pcc", "r2")
PREDICTIONS: tuple[Literal["one_draw", "mean"], ...] = ("one_draw", "mean")


def compare_models(
    boot: Bootstrap, compound: np.ndarray, rows: Sequence[RowTally], ours: Sequence[str], others: Sequence[str]
) -> list[Comparison]:
    """Compare each of our diffusion models with every other model, draws with draws and means with means.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile intervals); differences are taken within wells.

    Args:
        boot: Resamples of compounds.
        compound: Compound of each scored well, (n,).
        rows: Results of all predictions.
        ours: Names of the models to compare.
        others: Names of all models.
    """
    found: list[Comparison] = []
    for model in ours:
        for than in others:
            for prediction in PREDICTIONS:
                own, reference = _row(rows, model, prediction), _row(rows, than, prediction)
                if model == than or own is None or reference is None:
                    continue
                for score in SCORES:
                    interval = _paired(boot, compound, own, reference, score)
                    found.append(
                        {
                            "model": model,
                            "than": than,
                            "prediction": prediction,
                            "score": score,
                            "value": interval.value,
                            "interval": interval.as_list(),
                        }
                    )
    return found


def _row(rows: Sequence[RowTally], model: str, prediction: str) -> RowTally | None:
    """Return a model's draw, or its mean of the first N draws."""
    wanted = "one_draw" if prediction == "one_draw" else "mean_of_"
    return next((row for row in rows if row.model == model and row.kind.startswith(wanted)), None)


def _paired(boot: Bootstrap, compound: np.ndarray, own: RowTally, reference: RowTally, score: str) -> Interval:
    if score == "mse_gain":
        return boot.ratio(compound, own.scores["squared"], reference.scores["squared"], lambda left: 1 - left)
    difference = own.scores[score] - reference.scores[score]
    scored = np.isfinite(difference)
    return boot.ratio(compound[scored], difference[scored], np.ones(int(scored.sum())))
