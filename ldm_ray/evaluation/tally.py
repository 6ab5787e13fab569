"""Results of a scored block of wells: scores of wells, moments, and sampled predictions."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ldm_ray.evaluation.scores.moments import GeneMoments
from ldm_ray.evaluation.scores.predicted import PredictedWells


@dataclass
class RowTally:
    """Results of one prediction.

    Attributes:
        model: Row name.
        kind: See `PredictedWells`.
        n_samples: See `PredictedWells`.
        scores: Scores of wells by name, (n,), float64.
        moments: Moments of the predicted profiles.
        sampled: Predictions for the sampled wells of the block, (m, n_genes).
    """

    model: str
    kind: str
    n_samples: int
    scores: dict[str, np.ndarray]
    moments: GeneMoments
    sampled: np.ndarray

    def prediction(self) -> PredictedWells:
        """Return the predictions for the sampled wells."""
        return PredictedWells(self.model, self.kind, self.sampled)


@dataclass
class Tally:
    """Results of all predictions, in the order of the table, and moments of the measurements.

    Attributes:
        rows: One per prediction.
        halves: Moments of two random halves of the measured wells.
    """

    rows: list[RowTally]
    halves: tuple[GeneMoments, GeneMoments]

    def to_bytes(self) -> bytes:
        """Serialise as an .npz archive."""
        arrays: dict[str, np.ndarray] = {}
        for number, half in enumerate(self.halves):
            arrays |= _moment_arrays(f"half{number}", half)
        for number, row in enumerate(self.rows):
            arrays[f"row{number}/name"] = np.array([row.model, row.kind, str(row.n_samples)])
            arrays[f"row{number}/sampled"] = row.sampled
            arrays |= {f"row{number}/score/{name}": values for name, values in row.scores.items()}
            arrays |= _moment_arrays(f"row{number}", row.moments)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> "Tally":
        """Read what `to_bytes` wrote; nothing is unpickled."""
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        rows: list[RowTally] = []
        while (prefix := f"row{len(rows)}") + "/name" in arrays:
            model, kind, n_samples = arrays[f"{prefix}/name"].tolist()
            start = f"{prefix}/score/"
            scores = {name.removeprefix(start): values for name, values in arrays.items() if name.startswith(start)}
            moments = _moments_of(prefix, arrays)
            rows.append(RowTally(model, kind, int(n_samples), scores, moments, arrays[f"{prefix}/sampled"]))
        return Tally(rows, (_moments_of("half0", arrays), _moments_of("half1", arrays)))


def merge(tallies: Iterable[Tally]) -> Tally:
    """Join the tallies of consecutive blocks into the first one, holding one other at a time."""
    coming = iter(tallies)
    first = next(coming)
    parts = [[(row.scores, row.sampled)] for row in first.rows]
    for other in coming:
        for own, half in zip(first.halves, other.halves, strict=True):
            own.merge(half)
        for row, more, kept in zip(first.rows, other.rows, parts, strict=True):
            row.moments.merge(more.moments)
            kept.append((more.scores, more.sampled))
    for row, kept in zip(first.rows, parts, strict=True):
        row.scores = {name: np.concatenate([scores[name] for scores, _ in kept]) for name in row.scores}
        row.sampled = np.concatenate([sampled for _, sampled in kept])
    return first


def _moment_arrays(prefix: str, moments: GeneMoments) -> dict[str, np.ndarray]:
    upper = moments.second[np.triu_indices(moments.n_genes)]  # symmetric: half of it is enough
    return {f"{prefix}/counts": moments.counts, f"{prefix}/sums": moments.sums, f"{prefix}/upper": upper}


def _moments_of(prefix: str, arrays: dict[str, np.ndarray]) -> GeneMoments:
    moments = GeneMoments(*arrays[f"{prefix}/sums"].shape)
    moments.counts, moments.sums = arrays[f"{prefix}/counts"], arrays[f"{prefix}/sums"]
    moments.second[np.triu_indices(moments.n_genes)] = arrays[f"{prefix}/upper"]
    moments.second += np.triu(moments.second, 1).T
    return moments
