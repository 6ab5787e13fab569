"""The denoisers: networks of a noised latent, its step and the condition."""

import itertools
import math

import torch
from torch import Tensor, nn

from ldm_ray.keys import Purpose
from ldm_ray.models.blocks import HiddenBlock, KeyedDropout
from ldm_ray.settings import DenoiserSettings


class Denoiser(nn.Module):
    """An MLP with the condition concatenated at each hidden layer; the output is twice as wide as the latent.

    Source: Kim & Yoo, section 2.4, with the layers of the authors' public code.
    """

    def __init__(self, latent_dim: int, condition_dim: int, num_steps: int, settings: DenoiserSettings) -> None:
        super().__init__()
        self.time = StepEmbedding(num_steps, settings)
        widths = [latent_dim + settings.time_dim, *settings.hidden_widths]
        self.blocks = nn.ModuleList(
            HiddenBlock(
                a + condition_dim, b, settings.norm, "leaky_relu", settings.dropout, salt=Purpose.DROPOUT_DENOISER + i
            )
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.output = nn.Linear(widths[-1], 2 * latent_dim)
        nn.init.zeros_(self.output.bias)
        if settings.zero_output:
            nn.init.zeros_(self.output.weight)

    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor, keys: Tensor | None = None) -> Tensor:
        """Return the raw output, (batch, 2 latent_dim).

        Args:
            z_t: Noised latent, (batch, latent_dim).
            t: Zero-based step of the full chain, (batch,), int64.
            condition: Encoded condition, (batch, condition_dim).
            keys: Keys of dropout in training, (batch,), int64.
        """
        h = torch.cat([z_t, self.time(t, z_t.dtype)], dim=1)
        for block in self.blocks:
            h = block(torch.cat([h, condition], dim=1), keys)
        out: Tensor = self.output(h)
        return out


class AdaLnDenoiser(nn.Module):
    """Residual blocks that condition and step shift, scale and gate.

    Source: Peebles & Xie 2023 (arXiv:2212.09748), section 3.2 (adaLN-Zero), with an MLP instead of a transformer.

    Note:
        Gates start at 0, so every block starts as the identity. The setting `norm` is ignored: it is always layer
        normalisation.
    """

    def __init__(self, latent_dim: int, condition_dim: int, num_steps: int, settings: DenoiserSettings) -> None:
        super().__init__()
        self.time = StepEmbedding(num_steps, settings)
        width = settings.hidden_widths[0]
        self.input = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(
            AdaLnBlock(
                width, hidden, condition_dim + settings.time_dim, settings.dropout, salt=Purpose.DROPOUT_DENOISER + i
            )
            for i, hidden in enumerate(settings.hidden_widths)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 2 * latent_dim)
        nn.init.zeros_(self.output.bias)
        if settings.zero_output:
            nn.init.zeros_(self.output.weight)

    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor, keys: Tensor | None = None) -> Tensor:
        """Return the raw output, (batch, 2 latent_dim); arguments as in `Denoiser.forward`."""
        signal = nn.functional.silu(torch.cat([condition, self.time(t, z_t.dtype)], dim=1))
        h = self.input(z_t)
        for block in self.blocks:
            h = block(h, signal, keys)
        out: Tensor = self.output(self.norm(h))
        return out


class AdaLnBlock(nn.Module):
    """h + gate * MLP(norm(h) * (1 + scale) + shift)."""

    def __init__(self, width: int, hidden: int, signal_dim: int, dropout: float, salt: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(signal_dim, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = KeyedDropout(dropout, salt)

    def forward(self, h: Tensor, signal: Tensor, keys: Tensor | None) -> Tensor:
        """Map (batch, width) to (batch, width); `signal` is (batch, signal_dim)."""
        return self.modulated(h, self.modulation(signal), keys)

    def modulated(self, h: Tensor, modulation: Tensor, keys: Tensor | None) -> Tensor:
        """Apply the block with the given shift, scale and gate side by side, (batch, 3 width)."""
        shift, scale, gate = modulation.chunk(3, dim=1)
        inner = self.up(self.norm(h) * (1 + scale) + shift)
        inner = self.dropout(nn.functional.silu(inner), keys)
        out: Tensor = h + gate * self.down(inner)
        return out


class StepEmbedding(nn.Sequential):
    """An MLP of the step's number, or of its sines and cosines.

    Source: Kim & Yoo, section 2.4 (number); Vaswani et al. 2017 (arXiv:1706.03762), section 3.5 (sinusoidal).

    Note:
        With `raw_inputs` the raw number enters, as published; otherwise it is scaled to [-1, 1]. Sines are of the step
        scaled to [0, 1000], so that chains of different lengths look alike.
    """

    def __init__(self, num_steps: int, settings: DenoiserSettings) -> None:
        sinusoidal, width = settings.time_embedding == "sinusoidal", settings.time_dim
        first = nn.Linear(2 * (width // 2) if sinusoidal else 1, width)
        super().__init__(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.num_steps, self.raw_inputs, self.width = num_steps, settings.raw_inputs, width
        self.frequencies = width // 2 if sinusoidal else 0

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        """Embed zero-based steps (batch,), int64, as (batch, time_dim)."""
        step = t[:, None].to(dtype)
        if self.frequencies:
            step = sines(1000.0 * step / (self.num_steps - 1), self.frequencies)
        elif not self.raw_inputs:
            step = 2.0 * step / (self.num_steps - 1) - 1.0
        for layer in self:
            step = layer(step)
        return step


def sines(position: Tensor, half: int) -> Tensor:
    """Sines, then cosines, of positions at `half` frequencies from 1 down to 1 / 10000.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5.

    Args:
        position: (batch, 1).
        half: Number of frequencies.
    """
    exponent = torch.arange(half, device=position.device, dtype=position.dtype) / max(1, half - 1)
    angle = position * torch.exp(-math.log(10_000.0) * exponent)
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


def build_denoiser(latent_dim: int, condition_dim: int, num_steps: int, settings: DenoiserSettings) -> nn.Module:
    """Build the denoiser that the settings name."""
    build = {"concat": Denoiser, "adaln": AdaLnDenoiser}[settings.architecture]
    return build(latent_dim, condition_dim, num_steps, settings)
