"""Losses of one diffusion step; each averages over the batch and the latent dimensions."""

import torch
from torch import Tensor


def gaussian_nll_loss(z_prev: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Negative log-likelihood of the sampled z_prev, without the constant.

        1/2 [ (z_prev - mu)^2 / Sigma + log Sigma ]

    Source: Kim & Yoo, Eq. (8) and (10). Minimised at the true mean and variance of z_prev given z_t.
    """
    return 0.5 * ((z_prev - mu) ** 2 * torch.exp(-log_var) + log_var).mean()


def marginal_nll_loss(mu_tilde: Tensor, beta_tilde: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """The same, averaged in closed form over z_prev ~ N(mu_tilde, beta_tilde).

        1/2 [ ((mu_tilde - mu)^2 + beta_tilde) / Sigma + log Sigma ]

    Source: the expectation of Kim & Yoo, Eq. (8), under Eq. (9); same optimum, less noise.
    """
    return 0.5 * (((mu_tilde - mu) ** 2 + beta_tilde) * torch.exp(-log_var) + log_var).mean()


def hybrid_loss(simple: Tensor, nll: Tensor, weight: float, num_steps: int) -> Tensor:
    """Simple loss of the head plus lambda times the variational bound, of which only the variance learns.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. (16).

    Args:
        simple: Mean squared error of the head.
        nll: A loss above, computed with the mean detached; the bound is its sum over all steps.
        weight: lambda, 0.001 in the source.
        num_steps: Number of steps of the chain.
    """
    return simple + weight * num_steps * nll
