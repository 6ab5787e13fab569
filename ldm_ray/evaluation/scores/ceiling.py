"""Ceilings that the measurements allow: the scores of a replicate well and of a perfect mean."""

import itertools
from dataclasses import dataclass
from typing import cast

import numpy as np

from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.scores.bootstrap import Bootstrap, Interval
from ldm_ray.evaluation.scores.metrics import (
    pearson_per_profile,
    per_condition,
    r2_per_profile,
    squared_error_per_profile,
)
from ldm_ray.evaluation.scores.record import ReplicateCeiling


@dataclass(frozen=True)
class Ceiling:
    """Ceilings from pairs of wells of one condition on different plates, with intervals over compounds.

    Attributes:
        n_pairs: Number of pairs.
        n_wells: Number of wells in them.
        n_cell_lines: Number of cell lines in them.
        replicate_rmse: RMSE when one replicate predicts the other: the ceiling of one draw.
        replicate_pcc: The same for PCC.
        replicate_r2: The same for R2.
        replicate_delta_pcc: corr(y - C', y'' - C''), each with its own plate's reserved control, averaged per
            condition, then per cell line; None without reserved controls.
        rmse_floor: sqrt(mean (y - y'')^2 / 2), the RMSE of a perfect mean that does not know the plate.
        delta_pcc_ceiling: Delta correlation of a perfect mean: the square root of each condition's replicate delta
            correlation (0 where that is negative), averaged like the scores; None without reserved controls. The
            noise of conditions without an effect raises it a little, that of conditions with a strong effect lowers it.
        delta_pcc_root_of_mean: The square root of `replicate_delta_pcc`.
    """

    n_pairs: int
    n_wells: int
    n_cell_lines: int
    replicate_rmse: Interval
    replicate_pcc: Interval
    replicate_r2: Interval
    replicate_delta_pcc: Interval | None
    rmse_floor: Interval
    delta_pcc_ceiling: Interval | None
    delta_pcc_root_of_mean: Interval | None

    def as_dict(self) -> ReplicateCeiling:
        """Return the values by name, and their intervals as `<name>_interval`."""
        values: dict[str, object] = {name: getattr(self, name) for name in ("n_pairs", "n_wells", "n_cell_lines")}
        for name, value in vars(self).items():
            if isinstance(value, Interval):
                values |= {name: value.value, f"{name}_interval": value.as_list()}
        return cast(ReplicateCeiling, values)


def measure_ceiling(wells: Wells, delta_rows: np.ndarray, boot: Bootstrap) -> Ceiling | None:
    """Measure the ceilings; None if no condition has wells on two plates.

    Source: docs/evaluation.md, `of ceiling`. The floor halves the replicates' squared difference because both wells
    carry noise; the square root is taken because both deltas do. It is taken per condition because conditions differ:
    the root of their mean exceeds what the truth itself reaches (0.46 instead of 0.41 on the demo's data).

    Args:
        wells: Sampled wells, whole conditions.
        delta_rows: Mask of the wells that count for delta scores, (n,); the ceiling is averaged like those scores.
        boot: Resampled compounds.
    """
    first, second = _replicate_pairs(wells)
    if len(first) == 0:
        return None
    y, other = wells.y[first], wells.y[second]
    compound, ones = wells.frame["group_id"].to_numpy()[first], np.ones(len(first))
    squared = squared_error_per_profile(y, other)
    scored = delta_rows[first] & delta_rows[second]
    delta = _replicate_delta(wells, first[scored], second[scored], boot) if scored.any() else (None, None, None)
    return Ceiling(
        n_pairs=len(first),
        n_wells=len(np.unique(np.concatenate([first, second]))),
        n_cell_lines=int(wells.frame["cell_id"].iloc[first].nunique()),
        replicate_rmse=boot.ratio(compound, squared, ones, np.sqrt),
        replicate_pcc=boot.ratio(compound, pearson_per_profile(y, other), ones),
        replicate_r2=boot.ratio(compound, r2_per_profile(y, other), ones),
        replicate_delta_pcc=delta[0],
        rmse_floor=boot.ratio(compound, squared / 2, ones, np.sqrt),
        delta_pcc_ceiling=delta[1],
        delta_pcc_root_of_mean=delta[2],
    )


def _replicate_delta(
    wells: Wells, first: np.ndarray, second: np.ndarray, boot: Bootstrap
) -> tuple[Interval, Interval, Interval]:
    scores = pearson_per_profile(*(wells.y[side] - wells.reserved[side] for side in (first, second)))
    columns = (wells.frame[name].to_numpy()[first] for name in ("condition_id", "group_id", "cell_id"))
    mean, compound, cell = per_condition(scores, *columns)
    ones, root = np.ones(len(mean)), np.sqrt(np.maximum(mean, 0.0))
    plain = boot.mean_of_ratios(compound, cell, mean, ones)
    of_mean = boot.mean_of_ratios(compound, cell, mean, ones, lambda values: np.sqrt(np.maximum(values, 0.0)))
    return plain, boot.mean_of_ratios(compound, cell, root, ones), of_mean


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
