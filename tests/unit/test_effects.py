"""The parts of the mean model against closed forms: variance components, posterior means, kernel ridge."""

import numpy as np
import pytest
import torch

from ldm_ray.effects.control import ControlProfiles, fit_controls
from ldm_ray.effects.kernel import SIGNAL_RATIOS, Conditions, NormalEquations, product_kernel, solver, whitening
from ldm_ray.effects.nested import PlateSums, fit_components, fit_nested, leave_batch_out

N_GENES = 7


def planted_controls(rng: np.random.Generator, n_plates: int = 4000) -> tuple[ControlProfiles, np.ndarray, np.ndarray]:
    """Controls of two groups with W from 0.5 to 2 and B from 0.1 to 1, of 2 to 6 wells; W and B."""
    within, between = np.linspace(0.5, 2.0, N_GENES), np.linspace(1.0, 0.1, N_GENES)
    group, n_wells = rng.integers(0, 2, n_plates), rng.integers(2, 7, n_plates)
    centre = 8.0 + group[:, None] + rng.normal(size=(n_plates, N_GENES)) * np.sqrt(between)
    mean, variance = np.empty_like(centre), np.empty_like(centre)
    for row, n in enumerate(n_wells):
        wells = centre[row] + rng.normal(size=(n, N_GENES)) * np.sqrt(within)
        mean[row], variance[row] = wells.mean(axis=0), wells.var(axis=0, ddof=1)
    return ControlProfiles(mean, variance, n_wells, group), within, between


def test_moments_recover_planted_control_variances() -> None:
    controls, within, between = planted_controls(np.random.default_rng(0))
    model = fit_controls(controls)
    np.testing.assert_allclose(model.within, within, rtol=0.05)
    np.testing.assert_allclose(model.between, between, rtol=0.12)
    np.testing.assert_allclose(model.mean, [[8.0] * N_GENES, [9.0] * N_GENES], atol=0.1)


def test_a_shrunk_control_is_the_posterior_mean() -> None:
    """Conditioning the joint Gaussian of plate and observed mean gives the same, by linear algebra."""
    controls, _, _ = planted_controls(np.random.default_rng(1), 50)
    model = fit_controls(controls)
    shrunk = model.shrunk(controls.mean, controls.n_wells, controls.group)
    for row in (0, 17, 49):
        for gene in range(N_GENES):
            b, noise = model.between[gene], model.within[gene] / controls.n_wells[row]
            joint = np.array([[b, b], [b, b + noise]])
            seen = controls.mean[row, gene] - model.mean[controls.group[row], gene]
            posterior = joint[0, 1] / joint[1, 1] * seen + model.mean[controls.group[row], gene]
            assert shrunk[row, gene] == pytest.approx(posterior, rel=1e-12)


def test_a_control_of_an_unknown_group_stays_as_it_is() -> None:
    controls, _, _ = planted_controls(np.random.default_rng(2), 50)
    unknown = np.full(50, 9)
    np.testing.assert_array_equal(
        fit_controls(controls).shrunk(controls.mean, controls.n_wells, unknown), controls.mean
    )


def test_controls_of_one_well_are_not_shrunk() -> None:
    rng = np.random.default_rng(3)
    mean = rng.normal(size=(6, N_GENES))
    one = ControlProfiles(mean, np.zeros_like(mean), np.ones(6, np.int64), np.zeros(6, np.int64))
    np.testing.assert_allclose(fit_controls(one).shrunk(mean, one.n_wells, one.group), mean, atol=1e-12)


def planted_plates(
    rng: np.random.Generator, n_batches: int = 1500, n_groups: int = 3
) -> tuple[PlateSums, np.ndarray, list[np.ndarray]]:
    """Wells of groups, of batches of 1 to 4 plates of 2 to 9 wells; the plates' means, and V_w, V_p, V_b, V_g."""
    spans = ((1.0, 2.0), (0.2, 0.6), (0.8, 0.3), (0.4, 1.0))
    parts = [np.linspace(*span, N_GENES) for span in spans]
    batch = np.repeat(np.arange(n_batches), rng.integers(1, 5, n_batches))
    group = batch % n_groups
    own = 2.0 + rng.normal(size=(n_groups, N_GENES)) * np.sqrt(parts[3])
    shift = rng.normal(size=(n_batches, N_GENES)) * np.sqrt(parts[2])
    plate = shift[batch] + own[group] + rng.normal(size=(len(batch), N_GENES)) * np.sqrt(parts[1])
    count = rng.integers(2, 10, len(batch))
    owner = np.repeat(np.arange(len(batch)), count)
    wells = plate[owner] + rng.normal(size=(len(owner), N_GENES)) * np.sqrt(parts[0])
    total = np.zeros_like(plate)
    np.add.at(total, owner, wells)
    return PlateSums(total, count, (wells**2).sum(axis=0), group, batch), plate, parts


def test_moments_recover_planted_plate_and_batch_variances() -> None:
    sums, _, (well, plate, batch, group) = planted_plates(np.random.default_rng(4), 3000, 600)
    found = fit_components(sums)
    np.testing.assert_allclose(found.well, well, rtol=0.05)
    np.testing.assert_allclose(found.plate, plate, rtol=0.15)
    np.testing.assert_allclose(found.batch, batch, rtol=0.15)
    np.testing.assert_allclose(found.group, group, rtol=0.15)


def test_effects_are_the_posterior_means_of_the_mixed_model() -> None:
    """Generalised least squares and conditioning with the full covariance matrix of all plate means."""
    sums, _, _ = planted_plates(np.random.default_rng(5), 12)
    found = fit_nested(sums)
    parts, mean = found.components, sums.total / sums.count[:, None]
    same_group = (sums.group[:, None] == sums.group).astype(float)
    same_batch = (sums.batch[:, None] == sums.batch).astype(float)
    for gene in range(N_GENES):
        of_group = parts.group[gene] * same_group
        of_batch = of_group + parts.batch[gene] * same_batch
        shared = of_batch + parts.plate[gene] * np.eye(len(mean))
        inverse = np.linalg.inv(shared + np.diag(parts.well[gene] / sums.count))
        y = mean[:, gene]
        level = inverse.sum(axis=0) @ y / inverse.sum()
        assert found.everywhere[gene] == pytest.approx(level, rel=1e-9)
        left = inverse @ (y - level)
        close = {"rtol": 1e-8, "atol": 1e-10}
        np.testing.assert_allclose(found.group[sums.group, gene], level + of_group @ left, **close)
        np.testing.assert_allclose(found.batch[sums.batch, gene], level + of_batch @ left, **close)
        np.testing.assert_allclose(found.plate[:, gene], level + shared @ left, **close)


def test_effects_are_nearer_to_the_truth_than_plate_means() -> None:
    sums, plate, _ = planted_plates(np.random.default_rng(6))
    error = ((fit_nested(sums).plate - plate) ** 2).mean()
    assert error < 0.8 * ((sums.total / sums.count[:, None] - plate) ** 2).mean()


def test_the_factor_of_a_new_batch_leaves_batches_out() -> None:
    """Nearly 1 where batches agree, 0 where a cell line and time has one batch, however many plates it has."""
    rng = np.random.default_rng(7)
    shift = rng.normal(size=N_GENES)
    count = np.full(8, 50)
    total = 50 * (shift + 0.05 * rng.normal(size=(8, N_GENES)))
    group, squares = np.zeros(8, np.int64), np.ones(N_GENES)
    batch = np.arange(8) // 2
    assert leave_batch_out(PlateSums(total, count, squares, group, batch), np.zeros(4, np.int64)) > 0.95
    one = PlateSums(total, count, squares, group, np.zeros(8, np.int64))
    assert leave_batch_out(one, np.zeros(1, np.int64)) == 0.0
    opposed = np.where(batch[:, None] % 2, total, -total)
    assert leave_batch_out(PlateSums(opposed, count, squares, group, batch), np.zeros(4, np.int64)) == 0.0


def conditions(rng: np.random.Generator, n: int) -> tuple[Conditions, torch.Tensor]:
    """Conditions of n compounds, and the compounds' similarities: positive definite, 1 on the diagonal."""
    bits = (rng.random((n, 64)) < 0.3).astype(float)
    both = bits @ bits.T
    similarity = both / (bits.sum(axis=1)[:, None] + bits.sum(axis=1) - both)
    times, doses, cells = np.where(rng.random(n) < 0.5, 6.0, 24.0), rng.normal(size=n), rng.integers(0, 3, n)
    own = Conditions(torch.from_numpy(doses), torch.from_numpy(cells), torch.from_numpy(times))
    return own, torch.from_numpy(similarity)


def test_the_kernel_is_positive_definite_and_one_on_the_diagonal() -> None:
    x, similarity = conditions(np.random.default_rng(8), 80)
    kernel = product_kernel(similarity, x, x).numpy()
    np.testing.assert_allclose(np.diag(kernel), 1.0)
    assert np.linalg.eigvalsh(kernel)[0] > -1e-10


def test_all_points_as_landmarks_are_exact_kernel_ridge() -> None:
    rng = np.random.default_rng(9)
    x, similarity = conditions(rng, 60)
    kernel = product_kernel(similarity, x, x).numpy()
    response = rng.normal(size=(60, N_GENES))
    solved = solver(NormalEquations.of(kernel, response), whitening(kernel))
    exact = np.linalg.solve(kernel + 3.0 * np.eye(60), response)
    penalty = np.full(N_GENES, 3.0)
    np.testing.assert_allclose(kernel @ solved.coefficients(penalty), kernel @ exact, atol=1e-8)
    variance = 1.0 - np.einsum("ij,ji->i", kernel, np.linalg.solve(kernel + 3.0 * np.eye(60), kernel))
    np.testing.assert_allclose(solved.variance(kernel, penalty), np.tile(variance[:, None], N_GENES), atol=1e-8)
    nothing = np.full(N_GENES, np.inf)
    assert not solved.coefficients(nothing).any()
    np.testing.assert_allclose(solved.variance(kernel, nothing), 1.0)


def test_the_penalty_maximises_the_marginal_likelihood() -> None:
    """Against the density of the full covariance; with many genes of one planted ratio, it is found."""
    rng = np.random.default_rng(11)
    x, similarity = conditions(rng, 150)
    kernel = product_kernel(similarity, x, x).numpy()
    n_genes, ratio, noise_var = 200, 0.7, 1.7
    root = np.linalg.cholesky(noise_var * (ratio * kernel + np.eye(150)))
    response = root @ rng.normal(size=(150, n_genes))
    solved = solver(NormalEquations.of(kernel, response), whitening(kernel))
    penalty, gain = solved.likeliest_penalty()
    assert np.exp(np.log(1 / penalty[np.isfinite(penalty)]).mean()) == pytest.approx(ratio, rel=0.25)
    for gene in (0, 7):
        densities = []
        for tried in (0.0, *SIGNAL_RATIOS):
            shape = tried * kernel + np.eye(150)
            likeliest = response[:, gene] @ np.linalg.solve(shape, response[:, gene]) / 150
            densities.append(-0.5 * (150 * np.log(likeliest) + np.linalg.slogdet(shape)[1]))
        assert 1 / penalty[gene] == pytest.approx(SIGNAL_RATIOS[int(np.argmax(densities)) - 1], rel=1e-9)
        assert gain[gene] == pytest.approx(max(densities) - densities[0], rel=1e-6)
    silent = solver(NormalEquations.of(kernel, np.zeros((150, 2))), whitening(kernel))
    assert np.isinf(silent.likeliest_penalty()[0]).all()


def test_blocks_add_up_and_subtracting_a_fold_is_refitting() -> None:
    rng = np.random.default_rng(10)
    x, similarity = conditions(rng, 90)
    chosen = np.sort(rng.permutation(90)[:30])
    landmarks = x.take(torch.from_numpy(chosen))
    kernel = product_kernel(similarity[:, chosen], x, landmarks).numpy()
    own = product_kernel(similarity[chosen][:, chosen], landmarks, landmarks).numpy()
    response, fold = rng.normal(size=(90, N_GENES)), rng.integers(0, 5, 90)
    parts = [NormalEquations.of(kernel[fold == k], response[fold == k]) for k in range(5)]
    whole = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    np.testing.assert_allclose(whole.gram, kernel.T @ kernel, atol=1e-10)
    white, one = whitening(own), np.ones(N_GENES)
    refitted = solver(NormalEquations.of(kernel[fold != 2], response[fold != 2]), white).coefficients(one)
    subtracted = solver(whole - parts[2], white).coefficients(one)
    np.testing.assert_allclose(kernel @ subtracted, kernel @ refitted, atol=1e-8)
