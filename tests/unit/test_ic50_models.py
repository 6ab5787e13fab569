"""Drug sensitivity: the regressor and the two-way means."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ldm_ray.errors import NonFiniteError, ShapeError
from ldm_ray.evaluation.ic50.means import fit_two_way_means
from ldm_ray.models.ic50 import fit_ic50


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Steps this small take ten times as long when several threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def linear_problem(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 30)) * rng.uniform(0.1, 50, 30) + 7
    scaled = (x - x.mean(0)) / x.std(0)
    return x, 3 + 2 * scaled[:, 0] + np.abs(scaled[:, 1]) + 0.1 * rng.normal(size=n)


def test_the_regressor_learns_a_planted_function_and_leaves_torch_alone() -> None:
    x, y = linear_problem(1500, 0)
    before = torch.get_rng_state()
    fitted = fit_ic50(x[:1000], y[:1000], x[1000:1200], y[1000:1200], seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    y_hat = fitted.predict(x[1200:])
    assert np.mean((y_hat - y[1200:]) ** 2) < 0.15 * y[1200:].var()
    torch.manual_seed(99)
    again = fit_ic50(x[:1000], y[:1000], x[1000:1200], y[1000:1200], seed=3)
    np.testing.assert_array_equal(again.predict(x[1200:]), y_hat)
    other = fit_ic50(x[:1000], y[:1000], x[1000:1200], y[1000:1200], seed=4)
    assert (other.predict(x[1200:]) != y_hat).any()


def test_scaling_is_the_training_rows_own() -> None:
    """Columns that never vary in training are ignored, however large they are elsewhere."""
    x, y = linear_problem(300, 1)
    x[:200, 5] = 4.0
    x[200:, 5] = 1e6
    fitted = fit_ic50(x[:200], y[:200], x[200:250], y[200:250], seed=0)
    np.testing.assert_allclose(fitted.x_mean.numpy(), x[:200].mean(axis=0), rtol=1e-5)
    assert float(fitted.y_mean) == pytest.approx(y[:200].mean(), rel=1e-5)
    without = x[250:].copy()
    without[:, 5] = 0.0
    np.testing.assert_array_equal(fitted.predict(x[250:]), fitted.predict(without))


def test_components_are_the_span_of_the_training_rows() -> None:
    """Rows that span 6 of 50 dimensions need 6 components, which lose nothing and have variance 1 on average."""
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(50, 50)))[0]
    x = rng.normal(size=(400, 6)) @ basis[:6]
    fitted = fit_ic50(x[:300], x[:300, 0], x[300:], x[300:, 0], seed=0)
    assert fitted.components.shape == (50, 6)
    scaled = (x[:300] - x[:300].mean(0)) / x[:300].std(0)
    h = scaled @ fitted.components.numpy()
    assert h.var(axis=0).mean() == pytest.approx(1.0, rel=1e-3)
    back = h @ np.linalg.lstsq(h, scaled, rcond=None)[0]
    assert ((back - scaled) ** 2).sum() < 0.001 * (scaled**2).sum()


def test_inputs_without_information_give_the_mean() -> None:
    y = np.random.default_rng(0).normal(size=60) + 5
    fitted = fit_ic50(np.ones((40, 3)), y[:40], np.ones((20, 3)), y[40:], seed=0)
    assert np.ptp(fitted.predict(np.full((7, 3), 9.0))) == 0


def test_two_way_means_are_least_squares() -> None:
    rng = np.random.default_rng(0)
    drug, cell = rng.integers(0, 6, 80).astype(str), rng.integers(0, 4, 80).astype(str)
    y = rng.normal(size=80) + drug.astype(int) - 2 * cell.astype(int)
    design = np.concatenate([drug[:, None] == np.unique(drug), cell[:, None] == np.unique(cell)], axis=1).astype(float)
    plain = y.mean() + design @ np.linalg.lstsq(design, y - y.mean(), rcond=None)[0]
    np.testing.assert_allclose(fit_two_way_means(y, drug, cell, 1e-9).predict(drug, cell), plain, atol=1e-6)
    # Shrinkage means rows at effect 0: least squares on the rows and one more equation per effect.
    more = np.concatenate([design, np.sqrt(2.0) * np.eye(10)])
    shrunk = np.linalg.lstsq(more, np.append(y - y.mean(), np.zeros(10)), rcond=None)[0]
    means = fit_two_way_means(y, drug, cell, 2.0)
    np.testing.assert_allclose(means.predict(drug, cell), y.mean() + design @ shrunk, atol=1e-9)
    unseen = means.predict(np.array(["new", "0", "new"]), np.array(["1", "new", "new"]))
    np.testing.assert_allclose(unseen, y.mean() + np.array([shrunk[7], shrunk[0], 0.0]), atol=1e-9)


def test_features_that_are_not_finite_are_an_error() -> None:
    x, y = linear_problem(50, 0)
    with pytest.raises(NonFiniteError, match="training features"):
        fit_ic50(np.where(x == x[3, 3], np.nan, x), y, x, y, 0)
    with pytest.raises(ShapeError, match="validation features"):
        fit_ic50(x, y, x, y[:-1], 0)
    with pytest.raises(ShapeError, match=r"must be \(n, 30\)"):
        fit_ic50(x, y, x, y, 0).predict(x[:, :29])
