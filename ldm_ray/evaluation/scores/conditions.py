"""Scores of whole conditions, replicates averaged: strong genes and discrimination."""

from dataclasses import dataclass

import numpy as np

from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.scores.metrics import pearson_per_profile

TOP = 50
AT_ONCE = 512


@dataclass(frozen=True)
class ConditionJudge:
    """Compares predicted with measured effects of conditions.

    Attributes:
        wells: Sampled wells with a reserved control.
        number: Condition of each well, 0 to n_conditions - 1, (n,).
        effect: Mean measured change from the reserved control, (n_conditions, n_genes).
        compound: Group of compounds of each condition, (n_conditions,).
        cell: Cell line of each condition, (n_conditions,).
    """

    wells: Wells
    number: np.ndarray
    effect: np.ndarray
    compound: np.ndarray
    cell: np.ndarray

    def score(self, y_hat: np.ndarray) -> dict[str, np.ndarray]:
        """Score predictions for `wells`, (n, n_genes); returns arrays (n_conditions,)."""
        predicted = average(y_hat - self.wells.basal, self.number)
        scores = {name: np.full(len(predicted), np.nan) for name in ("discrimination", "discrimination_cosine")}
        for name in np.unique(self.cell):
            rows = np.flatnonzero(self.cell == name)
            if len(rows) > 1:
                own, said = self.effect[rows], predicted[rows]
                scores["discrimination"][rows] = discrimination(own, said)
                scores["discrimination_cosine"][rows] = discrimination_cosine(own, said)
        return strong_gene_scores(self.effect, predicted) | scores


def judge_conditions(wells: Wells) -> ConditionJudge | None:
    """Set up for sampled wells, all with a reserved control; None without wells."""
    if not len(wells):
        return None
    _, first, number = np.unique(wells.frame["condition_id"].to_numpy(), return_index=True, return_inverse=True)
    effect = average(wells.y - wells.reserved, number)
    columns = (wells.frame[name].to_numpy()[first] for name in ("group_id", "cell_id"))
    return ConditionJudge(wells, number, effect, *columns)


def average(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Average the rows with the same number, (n_numbers, n_genes), float64."""
    order = np.argsort(number, kind="stable")
    _, starts, counts = np.unique(number[order], return_index=True, return_counts=True)
    return np.asarray(np.add.reduceat(values[order].astype(np.float64), starts, axis=0) / counts[:, None])


def strong_gene_scores(effect: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Compare the genes that a condition moves most: the top 50 up and the top 50 down of the measured effect.

    Source: docs/evaluation.md, `strong genes`. A prediction that is the same for all genes has no top genes; it gets
    the precision of chance, 50 of n_genes.

    Args:
        effect: Measured change, replicates averaged, (n_conditions, n_genes).
        predicted: Predicted change, same shape.

    Returns:
        `top50_squared`, `top50_pcc` and `precision_at_50`, each (n_conditions,).
    """
    top = min(TOP, effect.shape[1] // 2)
    down, up = _extremes(effect, top)
    strong = np.concatenate([down, up], axis=1)
    a, b = (np.take_along_axis(values, strong, axis=1) for values in (effect, predicted))
    hits = np.zeros(len(effect))
    for measured, said in zip((down, up), _extremes(predicted, top), strict=True):
        hits += _shared(measured, said, effect.shape[1])
    flat = np.ptp(predicted, axis=1) < 1e-6
    precision = np.where(flat, top / effect.shape[1], hits / (2 * top))
    return {
        "top50_squared": ((a - b) ** 2).mean(axis=1),
        "top50_pcc": pearson_per_profile(b, a),
        "precision_at_50": precision,
    }


def discrimination(effect: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """1 - rank / (P - 1) of the true condition among P by distance to the prediction, (P,); chance 0.5.

    The rank is 0-based, with mid-ranks for ties. Distances are Euclidean, between changes.

    Source: docs/evaluation.md, `discrimination`; Wu et al. 2024 (PerturBench), arXiv:2408.10609, rank metrics.

    Args:
        effect: Measured effects of P conditions, (P, n_genes), P at least 2.
        predicted: Predictions for them, in the same order.
    """
    size, scores = (effect**2).sum(axis=1), []
    for start in range(0, len(effect), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        # |a - b|^2 - |a|^2; |a|^2 is the same for all candidates of a prediction.
        distance = size[None, :] - 2 * predicted[rows] @ effect.T
        own = distance[np.arange(len(distance)), start + np.arange(len(distance))][:, None]
        tolerance = 1e-9 * max(1.0, float(size.max()))
        nearer = (distance < own - tolerance).sum(axis=1)
        ties = (np.abs(distance - own) <= tolerance).sum(axis=1) - 1
        scores.append(1 - (nearer + 0.5 * ties) / (len(effect) - 1))
    return np.concatenate(scores)


def discrimination_cosine(effect: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """As `discrimination`, by the angle between changes: how large a prediction is does not matter, (P,).

    By Euclidean distance a prediction that is too small is nearest to the weakest conditions.

    Source: the perturbation discrimination score of Arc Institute's cell-eval2, version 2 (docs/metrics.md, section 3),
    without the exclusion of a target gene, which compounds do not have; Liu et al. 2025, arXiv:2511.16954, on scale.
    """
    length = np.linalg.norm(effect, axis=1, keepdims=True)
    return discrimination(effect / np.where(length > 0, length, 1.0), predicted)


def _extremes(values: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(values, axis=1, kind="stable")
    return order[:, :top], order[:, -top:]


def _shared(first: np.ndarray, second: np.ndarray, n_genes: int) -> np.ndarray:
    """Count the genes shared by the two lists of each row, (n,)."""
    member = np.zeros((len(first), n_genes), dtype=bool)
    np.put_along_axis(member, first, values=True, axis=1)
    return np.asarray(np.take_along_axis(member, second, axis=1).sum(axis=1), dtype=np.float64)
