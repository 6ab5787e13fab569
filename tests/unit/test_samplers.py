"""Sampling with the closed-form optimum in the network's place must give back the distribution."""

import pytest
import torch
from torch import Tensor

from ldm_ray.diffusion.samplers import Denoise, ancestral_sample, respace, respaced_var, spaced_steps
from ldm_ray.diffusion.schedule import linear_schedule
from ldm_ray.errors import SettingsError

SCHEDULE = linear_schedule(1000, 1e-5, 0.01)
VARIANCE = torch.tensor([0.05, 0.1, 0.3, 0.7, 1.0], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0, 0.0, 0.5, 1.0], dtype=torch.float64)


def optimum(mean: Tensor, variance: Tensor) -> Denoise:
    """The best denoiser of z_0 ~ N(mean, diag variance): E[z_0 | z_t], and the s of its exact reverse variance."""

    def denoise(z_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        alpha_bar = SCHEDULE.alpha_bar[t]
        total = alpha_bar * variance + 1 - alpha_bar
        x0_hat = mean + variance * torch.sqrt(alpha_bar) / total * (z_t - torch.sqrt(alpha_bar) * mean)
        posterior = variance * (1 - alpha_bar) / total
        sigma = SCHEDULE.beta_tilde[t] + SCHEDULE.coef_x0[t] ** 2 * posterior
        lower, upper = SCHEDULE.log_beta_tilde_clipped[t], torch.log(SCHEDULE.beta[t])
        return x0_hat, ((torch.log(sigma) - lower) / (upper - lower)).expand_as(z_t)

    return denoise


def sample(steps: int, n: int, mean: Tensor, variance: Tensor) -> Tensor:
    """Start from the exact q(z_T), as the terminal alpha_bar of 0.0066 is not 0."""
    generator = torch.Generator().manual_seed(steps)

    def noise(_: int) -> Tensor:
        return torch.randn(n, len(mean), generator=generator, dtype=torch.float64)

    last = SCHEDULE.alpha_bar[-1]
    start = torch.sqrt(last) * mean + torch.sqrt(last * variance + 1 - last) * noise(-1)
    return ancestral_sample(optimum(mean, variance), respace(SCHEDULE, spaced_steps(1000, steps)), start, noise)


@pytest.mark.parametrize(("steps", "n"), [(1000, 40_000), (50, 400_000), (10, 400_000), (2, 400_000)])
def test_diagonal_gaussian_is_recovered(steps: int, n: int) -> None:
    """Mean and variance within four Monte-Carlo standard errors; off-diagonal covariance likewise 0."""
    z = sample(steps, n, MEAN, VARIANCE)
    assert ((z.mean(0) - MEAN).abs() < 4 * torch.sqrt(VARIANCE / n)).all()
    covariance = torch.cov(z.T)
    assert ((covariance.diagonal() - VARIANCE).abs() < 4 * VARIANCE * (2 / n) ** 0.5).all()
    limit = 4 * torch.sqrt(VARIANCE[:, None] * VARIANCE / n)
    assert (covariance.fill_diagonal_(0.0).abs() < limit).all()


def test_reusing_the_fraction_on_the_subset_would_be_wrong() -> None:
    """The tempting shortcut, s between the subset's own bounds, gives 0.0565 for N(1, 0.1) at 10 steps."""
    mean, variance = torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    respacing = respace(SCHEDULE, spaced_steps(1000, 10))
    denoise = optimum(mean, variance)
    last = SCHEDULE.alpha_bar[-1]
    wrong = right = float(last * variance + 1 - last)  # variance of z, propagated in closed form
    for index, t in enumerate(respacing.steps.tolist()):
        z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        x0_hat, s = denoise(z, t)
        mu = respacing.coef_z[index] * z + respacing.coef_x0[index] * x0_hat
        slope = float(mu[1] - mu[0])
        lower = respacing.beta_tilde[index]
        upper = 1 - SCHEDULE.alpha_bar[t] / previous_alpha_bar(respacing.steps, index)
        shortcut = torch.exp(s[0] * torch.log(upper) + (1 - s[0]) * torch.log(lower.clamp_min(1e-20)))
        wrong = slope**2 * wrong + (float(shortcut) if t > 0 else 0.0)
        right = slope**2 * right + (float(respaced_var(respacing, index, s)[0]) if t > 0 else 0.0)
    assert right == pytest.approx(0.1, rel=0.01)
    assert wrong == pytest.approx(0.0565, abs=0.001)


def previous_alpha_bar(steps: Tensor, index: int) -> Tensor:
    following = index + 1
    return SCHEDULE.alpha_bar[steps[following]] if following < len(steps) else torch.ones((), dtype=torch.float64)


def test_variance_stays_within_the_bounds_of_the_subset() -> None:
    respacing = respace(SCHEDULE, spaced_steps(1000, 20))
    for index, t in enumerate(respacing.steps.tolist()):
        b = 1 - SCHEDULE.alpha_bar[t] / previous_alpha_bar(respacing.steps, index)
        for s, bound in ((0.0, respacing.beta_tilde[index]), (1.0, b)):
            value = float(respaced_var(respacing, index, torch.tensor([[s]], dtype=torch.float64)))
            if t > 0:
                assert value == pytest.approx(float(bound), rel=1e-9)


COVARIANCE = torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.2]], dtype=torch.float64)
IDENTITY = torch.eye(3, dtype=torch.float64)


def linear_optimum(t: int) -> tuple[Tensor, Tensor]:
    """For correlated z_0 ~ N(0, COVARIANCE): x0_hat = K_t z_t, and the s of the diagonal of its exact variance."""
    alpha_bar = SCHEDULE.alpha_bar[t]
    gain = torch.sqrt(alpha_bar) * COVARIANCE @ torch.linalg.inv(alpha_bar * COVARIANCE + (1 - alpha_bar) * IDENTITY)
    posterior = (COVARIANCE - torch.sqrt(alpha_bar) * gain @ COVARIANCE).diagonal()
    sigma = SCHEDULE.beta_tilde[t] + SCHEDULE.coef_x0[t] ** 2 * posterior
    lower, upper = SCHEDULE.log_beta_tilde_clipped[t], torch.log(SCHEDULE.beta[t])
    return gain, (torch.log(sigma) - lower) / (upper - lower)


def recursion(steps: int) -> Tensor:
    """Covariance at the end, in closed form: C_p = (B + A K_t) C_t (B + A K_t)^T + diag(Sigma_p)."""
    respacing = respace(SCHEDULE, spaced_steps(1000, steps))
    covariance = SCHEDULE.alpha_bar[-1] * COVARIANCE + (1 - SCHEDULE.alpha_bar[-1]) * IDENTITY
    for index, t in enumerate(respacing.steps.tolist()):
        gain, s = linear_optimum(t)
        step = respacing.coef_z[index] * IDENTITY + respacing.coef_x0[index] * gain
        covariance = step @ covariance @ step.T
        if t > 0:
            covariance = covariance + torch.diag(respaced_var(respacing, index, s))
    return covariance


def test_correlated_gaussian_improves_with_steps() -> None:
    """A diagonal reverse variance cannot be exact for a correlated z_0; its error shrinks with the steps."""
    errors = [float((recursion(steps) - COVARIANCE).norm()) for steps in (10, 50, 250)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("steps", [10, 50])
def test_correlated_gaussian_follows_its_recursion(steps: int) -> None:
    n, generator = 200_000, torch.Generator().manual_seed(steps)
    last = SCHEDULE.alpha_bar[-1]
    root = torch.linalg.cholesky(last * COVARIANCE + (1 - last) * IDENTITY)

    def noise(_: int) -> Tensor:
        return torch.randn(n, 3, generator=generator, dtype=torch.float64)

    def denoise(z_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        gain, s = linear_optimum(t)
        return z_t @ gain.T, s.expand_as(z_t)

    z = ancestral_sample(denoise, respace(SCHEDULE, spaced_steps(1000, steps)), noise(-1) @ root.T, noise)
    assert (torch.cov(z.T) - recursion(steps)).abs().max() < 5 * 0.5 * (2 / n) ** 0.5


def test_step_subsets_are_checked() -> None:
    assert spaced_steps(1000, 4).tolist() == [0, 333, 666, 999]
    with pytest.raises(SettingsError, match="between 2 and 1000"):
        spaced_steps(1000, 1)
    for bad in ([1, 999], [0, 5], [0, 7, 7, 999]):
        with pytest.raises(SettingsError, match="steps must increase from 0 to 999"):
            respace(SCHEDULE, torch.tensor(bad))
