"""The wells that predictions are judged on."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.store import matrix
from ldm_ray.errors import DataError
from ldm_ray.keys import keys_of

COLUMNS = ["profile_id", "compound_id", "cell_id", "condition_id", "plate", "dose_um", "time_h", "basal_id"]


@dataclass(frozen=True)
class Wells:
    """n treated wells with everything that a prediction and its scores need; expression is log2.

    Attributes:
        frame: `profile_id`, `compound_id`, `cell_id`, `condition_id`, `plate`, `dose_um`, `time_h`,
            `basal_id`, `reserved_basal_id`, indexed 0 to n - 1.
        y: Measured profile, (n, n_genes).
        basal: The control that predictions were given, C, (n, n_genes).
        reserved: The plate's reserved control, C', (n, n_genes); rows without one repeat the basal and are
            False in `has_reserved`.
        has_reserved: (n,).
        keys: Key of each profile id, (n,), int64.
    """

    frame: pd.DataFrame
    y: np.ndarray
    basal: np.ndarray
    reserved: np.ndarray
    has_reserved: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    def group(self, *columns: str) -> np.ndarray:
        """Number the groups of equal values in some columns, (n,), int64."""
        return np.asarray(self.frame.groupby(list(columns), sort=True).ngroup())


def load_wells(dataset: PairedDataset, split: str, max_profiles: int = 0, seed: int = 0) -> Wells:
    """Read the wells of a split.

    Args:
        dataset: The paired dataset.
        split: train, valid or test.
        max_profiles: Keep that many, drawn by seed and profile id; 0 keeps all.
        seed: Of the draw.

    Raises:
        DataError: If the split is empty.
    """
    table = dataset.profiles([*COLUMNS, "reserved_basal_id", "expression"], split)
    if len(table) == 0:
        raise DataError(f"{dataset.url} has no profile in split {split!r}")
    frame = table.drop_columns(["expression"]).to_pandas()
    keys = keys_of(frame["profile_id"])
    chosen = np.argsort(keys, kind="stable")
    if 0 < max_profiles < len(frame):
        draw = keys_of(f"{seed}:{name}" for name in frame["profile_id"])
        chosen = np.sort(np.argsort(draw, kind="stable")[:max_profiles])
        chosen = chosen[np.argsort(keys[chosen], kind="stable")]
    frame = frame.iloc[chosen].reset_index(drop=True)
    basal = dataset.basal_expression
    has_reserved = frame["reserved_basal_id"].to_numpy() >= 0
    reserved_id = np.where(has_reserved, frame["reserved_basal_id"], frame["basal_id"])
    return Wells(
        frame=frame,
        y=matrix(table["expression"])[chosen],
        basal=basal[frame["basal_id"].to_numpy()],
        reserved=basal[reserved_id],
        has_reserved=has_reserved,
        keys=keys[chosen],
    )
