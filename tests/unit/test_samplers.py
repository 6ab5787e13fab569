"""Sampling with the closed-form optimum in the network's place must give back the distribution."""

import pytest
import torch
from torch import Tensor

from ldm_ray.diffusion.samplers import (
    Denoise,
    SamplerChoice,
    SamplerPlan,
    ancestral,
    build_plan,
    ddim,
    dpm_solver,
    run_plan,
    step_var,
)
from ldm_ray.diffusion.schedule import build_schedule, linear_schedule
from ldm_ray.diffusion.subsets import spaced_steps
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


def evenly(count: int) -> SamplerPlan:
    return ancestral(SCHEDULE, spaced_steps(SCHEDULE, count))


def sample(steps: int, n: int, mean: Tensor, variance: Tensor) -> Tensor:
    """Start from the exact q(z_T), as the terminal alpha_bar of 0.0066 is not 0."""
    generator = torch.Generator().manual_seed(steps)

    def noise(_: int) -> Tensor:
        return torch.randn(n, len(mean), generator=generator, dtype=torch.float64)

    last = SCHEDULE.alpha_bar[-1]
    start = torch.sqrt(last) * mean + torch.sqrt(last * variance + 1 - last) * noise(-1)
    return run_plan(optimum(mean, variance), evenly(steps), start, noise)


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
    plan = evenly(10)
    denoise = optimum(mean, variance)
    last = SCHEDULE.alpha_bar[-1]
    wrong = right = float(last * variance + 1 - last)  # variance of z, propagated in closed form
    for index, t in enumerate(plan.steps.tolist()):
        z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        x0_hat, s = denoise(z, t)
        mu = plan.coef_z[index] * z + plan.coef_x0[index] * x0_hat
        slope = float(mu[1] - mu[0])
        lower = plan.var_least[index]
        upper = 1 - SCHEDULE.alpha_bar[t] / previous_alpha_bar(plan.steps, index)
        shortcut = torch.exp(s[0] * torch.log(upper) + (1 - s[0]) * torch.log(lower.clamp_min(1e-20)))
        wrong = slope**2 * wrong + (float(shortcut) if t > 0 else 0.0)
        right = slope**2 * right + float(step_var(plan, index, s)[0])
    assert right == pytest.approx(0.1, rel=0.01)
    assert wrong == pytest.approx(0.0565, abs=0.001)


def previous_alpha_bar(steps: Tensor, index: int) -> Tensor:
    following = index + 1
    return SCHEDULE.alpha_bar[steps[following]] if following < len(steps) else torch.ones((), dtype=torch.float64)


def test_variance_stays_within_the_bounds_of_the_subset() -> None:
    plan = evenly(20)
    for index, t in enumerate(plan.steps.tolist()):
        b = 1 - SCHEDULE.alpha_bar[t] / previous_alpha_bar(plan.steps, index)
        for s, bound in ((0.0, plan.var_least[index]), (1.0, b)):
            value = float(step_var(plan, index, torch.tensor([[s]], dtype=torch.float64)))
            assert value == pytest.approx(float(bound) if t > 0 else 0.0, rel=1e-9)


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
    plan = evenly(steps)
    covariance = SCHEDULE.alpha_bar[-1] * COVARIANCE + (1 - SCHEDULE.alpha_bar[-1]) * IDENTITY
    for index, t in enumerate(plan.steps.tolist()):
        gain, s = linear_optimum(t)
        step = plan.coef_z[index] * IDENTITY + plan.coef_x0[index] * gain
        covariance = step @ covariance @ step.T
        covariance = covariance + torch.diag(step_var(plan, index, s))
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

    z = run_plan(denoise, evenly(steps), noise(-1) @ root.T, noise)
    assert (torch.cov(z.T) - recursion(steps)).abs().max() < 5 * 0.5 * (2 / n) ** 0.5


def deterministic_end(plan: SamplerPlan, variance: float) -> float:
    """Standard deviation at the end of a plan without noise for z_0 ~ N(0, variance), in closed form."""
    value = torch.tensor([variance], dtype=torch.float64)
    last = SCHEDULE.alpha_bar[-1]
    start = torch.sqrt(last * value + 1 - last)[None]
    return float(run_plan(optimum(torch.zeros(1, dtype=torch.float64), value), plan, start, torch.zeros_like))


@pytest.mark.parametrize("spacing", ["linear", "quadratic", "log_snr"])
def test_deterministic_samplers_converge_at_their_order(spacing: str) -> None:
    """Twice the steps: half of DDIM's error, a quarter of that of DPM-Solver++ (2M)."""
    for kind, factor in (("ddim", 1.8), ("dpm++2m", 3.0)):
        errors = [
            abs(deterministic_end(build_plan(SCHEDULE, SamplerChoice(kind, count, spacing)), 0.3) - 0.3**0.5)  # type: ignore[arg-type]
            for count in (24, 48, 96)
        ]
        assert errors[0] > factor * errors[1] > factor**2 * errors[2], (kind, errors)
    assert errors[2] < 0.01


def propagated(plan: SamplerPlan, variance: float) -> float:
    """Variance at the end of any plan for z_0 ~ N(0, variance): z, x0_hat_before and noise are jointly Gaussian."""
    value, zero = torch.tensor([variance], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    last = SCHEDULE.alpha_bar[-1]
    covariance = torch.zeros(2, 2, dtype=torch.float64)  # of z and x0_hat_before
    covariance[0, 0] = last * value + 1 - last
    for index, t in enumerate(plan.steps.tolist()):
        gain, s = optimum(zero, value)(torch.ones(1, 1, dtype=torch.float64), t)
        k = float(gain)
        own = float(plan.coef_z[index]) + float(plan.coef_x0[index]) * k
        step = torch.tensor([[own, float(plan.coef_last[index])], [k, 0.0]], dtype=torch.float64)
        covariance = step @ covariance @ step.T
        covariance[0, 0] += float(step_var(plan, index, s))
    return float(covariance[0, 0])


@pytest.mark.parametrize(("kind", "eta"), [("ddim", 0.5), ("ddim", 1.0), ("dpm++2m-sde", 0.0)])
def test_stochastic_samplers_end_at_the_data_and_draw_what_they_say(kind: str, eta: float) -> None:
    errors = [
        abs(propagated(build_plan(SCHEDULE, SamplerChoice(kind, count, "log_snr", eta)), 0.3) - 0.3)  # type: ignore[arg-type]
        for count in (20, 80)
    ]
    assert errors[0] > 2 * errors[1]
    assert errors[1] < 0.05
    plan, n, generator = (
        build_plan(SCHEDULE, SamplerChoice(kind, 6, eta=eta)),
        400_000,
        torch.Generator().manual_seed(1),
    )  # type: ignore[arg-type]
    value, zero = torch.tensor([0.3], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    last = SCHEDULE.alpha_bar[-1]

    def noise(_: int) -> Tensor:
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    z = run_plan(optimum(zero, value), plan, torch.sqrt(last * value + 1 - last) * noise(-1), noise)
    assert float(z.var()) == pytest.approx(propagated(plan, 0.3), rel=5 * (2 / n) ** 0.5)


def test_samplers_agree_where_theory_says() -> None:
    """DDIM at eta 1 is ancestral with the small variance; so is a first-order step of the SDE solver."""
    steps = spaced_steps(SCHEDULE, 12)
    small, full = ancestral(SCHEDULE, steps), ddim(SCHEDULE, steps, eta=1.0)
    for name in ("coef_z", "coef_x0", "var_least"):
        torch.testing.assert_close(getattr(full, name), getattr(small, name), rtol=1e-9, atol=1e-12)
    two = torch.tensor([0, 999])
    solver, small = dpm_solver(SCHEDULE, two, stochastic=True), ancestral(SCHEDULE, two)
    for name in ("coef_z", "coef_x0", "var_least"):
        torch.testing.assert_close(getattr(solver, name), getattr(small, name), rtol=1e-9, atol=1e-12)
    ode, implicit = dpm_solver(SCHEDULE, two), ddim(SCHEDULE, two)
    torch.testing.assert_close(ode.coef_z, implicit.coef_z)
    torch.testing.assert_close(ode.coef_x0, implicit.coef_x0)


def test_a_correction_moves_weight_from_the_estimate_before_to_the_present_one() -> None:
    steps = spaced_steps(SCHEDULE, 6)
    plain, corrected, solver = ancestral(SCHEDULE, steps), ancestral(SCHEDULE, steps, 0.5), dpm_solver(SCHEDULE, steps)
    torch.testing.assert_close(corrected.coef_x0 + corrected.coef_last, plain.coef_x0)
    torch.testing.assert_close(
        corrected.coef_last / plain.coef_x0, 0.5 * solver.coef_last / (solver.coef_x0 + solver.coef_last)
    )
    assert corrected.coef_last[0] == corrected.coef_last[-1] == 0
    assert (corrected.coef_last[1:-1] < 0).all()
    assert propagated(corrected, 0.3) > propagated(plain, 0.3)


@pytest.mark.parametrize("kind", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++2m", "dpm++2m-sde"])
def test_every_plan_is_finite(kind: str, zero_terminal_snr: bool, sampler: str) -> None:
    schedule = build_schedule(kind, 200, 1e-4, 0.02, zero_terminal_snr=zero_terminal_snr)  # type: ignore[arg-type]
    for spacing in ("linear", "quadratic", "log_snr"):
        for count in (2, 3, 17, 199, 200):
            plan = build_plan(schedule, SamplerChoice(sampler, count, spacing, 0.3))  # type: ignore[arg-type]
            assert len(plan) == count
            assert plan.steps[0] == 199
            assert plan.steps[-1] == 0
            assert (plan.steps[1:] < plan.steps[:-1]).all()
            for name in ("coef_z", "coef_x0", "coef_last", "var_least", "var_gain", "log1p_u"):
                assert torch.isfinite(getattr(plan, name)).all(), name
            assert (plan.var_least >= 0).all()
            assert plan.var_least[-1] == plan.var_gain[-1] == plan.coef_last[-1] == 0


def test_step_subsets_are_checked() -> None:
    assert spaced_steps(SCHEDULE, 4).tolist() == [0, 333, 666, 999]
    assert spaced_steps(SCHEDULE, 4, "quadratic").tolist() == [0, 111, 444, 999]
    assert spaced_steps(SCHEDULE, 1000, "quadratic").tolist() == list(range(1000))
    log_snr = torch.log(SCHEDULE.snr)[spaced_steps(SCHEDULE, 8, "log_snr")]
    torch.testing.assert_close(log_snr.diff()[1:], log_snr.diff()[1:].mean().expand(6), rtol=0.06, atol=0)
    with pytest.raises(SettingsError, match="between 2 and 1000"):
        spaced_steps(SCHEDULE, 1)
    with pytest.raises(SettingsError, match="spacing must be linear, quadratic or log_snr; got 'cubic'"):
        spaced_steps(SCHEDULE, 5, "cubic")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="eta must be between 0 and 1; got 2"):
        build_plan(SCHEDULE, SamplerChoice("ddim", 5, eta=2.0))
    with pytest.raises(SettingsError, match="the sampler must be ancestral, ddim"):
        build_plan(SCHEDULE, SamplerChoice("euler", 5))  # type: ignore[arg-type]
    for bad in ([1, 999], [0, 5], [0, 7, 7, 999]):
        with pytest.raises(SettingsError, match="steps must increase from 0 to 999"):
            ancestral(SCHEDULE, torch.tensor(bad))
