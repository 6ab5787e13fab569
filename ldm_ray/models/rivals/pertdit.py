"""PertDiT: diffusion transformers in gene space, with every gene a token.

Source: Hu, Chen & Gu 2026, Quantitative Biology. At 978 genes and 1024-wide drug tokens: CrossDiT 2,163,713 parameters,
CatCrossDiT 2,162,433, AdaDiT 2,423,553.

Note:
    The published drug tokens come from a language model that is not part of this project. Here Cross and CatCross see
    two tokens through the drug's linear map: the compound's embedding and a sinusoid of log10 dose. Ada sees PRnet's
    fingerprint, as in its shipped configuration. Genes are centred and scaled by training moments. Treatment time is
    not an input. `genes_per_token` above 1 is the small preset, not the published model.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_ray.models.rivals.attention import AdaBlock, CatCrossBlock, CrossBlock, sinusoid
from ldm_ray.settings import PertditSettings

Variant = Literal["cross", "catcross", "ada"]
DOSE_SCALE = 100.0
"""Factor of log10 dose before its sinusoid, so that decades are as distinct as steps."""


class PertDit(nn.Module):
    """Predicts the noise in a scaled profile, given the control, the drug and the step.

    Args:
        variant: One of the three architectures.
        n_genes: Length of a profile.
        drug_dim: Width of a drug vector.
        settings: Sizes; the defaults are the published ones.
    """

    gene_mean: Tensor
    gene_scale: Tensor

    def __init__(self, variant: Variant, n_genes: int, drug_dim: int, settings: PertditSettings) -> None:
        super().__init__()
        dim, heads, per_token = settings.model_dim, settings.n_heads, settings.genes_per_token
        self.variant, self.n_genes, self.drug_dim, self.dim = variant, n_genes, drug_dim, dim
        self.per_token = per_token
        n_tokens = -(-n_genes // per_token)
        self.padding = n_tokens * per_token - n_genes
        if variant == "cross":
            self.input, self.control_input = nn.Linear(per_token, dim), nn.Linear(per_token, dim)
        else:
            self.input = nn.Linear(2 * per_token, dim)
        self.position = nn.Parameter(torch.empty(n_tokens, dim))
        self.time = nn.Sequential(nn.Linear(2 * dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.drug = nn.Linear(drug_dim, dim)
        block = {"cross": CrossBlock, "catcross": CatCrossBlock, "ada": AdaBlock}[variant]
        self.blocks = nn.ModuleList(block(dim, heads) for _ in range(settings.n_blocks))
        self.output = nn.Linear(dim, per_token)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.position)
        self.register_buffer("gene_mean", torch.zeros(n_genes))
        self.register_buffer("gene_scale", torch.ones(n_genes))

    def set_scaling(self, mean: Tensor, scale: Tensor) -> None:
        """Store moments of the training profiles, each (n_genes,)."""
        self.gene_mean.copy_(mean)
        self.gene_scale.copy_(scale)

    def scale(self, x: Tensor) -> Tensor:
        """Scale log2 profiles to zero mean and unit variance."""
        return (x - self.gene_mean) / self.gene_scale

    def unscale(self, z: Tensor) -> Tensor:
        """Undo `scale`."""
        return z * self.gene_scale + self.gene_mean

    def drug_tokens(self, embedding: Tensor, dose_um: Tensor) -> Tensor:
        """Turn a compound and its dose into tokens, (batch, m, drug_dim); for Ada one token, scaled by dose."""
        if self.variant == "ada":
            return (embedding * torch.log10(dose_um + 1.0)[:, None])[:, None]
        return torch.stack([embedding, sinusoid(DOSE_SCALE * torch.log10(dose_um), self.drug_dim)], dim=1)

    def forward(self, z_t: Tensor, control: Tensor, drug_tokens: Tensor, t: Tensor) -> Tensor:
        """Predict the noise, (batch, n_genes).

        Args:
            z_t: Noised scaled profile, (batch, n_genes).
            control: Scaled matched control, (batch, n_genes).
            drug_tokens: Output of `drug_tokens`.
            t: Zero-based step, (batch,), int64.
        """
        time = self.time(sinusoid(t, 2 * self.dim))[:, None]
        drug = self.drug(drug_tokens)
        noised, known = self._tokens(z_t), self._tokens(control)
        if self.variant == "cross":
            h, memory = self.input(noised) + self.position + time, self.control_input(known) + self.position
            for block in self.blocks:
                h = block(h, memory, drug + time)
        else:
            h = self.input(torch.cat([noised, known], dim=2)) + self.position + time
            for block in self.blocks:
                h = block(h, (drug + time)[:, 0] if self.variant == "ada" else drug + time)
        eps: Tensor = self.output(h).flatten(1)[:, : self.n_genes]
        return eps

    def _tokens(self, x: Tensor) -> Tensor:
        tokens: Tensor = functional.pad(x, (0, self.padding)).unflatten(1, (-1, self.per_token))
        return tokens
