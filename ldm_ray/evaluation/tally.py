"""Results of a scored block of wells: scores of wells, moments, and sampled predictions."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ldm_ray.evaluation.scores.moments import Cloud, GeneMoments
from ldm_ray.evaluation.scores.predicted import PredictedWells


@dataclass
class RowTally:
    """Results of one prediction.

    Attributes:
        model: Row name.
        kind: See `PredictedWells`.
        n_samples: See `PredictedWells`.
        scores: Scores of wells by name, (n,), float64.
        clouds: The predicted profiles; of a draw, one cloud for each draw.
    """

    model: str
    kind: str
    n_samples: int
    scores: dict[str, np.ndarray]
    clouds: list[Cloud]

    @property
    def moments(self) -> GeneMoments:
        """Moments of the predicted profiles; of the first draw."""
        return self.clouds[0].moments

    @property
    def sampled(self) -> np.ndarray:
        """Predictions for the sampled wells, (m, n_genes); the first draw."""
        return self.clouds[0].sampled

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
            arrays |= {f"row{number}/score/{name}": values for name, values in row.scores.items()}
            for draw, cloud in enumerate(row.clouds):
                arrays[f"row{number}/cloud{draw}/sampled"] = cloud.sampled
                arrays |= _moment_arrays(f"row{number}/cloud{draw}", cloud.moments)
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
            rows.append(RowTally(model, kind, int(n_samples), scores, _clouds_of(prefix, arrays)))
        return Tally(rows, (_moments_of("half0", arrays), _moments_of("half1", arrays)))


def merge(tallies: Iterable[Tally]) -> Tally:
    """Join the tallies of consecutive blocks into the first one, holding one other at a time."""
    coming = iter(tallies)
    first = next(coming)
    scores = [[row.scores] for row in first.rows]
    sampled = [[[cloud.sampled] for cloud in row.clouds] for row in first.rows]
    for other in coming:
        for own, half in zip(first.halves, other.halves, strict=True):
            own.merge(half)
        for row, more, own_scores, own_sampled in zip(first.rows, other.rows, scores, sampled, strict=True):
            own_scores.append(more.scores)
            for cloud, further, kept in zip(row.clouds, more.clouds, own_sampled, strict=True):
                cloud.moments.merge(further.moments)
                kept.append(further.sampled)
    for row, own_scores, own_sampled in zip(first.rows, scores, sampled, strict=True):
        row.scores = {name: np.concatenate([part[name] for part in own_scores]) for name in row.scores}
        for cloud, kept in zip(row.clouds, own_sampled, strict=True):
            cloud.sampled = np.concatenate(kept)
    return first


def _clouds_of(prefix: str, arrays: dict[str, np.ndarray]) -> list[Cloud]:
    """Read the clouds of a row."""
    clouds: list[Cloud] = []
    while (own := f"{prefix}/cloud{len(clouds)}") + "/sampled" in arrays:
        clouds.append(Cloud(_moments_of(own, arrays), arrays[f"{own}/sampled"]))
    return clouds


def _moment_arrays(prefix: str, moments: GeneMoments) -> dict[str, np.ndarray]:
    upper = moments.second[np.triu_indices(moments.n_genes)]  # symmetric: half of it is enough
    return {f"{prefix}/counts": moments.counts, f"{prefix}/sums": moments.sums, f"{prefix}/upper": upper}


def _moments_of(prefix: str, arrays: dict[str, np.ndarray]) -> GeneMoments:
    moments = GeneMoments(*arrays[f"{prefix}/sums"].shape)
    moments.counts, moments.sums = arrays[f"{prefix}/counts"], arrays[f"{prefix}/sums"]
    moments.second[np.triu_indices(moments.n_genes)] = arrays[f"{prefix}/upper"]
    moments.second += np.triu(moments.second, 1).T
    return moments
