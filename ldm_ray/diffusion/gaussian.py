"""The Gaussian forward process q and reverse process p, in closed form.

Throughout, t is the zero-based step, shape (batch,), int64, and z has shape (batch, latent_dim), float32.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from ldm_ray.diffusion.schedule import Schedule
from ldm_ray.errors import SettingsError, ShapeError

Head = Literal["mean", "x0", "v", "epsilon"]


@dataclass(frozen=True)
class ReverseStep:
    """A network's prediction for one step.

    Attributes:
        x0_hat: Estimate of z_0, (batch, latent_dim).
        mu: Mean of p(z_prev | z_t), (batch, latent_dim).
        log_var: Log-variance of p(z_prev | z_t), (batch, latent_dim).
        s: Interpolation fraction of Eq. (7), in [0, 1], (batch, latent_dim).
    """

    x0_hat: Tensor
    mu: Tensor
    log_var: Tensor
    s: Tensor


class GaussianDiffusion:
    """Forward and reverse process of one schedule."""

    def __init__(self, schedule: Schedule, device: torch.device | str = "cpu") -> None:
        values = {field.name: getattr(schedule, field.name).to(device) for field in fields(schedule)}
        self.schedule = Schedule(**values)

    @property
    def num_steps(self) -> int:
        """The paper's T."""
        return self.schedule.num_steps

    def q_step(self, z_prev: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """One step of noise: z_t = sqrt(1 - beta_t) z_prev + sqrt(beta_t) eps.

        Source: Kim & Yoo, Eq. (3).
        """
        beta = self.schedule.beta
        return self.at(torch.sqrt(1 - beta), t, z_prev) * z_prev + self.at(torch.sqrt(beta), t, z_prev) * eps

    def q_sample(self, z_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """All steps up to t at once: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps.

        Source: Kim & Yoo, Eq. (5).
        """
        signal, noise = self._signal_and_noise(t, z_0)
        return signal * z_0 + noise * eps

    def q_posterior(self, z_0: Tensor, z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(z_prev | z_t, z_0): A_t z_0 + B_t z_t and beta_tilde_t.

        Source: Kim & Yoo, Eq. (9).
        """
        return self.posterior_mean(z_0, z_t, t), self.at(self.schedule.beta_tilde, t, z_t).expand_as(z_t)

    def posterior_mean(self, x0_hat: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Mean of z_prev given that z_0 is `x0_hat`: A_t x0_hat + B_t z_t, in float32.

        Source: Kim & Yoo, Eq. (9).

        Note:
            In bfloat16, rounding of this mean would add 13 to 51% of beta_1 to the variance.
        """
        return self.at(self.schedule.coef_x0, t, z_t) * x0_hat + self.at(self.schedule.coef_z, t, z_t) * z_t

    def learned_log_var(self, s: Tensor, t: Tensor) -> Tensor:
        """Reverse log-variance, interpolated between its two bounds.

            log Sigma_theta = s log beta_t + (1 - s) log beta_tilde_t

        Source: Kim & Yoo, Eq. (7); Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. (15).

        Args:
            s: Interpolation fraction, shape (batch, latent_dim), in [0, 1].
            t: Zero-based step, shape (batch,), int64, in [0, num_steps).

        Returns:
            Log-variance, shape (batch, latent_dim).

        Raises:
            ShapeError: If t is not (batch,).

        Note:
            beta_tilde is 0 at t = 0, so its logarithm is taken from t = 1 there.
            The paper does not state a choice.
        """
        upper = self.at(torch.log(self.schedule.beta), t, s)
        lower = self.at(self.schedule.log_beta_tilde_clipped, t, s)
        return s * upper + (1 - s) * lower

    def p_step(self, head: Head, output: Tensor, z_t: Tensor, t: Tensor) -> ReverseStep:
        """Read a network's output as the mean and variance of p(z_prev | z_t).

        Source: Kim & Yoo, Eq. (6) and (7); epsilon from Ho et al. 2020 (arXiv:2006.11239),
        Eq. (11); v from Salimans & Ho 2022 (arXiv:2202.00512), appendix D.

        Args:
            head: Meaning of the output's first half: the mean itself (the paper), x0_hat, v, or epsilon.
            output: Shape (batch, 2 latent_dim); the second half is the logit of s.
            z_t: Noised latent, shape (batch, latent_dim).
            t: Zero-based step, shape (batch,).

        Raises:
            ShapeError: If the output is not twice as wide as z_t.
        """
        x0_hat, s = self.x0_and_s(head, output, z_t, t)
        mu = output[:, : z_t.shape[1]].to(z_t.dtype) if head == "mean" else self.posterior_mean(x0_hat, z_t, t)
        return ReverseStep(x0_hat, mu, self.learned_log_var(s, t), s)

    def x0_and_s(self, head: Head, output: Tensor, z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Read x0_hat and s from a network's output, each (batch, latent_dim); arguments as in `p_step`."""
        if output.shape != (z_t.shape[0], 2 * z_t.shape[1]):
            raise ShapeError(
                f"output must be (batch, 2 latent_dim) for z_t {tuple(z_t.shape)}; got {tuple(output.shape)}"
            )
        raw, logit = output.to(z_t.dtype).chunk(2, dim=1)
        if head == "x0":
            x0_hat = raw
        elif head == "v":
            signal, noise = self._signal_and_noise(t, z_t)
            x0_hat = signal * z_t - noise * raw
        elif head == "mean":
            x0_hat = self.x0_from_mean(raw, z_t, t)
        elif head == "epsilon":
            x0_hat = self.x0_from_epsilon(raw, z_t, t)
        else:
            raise SettingsError(f"head must be mean, x0, v or epsilon; got {head!r}")
        return x0_hat, torch.sigmoid(logit)

    def x0_from_mean(self, mu: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Invert `posterior_mean`: (mu - B_t z_t) / A_t, combined in float64.

        Source: Kim & Yoo, Eq. (9), solved for z_0.
        """
        coef_x0, coef_z = (
            self.at(table, t, z_t, torch.float64) for table in (self.schedule.coef_x0, self.schedule.coef_z)
        )
        return ((mu.double() - coef_z * z_t.double()) / coef_x0).to(z_t.dtype)

    def x0_from_epsilon(self, eps: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Invert `q_sample`: (z_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t), combined in float64.

        Source: Kim & Yoo, Eq. (5), solved for z_0; undefined where alpha_bar is 0.
        """
        alpha_bar = self.at(self.schedule.alpha_bar, t, z_t, torch.float64)
        return ((z_t.double() - torch.sqrt(1 - alpha_bar) * eps.double()) / torch.sqrt(alpha_bar)).to(z_t.dtype)

    def v_target(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The quantity v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) z_0.

        Source: Salimans & Ho 2022 (arXiv:2202.00512), appendix D.
        """
        signal, noise = self._signal_and_noise(t, z_0)
        return signal * eps - noise * z_0

    def _signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.schedule.alpha_bar
        return self.at(torch.sqrt(alpha_bar), t, like), self.at(torch.sqrt(1 - alpha_bar), t, like)

    def at(self, table: Tensor, t: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Look up the table at each row's step, shape (batch, 1), in the dtype of `like`."""
        if t.shape != like.shape[:1]:
            raise ShapeError(f"t must be ({like.shape[0]},), one step per row; got {tuple(t.shape)}")
        return table[t][:, None].to(dtype or like.dtype)
