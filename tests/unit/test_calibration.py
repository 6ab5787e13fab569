"""Spreads, conditions and the planted truth: the suite separates what it must."""

import numpy as np
import pytest
from scipy import integrate, stats

from ldm_ray.data.wells import load_wells
from ldm_ray.evaluation.baselines.truth import open_truth
from ldm_ray.evaluation.scores.conditions import average, discrimination, discrimination_cosine, strong_gene_scores
from ldm_ray.evaluation.scores.spread import covered, crps_gaussian, fit_sd_scale
from ldm_ray.evaluation.suite import Evaluation, evaluate
from ldm_ray.settings import EvaluateSettings
from tests.conftest import World

RNG = np.random.default_rng(0)


def test_crps_equals_its_integral() -> None:
    y, mean, sd = np.array([[0.3, -1.0]]), np.array([[0.0, 2.0]]), np.array([[1.5, 0.7]])

    def slow(i: int) -> float:
        step = lambda x: (stats.norm.cdf(x, mean[0, i], sd[0, i]) - (x >= y[0, i])) ** 2  # noqa: E731
        return integrate.quad(step, -15, y[0, i])[0] + integrate.quad(step, y[0, i], 15)[0]

    assert crps_gaussian(y, mean, sd)[0] == pytest.approx((slow(0) + slow(1)) / 2, abs=1e-6)
    assert crps_gaussian(y, mean, np.zeros((1, 2)))[0] == pytest.approx(np.abs(y - mean).mean())


def test_a_scale_fitted_on_one_half_covers_the_other() -> None:
    true_sd = np.exp(RNG.normal(size=200))
    y, stated = RNG.normal(size=(4000, 200)) * true_sd, np.ones((4000, 200))
    scale = fit_sd_scale(y[:2000], np.zeros((2000, 200)), stated[:2000])
    np.testing.assert_allclose(scale, true_sd, rtol=0.1)
    for level in (0.5, 0.8, 0.95):
        inside = covered(y[2000:], np.zeros((2000, 200)), stated[2000:] * scale, level)
        assert inside.mean() == pytest.approx(level, abs=0.01)


def test_discrimination_equals_a_slow_ranking() -> None:
    effect, predicted = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 5))
    slow = []
    for i in range(7):
        ranks = stats.rankdata([np.linalg.norm(predicted[i] - effect[j]) for j in range(7)]) - 1
        slow.append(1 - ranks[i] / 6)
    np.testing.assert_allclose(discrimination(effect, predicted), slow)
    assert discrimination(effect, effect).tolist() == [1.0] * 7
    assert discrimination(np.repeat(effect[:1], 7, axis=0), predicted).tolist() == [0.5] * 7


def test_discrimination_by_angle_does_not_see_sizes() -> None:
    effect, predicted = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 5))
    lengths = [np.linalg.norm(values, axis=1) for values in (predicted, effect)]
    cosine = predicted @ effect.T / np.outer(*lengths)
    slow = [1 - (stats.rankdata(1 - cosine[i])[i] - 1) / 6 for i in range(7)]
    np.testing.assert_allclose(discrimination_cosine(effect, predicted), slow)
    sizes = RNG.random((7, 1)) + 0.1
    np.testing.assert_array_equal(
        discrimination_cosine(effect, sizes * predicted), discrimination_cosine(effect, predicted)
    )
    np.testing.assert_allclose(discrimination_cosine(sizes * effect, predicted), slow)
    assert discrimination_cosine(effect, np.zeros((7, 5))).tolist() == [0.5] * 7


def test_strong_genes_equal_a_slow_formula() -> None:
    effect, predicted = RNG.normal(size=(3, 300)), RNG.normal(size=(3, 300))
    scores = strong_gene_scores(effect, predicted)
    for i in range(3):
        order, said = np.argsort(effect[i]), np.argsort(predicted[i])
        genes = np.r_[order[:50], order[-50:]]
        assert scores["top50_squared"][i] == pytest.approx(((effect - predicted)[i, genes] ** 2).mean())
        assert scores["top50_pcc"][i] == pytest.approx(stats.pearsonr(effect[i, genes], predicted[i, genes]).statistic)
        hits = len({*order[:50]} & {*said[:50]}) + len({*order[-50:]} & {*said[-50:]})
        assert scores["precision_at_50"][i] == pytest.approx(hits / 100)
    np.testing.assert_allclose(average(np.array([[1.0], [3.0], [5.0]]), np.array([1, 0, 1])), [[3.0], [3.0]])


@pytest.fixture(scope="module")
def judged(world: World) -> Evaluation:
    settings = EvaluateSettings(bootstrap_draws=200, min_wells_per_cell_line=5, min_compounds_per_plate=2)
    return evaluate(world.dataset, [], settings, 0)


def test_the_oracle_reaches_the_ceilings_and_is_calibrated(judged: Evaluation) -> None:
    rows = {(row["model"], row["prediction"]): row for row in judged.metrics["rows"]}
    ceiling, oracle, mean = judged.metrics["ceiling"], rows["oracle", "mean"], rows["oracle", "true_mean"]
    low, high = ceiling["rmse_floor_interval"]
    assert low <= mean["rmse"] <= high
    low, high = ceiling["delta_pcc_ceiling_interval"]
    assert low <= oracle["delta_pcc"] <= high
    for level in (50, 80, 95):
        assert 100 * oracle[f"coverage_{level}"] == pytest.approx(level, abs=2)
    assert oracle["explained_share"] == pytest.approx(1.0, abs=1e-5)
    assert all(oracle["rmse"] < row["rmse"] for key, row in rows.items() if key[0] != "oracle")


def test_the_oracles_draws_cover_as_they_should(world: World) -> None:
    """The central 50, 80 and 95% of 200 draws per well hold the measured value that often."""
    truth, wells = open_truth(world.dataset), load_wells(world.dataset, "test", max_profiles=150)
    assert truth is not None
    draws = np.stack([truth.draw(wells, seed=100 * number) for number in range(200)])
    rank = (draws < wells.y).mean(axis=0)
    for level in (0.5, 0.8, 0.95):
        inside = (rank >= 0.5 - level / 2) & (rank <= 0.5 + level / 2)
        assert 100 * inside.mean() == pytest.approx(100 * level, abs=2)


def test_a_mean_fails_as_a_cloud_and_a_draw_as_a_mean(judged: Evaluation) -> None:
    rows = {(row["model"], row["prediction"]): row for row in judged.metrics["rows"]}
    mean, draw = rows["oracle", "mean"], rows["oracle", "one_draw"]
    for key in ("energy_distance", "mmd", "correlation_error"):
        assert draw[key] < 0.5 * mean[key], key
    assert draw["rmse"] > 1.3 * mean["rmse"]
    for flat in (("train_mean", "mean"), ("mean_delta", "mean")):
        assert rows[flat]["energy_distance"] > 3 * draw["energy_distance"]
        assert rows[flat]["systematic_pcc"] == 0.0
