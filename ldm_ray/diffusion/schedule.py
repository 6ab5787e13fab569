"""The noise schedule and the tables derived from it, in float64."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ldm_ray.errors import SettingsError

ScheduleKind = Literal["linear", "cosine", "sigmoid"]
LARGEST_BETA = 0.999


@dataclass(frozen=True)
class Schedule:
    """Tables of shape (num_steps,), float64, indexed by the zero-based step t (the paper's t minus 1).

    Attributes:
        beta: Noise variance of a step.
        alpha_bar: Product of 1 - beta up to and including t; 0 at the last step with zero terminal SNR.
        alpha_bar_prev: alpha_bar one step earlier; 1 at t = 0.
        beta_tilde: Variance of the posterior q(z_prev | z_t, z_0), 0 at t = 0.
        log_beta_tilde_clipped: Logarithm of beta_tilde; at t = 0, where it is minus infinity, the value at t = 1.
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

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), (num_steps,)."""
        return self.alpha_bar / (1 - self.alpha_bar)


def build_schedule(
    kind: ScheduleKind, num_steps: int, beta_first: float, beta_last: float, *, zero_terminal_snr: bool = False
) -> Schedule:
    """Build the schedule that the settings name; only `linear` uses the range of beta.

    Raises:
        SettingsError: If the kind is unknown or a number is out of range.
    """
    if kind == "linear":
        schedule = linear_schedule(num_steps, beta_first, beta_last)
    elif kind == "cosine":
        schedule = cosine_schedule(num_steps)
    elif kind == "sigmoid":
        schedule = sigmoid_schedule(num_steps)
    else:
        raise SettingsError(f"schedule.kind must be linear, cosine or sigmoid; got {kind!r}")
    return rescaled_to_zero_terminal_snr(schedule) if zero_terminal_snr else schedule


def linear_schedule(num_steps: int, beta_first: float, beta_last: float) -> Schedule:
    """beta rising linearly from `beta_first` to `beta_last`.

    Source: Kim & Yoo, Eq. (4).

    Raises:
        SettingsError: If there are fewer than 2 steps or a beta is not in (0, 1).
    """
    if num_steps < 2:
        raise SettingsError(f"num_steps must be at least 2; got {num_steps}")
    return schedule_from_beta(torch.linspace(beta_first, beta_last, num_steps, dtype=torch.float64))


def scaled_linear_schedule(num_steps: int, beta_first: float, beta_last: float) -> Schedule:
    """Square root of beta rising linearly.

    Source: Rombach et al. 2022 (arXiv:2112.10752), public code; PertDiT's schedule.
    """
    root = torch.linspace(beta_first**0.5, beta_last**0.5, num_steps, dtype=torch.float64)
    return schedule_from_beta(root**2)


def cosine_schedule(num_steps: int, offset: float = 0.008) -> Schedule:
    """alpha_bar falling as cos^2 of (t / T + s) / (1 + s) pi / 2, each beta at most 0.999.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. (17).
    """
    time = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    return _schedule_from_signal(torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2)


def sigmoid_schedule(num_steps: int, start: float = -3.0, end: float = 3.0, temperature: float = 1.0) -> Schedule:
    """alpha_bar falling as a sigmoid of time between `start` and `end`, each beta at most 0.999.

    Source: Jabri et al. 2022 (arXiv:2212.11972), appendix B, with their defaults.
    """
    time = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    value = torch.sigmoid((time * (end - start) + start) / temperature)
    return _schedule_from_signal(value[-1] - value)


def rescaled_to_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and stretch sqrt(alpha_bar) so that it keeps its first value and ends at 0.

    Source: Lin et al. 2024 (arXiv:2305.08891), algorithm 1.

    Note:
        The last beta is then 1, so z_T holds nothing of z_0: starting from N(0, I) has no bias, and a network that
        predicts epsilon gives no estimate of z_0 there.
    """
    root = torch.sqrt(schedule.alpha_bar)
    alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return schedule_from_beta(1 - alpha_bar / previous)


def schedule_from_beta(beta: Tensor) -> Schedule:
    """Derive all tables from beta, shape (num_steps,), float64, each in (0, 1); the last one may be 1."""
    inside = (beta > 0) & (beta < 1)
    inside[-1] |= beta[-1] == 1
    if not bool(inside.all()):
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


def _schedule_from_signal(signal: Tensor) -> Schedule:
    """Build a schedule from the remaining signal alpha_bar at times 0 to T, (num_steps + 1,), up to a factor."""
    return schedule_from_beta((1 - signal[1:] / signal[:-1]).clamp_max(LARGEST_BETA))
