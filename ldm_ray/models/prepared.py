"""Denoisers prepared for sampling: parts that depend only on the condition or only on the step are computed once.

A linear layer of [h, c] is a linear layer of h plus one of c. The latter is the same at every step of a chain, so it is
a *term* of the condition; likewise the step's part is a row of a table over all steps.
"""

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ldm_ray.models.blocks import HiddenBlock
from ldm_ray.models.denoiser import AdaLnBlock, AdaLnDenoiser, Denoiser


class PreparedDenoiser(Protocol):
    """A denoiser in eval mode, prepared for many steps with the same conditions."""

    def condition_terms(self, condition: Tensor) -> Tensor:
        """Compute the terms, (n, terms), of encoded conditions (n, condition_dim)."""

    def output(self, z_t: Tensor, t: Tensor, terms: Tensor) -> Tensor:
        """Return the output of `Denoiser.forward` up to rounding, (batch, 2 latent_dim); `terms` is (batch, terms)."""


def prepare(denoiser: nn.Module, num_steps: int) -> PreparedDenoiser:
    """Prepare a denoiser; later changes of its weights have no effect.

    Args:
        denoiser: A denoiser in eval mode.
        num_steps: Steps of the full chain.
    """
    if isinstance(denoiser, AdaLnDenoiser):
        return _PreparedAdaLn(denoiser, num_steps)
    assert isinstance(denoiser, Denoiser)
    return _PreparedConcat(denoiser, num_steps)


def _step_embeddings(denoiser: Denoiser | AdaLnDenoiser, num_steps: int) -> Tensor:
    """Embed every step of the chain, (num_steps, time_dim)."""
    weight = denoiser.output.weight
    out: Tensor = denoiser.time(torch.arange(num_steps, device=weight.device), weight.dtype)
    return out


class _PreparedConcat:
    """The MLP with the condition at each layer: one term per layer, of that layer's width."""

    def __init__(self, denoiser: Denoiser, num_steps: int) -> None:
        self._blocks, self._out = cast(list[HiddenBlock], list(denoiser.blocks)), denoiser.output
        linears = [block.linear for block in self._blocks]
        latent_dim = denoiser.output.out_features // 2
        time_dim = denoiser.time.width
        condition_dim = linears[0].in_features - latent_dim - time_dim
        self._own = [linear.weight[:, : linear.in_features - condition_dim].T for linear in linears]
        self._own[0], of_step = self._own[0][:latent_dim], self._own[0][latent_dim:]
        self._own = [weight.contiguous() for weight in self._own]
        self._of_step = _step_embeddings(denoiser, num_steps) @ of_step
        self._of_condition = torch.cat([linear.weight[:, -condition_dim:] for linear in linears]).T.contiguous()
        self._bias = torch.cat([linear.bias for linear in linears])
        self._widths = [linear.out_features for linear in linears]
        self._out_weight = denoiser.output.weight.T.contiguous()

    def condition_terms(self, condition: Tensor) -> Tensor:
        return torch.addmm(self._bias, condition, self._of_condition)

    def output(self, z_t: Tensor, t: Tensor, terms: Tensor) -> Tensor:
        h, per_block = z_t, list(terms.split(self._widths, dim=1))
        per_block[0] = per_block[0] + self._of_step[t]
        for block, term, weight in zip(self._blocks, per_block, self._own, strict=True):
            h = block.activation(block.norm(torch.addmm(term, h, weight)))
        return torch.addmm(self._out.bias, h, self._out_weight)


class _PreparedAdaLn:
    """The residual network: the terms are all blocks' modulations, since SiLU acts on condition and step separately."""

    def __init__(self, denoiser: AdaLnDenoiser, num_steps: int) -> None:
        self._net = denoiser
        self._blocks = cast(list[AdaLnBlock], list(denoiser.blocks))
        linears = [block.modulation for block in self._blocks]
        weight = torch.cat([linear.weight for linear in linears]).T.contiguous()
        condition_dim = weight.shape[0] - denoiser.time.width
        self._of_condition = weight[:condition_dim]
        self._bias = torch.cat([linear.bias for linear in linears])
        self._of_step = nn.functional.silu(_step_embeddings(denoiser, num_steps)) @ weight[condition_dim:]

    def condition_terms(self, condition: Tensor) -> Tensor:
        return torch.addmm(self._bias, nn.functional.silu(condition), self._of_condition)

    def output(self, z_t: Tensor, t: Tensor, terms: Tensor) -> Tensor:
        h = self._net.input(z_t)
        modulations = (terms + self._of_step[t]).chunk(len(self._blocks), dim=1)
        for block, modulation in zip(self._blocks, modulations, strict=True):
            h = block.modulated(h, modulation, None)
        out: Tensor = self._net.output(self._net.norm(h))
        return out
