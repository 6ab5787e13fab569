"""From scores of wells to a row of the table: pooling, intervals, and notes on what was left out."""

from collections.abc import Callable, Sequence

import numpy as np

from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.baselines.fit import TRIVIAL
from ldm_ray.evaluation.scores.bootstrap import Bootstrap, Interval, by_compound
from ldm_ray.evaluation.scores.ceiling import measure_ceiling
from ldm_ray.evaluation.scores.conditions import judge_conditions
from ldm_ray.evaluation.scores.distribution import DistributionJudge
from ldm_ray.evaluation.scores.metrics import per_condition
from ldm_ray.evaluation.scores.moments import GeneMoments
from ldm_ray.evaluation.scores.record import BestRows, MetricsRow, ReplicateCeiling, Score, add_score
from ldm_ray.evaluation.scoring import Scoring
from ldm_ray.evaluation.tally import RowTally

SIMPLE = (*TRIVIAL, "ridge", "knn")
MEANS: tuple[Score, ...] = ("pcc", "r2", "crps", "coverage_50", "coverage_80", "coverage_95")
OF_CONDITIONS: dict[str, Score] = {
    "top50_squared": "top50_rmse",
    "top50_pcc": "top50_pcc",
    "precision_at_50": "precision_at_50",
    "discrimination": "discrimination",
    "discrimination_cosine": "discrimination_cosine",
}
"""Scores of conditions, and their names in a row."""


class Judge:
    """Scores all predictions on the same wells.

    Args:
        scoring: The wells and settings.
        wells: The sampled wells.
        halves: Moments of two halves of the measured wells.
        unseen: What is unseen in the test side.
    """

    def __init__(
        self, scoring: Scoring, wells: Wells, halves: tuple[GeneMoments, GeneMoments], unseen: str = "compound"
    ) -> None:
        self.unseen = unseen
        self.wells, self.settings, self.sample = wells, scoring.settings, scoring.sample
        self.index = scoring.reader.index
        rivals = [inputs.name for inputs in scoring.models if inputs.bundle.kind != "ldm"]
        self.baselines = (*SIMPLE, *rivals)  # a claim must beat the best of them
        self.compound, self.condition, self.cell = (
            self.index[name].to_numpy() for name in ("group_id", "condition_id", "cell_id")
        )
        self.boot: Bootstrap = by_compound(self.compound, self.settings.bootstrap_draws, scoring.seed)
        self.distribution = DistributionJudge(wells, halves, self.settings.distribution_wells, scoring.seed, self.boot)
        has_reserved = self.index["reserved_basal_id"].to_numpy() >= 0
        cells, counts = np.unique(self.cell[has_reserved], return_counts=True)
        enough = cells[counts >= self.settings.min_wells_per_cell_line]
        self.small_cells = sorted(set(np.unique(self.cell).tolist()) - set(enough.tolist()))
        self.unreserved = int((~has_reserved).sum())
        self.delta_rows = has_reserved & np.isin(self.cell, enough)
        self.conditions_scored = np.flatnonzero(wells.has_reserved)
        self.conditions = judge_conditions(wells.take(self.conditions_scored))

    def score(self, tally: RowTally) -> MetricsRow:
        """Return one row of `metrics.json`."""
        scores = tally.scores
        rmse = self._mean(scores["squared"], np.sqrt)
        assert rmse is not None  # every well has it
        row: MetricsRow = {"model": tally.model, "prediction": tally.kind, "rmse": rmse.value}
        add_score(row, "rmse", rmse)
        if "latent_var" in scores:
            # A mean of n samples keeps 1/n of their variance; this is the RMSE without that part.
            corrected = (scores["squared"] - scores["latent_var"] / tally.n_samples).mean()
            row["rmse_infinite_samples"] = float(np.sqrt(max(0.0, corrected)))
        for name in MEANS:
            if name in scores:
                add_score(row, name, self._mean(scores[name]))
        add_score(row, "delta_pcc", self._delta(scores["delta_pcc"]))
        add_score(row, "systematic_pcc", self._mean(scores["systematic_pcc"]))
        if "missed" in scores:
            share = self.boot.ratio(self.compound, scores["missed"], scores["explainable"], lambda left: 1 - left)
            add_score(row, "explained_share", share)
        self._add_conditions(row, tally)
        return {**row, **self.distribution.score(tally.clouds)}

    def add_gaps(self, rows: list[MetricsRow], tallies: list[RowTally]) -> BestRows:
        """Add each row's gain in squared error over the best trivial row and the best baseline, paired by well.

        Returns:
            Names of these two rows.
        """
        return {
            "best_trivial": self._add_gap(rows, tallies, "mse_gain_over_best_trivial", TRIVIAL),
            "best_baseline": self._add_gap(rows, tallies, "mse_gain_over_best_baseline", self.baselines),
        }

    def ceiling(self) -> ReplicateCeiling:
        """Return the replicate ceilings of the sampled wells; empty without replicates."""
        ceiling = measure_ceiling(self.wells, self.delta_rows[self.sample.numbers], self.boot)
        return ceiling.as_dict() if ceiling else {}

    def notes(self, cells: list[str]) -> list[str]:
        """List what was not scored and the sizes of sub-samples."""
        notes = []
        if self.unreserved:
            notes.append(f"delta: {self.unreserved} wells not scored, as their plates have no reserved control")
        if self.small_cells:
            names = ", ".join(cells[cell] for cell in self.small_cells)
            limit = self.settings.min_wells_per_cell_line
            notes.append(f"delta: cell lines left out of the mean, with fewer than {limit} scored wells: {names}")
        limit = self.settings.min_compounds_per_plate
        skipped = int((self.index.groupby("plate")["group_id"].nunique() < limit).sum())
        if skipped:
            notes.append(f"plate-centred: {skipped} plates with fewer than {limit} scored compounds are left out")
        notes.append(
            f"top-50, discrimination and ceilings: {self.sample.n_conditions:,} conditions, {len(self.wells):,} wells"
        )
        if self.unseen not in ("compound", "scaffold"):
            units = {"cell": "cell_id", "both": "cell_id", "plate": "batch"}[self.unseen]
            n_units = self.index[units].nunique()
            what = "batches of plates" if units == "batch" else "cell lines"
            notes.append(
                f"intervals resample compounds only; they leave out the effect of which {n_units} {what} were held out"
            )
        return [*notes, self.distribution.note()]

    def _add_gap(self, rows: list[MetricsRow], tallies: list[RowTally], score: Score, among: Sequence[str]) -> str:
        """Add each row's gain over the best row among some models; return the name of that row."""
        means = [i for i, row in enumerate(rows) if row["model"] in among and row["prediction"] != "one_draw"]
        best = min(means, key=lambda i: rows[i]["rmse"])
        for row, tally in zip(rows, tallies, strict=True):
            own, reference = tally.scores["squared"], tallies[best].scores["squared"]
            add_score(row, score, self.boot.ratio(self.compound, own, reference, lambda left: 1 - left))
        return rows[best]["model"]

    def _add_conditions(self, row: MetricsRow, tally: RowTally) -> None:
        """Add the scores of conditions (strong genes and discrimination)."""
        if self.conditions is None:
            return
        scores = self.conditions.score(tally.sampled[self.conditions_scored])
        for name, values in scores.items():
            then: Callable[[np.ndarray], np.ndarray] = np.sqrt if name == "top50_squared" else np.asarray
            scored = np.isfinite(values)
            if scored.any():
                ones = np.ones(int(scored.sum()))
                interval = self.boot.ratio(self.conditions.compound[scored], values[scored], ones, then)
                add_score(row, OF_CONDITIONS[name], interval)

    def _mean(self, values: np.ndarray, then: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Interval | None:
        """Mean over the wells that have the score; None if there are none."""
        scored = np.isfinite(values)
        if not scored.any():
            return None
        return self.boot.ratio(self.compound[scored], values[scored], np.ones(int(scored.sum())), then)

    def _delta(self, values: np.ndarray) -> Interval | None:
        """Mean per condition, then per cell line, then over cell lines."""
        rows = self.delta_rows
        if not rows.any():
            return None
        mean, compound, cell = per_condition(values[rows], self.condition[rows], self.compound[rows], self.cell[rows])
        return self.boot.mean_of_ratios(compound, cell, mean, np.ones(len(mean)))
