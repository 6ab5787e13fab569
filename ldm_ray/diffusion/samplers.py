"""Ancestral sampling over the whole chain or over any subset of its steps.

Source: Kim & Yoo, Eq. (6) and (7), respaced exactly (mean and variance) as derived below.

For a step from t to p < t (p = "clean" has alpha_bar 1), with b = 1 - alpha_bar_t / alpha_bar_p:

    A = sqrt(alpha_bar_p) b / (1 - alpha_bar_t)
    B = sqrt(alpha_bar_t / alpha_bar_p) (1 - alpha_bar_p) / (1 - alpha_bar_t)
    beta_tilde = b (1 - alpha_bar_p) / (1 - alpha_bar_t)
    mu = B z_t + A x0_hat,    Sigma = beta_tilde + A^2 r (1 - alpha_bar_t)

where r = Var(z_0 | z_t) / (1 - alpha_bar_t) is what the fraction s of Eq. (7) says at the original step:
r = expm1(s log1p(u)) / u with u = alpha_bar_{t-1} beta_t / (1 - alpha_bar_{t-1}); at t = 0, r = Sigma / beta_0.
Using s itself between the subset's own bounds would be wrong: for z_0 ~ N(1, 0.1) it gives 0.0565 at 10 steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_ray.diffusion.schedule import Schedule
from ldm_ray.errors import SettingsError

Denoise = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Maps (z_t, zero-based original step) to (x0_hat, s), each (batch, latent_dim)."""
StepNoise = Callable[[int], Tensor]
"""Maps a zero-based original step to N(0, 1) noise, (batch, latent_dim)."""


@dataclass(frozen=True)
class Respacing:
    """Coefficients of each step of a subset, float64, in sampling order (last step first).

    Attributes:
        steps: Original zero-based steps, descending, shape (K,).
        coef_x0: A.
        coef_z: B.
        beta_tilde: Lower bound of the variance.
        spread: A^2 (1 - alpha_bar_t), what r is multiplied with.
        log1p_u: log(1 + u); at t = 0 the log-ratio of the bounds of Eq. (7) there.
        u: The denominator of r; at t = 0 beta_0 over the clipped beta_tilde.
        floor: What r starts from at s = 0; 0 but at t = 0.
    """

    steps: Tensor
    coef_x0: Tensor
    coef_z: Tensor
    beta_tilde: Tensor
    spread: Tensor
    log1p_u: Tensor
    u: Tensor
    floor: Tensor


def spaced_steps(num_steps: int, count: int) -> Tensor:
    """Return `count` zero-based steps, evenly spaced, with the first and the last among them.

    Raises:
        SettingsError: If the count is not between 2 and `num_steps`.
    """
    if not 2 <= count <= num_steps:
        raise SettingsError(f"steps must be between 2 and {num_steps}, the length of the chain; got {count}")
    return torch.linspace(0, num_steps - 1, count, dtype=torch.float64).round().long()


def respace(schedule: Schedule, steps: Tensor) -> Respacing:
    """Compute the coefficients of a subset of steps.

    Args:
        schedule: The full chain.
        steps: Zero-based steps, strictly increasing, containing 0 and num_steps - 1, shape (K,).

    Raises:
        SettingsError: If the subset lacks the first or the last step, or is not increasing.
    """
    wanted = [0, schedule.num_steps - 1]
    if [int(steps[0]), int(steps[-1])] != wanted or not bool((steps[1:] > steps[:-1]).all()):
        raise SettingsError(f"steps must increase from {wanted[0]} to {wanted[1]}; got {steps.tolist()[:8]}")
    alpha_bar = schedule.alpha_bar.cpu()[steps]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    b = 1 - alpha_bar / previous
    coef_x0 = torch.sqrt(previous) * b / (1 - alpha_bar)
    beta, one_before = schedule.beta.cpu()[steps], schedule.alpha_bar_prev.cpu()[steps]
    u = one_before * beta / (1 - one_before)
    log1p_u, floor = torch.log1p(u), torch.zeros_like(u)
    # At the first step s moves Sigma from the clipped beta_tilde to beta_0, and r = Sigma / beta_0.
    lowest = torch.exp(schedule.log_beta_tilde_clipped.cpu()[0]) / beta[0]
    log1p_u[0], u[0], floor[0] = -torch.log(lowest), 1 / lowest, lowest
    return Respacing(
        steps=steps.flip(0),
        coef_x0=coef_x0.flip(0),
        coef_z=(torch.sqrt(alpha_bar / previous) * (1 - previous) / (1 - alpha_bar)).flip(0),
        beta_tilde=(b * (1 - previous) / (1 - alpha_bar)).flip(0),
        spread=(coef_x0**2 * (1 - alpha_bar)).flip(0),
        log1p_u=log1p_u.flip(0),
        u=u.flip(0),
        floor=floor.flip(0),
    )


def respaced_var(respacing: Respacing, index: int, s: Tensor) -> Tensor:
    """Variance of one respaced step, from the fraction s predicted at its original step.

    Args:
        respacing: The subset.
        index: Position in sampling order.
        s: Interpolation fraction, (batch, latent_dim), in [0, 1].
    """
    r = torch.expm1(s * float(respacing.log1p_u[index])) / float(respacing.u[index])
    return float(respacing.beta_tilde[index]) + float(respacing.spread[index]) * (r + float(respacing.floor[index]))


def ancestral_sample(denoise: Denoise, respacing: Respacing, z_t: Tensor, noise: StepNoise) -> Tensor:
    """Run the reverse process; no noise is added at the last step.

    Args:
        denoise: The network at an original step.
        respacing: Which steps to take.
        z_t: Start, (batch, latent_dim), N(0, I) but in tests.
        noise: Noise of each original step.

    Returns:
        z_0, (batch, latent_dim).
    """
    for index, t in enumerate(respacing.steps.tolist()):
        x0_hat, s = denoise(z_t, t)
        z_t = float(respacing.coef_z[index]) * z_t + float(respacing.coef_x0[index]) * x0_hat
        if t > 0:
            z_t = z_t + torch.sqrt(respaced_var(respacing, index, s)) * noise(t)
    return z_t
