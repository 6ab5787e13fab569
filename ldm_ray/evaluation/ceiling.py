"""What the measurements themselves allow: scores of a replicate well, and what a perfect mean could reach."""

import itertools
from dataclasses import asdict, dataclass

import numpy as np

from ldm_ray.evaluation.metrics import (
    mean_per_condition_then_cell,
    pearson_per_profile,
    r2_per_profile,
    squared_error_per_profile,
)
from ldm_ray.evaluation.wells import Wells


@dataclass(frozen=True)
class Ceiling:
    """Ceilings from pairs of wells of one condition on different plates.

    Attributes:
        n_pairs: Pairs in all.
        replicate_rmse: A replicate taken as the prediction of the other, the ceiling of one draw.
        replicate_pcc: Likewise.
        replicate_r2: Likewise.
        replicate_delta_pcc: corr(y - C', y'' - C''), each with its own plate's reserved control, averaged per
            condition, then per cell line.
        rmse_floor: sqrt(mean (y - y'')^2 / 2), what a perfect mean would reach.
        delta_pcc_ceiling: Square root of `replicate_delta_pcc`, what a perfect mean would reach.
    """

    n_pairs: int
    replicate_rmse: float
    replicate_pcc: float
    replicate_r2: float
    replicate_delta_pcc: float
    rmse_floor: float
    delta_pcc_ceiling: float

    def as_dict(self) -> dict[str, float]:
        """Return the values by name."""
        return asdict(self)


def measure_ceiling(wells: Wells, delta_rows: np.ndarray) -> Ceiling | None:
    """Measure the ceilings; None if no condition has wells on two plates.

    Source: docs/evaluation.md, `of ceiling`; the floor halves the replicates' squared difference because both
    wells carry noise, the square root because both deltas do.

    Args:
        wells: The judged wells.
        delta_rows: Which of them count for the delta scores, (n,); the ceiling averages as those scores do.
    """
    first, second = _replicate_pairs(wells)
    if len(first) == 0:
        return None
    y, other = wells.y[first], wells.y[second]
    error = float(squared_error_per_profile(y, other).mean())
    scored = delta_rows[first] & delta_rows[second]
    delta_pcc = _replicate_delta_pcc(wells, first[scored], second[scored]) if scored.any() else 0.0
    return Ceiling(
        n_pairs=len(first),
        replicate_rmse=float(np.sqrt(error)),
        replicate_pcc=float(pearson_per_profile(y, other).mean()),
        replicate_r2=float(r2_per_profile(y, other).mean()),
        replicate_delta_pcc=delta_pcc,
        rmse_floor=float(np.sqrt(error / 2)),
        delta_pcc_ceiling=float(np.sqrt(max(0.0, delta_pcc))),
    )


def _replicate_delta_pcc(wells: Wells, first: np.ndarray, second: np.ndarray) -> float:
    scores = pearson_per_profile(*(wells.y[side] - wells.reserved[side] for side in (first, second)))
    frame = wells.frame.iloc[first]
    cells = mean_per_condition_then_cell(scores, frame["condition_id"].to_numpy(), frame["cell_id"].to_numpy())
    return float(np.mean(list(cells.values())))


def _replicate_pairs(wells: Wells) -> tuple[np.ndarray, np.ndarray]:
    """Pair each condition's wells with the next one on another plate, each well in at most two pairs."""
    first, second = [], []
    for rows in wells.frame.groupby("condition_id", sort=True).indices.values():
        plates = wells.frame["plate"].to_numpy()[rows]
        order = rows[np.argsort(plates, kind="stable")]
        for a, b in itertools.pairwise(order):
            if wells.frame["plate"].iloc[a] != wells.frame["plate"].iloc[b]:
                first.append(a)
                second.append(b)
    return np.array(first, dtype=np.int64), np.array(second, dtype=np.int64)
