"""The network that reads a noised latent, its step and the condition."""

import itertools

import torch
from torch import Tensor, nn

from ldm_ray.models.blocks import HiddenBlock
from ldm_ray.settings import DenoiserSettings


class Denoiser(nn.Module):
    """Three hidden layers, the condition concatenated again at each; output twice the latent.

    Source: Kim & Yoo, section 2.4, with the layers of the authors' public code.

    Note:
        As published the raw step number enters (`raw_inputs`); otherwise it is scaled to [-1, 1].
    """

    def __init__(self, latent_dim: int, condition_dim: int, num_steps: int, settings: DenoiserSettings) -> None:
        super().__init__()
        self.num_steps, self.raw_inputs = num_steps, settings.raw_inputs
        self.time = nn.Sequential(
            nn.Linear(1, settings.time_dim),
            nn.SiLU(),
            nn.Linear(settings.time_dim, settings.time_dim),
            nn.SiLU(),
        )
        widths = [latent_dim + settings.time_dim, *settings.hidden_widths]
        self.blocks = nn.ModuleList(
            HiddenBlock(a + condition_dim, b, settings.norm, "leaky_relu", settings.dropout, salt=400 + i)
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.output = nn.Linear(widths[-1], 2 * latent_dim)
        nn.init.zeros_(self.output.bias)

    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor, keys: Tensor | None = None) -> Tensor:
        """Return the raw output, (batch, 2 latent_dim).

        Args:
            z_t: Noised latent, (batch, latent_dim).
            t: Zero-based step of the full chain, (batch,), int64.
            condition: Encoded condition, (batch, condition_dim).
            keys: Decide dropout in training, (batch,), int64.
        """
        step = t[:, None].to(z_t.dtype)
        if not self.raw_inputs:
            step = 2.0 * step / (self.num_steps - 1) - 1.0
        h = torch.cat([z_t, self.time(step)], dim=1)
        for block in self.blocks:
            h = block(torch.cat([h, condition], dim=1), keys)
        out: Tensor = self.output(h)
        return out
