"""Drug mean plus cell line mean: the baseline that an IC50 benchmark needs."""

from dataclasses import dataclass

import numpy as np

SHRINKAGE_ROWS = 1.0


@dataclass(frozen=True)
class TwoWayMeans:
    """Additive effects of drugs and cell lines on a mean.

    Attributes:
        mean: Mean of the training rows.
        drug_effect: Effect of each drug.
        cell_effect: Effect of each cell line.
    """

    mean: float
    drug_effect: dict[str, float]
    cell_effect: dict[str, float]

    def predict(self, drug: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Predict from names of drugs and cell lines, each (n,); an effect that was not fitted is 0."""
        effects = [
            self.drug_effect.get(str(d), 0.0) + self.cell_effect.get(str(c), 0.0)
            for d, c in zip(drug, cell, strict=True)
        ]
        return self.mean + np.array(effects)


def fit_two_way_means(
    y: np.ndarray, drug: np.ndarray, cell: np.ndarray, shrinkage_rows: float = SHRINKAGE_ROWS
) -> TwoWayMeans:
    """Fit y = mean + a_drug + b_cell by least squares, with effects shrunk towards 0.

        minimise sum (y - mean - a - b)^2 + shrinkage (sum a^2 + sum b^2)

    Source: Robinson 1991, doi:10.1214/ss/1177011926 (effects of groups as random effects).

    Args:
        y: Measured values, (n,).
        drug: Name of each row's drug, (n,).
        cell: Name of each row's cell line, (n,).
        shrinkage_rows: Rows with effect 0 added to each group, above 0.
    """
    drugs, d = np.unique(drug.astype(str), return_inverse=True)
    cells, c = np.unique(cell.astype(str), return_inverse=True)
    n = len(drugs)
    crossed = np.zeros((n, len(cells)))
    np.add.at(crossed, (d, c), 1.0)
    centred = y - y.mean()
    normal = np.block([[np.diag(crossed.sum(axis=1)), crossed], [crossed.T, np.diag(crossed.sum(axis=0))]])
    right = np.concatenate([np.bincount(d, centred), np.bincount(c, centred)])
    effects = np.linalg.solve(normal + shrinkage_rows * np.eye(len(right)), right)
    drug_effect = dict(zip(drugs.tolist(), effects[:n].tolist(), strict=True))
    return TwoWayMeans(float(y.mean()), drug_effect, dict(zip(cells.tolist(), effects[n:].tolist(), strict=True)))
