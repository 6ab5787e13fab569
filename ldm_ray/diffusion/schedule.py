"""The noise schedule and what follows from it, in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_ray.errors import SettingsError


@dataclass(frozen=True)
class Schedule:
    """Tables of shape (num_steps,), float64, indexed by the zero-based step t (the paper's t minus 1).

    Attributes:
        beta: Noise variance of a step.
        alpha_bar: Product of 1 - beta up to and including t.
        alpha_bar_prev: The same one step earlier; 1 at t = 0.
        beta_tilde: Variance of the posterior q(z_prev | z_t, z_0), 0 at t = 0.
        log_beta_tilde_clipped: Its logarithm; at t = 0 taken from t = 1, where it would be minus infinity.
        coef_x0: A_t, weight of z_0 in the posterior mean.
        coef_z: B_t, weight of z_t in the posterior mean.

    Source: Kim & Yoo, Eq. (3) to (5) and (9); Ho et al. 2020 (arXiv:2006.11239), Eq. (6) and (7).
    """

    beta: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor
    beta_tilde: Tensor
    log_beta_tilde_clipped: Tensor
    coef_x0: Tensor
    coef_z: Tensor

    @property
    def num_steps(self) -> int:
        """The paper's T."""
        return len(self.beta)


def linear_schedule(num_steps: int, beta_first: float, beta_last: float) -> Schedule:
    """Beta rising linearly from `beta_first` to `beta_last`.

    Source: Kim & Yoo, Eq. (4).

    Raises:
        SettingsError: If the steps are fewer than 2 or a beta is not in (0, 1).
    """
    if num_steps < 2:
        raise SettingsError(f"num_steps must be at least 2; got {num_steps}")
    return schedule_from_beta(torch.linspace(beta_first, beta_last, num_steps, dtype=torch.float64))


def scaled_linear_schedule(num_steps: int, beta_first: float, beta_last: float) -> Schedule:
    """The square root of beta rising linearly.

    Source: Rombach et al. 2022 (arXiv:2112.10752), public code; PertDiT's schedule.
    """
    root = torch.linspace(beta_first**0.5, beta_last**0.5, num_steps, dtype=torch.float64)
    return schedule_from_beta(root**2)


def schedule_from_beta(beta: Tensor) -> Schedule:
    """Derive all tables from beta, shape (num_steps,), float64, each in (0, 1)."""
    if not bool(((beta > 0) & (beta < 1)).all()):
        raise SettingsError("every beta must be in (0, 1)")
    alpha_bar = torch.cumprod(1 - beta, dim=0)
    alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    beta_tilde = beta * (1 - alpha_bar_prev) / (1 - alpha_bar)
    return Schedule(
        beta=beta,
        alpha_bar=alpha_bar,
        alpha_bar_prev=alpha_bar_prev,
        beta_tilde=beta_tilde,
        log_beta_tilde_clipped=torch.log(torch.cat([beta_tilde[1:2], beta_tilde[1:]])),
        coef_x0=torch.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar),
        coef_z=torch.sqrt(1 - beta) * (1 - alpha_bar_prev) / (1 - alpha_bar),
    )
