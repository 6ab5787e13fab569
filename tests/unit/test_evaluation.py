"""Metrics against independent formulas, and what each must and must not reward."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from ldm_ray.baselines.linear import fit_ridge
from ldm_ray.baselines.trivial import fit_group_means, predict_mean_delta, predict_train_mean
from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.errors import DataError, NonFiniteError, ShapeError
from ldm_ray.evaluation.bootstrap import by_compound, weighted_mean
from ldm_ray.evaluation.ceiling import measure_ceiling
from ldm_ray.evaluation.correlation import compare_correlations, correlation_matrix, top_genes
from ldm_ray.evaluation.metrics import (
    energy_distance,
    explained_share,
    mean_per_condition_then_cell,
    mmd_rbf,
    pearson_per_profile,
    plate_centred_pearson,
    r2_per_profile,
    squared_error_per_profile,
)
from ldm_ray.evaluation.predictions import Prediction, true_delta
from ldm_ray.evaluation.suite import Judge
from ldm_ray.evaluation.wells import Wells, load_wells
from ldm_ray.settings import EvaluateSettings
from tests.conftest import World

RNG = np.random.default_rng(0)
Y, Y_HAT = RNG.normal(size=(9, 40)), RNG.normal(size=(9, 40))
SETTINGS = EvaluateSettings(bootstrap_draws=20, min_wells_per_cell_line=5, min_compounds_per_plate=2)


def judge(wells: Wells, truth: object = None) -> Judge:
    return Judge(wells, truth, SETTINGS, seed=0)  # type: ignore[arg-type]


def test_profile_scores_equal_scipy() -> None:
    expected = [stats.pearsonr(a, b).statistic for a, b in zip(Y, Y_HAT, strict=True)]
    np.testing.assert_allclose(pearson_per_profile(Y, Y_HAT), expected, rtol=1e-9)
    slow = [1 - ((a - b) ** 2).sum() / ((a - a.mean()) ** 2).sum() for a, b in zip(Y, Y_HAT, strict=True)]
    np.testing.assert_allclose(r2_per_profile(Y, Y_HAT), slow, rtol=1e-9)
    assert np.sqrt(squared_error_per_profile(Y, Y_HAT).mean()) == pytest.approx(np.sqrt(((Y - Y_HAT) ** 2).mean()))


def test_constant_vectors_have_correlation_zero() -> None:
    assert pearson_per_profile(np.zeros((2, 5)), Y[:2, :5]).tolist() == [0.0, 0.0]
    assert pearson_per_profile(np.full((2, 5), 7.0) + 1e-9 * Y[:2, :5], Y[:2, :5]).tolist() == [0.0, 0.0]


def test_distances_equal_slow_formulas() -> None:
    x, y = RNG.normal(size=(6, 4)), RNG.normal(size=(8, 4)) + 1
    between = np.mean([np.linalg.norm(a - b) for a in x for b in y])
    assert energy_distance(x, y) == pytest.approx(2 * between - pdist(x).mean() - pdist(y).mean())
    kernel = lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 1.5**2))  # noqa: E731
    within = [np.mean([kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]) for a in (x, y)]
    assert mmd_rbf(x, y, 1.5) == pytest.approx(sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def test_energy_distance_of_one_distribution_is_zero_on_average() -> None:
    values = [energy_distance(RNG.normal(size=(30, 5)), RNG.normal(size=(30, 5))) for _ in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 200**0.5


def test_correlation_matrix_equals_numpy() -> None:
    values = RNG.normal(size=(50, 12))
    np.testing.assert_allclose(correlation_matrix(values), np.corrcoef(values.T), atol=1e-12)
    matrix = np.corrcoef(values.T)
    slow = [np.mean([abs(matrix[g, h]) for h in range(12) if h != g]) for g in range(12)]
    assert top_genes(matrix, 3).tolist() == np.argsort(slow)[::-1][:3].tolist()
    same = compare_correlations(matrix, matrix, 1.0)
    assert (same.error, same.spearman) == (0.0, pytest.approx(1.0))


def test_plate_centred_equals_its_slow_formula() -> None:
    plate, compound = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2]), np.array([0, 0, 1, 2, 0, 1, 2, 0, 0])
    scores = plate_centred_pearson(Y, Y_HAT, plate, compound, 2)
    for i in range(7):
        others = (plate == plate[i]) & (compound != compound[i])
        expected = stats.pearsonr(Y_HAT[i] - Y_HAT[others].mean(0), Y[i] - Y[others].mean(0)).statistic
        assert scores[i] == pytest.approx(expected)
    assert np.isnan(scores[7:]).all()


def test_saying_the_same_for_every_compound_scores_zero_on_plates() -> None:
    plate, compound = np.repeat([0, 1], [5, 4]), np.arange(9)
    same = np.where(plate[:, None] == 0, Y[0], Y[1]).astype(np.float32)
    assert plate_centred_pearson(Y, same, plate, compound, 2).tolist() == [0.0] * 9


def test_macro_mean_is_per_condition_then_per_cell() -> None:
    scores = np.array([1.0, 3.0, 10.0, 7.0])
    means = mean_per_condition_then_cell(scores, np.array([0, 0, 1, 2]), np.array([5, 5, 5, 6]))
    assert means == {5: 6.0, 6: 7.0}


def test_bootstrap_resamples_compounds_not_wells() -> None:
    compound = np.repeat(np.arange(40), 25)
    values = np.repeat(RNG.normal(size=40), 25)
    interval = by_compound(compound, 400, 0).interval(lambda w: weighted_mean(values, w))
    standard_error = values.std() / 40**0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.25)
    assert interval == by_compound(compound, 400, 0).interval(lambda w: weighted_mean(values, w))


@pytest.fixture(scope="module")
def sides(world: World) -> tuple[Wells, Wells]:
    return load_wells(world.dataset, "train"), load_wells(world.dataset, "test")


def test_controls_score_exactly_zero_and_the_truth_scores_full(world: World, sides: tuple[Wells, Wells]) -> None:
    train, wells = sides
    truth = true_delta(world.dataset, wells, train)
    assert truth is not None
    scores = judge(wells, truth)
    control = scores.score(Prediction("control", "mean", wells.basal))
    assert control["delta_pcc"] == 0.0
    assert control["systematic_pcc"] == 0.0
    perfect = scores.score(Prediction("truth", "mean", wells.y))
    assert perfect["rmse"] == 0.0
    assert perfect["pcc"] == pytest.approx(1.0)
    assert perfect["r2"] == pytest.approx(1.0)
    assert perfect["systematic_pcc"] == pytest.approx(1.0)
    assert perfect["top30_overlap"] == 30
    assert perfect["correlation_error"] == 0.0
    oracle = scores.score(Prediction("oracle", "mean", wells.basal + truth.delta))
    assert oracle["explained_share"] == pytest.approx(1.0, abs=1e-6)
    mean = scores.score(Prediction("mean", "mean", wells.basal + truth.train_mean))
    assert mean["explained_share"] == pytest.approx(0.0, abs=1e-6)
    assert oracle["rmse"] < mean["rmse"]
    assert oracle["delta_pcc"] > mean["delta_pcc"] > 0


def test_delta_is_scored_against_a_control_nobody_has_seen(sides: tuple[Wells, Wells]) -> None:
    """Sharing the control on both sides would reward a predictor for its noise."""
    _, wells = sides
    noisy = Prediction("noise", "mean", wells.basal - (wells.basal - wells.basal.mean(0)))
    honest = judge(wells).score(noisy)["delta_pcc"]
    shared = replace(wells, reserved=wells.basal, has_reserved=np.ones(len(wells), dtype=bool))
    assert judge(shared).score(noisy)["delta_pcc"] > honest + 0.05


def test_nan_is_an_error_never_a_score(sides: tuple[Wells, Wells]) -> None:
    _, wells = sides
    y_hat = wells.y.copy()
    y_hat[3, 5] = np.nan
    with pytest.raises(NonFiniteError, match="hold NaN or infinite values in 1 of"):
        judge(wells).score(Prediction("bad", "mean", y_hat))
    with pytest.raises(NonFiniteError):
        judge(wells).score(Prediction("bad", "mean", np.full_like(wells.y, np.nan)))
    with pytest.raises(ShapeError, match="must be"):
        judge(wells).score(Prediction("bad", "mean", wells.y[:, :5]))


def test_order_of_wells_changes_nothing(sides: tuple[Wells, Wells]) -> None:
    _, wells = sides
    order = np.random.default_rng(3).permutation(len(wells))
    shuffled = Wells(
        wells.frame.iloc[order].reset_index(drop=True), wells.y[order], wells.basal[order],
        wells.reserved[order], wells.has_reserved[order], wells.keys[order],
    )  # fmt: skip
    noise = np.random.default_rng(4).normal(size=wells.y.shape).astype(np.float32)
    a = judge(wells).score(Prediction("x", "mean", wells.y + noise))
    b = judge(shuffled).score(Prediction("x", "mean", wells.y[order] + noise[order]))
    for key in ("rmse", "pcc", "r2", "delta_pcc", "systematic_pcc"):
        assert a[key] == pytest.approx(b[key], abs=1e-9), key


def test_baselines_know_the_training_side_only(world: World, sides: tuple[Wells, Wells]) -> None:
    """Other measurements of the judged wells change no prediction for them."""
    train, wells = sides
    changed = replace(wells, y=wells.y[::-1] + 1.0)
    fingerprints = MorganEncoder(n_bits=64).encode(world.dataset.parent_smiles.tolist())
    ridge = fit_ridge(train, load_wells(world.dataset, "valid"), fingerprints)
    for predict in (
        lambda w: predict_train_mean(train, w),
        lambda w: predict_mean_delta(train, w),
        lambda w: ridge.predict(w, fingerprints),
    ):
        np.testing.assert_array_equal(predict(wells), predict(changed))


def test_group_means_fall_back_from_time_to_cell_to_all(sides: tuple[Wells, Wells]) -> None:
    train, wells = sides
    means = fit_group_means(train, train.y)
    frame = wells.frame.head(3).assign(time_h=[6.0, 500.0, 6.0], cell_id=[0, 0, 99])
    asked = replace(wells, frame=frame)
    first = train.y[(train.frame["cell_id"] == 0) & (train.frame["time_h"] == 6.0)].mean(0)
    by_cell = train.y[train.frame["cell_id"] == 0].mean(0)
    np.testing.assert_allclose(means.predict(asked), np.stack([first, by_cell, train.y.mean(0)]), rtol=1e-5)


def test_ridge_equals_the_normal_equations() -> None:
    rng = np.random.default_rng(1)
    n = 60
    frame = pd.DataFrame({"compound_id": np.arange(n), "dose_um": 10 ** rng.normal(size=n), "time_h": 24.0})
    basal = np.broadcast_to(rng.normal(size=(2, 5)), (30, 2, 5)).reshape(n, 5)
    y = basal + rng.normal(size=(n, 5))
    wells = Wells(frame, y, basal, basal, np.ones(n, dtype=bool), np.arange(n))
    bits = rng.integers(0, 2, (n, 7)).astype(float)
    ridge = fit_ridge(wells, wells, bits)
    features = np.concatenate(
        [bits, (basal - ridge.basal_mean) @ ridge.components.T, np.log10(frame[["dose_um"]]), frame[["time_h"]] / 24],
        axis=1,
    )
    x = (features - ridge.feature_mean) / ridge.feature_scale
    slow = np.linalg.solve(x.T @ x + ridge.penalty * np.eye(x.shape[1]), x.T @ (y - basal - (y - basal).mean(0)))
    np.testing.assert_allclose(ridge.coefficients, slow, atol=1e-8)


def test_ceilings_of_known_noise() -> None:
    """Replicates y = D + noise with a fresh control each: the floor is the noise, the ceiling what D explains."""
    rng = np.random.default_rng(2)
    n, genes = 400, 300
    effect = np.repeat(0.5 * rng.normal(size=(n // 2, genes)), 2, axis=0)
    frame = pd.DataFrame({"condition_id": np.repeat(np.arange(n // 2), 2), "plate": ["a", "b"] * (n // 2)})
    frame["cell_id"] = 0
    zero = np.zeros((n, genes))
    wells = Wells(frame, effect + rng.normal(size=(n, genes)), zero, zero, np.ones(n, dtype=bool), np.arange(n))
    ceiling = measure_ceiling(wells, wells.has_reserved)
    assert ceiling is not None
    assert ceiling.n_pairs == n // 2
    assert ceiling.rmse_floor == pytest.approx(1.0, rel=0.02)
    assert ceiling.replicate_rmse == pytest.approx(2**0.5, rel=0.02)
    assert ceiling.delta_pcc_ceiling == pytest.approx((0.25 / 1.25) ** 0.5, rel=0.05)
    assert measure_ceiling(replace(wells, frame=frame.assign(plate="a")), wells.has_reserved) is None


def test_share_is_a_ratio_of_sums() -> None:
    left, whole = explained_share(Y_HAT, np.zeros_like(Y), Y, np.zeros_like(Y))
    assert 1 - left.sum() / whole.sum() == pytest.approx(1 - ((Y_HAT - Y) ** 2).sum() / (Y**2).sum())


def test_an_empty_split_is_said(world: World) -> None:
    with pytest.raises(DataError, match="no profile in split 'nowhere'"):
        load_wells(world.dataset, "nowhere")
