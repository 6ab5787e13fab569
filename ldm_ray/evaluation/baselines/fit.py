"""Fits the baselines without a network, in one pass over training wells and one over validation wells."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ldm_ray.data.wells import WellReader, Wells
from ldm_ray.evaluation.baselines.clouds import LowRankGaussian, Reservoir, keys_of_draw
from ldm_ray.evaluation.baselines.linear import NormalEquations, Ridge, control_features, fit_ridge
from ldm_ray.evaluation.baselines.neighbours import Neighbours
from ldm_ray.evaluation.baselines.trivial import GroupMeans, cell, cell_time, everywhere, plate
from ldm_ray.evaluation.baselines.truth import Truth
from ldm_ray.evaluation.scores.moments import GeneMoments
from ldm_ray.evaluation.scores.predicted import PredictedWells
from ldm_ray.keys import Purpose

TRIVIAL = ("control", "train_mean", "mean_delta", "plate_mean")


@dataclass(frozen=True)
class Baselines:
    """Baselines fitted on the training side (the ridge penalty and k are chosen on the validation side)."""

    train_mean: GroupMeans
    mean_delta: GroupMeans
    plate_mean: GroupMeans
    ridge: Ridge
    neighbours: Neighbours
    profiles: Reservoir
    deltas: Reservoir
    residual: LowRankGaussian
    seed: int

    def predict(self, wells: Wells, n_draws: int = 1) -> Iterator[PredictedWells]:
        """Yield the prediction of every baseline; those that draw wells give `n_draws` of each."""
        mean_delta = wells.basal + self.mean_delta.predict(wells)
        sd = np.broadcast_to(self.residual.total_sd, wells.y.shape)
        yield PredictedWells("control", "mean", wells.basal)
        yield PredictedWells("train_mean", "mean", self.train_mean.predict(wells))
        yield PredictedWells("mean_delta", "mean", mean_delta, sd)
        yield PredictedWells("plate_mean", "mean", self.plate_mean.predict(wells))
        yield PredictedWells("ridge", "mean", self.ridge.predict(wells))
        yield PredictedWells("knn", "mean", self.neighbours.predict(wells))
        nothing = np.zeros((), np.float32)
        for name, base, draw in (
            ("random_train_well", nothing, self.profiles.draw),
            ("random_train_delta", wells.basal, self.deltas.draw),
            ("gaussian_residual", mean_delta, self._residuals),
        ):
            first, *more = (base + draw(wells, number) for number in range(n_draws))
            yield PredictedWells(name, "one_draw", first, more_draws=more)

    def _residuals(self, wells: Wells, number: int) -> np.ndarray:
        return self.residual.draw(keys_of_draw(wells.keys, number), self.seed, Purpose.GAUSSIAN_RESIDUAL)


def fit_baselines(
    train: WellReader,
    valid: WellReader,
    fingerprints: np.ndarray,
    truth: Truth | None,
    seed: int,
    rows_per_block: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Baselines:
    """Fit all baselines.

    Args:
        train: Training wells.
        valid: Validation wells.
        fingerprints: ECFP4 bits of each compound of the dataset, (n_compounds, n_bits).
        truth: Planted truth of simulated data; its training mean is filled here.
        seed: Seed of the reservoirs of training wells.
        rows_per_block: Wells in memory at once.
        on_progress: Called with wells done and in total.
    """
    n_genes = train.controls.shape[1]
    coarse = (cell_time, cell, everywhere)
    train_mean, mean_delta = GroupMeans(coarse, n_genes), GroupMeans(coarse, n_genes)
    plate_mean = GroupMeans((plate, *coarse), n_genes)
    features = control_features(fingerprints, train.controls[np.unique(train.index["basal_id"])])
    neighbours = Neighbours(np.packbits(fingerprints.astype(bool), axis=1))
    profiles, deltas = Reservoir(seed), Reservoir(seed)
    groups = {key: i for i, key in enumerate(train.index.groupby(["cell_id", "time_h"]).indices)}
    moments = GeneMoments(len(groups), n_genes)
    solving, choosing = (NormalEquations(features.width, n_genes) for _ in range(2))
    done, total = 0, len(train) + len(valid)
    for wells in train.stream(rows_per_block):
        delta = wells.y - wells.basal
        for fitted, values in ((train_mean, wells.y), (plate_mean, wells.y), (mean_delta, delta)):
            fitted.add(wells, values)
        if truth:
            truth.train_mean.add(wells, truth.delta(wells))
        solving.add(features.of(wells), delta.astype(np.float64))
        neighbours.add(wells, delta)
        profiles.add(wells, wells.y)
        deltas.add(wells, delta)
        moments.add(delta, np.array([groups[key] for key in cell_time(wells)]))
        done += len(wells)
        on_progress(done, total)
    neighbours.finish()
    for wells in valid.stream(rows_per_block):
        choosing.add(features.of(wells), wells.y.astype(np.float64) - wells.basal)
        neighbours.validate(wells)
        done += len(wells)
        on_progress(done, total)
    residual = LowRankGaussian.of(moments.covariance(within=True))
    ridge = fit_ridge(features, solving, choosing)
    return Baselines(train_mean, mean_delta, plate_mean, ridge, neighbours, profiles, deltas, residual, seed)
