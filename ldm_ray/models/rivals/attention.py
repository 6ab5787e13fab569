"""The blocks of PertDiT: attention between gene, control and drug tokens, and a gated feed-forward network."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head attention with biases in all four linear maps."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Attend from queries, (batch, n, dim), to memory, (batch, m, dim); returns (batch, n, dim)."""
        q, k, v = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for part in (self.query(queries), self.key(memory), self.value(memory))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class GatedFfn(nn.Module):
    """Linear to twice the width, a * SiLU(b) of its halves, Linear back."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        a, b = self.up(h).chunk(2, dim=-1)
        out: Tensor = self.down(a * functional.silu(b))
        return out


class CrossBlock(nn.Module):
    """Cross-attention to control tokens, then to drug tokens, then the feed-forward network."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.norm_control_query, self.norm_control, self.norm_drug_query, self.norm_drug, self.norm_ffn = (
            nn.LayerNorm(dim) for _ in range(5)
        )
        self.to_control, self.to_drug, self.ffn = Attention(dim, n_heads), Attention(dim, n_heads), GatedFfn(dim)

    def forward(self, h: Tensor, control: Tensor, drug: Tensor) -> Tensor:
        """Map gene tokens (batch, n, dim), given control tokens (batch, n, dim) and drug tokens (batch, m, dim)."""
        h = h + self.to_control(self.norm_control_query(h), self.norm_control(control))
        h = h + self.to_drug(self.norm_drug_query(h), self.norm_drug(drug))
        out: Tensor = h + self.ffn(self.norm_ffn(h))
        return out


class CatCrossBlock(nn.Module):
    """Self-attention, then cross-attention to drug tokens, then the feed-forward network."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.norm_self, self.norm_drug_query, self.norm_drug, self.norm_ffn = (nn.LayerNorm(dim) for _ in range(4))
        self.to_self, self.to_drug, self.ffn = Attention(dim, n_heads), Attention(dim, n_heads), GatedFfn(dim)

    def forward(self, h: Tensor, drug: Tensor) -> Tensor:
        """Map gene tokens (batch, n, dim), given drug tokens (batch, m, dim)."""
        normed = self.norm_self(h)
        h = h + self.to_self(normed, normed)
        h = h + self.to_drug(self.norm_drug_query(h), self.norm_drug(drug))
        out: Tensor = h + self.ffn(self.norm_ffn(h))
        return out


class AdaBlock(nn.Module):
    """Self-attention and feed-forward network, shifted, scaled and gated by a condition (adaLN).

    Source: Peebles & Xie 2023, arXiv:2212.09748, section 3.2.
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.norm_self, self.norm_ffn = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_self, self.ffn = Attention(dim, n_heads), GatedFfn(dim)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Map gene tokens (batch, n, dim), given a condition (batch, dim)."""
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = self.modulation(condition)[:, None].chunk(6, dim=-1)
        normed = self.norm_self(h) * (1 + scale) + shift
        h = h + gate * self.to_self(normed, normed)
        out: Tensor = h + gate_ffn * self.ffn(self.norm_ffn(h) * (1 + scale_ffn) + shift_ffn)
        return out


def sinusoid(value: Tensor, dim: int) -> Tensor:
    """Sines and cosines of numbers at geometric frequencies, (len(value), dim), float32.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    half = dim // 2
    frequency = torch.exp(torch.arange(half, device=value.device) * (-torch.log(torch.tensor(10_000.0)) / half))
    angle = value.float()[:, None] * frequency
    return functional.pad(torch.cat([torch.sin(angle), torch.cos(angle)], dim=1), (0, dim - 2 * half))
