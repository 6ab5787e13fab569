"""Selects the steps of a chain that a sampler takes."""

from typing import Literal

import torch
from torch import Tensor

from ldm_ray.diffusion.schedule import Schedule
from ldm_ray.errors import SettingsError

Spacing = Literal["linear", "quadratic", "log_snr"]


def spaced_steps(schedule: Schedule, count: int, spacing: Spacing = "linear") -> Tensor:
    """Return `count` zero-based steps of a chain, increasing, including the first and the last, (count,), int64.

    Args:
        schedule: The full chain.
        count: From 2 to its length.
        spacing: `linear`: evenly in t. `quadratic`: evenly in the root of t, so denser where little noise is left
            (Song et al. 2021, arXiv:2010.02502, appendix D.2). `log_snr`: evenly in log(alpha / sigma) (Lu et al.
            2022, arXiv:2206.00927, section 3.3).

    Raises:
        SettingsError: If the count is out of range or the spacing is unknown.
    """
    last = schedule.num_steps - 1
    if not 2 <= count <= last + 1:
        raise SettingsError(f"steps must be between 2 and {last + 1}, the length of the chain; got {count}")
    even = torch.linspace(0, 1, count, dtype=torch.float64)
    if spacing == "linear":
        wanted = even * last
    elif spacing == "quadratic":
        wanted = even**2 * last
    elif spacing == "log_snr":
        log_snr = torch.log(schedule.snr.cpu())
        # With zero terminal SNR the last value is minus infinity: the steps are even up to the one before it.
        lowest = log_snr[torch.isfinite(log_snr)][-1]
        target = log_snr[0] + even * (lowest - log_snr[0])
        wanted = (log_snr[None] - target[:, None]).abs().argmin(dim=1).double()
        wanted[-1] = last
    else:
        raise SettingsError(f"spacing must be linear, quadratic or log_snr; got {spacing!r}")
    return _distinct(wanted.round().long(), last)


def check_subset(steps: Tensor, num_steps: int) -> None:
    """Refuse steps that lack the chain's first or last step, or do not increase.

    Raises:
        SettingsError: If the steps are not valid.
    """
    wanted = [0, num_steps - 1]
    if [int(steps[0]), int(steps[-1])] != wanted or not bool((steps[1:] > steps[:-1]).all()):
        raise SettingsError(f"steps must increase from {wanted[0]} to {wanted[1]}; got {steps.tolist()[:8]}")


def _distinct(steps: Tensor, last: int) -> Tensor:
    """Move coinciding steps apart by as little as possible, within 0 to `last`."""
    place = torch.arange(len(steps))
    steps = torch.cummax(steps - place, dim=0).values + place
    return torch.minimum(steps, last - place.flip(0))
