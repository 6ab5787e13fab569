"""Samplers as tables of coefficients. At each step from t down to p < t, every sampler is

    z_p = coef_z z_t + coef_x0 x0_hat + coef_last x0_hat_before + sqrt(Sigma) noise
    Sigma = var_least + var_gain expm1(s log1p_u)

with x0_hat and the variance fraction s from the network at the original step t, and x0_hat_before from the step taken
before. The last step goes to the clean latent, where alpha_bar is 1, and adds no noise.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, TypedDict, cast

import torch
from torch import Tensor

from ldm_ray.diffusion.schedule import Schedule
from ldm_ray.diffusion.subsets import Spacing, check_subset, spaced_steps
from ldm_ray.errors import SettingsError

SamplerKind = Literal["ancestral", "ddim", "dpm++2m", "dpm++2m-sde"]
Denoise = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Maps (z_t, zero-based original step) to (x0_hat, s), each (batch, latent_dim)."""
StepNoise = Callable[[int], Tensor]
"""Maps a zero-based original step to N(0, 1) noise, (batch, latent_dim)."""


class SamplerFields(TypedDict):
    """A `SamplerChoice` as JSON."""

    kind: SamplerKind
    steps: int
    spacing: Spacing
    eta: float
    correction: float


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler and its parameters.

    Attributes:
        kind: Kind of sampler.
        steps: Number of steps, from 2 to the chain's length.
        spacing: How the steps are spaced.
        eta: Share of the ancestral noise (`ddim`).
        correction: Share of the second-order term (`ancestral`).
    """

    kind: SamplerKind = "ancestral"
    steps: int = 50
    spacing: Spacing = "linear"
    eta: float = 0.0
    correction: float = 0.0

    def fields(self) -> SamplerFields:
        """Return it as plain values."""
        return cast(SamplerFields, asdict(self))

    def described(self) -> str:
        """Name its kind and its steps."""
        return f"{self.kind} with {self.steps} steps"


@dataclass(frozen=True)
class SamplerPlan:
    """Coefficients of each step of a subset, (K,), float64, in sampling order (last step of the chain first).

    Attributes:
        steps: Original zero-based steps, descending, int64.
        coef_z: Weight of z_t.
        coef_x0: Weight of x0_hat.
        coef_last: Weight of the previous step's x0_hat; 0 at the first step.
        var_least: Variance of the step if s is 0.
        var_gain: Factor of expm1(s log1p_u), which is added to it.
        log1p_u: log(1 + u); see `ancestral`.
    """

    steps: Tensor
    coef_z: Tensor
    coef_x0: Tensor
    coef_last: Tensor
    var_least: Tensor
    var_gain: Tensor
    log1p_u: Tensor

    def __len__(self) -> int:
        """Number of steps; each is one pass through the network."""
        return len(self.steps)


def build_plan(schedule: Schedule, choice: SamplerChoice) -> SamplerPlan:
    """Build a sampler's plan for a chain.

    Raises:
        SettingsError: If the kind is unknown or a number is out of range.
    """
    steps = spaced_steps(schedule, choice.steps, choice.spacing)
    if choice.kind == "ancestral":
        return ancestral(schedule, steps, choice.correction)
    if choice.kind == "ddim":
        return ddim(schedule, steps, choice.eta)
    if choice.kind in ("dpm++2m", "dpm++2m-sde"):
        return dpm_solver(schedule, steps, stochastic=choice.kind == "dpm++2m-sde")
    raise SettingsError(f"the sampler must be ancestral, ddim, dpm++2m or dpm++2m-sde; got {choice.kind!r}")


def ancestral(schedule: Schedule, steps: Tensor, correction: float = 0.0) -> SamplerPlan:
    """Ancestral sampling with the learned variance, respaced exactly (mean and variance).

    With b = 1 - alpha_bar_t / alpha_bar_p:

        A = sqrt(alpha_bar_p) b / (1 - alpha_bar_t)
        B = sqrt(alpha_bar_t / alpha_bar_p) (1 - alpha_bar_p) / (1 - alpha_bar_t)
        beta_tilde = b (1 - alpha_bar_p) / (1 - alpha_bar_t)
        mu = B z_t + A x0_hat,    Sigma = beta_tilde + A^2 r (1 - alpha_bar_t)

    where r = Var(z_0 | z_t) / (1 - alpha_bar_t) follows from the fraction s of Eq. (7) at the original step:
    r = expm1(s log1p(u)) / u with u = alpha_bar_{t-1} beta_t / (1 - alpha_bar_{t-1}).

    Source: Kim & Yoo, Eq. (6) and (7), solved for the subset.

    Args:
        schedule: The full chain.
        steps: Zero-based steps, strictly increasing, containing 0 and num_steps - 1, shape (K,).
        correction: c; x0_hat becomes x0_hat + c h / (2 h') (x0_hat - x0_hat_before), the term of `dpm_solver`. If
            latents are correlated given z_t, few steps with a diagonal variance give too little spread, and about a
            tenth of this term makes up for it (`ldm-ray bench samplers` finds the best c).

    Raises:
        SettingsError: If the subset lacks the first or the last step, or does not increase.

    Note:
        Using s between the subset's own bounds would be wrong: for z_0 ~ N(1, 0.1) it gives 0.0565 at 10 steps.
    """
    alpha_bar, previous = _signal_at(schedule, steps)
    b = 1 - alpha_bar / previous
    coef_x0 = torch.sqrt(previous) * b / (1 - alpha_bar)
    beta, one_before = schedule.beta.cpu()[steps], schedule.alpha_bar_prev.cpu()[steps]
    u = one_before * beta / (1 - one_before)
    # u is infinite at the chain's first step, the sampler's last one, which adds no noise.
    u[0] = 1.0
    var_gain = coef_x0**2 * (1 - alpha_bar) / u
    var_gain[0] = 0.0
    extra = correction * _half_ratio(_log_snr_steps(alpha_bar))
    return _plan(
        steps,
        coef_z=torch.sqrt(alpha_bar / previous) * (1 - previous) / (1 - alpha_bar),
        coef_x0=coef_x0 * (1 + extra),
        coef_last=-coef_x0 * extra,
        var_least=b * (1 - previous) / (1 - alpha_bar),
        var_gain=var_gain,
        log1p_u=torch.log1p(u),
    )


def ddim(schedule: Schedule, steps: Tensor, eta: float = 0.0) -> SamplerPlan:
    """DDIM: eta = 0 is deterministic, eta = 1 is ancestral sampling with the small variance.

    Source: Song et al. 2021 (arXiv:2010.02502), Eq. (12) and (16).

    Args:
        schedule: The full chain.
        steps: As in `ancestral`.
        eta: Share of the ancestral noise, in [0, 1].

    Raises:
        SettingsError: If eta is out of range, or the steps are not a valid subset.
    """
    if not 0 <= eta <= 1:
        raise SettingsError(f"eta must be between 0 and 1; got {eta}")
    alpha_bar, previous = _signal_at(schedule, steps)
    variance = eta**2 * (1 - previous) / (1 - alpha_bar) * (1 - alpha_bar / previous)
    coef_z = torch.sqrt((1 - previous - variance) / (1 - alpha_bar))
    return _plan(
        steps, coef_z=coef_z, coef_x0=torch.sqrt(previous) - torch.sqrt(alpha_bar) * coef_z, var_least=variance
    )


def dpm_solver(schedule: Schedule, steps: Tensor, *, stochastic: bool = False) -> SamplerPlan:
    """DPM-Solver++ (2M) on x0_hat in lambda = log(alpha / sigma), for the ODE or the SDE.

    With h = lambda_p - lambda_t, h' the h of the step before, and D = x0_hat + h / (2 h') (x0_hat - x0_hat_before):

        ODE: z_p = sigma_p / sigma_t z_t - alpha_p expm1(-h) D
        SDE: z_p = sigma_p / sigma_t exp(-h) z_t - alpha_p expm1(-2h) D + sigma_p sqrt(-expm1(-2h)) noise

    The first step, and the last one, where h is infinite, are of first order.

    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2 and section 6.

    Args:
        schedule: The full chain.
        steps: As in `ancestral`.
        stochastic: Whether to use the SDE.

    Raises:
        SettingsError: If the steps are not a valid subset.
    """
    alpha_bar, previous = _signal_at(schedule, steps)
    h = _log_snr_steps(alpha_bar)
    half_ratio = _half_ratio(h)
    times = 2 if stochastic else 1
    weight = -torch.sqrt(previous) * torch.expm1(-times * h)
    coef_z = torch.sqrt((1 - previous) / (1 - alpha_bar))
    return _plan(
        steps,
        coef_z=coef_z * torch.exp(-h) if stochastic else coef_z,
        coef_x0=weight * (1 + half_ratio),
        coef_last=-weight * half_ratio,
        var_least=-(1 - previous) * torch.expm1(-2 * h) if stochastic else torch.zeros_like(h),
    )


def step_var(plan: SamplerPlan, index: int, s: Tensor) -> Tensor:
    """Variance of one step, given the fraction s predicted at its original step.

    Args:
        plan: The sampler.
        index: Position in sampling order.
        s: Interpolation fraction, (batch, latent_dim), in [0, 1].
    """
    gain = torch.expm1(s * float(plan.log1p_u[index])) * float(plan.var_gain[index])
    return float(plan.var_least[index]) + gain


def run_plan(denoise: Denoise, plan: SamplerPlan, z_t: Tensor, noise: StepNoise) -> Tensor:
    """Run the reverse process.

    Args:
        denoise: The network at an original step.
        plan: The sampler.
        z_t: Start, (batch, latent_dim); N(0, I) except in tests.
        noise: Noise of each original step.

    Returns:
        z_0, (batch, latent_dim).
    """
    before = torch.zeros_like(z_t)
    for index, t in enumerate(plan.steps.tolist()):
        x0_hat, s = denoise(z_t, t)
        z_t = float(plan.coef_z[index]) * z_t + float(plan.coef_x0[index]) * x0_hat
        if plan.coef_last[index] != 0:
            z_t = z_t + float(plan.coef_last[index]) * before
        if plan.var_least[index] > 0:
            z_t = z_t + torch.sqrt(step_var(plan, index, s)) * noise(t)
        before = x0_hat
    return z_t


def _signal_at(schedule: Schedule, steps: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_bar of each step of a subset, and of the step it goes to, each (K,), steps increasing."""
    check_subset(steps, schedule.num_steps)
    alpha_bar = schedule.alpha_bar.cpu()[steps]
    return alpha_bar, torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])


def _log_snr_steps(alpha_bar: Tensor) -> Tensor:
    """Length h of each step in log(alpha / sigma), (K,); infinite for the step to the clean latent."""
    half_log_snr = 0.5 * (torch.log(alpha_bar) - torch.log1p(-alpha_bar))
    return torch.cat([torch.full((1,), torch.inf, dtype=torch.float64), half_log_snr[:-1] - half_log_snr[1:]])


def _half_ratio(h: Tensor) -> Tensor:
    """h / (2 h') of each step, with h' of the step before it, (K,); 0 for the first and the last step."""
    ratio = torch.zeros_like(h)
    ratio[1:-1] = h[1:-1] / (2 * h[2:])
    return ratio


def _plan(steps: Tensor, **columns: Tensor) -> SamplerPlan:
    """Turn columns in the chain's order into a plan; missing columns are 0."""
    none = torch.zeros(len(steps), dtype=torch.float64)
    names = ("coef_z", "coef_x0", "coef_last", "var_least", "var_gain", "log1p_u")
    return SamplerPlan(steps.flip(0), *(columns.get(name, none).flip(0) for name in names))
