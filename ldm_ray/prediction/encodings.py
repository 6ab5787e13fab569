"""Queries encoded for the sampler, with shared parts cached: compounds and controls."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ldm_ray.chem.embedding import CompoundEncoder
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ProfileGenerator
from ldm_ray.models.row_sampler import DenoiserTerms
from ldm_ray.prediction.lru import Lru
from ldm_ray.prediction.queries import PreparedQuery

COMPOUNDS, CONTROLS = 8192, 1024


class Encodings:
    """Encodes queries for a generator; caches embeddings of compounds, and encodings of compounds and controls.

    Args:
        encoder: Encoder of compounds.
        generator: Generator whose networks encode.
    """

    def __init__(self, encoder: CompoundEncoder, generator: ProfileGenerator) -> None:
        self._encoder, self._generator = encoder, generator
        self.compounds = Lru[str, tuple[Tensor, Tensor]](COMPOUNDS)
        self.controls = Lru[str | bytes, Tensor](CONTROLS)

    def preload(self, parents: Sequence[str], vectors: np.ndarray) -> None:
        """Take embeddings that were computed elsewhere, (n, dim)."""
        rows = dict(zip(parents, torch.from_numpy(vectors), strict=True))
        self.compounds.fetch(list(rows), lambda new: self._encode(torch.stack([rows[parent] for parent in new])))

    @torch.inference_mode()
    def encode(self, prepared: Sequence[PreparedQuery]) -> DenoiserTerms:
        """Encode n queries."""
        device = self._generator.device
        compounds = self.compounds.fetch(
            [item.parent for item in prepared], lambda new: self._encode(torch.from_numpy(self._encoder.encode(new)))
        )
        basal = {item.origin: item.basal for item in prepared}
        controls = self.controls.fetch(
            [item.origin for item in prepared],
            lambda new: self._encode_controls(np.stack([basal[origin] for origin in new])),
        )
        condition = ConditionBatch(
            x_basal=torch.zeros(0, device=device),
            compound=torch.stack([embedding for embedding, _ in compounds]),
            dose_um=self._tensor([item.query.dose_um for item in prepared]),
            time_h=self._tensor([item.query.time_h for item in prepared]),
        )
        encoded = torch.stack([own for _, own in compounds])
        return self._generator.encode_parts(torch.stack(controls), encoded, condition)

    @torch.inference_mode()
    def _encode(self, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
        vectors = vectors.to(self._generator.device, torch.float32)
        # Copies, since a view would keep its whole block in memory.
        encoded = self._generator.encode_compound(vectors)
        return [(vector.clone(), own.clone()) for vector, own in zip(vectors, encoded, strict=True)]

    def _encode_controls(self, basal: np.ndarray) -> list[Tensor]:
        return [row.clone() for row in self._generator.encode_basal(self._tensor(basal))]

    def _tensor(self, values: object) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self._generator.device)
