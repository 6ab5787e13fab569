"""Predicts and scores wells block by block, here or in another process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ldm_ray.data.wells import Sample, WellReader, Wells
from ldm_ray.evaluation.baselines.fit import Baselines
from ldm_ray.evaluation.baselines.truth import Truth
from ldm_ray.evaluation.predictions import Model, ModelInputs
from ldm_ray.evaluation.scores.moments import Cloud, GeneMoments
from ldm_ray.evaluation.scores.predicted import PredictedWells
from ldm_ray.evaluation.scores.wells import Planted, score_wells
from ldm_ray.evaluation.tally import RowTally, Tally
from ldm_ray.settings import EvaluateSettings

DRAWN_WELLS, MOST_DRAWS = 8192, 4
"""Clouds are averaged over draws until about so many wells have been drawn: on 300 wells one draw moves the energy
distance by 0.05."""


@dataclass(frozen=True)
class Scoring:
    """Everything that scoring needs.

    Attributes:
        reader: The scored wells.
        sample: The wells whose predictions are kept.
        groups: Number of each well's cell line and time, (n,).
        half: Random half of each well, 0 or 1, (n,).
        baselines: Baselines fitted on the training side.
        models: Bundles and their inputs.
        truth: Planted truth, for simulated data.
        settings: Evaluation settings.
        seed: Seed of draws.
    """

    reader: WellReader
    sample: Sample
    groups: np.ndarray
    half: np.ndarray
    baselines: Baselines
    models: Sequence[ModelInputs]
    truth: Truth | None
    settings: EvaluateSettings
    seed: int

    def blocks(self) -> list[np.ndarray]:
        """Cut the wells into blocks of whole plates."""
        return self.reader.blocks(self.settings.rows_per_block)

    @property
    def n_draws(self) -> int:
        """Draws of each well that scores of clouds are averaged over; one if that many wells scatter little."""
        return int(np.clip(DRAWN_WELLS // len(self.sample.numbers), 1, MOST_DRAWS))

    def open_models(self) -> list[Model]:
        """Build the networks, once per process."""
        return [Model(inputs, self.settings.n_samples, self.seed, self.n_draws) for inputs in self.models]

    def tally(self, rows: np.ndarray, models: Sequence[Model]) -> Tally:
        """Read, predict and score one block."""
        wells = self.reader.read(rows)
        groups, kept = self.groups[rows], self.sample.within(rows)
        planted = None if self.truth is None else Planted(self.truth.delta(wells), self.truth.mean_delta(wells))
        rows_of = self.predictions(wells, models)
        tallies = [self._row(wells, groups, kept, prediction, planted) for prediction in rows_of]
        halves = (self._moments(), self._moments())
        for number, moments in enumerate(halves):
            own = self.half[rows] == number
            moments.add(wells.y[own], groups[own])
        return Tally(tallies, halves)

    def predictions(self, wells: Wells, models: Sequence[Model]) -> Iterator[PredictedWells]:
        """Yield every row's prediction for some wells, in the order of the table."""
        yield from self.baselines.predict(wells, self.n_draws)
        for model in models:
            yield from model.predict(wells)
        if self.truth is not None:
            first, *more = (self.truth.draw(wells, self.seed, number) for number in range(self.n_draws))
            yield PredictedWells("oracle", "one_draw", first, more_draws=more)
            best = np.asarray(wells.basal + self.truth.delta(wells), dtype=np.float32)
            yield PredictedWells("oracle", "mean", best, self.truth.sd(wells))
            yield PredictedWells("oracle", "true_mean", self.truth.mean(wells))

    def _row(
        self, wells: Wells, groups: np.ndarray, kept: np.ndarray, prediction: PredictedWells, planted: Planted | None
    ) -> RowTally:
        scores = score_wells(wells, prediction, planted, self.settings.min_compounds_per_plate)
        clouds = [self._cloud(y_hat, groups, kept) for y_hat in (prediction.y_hat, *prediction.more_draws)]
        return RowTally(prediction.model, prediction.kind, prediction.n_samples, scores, clouds)

    def _cloud(self, y_hat: np.ndarray, groups: np.ndarray, kept: np.ndarray) -> Cloud:
        moments = self._moments()
        moments.add(y_hat, groups)
        return Cloud(moments, y_hat[kept])

    def _moments(self) -> GeneMoments:
        return GeneMoments(int(self.groups.max()) + 1, self.reader.controls.shape[1])


BlockRunner = Callable[[Scoring, Callable[[int, int], None]], Iterator[Tally]]
"""Scores all blocks and yields their tallies in order."""


def in_turn(scoring: Scoring, on_progress: Callable[[int, int], None]) -> Iterator[Tally]:
    """Score the blocks one by one in this process."""
    models, done = scoring.open_models(), 0
    for rows in scoring.blocks():
        yield scoring.tally(rows, models)
        done += len(rows)
        on_progress(done, len(scoring.reader))
