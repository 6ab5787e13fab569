"""Predictors without a model: what every model must beat. Fitted on the training split only, log2."""

from dataclasses import dataclass

import numpy as np

from ldm_ray.evaluation.wells import Wells


@dataclass(frozen=True)
class GroupMeans:
    """Means of training wells by (cell line, time), by cell line, and over all."""

    by_cell_time: dict[tuple[int, float], np.ndarray]
    by_cell: dict[int, np.ndarray]
    overall: np.ndarray

    def predict(self, wells: Wells) -> np.ndarray:
        """Return each well's group mean, falling back to its cell line, then to all, (n, n_genes)."""
        cells = wells.frame["cell_id"].tolist()
        times = wells.frame["time_h"].tolist()
        return np.stack([self._of(cell, time) for cell, time in zip(cells, times, strict=True)])

    def _of(self, cell: int, time: float) -> np.ndarray:
        return self.by_cell_time.get((cell, time), self.by_cell.get(cell, self.overall))


def fit_group_means(wells: Wells, values: np.ndarray) -> GroupMeans:
    """Average `values`, (n, n_genes), over groups of training wells."""
    frame = wells.frame.reset_index(drop=True)

    def means(columns: list[str]) -> dict[tuple[int, ...], np.ndarray]:
        return {key: values[rows].mean(axis=0) for key, rows in frame.groupby(columns).indices.items()}

    by_cell_time = {(int(cell), float(time)): mean for (cell, time), mean in means(["cell_id", "time_h"]).items()}
    by_cell = {int(cell): values[rows].mean(axis=0) for cell, rows in frame.groupby("cell_id").indices.items()}
    return GroupMeans(by_cell_time, by_cell, values.mean(axis=0))


def predict_control(wells: Wells) -> np.ndarray:
    """The matched control itself: no change."""
    return wells.basal


def predict_train_mean(train: Wells, wells: Wells) -> np.ndarray:
    """Mean training profile of the same cell line and time."""
    return fit_group_means(train, train.y).predict(wells)


def predict_mean_delta(train: Wells, wells: Wells) -> np.ndarray:
    """The control plus the mean training change of the same cell line and time."""
    return np.asarray(wells.basal + fit_group_means(train, train.y - train.basal).predict(wells))
