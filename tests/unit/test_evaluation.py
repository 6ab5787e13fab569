"""Metrics against independent formulas, and what each must and must not reward."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.data.wells import Wells, load_wells, open_wells
from ldm_ray.errors import DataError, NonFiniteError, ShapeError
from ldm_ray.evaluation.baselines.fit import fit_baselines
from ldm_ray.evaluation.baselines.linear import Features, NormalEquations, fit_ridge
from ldm_ray.evaluation.baselines.trivial import GroupMeans, cell, cell_time, everywhere
from ldm_ray.evaluation.scores.bootstrap import Bootstrap, ResampledPairs, by_compound
from ldm_ray.evaluation.scores.ceiling import measure_ceiling
from ldm_ray.evaluation.scores.correlation import compare_correlations, top_genes
from ldm_ray.evaluation.scores.correlation_interval import spread_of
from ldm_ray.evaluation.scores.metrics import (
    distances,
    explained_share,
    pearson_per_profile,
    per_condition,
    plate_centred_pearson,
    r2_per_profile,
    squared_error_per_profile,
)
from ldm_ray.evaluation.scores.moments import GeneMoments
from ldm_ray.evaluation.scores.predicted import PredictedWells
from ldm_ray.evaluation.scoring import Scoring
from ldm_ray.evaluation.suite import conclude, prepare_scoring
from ldm_ray.evaluation.tally import merge
from ldm_ray.settings import EvaluateSettings
from tests.conftest import World

RNG = np.random.default_rng(0)
Y, Y_HAT = RNG.normal(size=(9, 40)), RNG.normal(size=(9, 40))
SETTINGS = EvaluateSettings(bootstrap_draws=20, min_wells_per_cell_line=5, min_compounds_per_plate=2)


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
    assert distances(x, y).energy() == pytest.approx(2 * between - pdist(x).mean() - pdist(y).mean())
    kernel = lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 1.5**2))  # noqa: E731
    within = [np.mean([kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]) for a in (x, y)]
    assert distances(x, y).mmd(1.5) == pytest.approx(sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def test_a_resample_draws_whole_compounds() -> None:
    """As if compounds were repeated, without pairs across the copies of a compound."""
    compound = np.array([3, 3, 5, 7, 7, 7])
    boot = Bootstrap(np.array([3, 5, 7]), np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]))
    x, y = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4)) + 1
    d = distances(x, y)
    pairs = ResampledPairs.of(boot, compound)
    drawn = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2)]  # well and copy: compound 3 twice, 5 once
    kept = [(a, b) for a, first in drawn for b, second in drawn if first == second or compound[a] != compound[b]]
    between = np.mean([d.between[pair] for pair in kept])
    apart = [np.mean([w[a, b] for a, b in kept if a != b]) for w in (d.within_x, d.within_y)]
    np.testing.assert_allclose(d.energies(pairs.mean)[:2], [d.energy(), 2 * between - sum(apart)])
    assert d.mmds(1.5, pairs.mean)[0] == pytest.approx(d.mmd(1.5))


def test_resampled_energy_distances_are_unbiased() -> None:
    """Wells of one compound are alike; drawing a compound twice once made all resamples' distances larger."""
    compound = np.repeat(np.arange(12), 6)
    effect = RNG.normal(size=(12, 5))[compound]
    x, y = (effect + 0.5 * RNG.normal(size=(72, 5)) for _ in range(2))
    values = distances(x, y).energies(ResampledPairs.of(by_compound(compound, 400, 0), compound).mean)
    low, high = np.quantile(values[1:], [0.25, 0.75])
    assert low < values[0] < high


def test_resampled_correlations_are_those_of_repeated_wells() -> None:
    y, group = RNG.normal(size=(40, 6)), np.arange(40) % 2
    weights = np.stack([np.ones(40), RNG.integers(0, 3, 40)]).astype(float)
    found = spread_of(y, group, weights, seed=0)
    drawn = np.repeat(np.arange(40), weights[1].astype(int))
    centred = y[drawn].copy()
    for number in (0, 1):
        centred[group[drawn] == number] -= centred[group[drawn] == number].mean(axis=0)
    upper = np.triu_indices(6, 1)
    np.testing.assert_allclose(found.real[1], np.corrcoef(centred.T)[upper], atol=1e-9)
    same = found.of(y)
    np.testing.assert_allclose(same.error, 0.0, atol=1e-9)
    np.testing.assert_allclose(same.spearman, 1.0)


def test_energy_distance_of_one_distribution_is_zero_on_average() -> None:
    values = [distances(RNG.normal(size=(30, 5)), RNG.normal(size=(30, 5))).energy() for _ in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 200**0.5


def test_correlation_matrix_equals_numpy() -> None:
    values = RNG.normal(size=(50, 12))
    moments = GeneMoments(2, 12)
    group = np.arange(50) % 2
    for rows in np.array_split(np.arange(50), 3):
        moments.add(values[rows], group[rows])
    np.testing.assert_allclose(moments.correlation(within=False), np.corrcoef(values.T), atol=1e-12)
    centred = values - np.stack([values[group == g].mean(0) for g in (0, 1)])[group]
    np.testing.assert_allclose(moments.correlation(within=True), np.corrcoef(centred.T), atol=1e-12)
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
    scores, ids = np.array([1.0, 3.0, 10.0, 7.0]), np.array([0, 0, 1, 2])
    mean, compound, cells = per_condition(scores, ids, ids, np.array([5, 5, 5, 6]))
    assert mean.tolist() == [2.0, 10.0, 7.0]
    boot = by_compound(ids, 10, 0)
    assert boot.mean_of_ratios(compound, cells, mean, np.ones(3)).value == pytest.approx((6.0 + 7.0) / 2)


def test_bootstrap_resamples_compounds_not_wells() -> None:
    compound = np.repeat(np.arange(40), 25)
    values = np.repeat(RNG.normal(size=40), 25)
    boot = by_compound(compound, 400, 0)
    interval = boot.ratio(compound, values, np.ones(1000))
    standard_error = values.std() / 40**0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.25)
    assert interval == by_compound(compound, 400, 0).ratio(compound, values, np.ones(1000))
    slow = [(values * w).sum() / w.sum() for w in boot.counts[:, compound]]
    assert [interval.low, interval.high] == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist())


@pytest.fixture(scope="module")
def scoring(world: World) -> Scoring:
    return prepare_scoring(world.dataset, [], SETTINGS, 0)


@pytest.fixture(scope="module")
def wells(scoring: Scoring) -> Wells:
    """All scored wells at once, in the reader's order."""
    return scoring.reader.read(np.arange(len(scoring.reader)))


class Fixed:
    """Predictions that are known beforehand, by number of well, in place of baselines."""

    def __init__(self, scoring: Scoring, wells: Wells, predictions: list[PredictedWells]) -> None:
        self.order = {name: i for i, name in enumerate(wells.frame["profile_id"])}
        self.scoring, self.predictions = scoring, predictions

    def rows(
        self, dataset: object, blocks: int = 10_000, order: np.ndarray | None = None
    ) -> dict[str, dict[str, object]]:
        settings = SETTINGS.model_copy(update={"rows_per_block": blocks})
        given = vars(self.scoring) | {"settings": settings}
        if order is not None:
            reader, sample = self.scoring.reader, self.scoring.sample
            given |= {name: given[name][order] for name in ("groups", "half")}
            given["reader"] = replace(reader, index=reader.index.iloc[order].reset_index(drop=True))
            given["sample"] = replace(sample, numbers=np.sort(np.argsort(order)[sample.numbers]))
        scoring = _Fixed(**given)
        object.__setattr__(scoring, "fixed", self)
        tally = merge(scoring.tally(rows, []) for rows in scoring.blocks())
        return {row["model"]: row for row in conclude(dataset, scoring, tally).metrics["rows"]}  # type: ignore[arg-type]


class _Fixed(Scoring):
    def predictions(self, wells: Wells, models: object) -> list[PredictedWells]:  # type: ignore[override]
        fixed: Fixed = self.fixed  # type: ignore[attr-defined]
        places = [fixed.order[name] for name in wells.frame["profile_id"]]
        return [
            replace(
                p,
                y_hat=p.y_hat[places],
                sd=None if p.sd is None else p.sd[places],
                more_draws=[draw[places] for draw in p.more_draws],
            )
            for p in fixed.predictions
        ]


def test_controls_score_exactly_zero_and_the_truth_scores_full(world: World, scoring: Scoring, wells: Wells) -> None:
    assert scoring.truth is not None
    delta, mean_delta = scoring.truth.delta(wells), scoring.truth.mean_delta(wells)
    predictions = [
        PredictedWells("control", "mean", wells.basal),
        PredictedWells("truth", "mean", wells.y),
        PredictedWells("oracle", "mean", wells.basal + delta),
        PredictedWells("mean", "mean", wells.basal + mean_delta),
    ]
    rows = Fixed(scoring, wells, predictions).rows(world.dataset)
    control, truth, oracle, mean = (rows[name] for name in ("control", "truth", "oracle", "mean"))
    assert control["delta_pcc"] == control["systematic_pcc"] == control["top50_pcc"] == 0.0
    assert control["discrimination"] == pytest.approx(0.5, abs=1e-9)
    assert control["precision_at_50"] == pytest.approx(50 / 978)
    assert truth["rmse"] == 0.0
    assert truth["pcc"] == truth["r2"] == truth["systematic_pcc"] == pytest.approx(1.0)
    assert truth["top30_overlap"] == 30
    assert truth["correlation_error"] == pytest.approx(0.0, abs=1e-9)
    assert float(truth["energy_distance"]) <= 0.0  # the very same wells are nearer than another sample of them
    assert truth["discrimination"] == pytest.approx(1.0, abs=0.2)
    assert oracle["explained_share"] == pytest.approx(1.0, abs=1e-6)
    assert mean["explained_share"] == pytest.approx(0.0, abs=1e-6)
    for key, better in (("rmse", -1), ("delta_pcc", 1), ("top50_pcc", 1), ("discrimination", 1)):
        assert better * oracle[key] > better * mean[key], key  # type: ignore[operator]


def test_nothing_but_the_wells_decides_a_score(world: World, scoring: Scoring, wells: Wells) -> None:
    """The size and order of blocks, and the other wells in a block, change no score."""
    noise = np.random.default_rng(4).normal(size=wells.y.shape).astype(np.float32)
    made = Fixed(scoring, wells, [PredictedWells("control", "mean", wells.basal + noise, np.abs(noise) + 0.5)])
    whole, small = made.rows(world.dataset)["control"], made.rows(world.dataset, blocks=40)["control"]
    for key, value in whole.items():
        if isinstance(value, float):
            assert small[key] == pytest.approx(value, abs=1e-9), key
    plate = wells.frame["plate"].to_numpy()
    order = np.concatenate([np.random.default_rng(3).permutation(np.flatnonzero(plate == p)) for p in set(plate)])
    shuffled = made.rows(world.dataset, order=order)["control"]
    for key, value in whole.items():
        if isinstance(value, float):
            assert shuffled[key] == pytest.approx(value, abs=1e-9), key


def test_scores_of_clouds_are_averaged_over_draws(world: World, scoring: Scoring, wells: Wells) -> None:
    rng = np.random.default_rng(6)
    draws = [(wells.y + rng.normal(size=wells.y.shape)).astype(np.float32) for _ in range(3)]
    trivial = PredictedWells("control", "mean", wells.basal)

    def scored(first: np.ndarray, *more: np.ndarray, blocks: int = 10_000) -> dict[str, object]:
        made = PredictedWells("made", "one_draw", first, more_draws=more)
        return Fixed(scoring, wells, [trivial, made]).rows(world.dataset, blocks)["made"]

    row, alone = scored(*draws, blocks=40), [scored(draw) for draw in draws]
    for score in ("energy_distance", "mmd", "correlation_error", "correlation_spearman", "top30_overlap"):
        assert row[score] == pytest.approx(np.mean([own[score] for own in alone])), score  # type: ignore[list-item]
    assert row["rmse"] == alone[0]["rmse"]
    for score in ("energy_distance", "mmd", "correlation_error", "correlation_spearman"):
        low, high = row[f"{score}_interval"]  # type: ignore[misc]
        assert low <= row[score] <= high, score  # type: ignore[operator]


def test_blocks_are_whole_plates_and_hold_each_well_once(world: World) -> None:
    reader = open_wells(world.dataset, "test")
    blocks = reader.blocks(40)
    assert len(blocks) > 3
    np.testing.assert_array_equal(np.concatenate(blocks), np.arange(len(reader)))
    plates = [set(reader.index["plate"].iloc[rows]) for rows in blocks]
    assert sum(map(len, plates)) == len(set.union(*plates))
    table = world.dataset.profiles(["profile_id", "expression"], "test")
    measured = dict(zip(table["profile_id"].to_pylist(), table["expression"].to_pylist(), strict=True))
    for block in reader.stream(40):
        np.testing.assert_array_equal(block.y, np.array([measured[n] for n in block.frame["profile_id"]], np.float32))


def test_delta_is_scored_against_a_control_nobody_has_seen(world: World, scoring: Scoring, wells: Wells) -> None:
    """Sharing the control on both sides would reward a predictor for its noise."""
    flat = np.broadcast_to(wells.basal.mean(0), wells.y.shape).astype(np.float32)
    honest = Fixed(scoring, wells, [PredictedWells("control", "mean", flat)]).rows(world.dataset)["control"][
        "delta_pcc"
    ]
    rows = wells.has_reserved
    shared = pearson_per_profile((flat - wells.basal)[rows], (wells.y - wells.basal)[rows]).mean()
    assert shared > float(honest) + 0.05  # type: ignore[arg-type]


def test_nan_is_an_error_never_a_score(world: World, scoring: Scoring, wells: Wells) -> None:
    one = wells.y.copy()
    one[3, 5] = np.nan
    for y_hat, error in ((one, "NaN or infinite values in 1 of"), (np.full_like(one, np.nan), "NaN or infinite")):
        with pytest.raises(NonFiniteError, match=error):
            Fixed(scoring, wells, [PredictedWells("control", "mean", y_hat)]).rows(world.dataset)
    with pytest.raises(ShapeError, match="must be"):
        Fixed(scoring, wells, [PredictedWells("control", "mean", wells.y[:, :5])]).rows(world.dataset)


def test_baselines_know_the_training_side_only(world: World, scoring: Scoring, wells: Wells) -> None:
    """Other measurements of the scored wells change no prediction for them, drawn or not."""
    changed = replace(wells, y=wells.y[::-1] + 1.0)
    for row, other in zip(scoring.baselines.predict(wells), scoring.baselines.predict(changed), strict=True):
        np.testing.assert_array_equal(row.y_hat, other.y_hat, row.model)


def test_baselines_do_not_depend_on_blocks(world: World, scoring: Scoring, wells: Wells) -> None:
    fingerprints = MorganEncoder().encode(world.dataset.parent_smiles.tolist())
    sides = (open_wells(world.dataset, side) for side in ("train", "valid"))
    small = fit_baselines(*sides, fingerprints, None, seed=0, rows_per_block=50)  # type: ignore[arg-type]
    for row, other in zip(scoring.baselines.predict(wells), small.predict(wells), strict=True):
        np.testing.assert_allclose(row.y_hat, other.y_hat, rtol=1e-4, atol=1e-4, err_msg=row.model)


def test_group_means_fall_back_from_time_to_cell_to_all(world: World, wells: Wells) -> None:
    train = load_wells(world.dataset, "train")
    means = GroupMeans((cell_time, cell, everywhere), 978)
    means.add(train, train.y)
    frame = wells.frame.head(3).assign(time_h=[6.0, 500.0, 6.0], cell_id=[0, 0, 99])
    asked = replace(wells.take(np.arange(3)), frame=frame)
    first = train.y[(train.frame["cell_id"] == 0) & (train.frame["time_h"] == 6.0)].mean(0)
    by_cell = train.y[train.frame["cell_id"] == 0].mean(0)
    np.testing.assert_allclose(means.predict(asked), np.stack([first, by_cell, train.y.mean(0)]), rtol=1e-5)


def test_neighbours_equal_a_slow_formula(world: World, scoring: Scoring, wells: Wells) -> None:
    train, neighbours = load_wells(world.dataset, "train"), scoring.baselines.neighbours
    bits = MorganEncoder().encode(world.dataset.parent_smiles.tolist()).astype(bool)
    row = wells.frame.iloc[7]
    here = train.frame["cell_id"] == row["cell_id"]
    known = np.unique(train.frame["compound_id"][here])
    own = bits[row["compound_id"]]
    near = [(own & bits[c]).sum() / (own | bits[c]).sum() for c in known]
    chosen = known[np.argsort(-np.array(near), kind="stable")[: neighbours.k]]
    rows = here & train.frame["compound_id"].isin(chosen)
    expected = wells.basal[7] + (train.y - train.basal)[rows].mean(0)
    np.testing.assert_allclose(neighbours.predict(wells)[7], expected, rtol=1e-4, atol=1e-4)


def test_ridge_equals_the_normal_equations() -> None:
    rng = np.random.default_rng(1)
    n = 60
    frame = pd.DataFrame({"compound_id": np.arange(n), "dose_um": 10 ** rng.normal(size=n), "time_h": 24.0})
    basal = rng.normal(size=(n, 5))
    wells = Wells(frame, basal, basal, basal, np.ones(n, dtype=bool))
    features = Features(rng.integers(0, 2, (n, 7)).astype(float), np.eye(5)[:2], basal.mean(0))
    x, delta = features.of(wells), rng.normal(size=(n, 5))
    sums = NormalEquations(features.width, 5)
    for rows in np.array_split(np.arange(n), 4):
        sums.add(x[rows], delta[rows])
    ridge = fit_ridge(features, sums, sums)
    scale = np.r_[np.ones(7), np.maximum(x[:, 7:].std(0), 1e-6)]
    z = (x - x.mean(0)) / scale
    slow = np.linalg.solve(z.T @ z + ridge.penalty * np.eye(z.shape[1]), z.T @ (delta - delta.mean(0)))
    np.testing.assert_allclose(ridge.coefficients * scale[:, None], slow, atol=1e-8)
    left = (x @ ridge.coefficients + ridge.intercept - delta) ** 2
    assert sums.error_of(ridge.coefficients, ridge.intercept) + (delta**2).sum() == pytest.approx(left.sum())


def test_ceilings_of_known_noise() -> None:
    """Replicates y = D + noise with a fresh control each: the floor is the noise, the ceiling what D explains."""
    rng = np.random.default_rng(2)
    n, genes = 400, 300
    effect = np.repeat(0.5 * rng.normal(size=(n // 2, genes)), 2, axis=0)
    frame = pd.DataFrame({"condition_id": np.repeat(np.arange(n // 2), 2), "plate": ["a", "b"] * (n // 2)})
    frame["cell_id"], frame["group_id"] = 0, frame["condition_id"]
    zero = np.zeros((n, genes))
    wells = Wells(frame, effect + rng.normal(size=(n, genes)), zero, zero, np.ones(n, dtype=bool))
    boot = by_compound(frame["group_id"].to_numpy(), 200, 0)
    ceiling = measure_ceiling(wells, wells.has_reserved, boot)
    assert ceiling is not None
    assert ceiling.n_pairs == n // 2
    assert ceiling.rmse_floor.low < 1.0 < ceiling.rmse_floor.high
    assert ceiling.replicate_rmse.value == pytest.approx(2**0.5, rel=0.02)
    assert ceiling.delta_pcc_ceiling is not None
    assert ceiling.delta_pcc_ceiling.value == pytest.approx((0.25 / 1.25) ** 0.5, rel=0.05)
    assert measure_ceiling(replace(wells, frame=frame.assign(plate="a")), wells.has_reserved, boot) is None


def test_share_is_a_ratio_of_sums() -> None:
    left, whole = explained_share(Y_HAT, Y, np.zeros_like(Y))
    assert 1 - left.sum() / whole.sum() == pytest.approx(1 - ((Y_HAT - Y) ** 2).sum() / (Y**2).sum())


def test_an_empty_split_is_said(world: World) -> None:
    with pytest.raises(DataError, match="no profile in split 'nowhere'"):
        load_wells(world.dataset, "nowhere")
