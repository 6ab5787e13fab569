"""Every schedule, head and loss that is not refused, against the closed form of a Gaussian z_0.

The network is linear in z_t with separate coefficients for each step and dimension, so it can represent the exact
reverse process. Expectations over z_0 and all noise are exact: the losses are polynomials of second degree in them,
which three Gauss-Hermite nodes per variable integrate without error.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_ray.config import load_config
from ldm_ray.diffusion.gaussian import GaussianDiffusion, Head
from ldm_ray.diffusion.losses import Loss, Objective
from ldm_ray.diffusion.samplers import ancestral, step_var
from ldm_ray.diffusion.schedule import build_schedule
from ldm_ray.diffusion.subsets import spaced_steps
from ldm_ray.errors import SettingsError

STEPS = 20
VARIANCE = torch.tensor([0.1, 0.4, 1.0], dtype=torch.float64)
MEAN = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
SCHEDULES = list(itertools.product(("linear", "cosine", "sigmoid"), (False, True)))
HEADS = ("mean", "x0", "v", "epsilon")
LOSSES = ("nll", "paired_nll", "marginal_nll", "hybrid", "hybrid, min-SNR")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(3)


def settings(kind: str, zero: bool, head: str, loss: str) -> list[str]:
    name, _, gamma = loss.partition(", ")
    overrides = [f"schedule.kind={kind}", f"schedule.zero_terminal_snr={zero}", f"denoiser.head={head}"]
    return [*overrides, f"denoiser.loss={name}", *(["denoiser.min_snr_gamma=5"] if gamma else [])]


def refused(zero: bool, head: str, loss: str) -> bool:
    hybrid, min_snr = loss.startswith("hybrid"), loss.endswith("SNR")
    return (head == "epsilon" and zero) or (head == "mean" and hybrid) or (zero and min_snr)


CASES = [
    (kind, zero, head, loss)
    for (kind, zero), head, loss in itertools.product(SCHEDULES, HEADS, LOSSES)
    if not refused(zero, head, loss)
]


class Linear:
    """raw = slope_t z_t + offset_t and the logit of s, of each step and dimension, (STEPS, 3)."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.diffusion = objective, objective.diffusion
        self.values = torch.zeros(3, STEPS, len(MEAN), dtype=torch.float64)
        z_0, eps, eps_prev = (torch.tensor(axis.ravel()) for axis in np.meshgrid(NODES, NODES, NODES))
        self.z_0 = MEAN + torch.sqrt(VARIANCE) * z_0[:, None]
        self.eps, self.eps_prev = (v[:, None].expand(-1, len(MEAN)) for v in (eps, eps_prev))
        product = np.prod(np.meshgrid(WEIGHTS, WEIGHTS, WEIGHTS), axis=0).ravel()
        self.weights = torch.tensor(product / product.sum())

    def step(self, values: Tensor, z_t: Tensor, t: Tensor):  # type: ignore[no-untyped-def]
        slope, offset, logit = values[:, t]
        output = torch.cat([slope * z_t + offset, logit], dim=1)
        return self.diffusion.p_step(self.objective.head, output, z_t, t)

    def expected_loss(self, values: Tensor) -> Tensor:
        """Expected loss of each step and dimension, (STEPS, 3)."""
        n = len(self.weights)
        t = torch.arange(STEPS).repeat_interleave(n)
        z_0, eps, eps_prev = (v.repeat(STEPS, 1) for v in (self.z_0, self.eps, self.eps_prev))
        # one dimension at a time, so that a row's mean over dimensions is that dimension's loss
        out = []
        for d in range(len(MEAN)):
            own = values[:, :, d : d + 1]
            z_t = self.diffusion.q_sample(z_0[:, d : d + 1], t, eps[:, d : d + 1])
            step = self.step(own, z_t, t)
            rows = self.objective.rows(step, z_0[:, d : d + 1], z_t, t, eps_prev[:, d : d + 1])
            out.append((rows.loss.view(STEPS, n) * self.weights).sum(dim=1))
        return torch.stack(out, dim=1)

    def train(self) -> None:
        """Newton steps on the gradient, alternating between mean and s; each step and dimension is independent."""
        for number in range(50):
            values = self.values.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.expected_loss(values).sum(), values, create_graph=True)
            part = slice(0, 2) if number % 2 == 0 else slice(2, 3)
            rows = [torch.autograd.grad(g.sum(), values, retain_graph=True)[0][part] for g in gradient[part]]
            jacobian = torch.stack(rows).permute(2, 3, 0, 1)
            if part.start == 2:  # the loss is not convex in the logit everywhere
                jacobian = jacobian.abs().clamp_min(1e-12)
            move = torch.linalg.solve(jacobian, gradient[part].detach().permute(1, 2, 0)).permute(2, 0, 1)
            self.values[part] -= move.detach().clamp(-1.0, 1.0) if part.start == 2 else move.detach()


def exact_var(diffusion: GaussianDiffusion, t: Tensor) -> Tensor:
    """Variance of z_prev given z_t for the Gaussian z_0, (steps, 3)."""
    schedule = diffusion.schedule
    alpha_bar = schedule.alpha_bar[t][:, None]
    posterior = VARIANCE * (1 - alpha_bar) / (alpha_bar * VARIANCE + 1 - alpha_bar)
    return schedule.beta_tilde[t][:, None] + schedule.coef_x0[t][:, None] ** 2 * posterior


def build(kind: str, zero: bool, head: Head, loss: str) -> Objective:
    schedule = build_schedule(kind, STEPS, 2e-3, 0.2, zero_terminal_snr=zero)  # type: ignore[arg-type]
    name: Loss = loss.partition(", ")[0]  # type: ignore[assignment]
    gamma = 5.0 if loss.endswith("SNR") else None
    return Objective(GaussianDiffusion(schedule), head, name, 0.001, gamma)


@pytest.mark.parametrize(("kind", "zero", "head", "loss"), CASES)
def test_the_optimum_is_the_exact_reverse_process(kind: str, zero: bool, head: Head, loss: str) -> None:
    """At the optimum s equals the closed form, and the whole chain gives back mean and variance."""
    objective = build(kind, zero, head, loss)
    linear, diffusion = Linear(objective), objective.diffusion
    linear.train()
    every = torch.arange(STEPS)
    schedule = diffusion.schedule
    s = torch.sigmoid(linear.values[2])
    lower, upper = schedule.log_beta_tilde_clipped[:, None], torch.log(schedule.beta)[:, None]
    wanted = ((torch.log(exact_var(diffusion, every)) - lower) / (upper - lower)).clamp(0.0, 1.0)
    unit = VARIANCE == 1.0  # its upper bound is exact, where the logit is infinite
    torch.testing.assert_close(wanted[:, unit], torch.ones(STEPS, 1, dtype=torch.float64))
    torch.testing.assert_close(s[:, unit], wanted[:, unit], rtol=0, atol=5e-3)
    torch.testing.assert_close(s[:, ~unit], wanted[:, ~unit], rtol=0, atol=1e-6)
    mean, variance = propagate(linear, STEPS)
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=1e-5)
    torch.testing.assert_close(variance, VARIANCE - last_step(diffusion), rtol=1e-4, atol=0)


def last_step(diffusion: GaussianDiffusion) -> Tensor:
    """Variance missing at the chain's end, because its last step adds no noise."""
    return exact_var(diffusion, torch.tensor([0]))[0]


def propagate(linear: Linear, count: int) -> tuple[Tensor, Tensor]:
    """Mean and variance at the chain's end, in closed form, from the exact q(z_T)."""
    schedule = linear.diffusion.schedule
    last = schedule.alpha_bar[-1]
    mean, variance = torch.sqrt(last) * MEAN, last * VARIANCE + 1 - last
    plan = ancestral(schedule, spaced_steps(schedule, count))
    for index, step in enumerate(plan.steps.tolist()):
        t = torch.full((2,), step)
        probe = torch.stack([torch.zeros_like(mean), torch.ones_like(mean)])
        reverse = linear.step(linear.values, probe, t)
        moved = plan.coef_z[index] * probe + plan.coef_x0[index] * reverse.x0_hat
        slope = moved[1] - moved[0]
        mean, variance = moved[0] + slope * mean, slope**2 * variance + step_var(plan, index, reverse.s[0])
    return mean, variance


def test_the_trained_optimum_survives_respacing() -> None:
    linear = Linear(build("cosine", True, "v", "marginal_nll"))
    linear.train()
    mean, variance = propagate(linear, 10)
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, VARIANCE - last_step(linear.diffusion), rtol=1e-3, atol=0)


def test_the_bound_is_the_entropy_of_the_data_at_the_optimum() -> None:
    """At the exact reverse process the bound on -log p(z_0) is the Gaussian's entropy, and what the start costs."""
    objective = build("linear", False, "x0", "marginal_nll")
    linear = Linear(objective)
    linear.train()
    t = torch.arange(STEPS).repeat_interleave(len(linear.weights))
    z_0, eps = linear.z_0.repeat(STEPS, 1), linear.eps.repeat(STEPS, 1)
    z_t = objective.diffusion.q_sample(z_0, t, eps)
    rows = objective.rows(linear.step(linear.values, z_t, t), z_0, z_t, t, torch.zeros_like(z_0))
    bound = (rows.vlb.view(STEPS, -1) * linear.weights).sum() / STEPS
    last = objective.diffusion.schedule.alpha_bar[-1]
    start = 0.5 * (last * VARIANCE + 1 - last + last * MEAN**2) - 0.5 * (1 + torch.log(last * VARIANCE + 1 - last))
    entropy = 0.5 * torch.log(2 * torch.pi * torch.e * VARIANCE)
    # The chain starts from N(0, I) and not from q(z_T), which costs the divergence of the two.
    assert float(bound) == pytest.approx(float((entropy + start).mean()), abs=2e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (settings("cosine", True, "epsilon", "nll"), "epsilon divides by zero under schedule.zero_terminal_snr"),
        (settings("linear", False, "mean", "hybrid"), "hybrid needs denoiser.head x0, v or epsilon; got mean"),
        (settings("linear", True, "v", "hybrid, min-SNR"), "gives the last step no weight"),
        (["denoiser.loss=nll", "denoiser.min_snr_gamma=5"], "needs denoiser.loss hybrid"),
        (["predict.guidance=2"], "needs denoiser.guidance_dropout"),
        (["denoiser.mean_head=true", "denoiser.guidance_dropout=0.1"], "exclude each other"),
        (["schedule.num_steps=20"], "predict.steps must be at most schedule.num_steps = 20; got 50"),
        (["denoiser.time_dim=1", "denoiser.time_embedding=sinusoidal"], "needs denoiser.time_dim of at least 2"),
        (["denoiser.hidden_widths=[]"], "denoiser.hidden_widths"),
        (["train_vae.keep=mse"], "only train_ldm.keep may be"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_config(None, overrides)


@pytest.mark.parametrize(("kind", "zero", "head", "loss"), CASES)
def test_what_fits_is_accepted(kind: str, zero: bool, head: str, loss: str) -> None:
    load_config(None, settings(kind, zero, head, loss))
