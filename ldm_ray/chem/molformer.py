"""MoLFormer: a transformer over SMILES with rotary positions and linear attention, written here.

The published weights load by name; no code from the hub runs. Random features are always those of the checkpoint: by
default the published code redraws them at every call, which gives one molecule many embeddings.

Source: Ross et al. 2022, doi:10.1038/s42256-022-00580-7; Katharopoulos et al. 2020, arXiv:2006.16236 (linear
attention); Su et al. 2021, arXiv:2104.09864 (rotary positions).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldm_ray.errors import SettingsError

PREFIX = "molformer."
ROTARY_BASE = 10_000.0
FIXED = {"hidden_act": "gelu", "feature_map_kernel": "relu"}


@dataclass(frozen=True)
class MolformerConfig:
    """The parts of the checkpoint's `config.json` that the encoder needs."""

    vocab_size: int = 2362
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 768
    max_position_embeddings: int = 202
    num_random_features: int = 32
    linear_attention_eps: float = 1e-6
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 2

    @staticmethod
    def from_json(values: dict[str, Any]) -> "MolformerConfig":
        """Read a published configuration.

        Raises:
            SettingsError: If its activation or feature map is not implemented here.
        """
        for key, known in FIXED.items():
            if values.get(key, known) != known:
                raise SettingsError(f"MoLFormer's {key} must be {known!r}; the checkpoint's config has {values[key]!r}")
        names = MolformerConfig.__dataclass_fields__
        return MolformerConfig(**{name: values[name] for name in names if name in values})


class Molformer(nn.Module):
    """The encoder, always in evaluation mode: no dropout, fixed random features."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.ModuleDict(
            {"word_embeddings": nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)}
        )
        self.encoder = _Encoder(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states after the last LayerNorm, (batch, tokens, hidden).

        Args:
            ids: Token ids, (batch, tokens), int64.
            mask: 1 for tokens and 0 for padding, (batch, tokens).
        """
        hidden = self.embeddings["word_embeddings"](ids)
        rotation = rotary(ids.shape[1], self.config.hidden_size // self.config.num_attention_heads, hidden)
        for layer in self.encoder.layer:
            hidden = layer(hidden, mask.to(hidden.dtype), rotation)
        output: Tensor = self.LayerNorm(hidden)
        return output

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over tokens, including begin and end, (batch, hidden)."""
        weight = mask.to(self.LayerNorm.weight.dtype)[:, :, None]
        pooled: Tensor = (self(ids, mask) * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1e-9)
        return pooled


def linear_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, eps: float) -> Tensor:
    """Attention weighted by inner products of non-negative features; its time is linear in the number of tokens.

        out_i = phi(q_i)^T sum_j m_j phi(k_j) v_j^T / max(phi(q_i)^T sum_j m_j phi(k_j), eps)

    Source: Katharopoulos et al. 2020, Eq. (5), non-causal.

    Args:
        q: phi(q), (batch, heads, tokens, features).
        k: phi(k), same shape.
        v: (batch, heads, tokens, head_size).
        mask: (batch, tokens), 0 for padding.
        eps: Smallest denominator.
    """
    k = k * mask[:, None, :, None]
    numerator = q @ (k.transpose(-1, -2) @ v)
    denominator = q @ k.sum(dim=-2)[..., None]
    return numerator / denominator.clamp_min(eps)


def rotary(tokens: int, head_size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotary angles, each (tokens, head_size)."""
    exponent = torch.arange(0, head_size, 2, device=like.device, dtype=torch.float64) / head_size
    angle = torch.arange(tokens, device=like.device, dtype=torch.float64)[:, None] * ROTARY_BASE**-exponent
    both = torch.cat([angle, angle], dim=1)
    return both.cos().to(like.dtype), both.sin().to(like.dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the two halves of each head's vector by the angle of its position."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class _FeatureMap(nn.Module):
    """phi(x) = ReLU(x W), with W from the checkpoint, (head_size, features)."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        head_size = config.hidden_size // config.num_attention_heads
        self.weight: Tensor
        self.register_buffer("weight", orthogonal_features(head_size, config.num_random_features))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = torch.relu(x @ self.weight)
        return features


def orthogonal_features(head_size: int, features: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw random features: orthogonal directions with the lengths of normal vectors, (head_size, features).

    Source: Choromanski et al. 2021, arXiv:2009.14794, section 2.4.
    """
    blocks = []
    for _ in range(-(-features // head_size)):
        normal = torch.randn(head_size, head_size, generator=generator)
        blocks.append(torch.linalg.qr(normal).Q * normal.norm(dim=1))
    return torch.cat(blocks, dim=1)[:, :features].contiguous()


class _SelfAttention(nn.Module):
    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads, self.eps = config.num_attention_heads, config.linear_attention_eps
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.feature_map = _FeatureMap(config)

    def forward(self, hidden: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        def split(x: Tensor) -> Tensor:
            headed: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            return headed

        q = self.feature_map(rotate(split(self.query(hidden)), rotation))
        k = self.feature_map(rotate(split(self.key(hidden)), rotation))
        mixed = linear_attention(q, k, split(self.value(hidden)), mask, self.eps)
        merged: Tensor = mixed.transpose(1, 2).flatten(2)
        return merged


class _AddNorm(nn.Module):
    """LayerNorm(residual + W x + b)."""

    def __init__(self, width: int, config: MolformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        output: Tensor = self.LayerNorm(residual + self.dense(x))
        return output


class _Encoder(nn.Module):
    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Layer(nn.Module):
    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _SelfAttention(config), "output": _AddNorm(config.hidden_size, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = _AddNorm(config.intermediate_size, config)

    def forward(self, hidden: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        attended = self.attention["output"](self.attention["self"](hidden, mask, rotation), hidden)
        wide = nn.functional.gelu(self.intermediate["dense"](attended))
        output: Tensor = self.output(wide, attended)
        return output
