"""The mean effect of queries' compounds, with their similarities cached."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ldm_ray.chem.similarity import packed
from ldm_ray.effects.compounds import CompoundEffects
from ldm_ray.prediction.lru import Lru
from ldm_ray.prediction.queries import PreparedQuery

COMPOUNDS = 4096


class CompoundMeans:
    """m of queries.

    Args:
        effects: Fitted on all training wells, on the device of the answers.
    """

    def __init__(self, effects: CompoundEffects) -> None:
        self._effects = effects
        self._similarities = Lru[str, Tensor](COMPOUNDS)

    def of(self, prepared: Sequence[PreparedQuery]) -> Tensor:
        """Return m of n queries, log2, (n, n_genes)."""
        device = self._effects.coefficients.device
        similarity = self._similarities.fetch([item.parent for item in prepared], self._compare)
        doses, times = ([getattr(item.query, name) for item in prepared] for name in ("dose_um", "time_h"))
        cells = [item.cell for item in prepared]
        x = self._effects.conditions(cells, np.asarray(doses, np.float32), np.asarray(times, np.float32))
        return self._effects.of(torch.stack(similarity).to(device), x.to(device))

    def _compare(self, parents: list[str]) -> list[Tensor]:
        return list(torch.from_numpy(self._effects.similarity(packed(parents))).unbind())
