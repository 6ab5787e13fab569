"""Scores every prediction on the same wells and returns what `metrics.json` holds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.evaluation.bootstrap import Bootstrap, by_compound, weighted_mean
from ldm_ray.evaluation.ceiling import Ceiling, measure_ceiling
from ldm_ray.evaluation.distribution import DistributionJudge
from ldm_ray.evaluation.metrics import (
    explained_share,
    mean_per_condition_then_cell,
    pearson_per_profile,
    plate_centred_pearson,
    r2_per_profile,
    require_finite,
    squared_error_per_profile,
)
from ldm_ray.evaluation.predictions import (
    TRIVIAL,
    Prediction,
    TrueDelta,
    baseline_predictions,
    model_predictions,
    oracle_prediction,
    true_delta,
)
from ldm_ray.evaluation.wells import Wells, load_wells
from ldm_ray.predictor import Predictor
from ldm_ray.settings import EvaluateSettings
from ldm_ray.training.bundle import check_splits

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """The scores, and the predictions they belong to (for pictures)."""

    metrics: dict[str, Any]
    wells: Wells
    predictions: list[Prediction]


def evaluate(
    dataset: PairedDataset,
    predictor: Predictor,
    settings: EvaluateSettings,
    seed: int,
    on_progress: Progress = lambda what: None,
) -> Evaluation:
    """Judge a model beside its baselines, ablations and ceilings.

    Args:
        dataset: The paired dataset; its genes must be the bundle's.
        predictor: The model.
        settings: Split, sub-samples, intervals.
        seed: Of sub-samples, draws and the bootstrap.
        on_progress: Told what is being scored.

    Raises:
        BundleError: If the genes differ.
        NonFiniteError: If a prediction is NaN or infinite.
    """
    predictor.bundle.check_genes(dataset.manifest["genes"], dataset.url)
    check_splits(predictor.bundle, dataset.manifest["splits"], dataset.url)
    train = load_wells(dataset, "train")
    wells = load_wells(dataset, settings.split, settings.max_profiles, seed)
    truth = true_delta(dataset, wells, train)
    judge = Judge(wells, truth, settings, seed)
    predictions: list[Prediction] = []
    rows: list[dict[str, Any]] = []

    def add(prediction: Prediction) -> None:
        on_progress(f"{prediction.model} {prediction.kind}")
        rows.append(judge.score(prediction))
        predictions.append(prediction)

    for prediction in baseline_predictions(dataset, wells, train):
        add(prediction)
    for prediction in model_predictions(dataset, wells, predictor, settings, seed):
        add(prediction)
    if truth is not None:
        add(oracle_prediction(wells, truth))
    best = judge.add_gaps(rows, predictions)
    ceiling = measure_ceiling(wells, judge.delta_rows)
    add_normalised(rows, ceiling)
    metrics = {
        "dataset": dataset.url,
        "simulated": dataset.manifest["simulated"],
        "split": settings.split,
        "n_profiles": len(wells),
        "n_compounds": int(wells.frame["compound_id"].nunique()),
        "seed": seed,
        "best_trivial": best["model"],
        "rows": rows,
        "ceiling": (ceiling.as_dict() if ceiling else {}) | judge.distribution.real_against_real(),
        "notes": judge.notes(dataset.cells),
    }
    return Evaluation(metrics, wells, predictions)


class Judge:
    """Scores predictions for the same wells.

    Args:
        wells: The wells.
        truth: Planted truth, or None.
        settings: What is scored and on how many wells.
        seed: Of sub-samples and the bootstrap.
    """

    def __init__(self, wells: Wells, truth: TrueDelta | None, settings: EvaluateSettings, seed: int) -> None:
        self.wells, self.truth, self.settings = wells, truth, settings
        self.compound = wells.frame["compound_id"].to_numpy()
        self.condition = wells.frame["condition_id"].to_numpy()
        self.cell = wells.frame["cell_id"].to_numpy()
        self.plate = wells.group("plate")
        self.boot: Bootstrap = by_compound(self.compound, settings.bootstrap_draws, seed)
        self.distribution = DistributionJudge(wells, settings.distribution_wells, seed)
        counts = {cell: int(((self.cell == cell) & wells.has_reserved).sum()) for cell in np.unique(self.cell)}
        self.small_cells = sorted(int(c) for c, n in counts.items() if n < settings.min_wells_per_cell_line)
        self.delta_rows = wells.has_reserved & ~np.isin(self.cell, self.small_cells)
        self.plate_scored = np.zeros(len(wells), dtype=bool)

    def score(self, prediction: Prediction) -> dict[str, Any]:
        """Return one row of `metrics.json`."""
        wells, y_hat = self.wells, prediction.y_hat
        require_finite(y_hat, wells.y, f"{prediction.model} {prediction.kind}")
        squared = squared_error_per_profile(wells.y, y_hat)
        row: dict[str, Any] = {"model": prediction.model, "prediction": prediction.kind}
        self._add(row, "rmse", lambda w: float(np.sqrt(weighted_mean(squared, w))))
        if prediction.latent_var is not None:
            # A mean of n samples keeps 1/n of their variance; this is the RMSE of the mean itself.
            corrected = squared - prediction.latent_var / prediction.n_samples
            row["rmse_infinite_samples"] = float(np.sqrt(max(0.0, corrected.mean())))
        for name, values in (
            ("pcc", pearson_per_profile(wells.y, y_hat)),
            ("r2", r2_per_profile(wells.y, y_hat)),
        ):
            self._add(row, name, partial(weighted_mean, values))
        self._add_delta(row, y_hat)
        self._add_plate_centred(row, y_hat)
        if self.truth is not None:
            left, whole = explained_share(y_hat, wells.basal, self.truth.delta, self.truth.train_mean)
            self._add(row, "explained_share", lambda w: float(1 - (left * w).sum() / (whole * w).sum()))
        return row | self.distribution.score(y_hat)

    def _add(self, row: dict[str, Any], name: str, statistic: Callable[[np.ndarray], float]) -> None:
        interval = self.boot.interval(statistic)
        row[name], row[f"{name}_interval"] = interval.value, interval.as_list()

    def _add_delta(self, row: dict[str, Any], y_hat: np.ndarray) -> None:
        wells, rows = self.wells, self.delta_rows
        if not rows.any():
            row["delta_pcc"] = None
            return
        scores = pearson_per_profile((y_hat - wells.basal)[rows], (wells.y - wells.reserved)[rows])

        def macro(weights: np.ndarray) -> float:
            cells = mean_per_condition_then_cell(scores, self.condition[rows], self.cell[rows], weights[rows])
            return float(np.mean(list(cells.values()))) if cells else 0.0

        self._add(row, "delta_pcc", macro)

    def _add_plate_centred(self, row: dict[str, Any], y_hat: np.ndarray) -> None:
        limit = self.settings.min_compounds_per_plate
        scores = plate_centred_pearson(self.wells.y, y_hat, self.plate, self.compound, limit)
        self.plate_scored = ~np.isnan(scores)
        if not self.plate_scored.any():
            row["systematic_pcc"] = None
            return
        filled = np.nan_to_num(scores)
        self._add(row, "systematic_pcc", lambda w: weighted_mean(filled, w * self.plate_scored))

    def add_gaps(self, rows: list[dict[str, Any]], predictions: list[Prediction]) -> dict[str, Any]:
        """Add each row's gain in squared error over the best trivial row, paired by well; return that row."""
        trivial = [i for i, row in enumerate(rows) if row["model"] in TRIVIAL]
        best = min(trivial, key=lambda i: rows[i]["rmse"])
        reference = squared_error_per_profile(self.wells.y, predictions[best].y_hat)
        for row, prediction in zip(rows, predictions, strict=True):
            own = squared_error_per_profile(self.wells.y, prediction.y_hat)
            self._add(row, "mse_gain_over_best_trivial", partial(_gain, own, reference))
        return rows[best]

    def notes(self, cells: list[str]) -> list[str]:
        """Say what was not scored and how large the sub-samples were."""
        wells, notes = self.wells, []
        unreserved = int((~wells.has_reserved).sum())
        if unreserved:
            notes.append(f"delta: {unreserved} wells not scored, their plates have no reserved control")
        if self.small_cells:
            names = ", ".join(cells[cell] for cell in self.small_cells)
            limit = self.settings.min_wells_per_cell_line
            notes.append(f"delta: left out of the mean over cell lines, with fewer than {limit} scored wells: {names}")
        plates = wells.group("plate")
        skipped = len(np.unique(plates)) - len(np.unique(plates[self.plate_scored]))
        if skipped:
            limit = self.settings.min_compounds_per_plate
            notes.append(f"plate-centred: {skipped} plates with fewer than {limit} judged compounds not scored")
        notes.append(self.distribution.note())
        return notes


def _gain(own: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> float:
    """Share of the reference's squared error that is saved, under weights."""
    return float(1 - (own * weights).sum() / (reference * weights).sum())


def add_normalised(rows: list[dict[str, Any]], ceiling: Ceiling | None) -> None:
    """Add (score - best trivial) / (ceiling - best trivial), the best trivial row being that of each score.

    None where the ceiling does not exceed that row beyond its interval.

    Source: docs/evaluation.md, `of ceiling`.
    """
    limits = {} if ceiling is None else {"rmse": ceiling.rmse_floor, "delta_pcc": ceiling.delta_pcc_ceiling}
    for key in ("rmse", "delta_pcc"):
        limit = limits.get(key)
        sign = -1.0 if key == "rmse" else 1.0
        trivial = [row for row in rows if row["model"] in TRIVIAL and row.get(key) is not None]
        best = max(trivial, key=lambda row: sign * row[key], default=None)
        for row in rows:
            row[f"{key}_normalised"] = None
            if limit is None or best is None:
                continue
            beyond = max(sign * bound for bound in best[f"{key}_interval"])
            if sign * limit > beyond:
                row[f"{key}_normalised"] = (row[key] - best[key]) / (limit - best[key])
