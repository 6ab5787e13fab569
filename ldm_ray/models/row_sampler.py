"""A fixed number of rows being sampled, each at its own step of its own plan.

One tick is one pass of the network over all rows. Rows start and end independently, so requests with different steps
share passes. Every pass has the same shape, so a row's numbers do not depend on the other rows.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ldm_ray.diffusion.samplers import SamplerPlan
from ldm_ray.keys import Purpose
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.prepared import PreparedDenoiser
from ldm_ray.models.replayed import Replayed
from ldm_ray.noise import mix, standard_normal


@dataclass(frozen=True)
class DenoiserTerms:
    """Encoded conditions, the denoiser's input, one row each.

    Attributes:
        terms: The denoiser's terms, (n, terms); see `models/prepared.py`.
        mean: Latents of the regression head, (n, latent_dim); 0 without a head.
        without_compound: Terms without the compound, (n, terms); None without guidance.
    """

    terms: Tensor
    mean: Tensor
    without_compound: Tensor | None

    def rows(self, index: Tensor) -> "DenoiserTerms":
        """Select rows."""
        without_compound = None if self.without_compound is None else self.without_compound[index]
        return DenoiserTerms(self.terms[index], self.mean[index], without_compound)

    @staticmethod
    def cat(parts: "Sequence[DenoiserTerms]") -> "DenoiserTerms":
        """Concatenate rows."""
        without_compound = [part.without_compound for part in parts if part.without_compound is not None]
        return DenoiserTerms(
            torch.cat([part.terms for part in parts]),
            torch.cat([part.mean for part in parts]),
            torch.cat(without_compound) if without_compound else None,
        )


class PlanTable:
    """Stacked plans, as float32 columns on a device, so that each row can be at its own line."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._first, self._growing = device, dict[Hashable, tuple[int, int]](), threading.Lock()
        self.steps = torch.zeros(0, dtype=torch.int64, device=device)
        self.coefficients = torch.zeros(0, 6, device=device)
        self.noisy = torch.zeros(0, dtype=torch.bool)

    def lines(self, name: Hashable, build: Callable[[], SamplerPlan]) -> tuple[int, int]:
        """Return a plan's first line and number of lines, building it if the name is new."""
        with self._growing:
            if name not in self._first:
                plan = build()
                columns = (plan.coef_z, plan.coef_x0, plan.coef_last, plan.var_least, plan.var_gain, plan.log1p_u)
                lines = torch.stack(columns, dim=1).to(self._device, torch.float32)
                self.coefficients = torch.cat([self.coefficients, lines])
                self.noisy = torch.cat([self.noisy, plan.var_least > 0])
                self.steps = torch.cat([self.steps, plan.steps.to(self._device)])
                self._first[name] = (len(self.steps) - len(plan), len(plan))
            return self._first[name]


class RowSampler:
    """The rows and their state.

    Args:
        model: A model in eval mode.
        prepared: Its prepared denoiser.
        plans: The plans that rows can follow.
        rows: Number of rows.
        guidance: See `ProfileGenerator`.
    """

    def __init__(
        self, model: LatentDiffusion, prepared: PreparedDenoiser, plans: PlanTable, rows: int, guidance: float
    ) -> None:
        self._model, self._prepared, self._guidance = model, prepared, guidance
        device = model.latent_mean.device
        self.plans, self.n_rows = plans, rows
        self.z = torch.zeros(rows, model.latent_dim, device=device)
        self._before, self._mean = torch.zeros_like(self.z), torch.zeros_like(self.z)
        self._keys, self._line = (torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(2))
        self._line_on_host = torch.zeros(rows, dtype=torch.int64)  # so that no pass waits to read the GPU
        self._terms: Tensor | None = None
        self._without_compound: Tensor | None = None
        self._steps, self._ticks = plans.steps, dict[bool, Replayed]()

    @torch.inference_mode()
    def start(self, slots: Tensor, encoded: DenoiserTerms, keys: Tensor, first_line: Tensor) -> None:
        """Start samples in some rows.

        Args:
            slots: The rows, (n,), int64, on the host.
            encoded: Their conditions, n rows.
            keys: Their keys, (n,), int64.
            first_line: First lines of their plans in `plans`, (n,), int64, on the host.
        """
        if self._terms is None:
            self._terms = encoded.terms.new_zeros(self.n_rows, encoded.terms.shape[1])  # bfloat16 under autocast
            self._without_compound = None if encoded.without_compound is None else torch.zeros_like(self._terms)
        here = slots.to(self.z.device)
        self._terms[here] = encoded.terms
        if self._without_compound is not None and encoded.without_compound is not None:
            self._without_compound[here] = encoded.without_compound
        self._keys[here], self._line[here], self._line_on_host[slots] = keys, first_line.to(here.device), first_line
        self._before[here], self._mean[here] = 0.0, encoded.mean.to(self._mean.dtype)
        # Drawn for all rows, because only noise of the same shape has the same bits; see `noise.py`.
        noise = standard_normal(mix(self._keys, Purpose.START), self._model.latent_dim)
        self.z[here] = noise[here]

    @torch.inference_mode()
    def tick(self) -> None:
        """Advance every row by one step; the caller must read finished rows before, and ignore empty ones."""
        steps, coefficients = self.plans.steps, self.plans.coefficients
        if steps is not self._steps or not self._ticks:
            ticks = {noisy: partial(self._advance, steps, coefficients, noisy=noisy) for noisy in (False, True)}
            self._ticks = {noisy: Replayed(tick, self.z.device) for noisy, tick in ticks.items()}
            self._steps = steps
        self._ticks[bool(self.plans.noisy[self._line_on_host.clamp_max(len(steps) - 1)].any())]()
        self._line_on_host += 1

    def _advance(self, steps: Tensor, coefficients: Tensor, *, noisy: bool) -> Tensor:
        """Take the step of each row's line, in place, and return z; `noisy` if the step of any row adds noise."""
        assert self._terms is not None
        line = self._line.clamp_max(len(steps) - 1)
        t = steps[line]
        coef_z, coef_x0, coef_last, var_least, var_gain, log1p_u = coefficients[line].T[:, :, None]
        x0_hat, s = self._read(self._terms, t)
        if self._without_compound is not None:
            without, _ = self._read(self._without_compound, t)
            x0_hat = without + self._guidance * (x0_hat - without)
        self.z.mul_(coef_z).add_(coef_x0 * x0_hat).add_(coef_last * self._before)
        if noisy:
            variance = torch.expm1(s * log1p_u).mul_(var_gain).add_(var_least)
            noise = standard_normal(mix(self._keys, Purpose.REVERSE, t), self._model.latent_dim)
            self.z += variance.sqrt_().mul_(noise)
        self._before.copy_(x0_hat)
        self._line += 1
        return self.z

    def latents(self) -> Tensor:
        """Current scaled latents of the rows, (rows, latent_dim)."""
        return self._mean + self.z

    def _read(self, terms: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        output = self._prepared.output(self.z, t, terms)
        return self._model.diffusion.x0_and_s(self._model.head, output, self.z, t)
