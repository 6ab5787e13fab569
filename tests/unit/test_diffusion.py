"""The forward and reverse process against closed forms."""

import pytest
import torch
from torch import Tensor

from ldm_ray.diffusion.gaussian import GaussianDiffusion, Head
from ldm_ray.diffusion.losses import Objective, gaussian_nll, marginal_nll
from ldm_ray.diffusion.schedule import (
    build_schedule,
    cosine_schedule,
    linear_schedule,
    schedule_from_beta,
    sigmoid_schedule,
)
from ldm_ray.errors import SettingsError, ShapeError

SCHEDULE = linear_schedule(1000, 1e-5, 0.01)
DIFFUSION = GaussianDiffusion(SCHEDULE)
BATCH, LATENT = 3, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_schedule_has_the_published_ends() -> None:
    assert float(SCHEDULE.beta[0]) == pytest.approx(1e-5)
    assert float(SCHEDULE.beta[-1]) == pytest.approx(0.01)
    assert float(SCHEDULE.alpha_bar[-1]) == pytest.approx(0.0066, abs=5e-5)


def test_repeated_single_steps_equal_the_jump() -> None:
    """Eq. (3) repeated is Eq. (5): same coefficient on z_0, same variance, at every step."""
    signal, variance = 1.0, 0.0
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for step in range(1000):
        t = torch.tensor([step])
        signal = float(DIFFUSION.q_step(one * signal, t, zero))
        keep = float(DIFFUSION.q_step(one, t, zero)) ** 2
        variance = keep * variance + float(DIFFUSION.q_step(zero, t, one)) ** 2
        assert float(DIFFUSION.q_sample(one, t, zero)) == pytest.approx(signal, rel=1e-10)
        assert float(DIFFUSION.q_sample(zero, t, one)) ** 2 == pytest.approx(variance, rel=1e-10)


def test_posterior_is_bayes_rule() -> None:
    """q(z_prev | z_t, z_0) of Eq. (9) from the product of two Gaussians."""
    for step in (1, 10, 500, 999):
        beta, before = SCHEDULE.beta[step], SCHEDULE.alpha_bar_prev[step]
        precision = 1 / (1 - before) + (1 - beta) / beta
        z_0, z_t = normal(BATCH, LATENT), normal(BATCH, LATENT, seed=1)
        mean = (z_0 * torch.sqrt(before) / (1 - before) + z_t * torch.sqrt(1 - beta) / beta) / precision
        mu, var = DIFFUSION.q_posterior(z_0, z_t, torch.full((BATCH,), step))
        torch.testing.assert_close(mu, mean)
        torch.testing.assert_close(var, torch.full_like(var, float(1 / precision)))


@pytest.mark.parametrize("step", [0, 1, 500, 999])
def test_fraction_zero_and_one_hit_the_bounds(step: int) -> None:
    t = torch.full((BATCH,), step)
    upper = DIFFUSION.learned_log_var(torch.ones(BATCH, LATENT, dtype=torch.float64), t)
    lower = DIFFUSION.learned_log_var(torch.zeros(BATCH, LATENT, dtype=torch.float64), t)
    torch.testing.assert_close(torch.exp(upper), SCHEDULE.beta[step].expand(BATCH, LATENT))
    # beta_tilde is 0 at the first step; its logarithm is taken from the next one
    torch.testing.assert_close(torch.exp(lower), SCHEDULE.beta_tilde[max(step, 1)].expand(BATCH, LATENT))


@pytest.mark.parametrize("head", ["mean", "x0", "v", "epsilon"])
def test_every_head_describes_the_same_step(head: str) -> None:
    """Fed with the truth, each head gives back z_0 and the posterior mean."""
    z_0, eps = normal(BATCH, LATENT), normal(BATCH, LATENT, seed=1)
    t = torch.tensor([0, 400, 999])
    z_t = DIFFUSION.q_sample(z_0, t, eps)
    truth = {
        "mean": DIFFUSION.posterior_mean(z_0, z_t, t),
        "x0": z_0,
        "v": DIFFUSION.v_target(z_0, eps, t),
        "epsilon": eps,
    }[head]
    output = torch.cat([truth, torch.zeros_like(truth)], dim=1)
    step = DIFFUSION.p_step(head, output, z_t, t)  # type: ignore[arg-type]
    torch.testing.assert_close(step.x0_hat, z_0, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(step.mu, DIFFUSION.q_posterior(z_0, z_t, t)[0])
    assert torch.equal(step.s, torch.full_like(step.s, 0.5))


def test_shapes_are_checked() -> None:
    z = normal(BATCH, LATENT)
    with pytest.raises(ShapeError, match=r"t must be \(3,\)"):
        DIFFUSION.q_sample(z, torch.tensor([1, 2]), z)
    with pytest.raises(ShapeError, match="2 latent_dim"):
        DIFFUSION.p_step("x0", z, z, torch.zeros(BATCH, dtype=torch.int64))
    with pytest.raises(SettingsError, match="at least 2"):
        linear_schedule(1, 1e-5, 0.01)
    with pytest.raises(SettingsError, match="every beta"):
        schedule_from_beta(torch.tensor([1.0, 0.1], dtype=torch.float64))


@pytest.mark.parametrize("step", [1, 300, 999])
def test_nll_is_minimised_at_the_true_mean_and_variance(step: int) -> None:
    """Eq. (8) over samples of z_prev given z_t, for z_0 ~ N(1, 0.1): the optimum is the exact reverse step."""
    n = 200_000
    z_0 = 1.0 + 0.1**0.5 * normal(n, 1)
    t = torch.full((n,), step)
    z_t = DIFFUSION.q_sample(z_0, t, normal(n, 1, seed=1))
    mu_tilde, beta_tilde = DIFFUSION.q_posterior(z_0, z_t, t)
    z_prev = mu_tilde + torch.sqrt(beta_tilde) * normal(n, 1, seed=2)
    alpha_bar = SCHEDULE.alpha_bar[step]
    gain = 0.1 * torch.sqrt(alpha_bar) / (alpha_bar * 0.1 + 1 - alpha_bar)
    x0_hat = 1.0 + gain * (z_t - torch.sqrt(alpha_bar))
    mean = DIFFUSION.posterior_mean(x0_hat, z_t, t)
    spread = 0.1 * (1 - alpha_bar) / (alpha_bar * 0.1 + 1 - alpha_bar)
    log_var = torch.log(beta_tilde + SCHEDULE.coef_x0[step] ** 2 * spread).requires_grad_()
    shift = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for loss in (
        gaussian_nll(z_prev, mean + shift, log_var).mean(),
        marginal_nll(mu_tilde, beta_tilde, mean + shift, log_var).mean(),
    ):
        by_shift, by_log_var = torch.autograd.grad(loss, (shift, log_var), retain_graph=True)
        scale = torch.exp(-0.5 * log_var[0, 0]).item()
        assert abs(float(by_shift)) < 4 * scale / n**0.5
        assert abs(float(by_log_var.sum())) < 4 * 0.5 * 2**0.5 / n**0.5


def test_regressing_on_the_mean_alone_would_drive_the_variance_to_its_bound() -> None:
    """Why z_prev is sampled: with the posterior mean as target the NLL prefers a smaller variance."""
    n, step = 50_000, 300
    z_0, t = normal(n, 1), torch.full((50_000,), 300)
    z_t = DIFFUSION.q_sample(z_0, t, normal(n, 1, seed=1))
    mu_tilde, beta_tilde = DIFFUSION.q_posterior(z_0, z_t, t)
    mean = DIFFUSION.posterior_mean(torch.sqrt(SCHEDULE.alpha_bar[step]) * z_t, z_t, t)
    true = torch.log(beta_tilde + SCHEDULE.coef_x0[step] ** 2 * (1 - SCHEDULE.alpha_bar[step]))
    z_prev = mu_tilde + torch.sqrt(beta_tilde) * normal(n, 1, seed=2)
    lower = torch.full_like(true, -40.0)
    assert gaussian_nll(z_prev, mean, true).mean() < gaussian_nll(z_prev, mean, true - 1.0).mean()
    assert gaussian_nll(mean, mean, lower).mean() < gaussian_nll(mean, mean, true).mean()


@pytest.mark.parametrize(("step", "ratio"), [(2, 1.5), (300, 100.0), (999, 10_000.0)])
def test_a_pair_of_z_prev_has_the_gradient_of_one_without_most_of_its_noise(step: int, ratio: float) -> None:
    """Near t = T the noise of a single z_prev is all that its gradient shows."""
    n = 100_000
    z_0, t = normal(n, 1), torch.full((n,), step)
    z_t, noise = DIFFUSION.q_sample(z_0, t, normal(n, 1, seed=1)), normal(n, 1, seed=2)
    gradients = {}
    for loss in ("nll", "paired_nll"):
        output = torch.zeros(n, 2, dtype=torch.float64, requires_grad=True)
        rows = Objective(DIFFUSION, "v", loss).rows(DIFFUSION.p_step("v", output, z_t, t), z_0, z_t, t, noise)  # type: ignore[arg-type]
        gradients[loss] = torch.autograd.grad(rows.loss.sum(), output)[0][:, 0]
    one, pair = gradients["nll"], gradients["paired_nll"]
    assert abs(float((one - pair).mean())) < 4 * float((one - pair).std()) / n**0.5
    assert float(one.var() / pair.var()) > ratio


@pytest.mark.parametrize("head", ["x0", "v", "epsilon"])
def test_the_simple_loss_is_the_squared_error_of_the_head(head: Head) -> None:
    """It is computed from x0_hat; each head's own error is linear in it. lambda weights the sum over all steps."""
    z_0, eps, raw = normal(BATCH, LATENT), normal(BATCH, LATENT, seed=1), normal(BATCH, LATENT, seed=2)
    t = torch.tensor([5, 400, 999])
    z_t = DIFFUSION.q_sample(z_0, t, eps)
    truth = {"x0": z_0, "v": DIFFUSION.v_target(z_0, eps, t), "epsilon": eps}[head]
    step = DIFFUSION.p_step(head, torch.cat([raw, torch.zeros_like(raw)], dim=1), z_t, t)
    simple, whole = (Objective(DIFFUSION, head, "hybrid", w).rows(step, z_0, z_t, t, eps).loss for w in (0.0, 0.001))
    torch.testing.assert_close(simple, ((raw - truth) ** 2).mean(dim=1), rtol=1e-6, atol=0)
    mu_tilde, beta_tilde = DIFFUSION.q_posterior(z_0, z_t, t)
    bound = marginal_nll(mu_tilde, beta_tilde, step.mu, step.log_var).mean(dim=1)
    torch.testing.assert_close(whole - simple, 0.001 * 1000 * bound)
    weighed = Objective(DIFFUSION, head, "hybrid", 0.0, min_snr_gamma=5.0).rows(step, z_0, z_t, t, eps).loss
    snr = SCHEDULE.alpha_bar[t] / (1 - SCHEDULE.alpha_bar[t])
    torch.testing.assert_close(weighed, snr.clamp_max(5.0) * ((step.x0_hat - z_0) ** 2).mean(dim=1))


def test_schedules_keep_their_definitions() -> None:
    """alpha_bar of cosine and sigmoid halfway is what their formulas say; rescaled, the last step holds no signal."""
    assert float(cosine_schedule(1000).alpha_bar[499]) == pytest.approx(0.4939, abs=2e-3)  # f(1/2) / f(0)
    assert float(sigmoid_schedule(1000).alpha_bar[499]) == pytest.approx(0.5, abs=1e-9)  # symmetric
    for kind in ("linear", "cosine", "sigmoid"):
        plain, zero = (build_schedule(kind, 1000, 1e-5, 0.01, zero_terminal_snr=flag) for flag in (False, True))
        assert float(plain.alpha_bar[-1]) > 0
        assert float(zero.alpha_bar[-1]) == 0.0
        assert float(zero.beta[-1]) == 1.0
        assert float(zero.alpha_bar[0]) == pytest.approx(float(plain.alpha_bar[0]), rel=1e-12)
        assert bool((zero.alpha_bar[1:] < zero.alpha_bar[:-1]).all())
        for table in (zero.coef_x0, zero.coef_z, zero.beta_tilde, zero.log_beta_tilde_clipped):
            assert bool(torch.isfinite(table).all())
