"""The paper's Table 2: predict GDSC's drug sensitivity from predicted profiles, beside baselines without a model.

Source: Kim & Yoo, Table 2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, cast

import numpy as np

from ldm_ray.chem.embedding import CompoundEncoder
from ldm_ray.errors import NonFiniteError, ShapeError
from ldm_ray.evaluation.ic50.means import fit_two_way_means
from ldm_ray.evaluation.ic50.record import Ic50Metrics, Ic50Row, Ic50Score, Ic50Side, PublishedRow, rmse_of
from ldm_ray.evaluation.ic50.rows import IC50_SPLITS, Ic50Rows, split_rows
from ldm_ray.keys import Purpose, generator
from ldm_ray.models.ic50 import fit_ic50

TWO_WAY = "drug mean + cell mean"
EMBEDDING = "embedding alone"
BASAL = "basal alone"
BASAL_AND_EMBEDDING = "basal + embedding"
BASELINES = (TWO_WAY, EMBEDDING, BASAL, BASAL_AND_EMBEDDING)
SCORES: tuple[Ic50Score, ...] = ("rmse", "r2", "pcc")
BOOTSTRAP_DRAWS = 1000
PAIRS_PER_CALL = 2048
PUBLISHED: tuple[PublishedRow, ...] = (
    {"model": "PRnet", "rmse": 1.591, "r2": 0.743},
    {"model": "PertDiT", "rmse": 1.405, "r2": 0.800},
    {"model": "the paper", "rmse": 1.335, "r2": 0.819},
)
NOTES = (
    "random: the paper's split; nearly every drug and cell line of the test rows is trained on. drug: parent structures"
    " of the test rows are unseen. cell: their cell lines are unseen",
    "intervals resample drugs only; the sd over seeds shows the effect of the choice of held-out cell lines",
    "published: measured on another subset of GDSC2 (3,457 values), random 8:1:1",
)


class ProfileModel(Protocol):
    """A predictor of expected profiles."""

    def predict_profiles(self, smiles: Sequence[str], basal: np.ndarray, dose_um: float, time_h: float) -> np.ndarray:
        """Predict expression, log2, (n, n_genes), for n parent structures and n basal profiles (n, n_genes)."""


@dataclass(frozen=True)
class Features:
    """Inputs of a regressor: columns of several tables side by side; row i has `table[index[i]]` of each."""

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """Return the features of the rows in a mask, (n, width), float32."""
        columns = [table[index[wanted]] for table, index in self.parts]
        return np.concatenate(columns, axis=1, dtype=np.float32)


def evaluate_ic50(
    rows: Ic50Rows,
    encoder: CompoundEncoder,
    models: Mapping[str, ProfileModel],
    seeds: Sequence[int] = (0, 1, 2),
    dose_um: float = 10.0,
    time_h: float = 24.0,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Ic50Metrics:
    """Score every model and baseline on every split.

    Args:
        rows: From `load_ic50`, with the models' genes.
        encoder: Encoder of the compounds.
        models: Models by the name of their row.
        seeds: Each draws its own splits and weights; scores are averaged over them.
        dose_um: Dose of the predicted profiles, micromolar.
        time_h: Their exposure, hours.
        on_progress: Called with the current step.

    Returns:
        The content of `ic50.json`. Scores are pooled over test rows; `mse_gain_over_best_baseline` is the share of
        the best baseline's squared error that is saved.

    Raises:
        NonFiniteError: If embeddings or predictions hold NaN or infinite values.
        ShapeError: If a model's profiles do not have the shape of the basal profiles.
    """
    features = feature_sets(rows, encoder, models, dose_um, time_h, on_progress)
    boot = DrugBootstrap(rows.group)
    splits: dict[str, Ic50Side] = {}
    for split in IC50_SPLITS:
        sides = [split_rows(rows, split, seed) for seed in seeds]
        sums: dict[str, list[np.ndarray]] = {}
        for name in (TWO_WAY, *features):
            on_progress(f"{split}: {name}")
            sums[name] = []
            for seed, side in zip(seeds, sides, strict=True):
                y_hat = held_out_predictions(rows, features.get(name), side, seed)
                _require_finite(y_hat, f"{name} on the {split} split")
                sums[name].append(boot.sums(rows.ln_ic50_um, y_hat, side == "test"))
        best_baseline, body = _scored(sums)
        splits[split] = {
            "n_train": [int((side == "train").sum()) for side in sides],
            "n_valid": [int((side == "valid").sum()) for side in sides],
            "n_test": [int((side == "test").sum()) for side in sides],
            "best_baseline": best_baseline,
            "rows": body,
        }
    return {
        "counts": asdict(rows.counts),
        "dataset": rows.dataset,
        "encoder": encoder.name,
        "dose_um": dose_um,
        "time_h": time_h,
        "seeds": list(seeds),
        "splits": splits,
        "published": [row.copy() for row in PUBLISHED],
        "notes": [*NOTES, *rows.notes],
    }


def feature_sets(
    rows: Ic50Rows,
    encoder: CompoundEncoder,
    models: Mapping[str, ProfileModel],
    dose_um: float,
    time_h: float,
    on_progress: Callable[[str], None],
) -> dict[str, Features]:
    """Return the regressors' inputs by row name; each model predicts each (cell line, parent) once."""
    parents, parent = np.unique(rows.smiles.astype(str), return_inverse=True)
    vectors = encoder.encode(parents.tolist())
    _require_finite(vectors, f"{encoder.name} embeddings")
    embedding, basal = (vectors, parent), (rows.basal, rows.cell)
    features = {
        EMBEDDING: Features((embedding,)),
        BASAL: Features((basal,)),
        BASAL_AND_EMBEDDING: Features((basal, embedding)),
    }
    pairs, pair = np.unique(np.stack([rows.cell, parent], axis=1), axis=0, return_inverse=True)
    for name, model in models.items():
        profiles = np.empty((len(pairs), rows.basal.shape[1]), dtype=np.float32)
        for start in range(0, len(pairs), PAIRS_PER_CALL):
            on_progress(f"profiles of {name}: {start:,} of {len(pairs):,}")
            part = pairs[start : start + PAIRS_PER_CALL]
            x_basal = rows.basal[part[:, 0]]
            predicted = model.predict_profiles(parents[part[:, 1]].tolist(), x_basal, dose_um, time_h)
            if predicted.shape != x_basal.shape:
                raise ShapeError(f"profiles of {name} must be {x_basal.shape}; got {predicted.shape}")
            profiles[start : start + len(part)] = predicted
        _require_finite(profiles, f"profiles of {name}")
        features[f"{name} profile + embedding"] = Features(((profiles, pair.ravel()), embedding))
    return features


def held_out_predictions(rows: Ic50Rows, features: Features | None, side: np.ndarray, seed: int) -> np.ndarray:
    """Fit on `train`, stop early on `valid`, and predict LN_IC50 of `test`, (n_test,).

    Args:
        rows: The measured values; those of the test rows are not used.
        features: The regressor's input; None for the two-way means.
        side: train, valid or test, (n,).
        seed: Seed of the regressor.
    """
    train, valid, test = (side == name for name in ("train", "valid", "test"))
    y = rows.ln_ic50_um
    if features is None:
        drug, cell = rows.group, rows.cell
        return fit_two_way_means(y[train], drug[train], cell[train]).predict(drug[test], cell[test])
    fitted = fit_ic50(features.rows(train), y[train], features.rows(valid), y[valid], seed)
    return fitted.predict(features.rows(test))


class DrugBootstrap:
    """Pooled scores when drugs are drawn with replacement; all models and seeds share the draws.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile intervals), with groups of compounds as the units.

    Args:
        drug: Group of each row's compound, (n,).
        draws: Number of resamples; the sample itself comes before them.
        seed: Same seed, same resamples.
    """

    def __init__(self, drug: np.ndarray, draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> None:
        names, self.drug = np.unique(drug.astype(str), return_inverse=True)
        rng = generator(seed, Purpose.IC50_BOOTSTRAP)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        self.times = np.concatenate([np.ones((1, len(names))), drawn])

    def sums(self, y: np.ndarray, y_hat: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Sums of 1, y, y_hat, y^2, y_hat^2, y y_hat and (y - y_hat)^2 over the test rows, (1 + draws, 7).

        Args:
            y: Measured values of all rows, (n,).
            y_hat: Predicted values of the test rows, (n_test,).
            test: Mask of the test rows, (n,).
        """
        # Centred, so that the variances below lose no digits to cancellation.
        a, b = y[test] - y.mean(), y_hat - y.mean()
        terms = (np.ones_like(a), a, b, a * a, b * b, a * b, (a - b) ** 2)
        per_drug = [np.bincount(self.drug[test], term, self.times.shape[1]) for term in terms]
        return np.asarray(self.times @ np.stack(per_drug, axis=1))


def scores_from_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """RMSE, R2 and PCC, pooled over rows, from `DrugBootstrap.sums`; NaN where undefined, each (1 + draws,).

        R2 = 1 - sum (y - y_hat)^2 / sum (y - mean y)^2

    Source: Kim & Yoo, Table 2.
    """
    n, a, b, aa, bb, ab, squared = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_a, spread_b = aa - a * a / n, bb - b * b / n
        # A spread this small is rounding: a constant has no correlation and explains nothing.
        spread_a, spread_b = (np.where(s > 1e-9 * n, s, np.nan) for s in (spread_a, spread_b))
        pcc = (ab - a * b / n) / np.sqrt(spread_a * spread_b)
        return {"rmse": np.sqrt(squared / n), "r2": 1 - squared / spread_a, "pcc": pcc}


def _scored(sums: Mapping[str, list[np.ndarray]]) -> tuple[str, list[Ic50Row]]:
    """Turn the sums of each row and seed into the name of the best baseline and the rows of the table."""
    scores = {name: [scores_from_sums(of_seed) for of_seed in of_seeds] for name, of_seeds in sums.items()}
    body: list[Ic50Row] = []
    for name in sums:
        n_rows = round(float(np.mean([of_seed[0, 0] for of_seed in sums[name]])))
        row: Ic50Row = {"model": name, "baseline": name in BASELINES, "n_rows": n_rows}
        for key in SCORES:
            _add_score(row, key, np.stack([of_seed[key] for of_seed in scores[name]]))
        body.append(row)
    best = min((row for row in body if row["baseline"]), key=rmse_of)["model"]
    for row in body:
        pairs = zip(sums[row["model"]], sums[best], strict=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.stack([1 - own[:, 6] / reference[:, 6] for own, reference in pairs])
        _add_score(row, "mse_gain_over_best_baseline", gain)
    return best, body


def _add_score(row: Ic50Row, score: Ic50Score, values: np.ndarray) -> None:
    """Add mean over seeds, interval over draws and standard deviation over seeds, from (n_seeds, 1 + draws)."""
    fields = cast("dict[str, object]", row)  # a TypedDict has no computed keys
    fields[score], fields[f"{score}_interval"], fields[f"{score}_sd"] = _summary(values)


def _summary(values: np.ndarray) -> tuple[float | None, list[float] | None, float | None]:
    finite = np.isfinite(values)
    # A resample without a test drug of some seed is averaged over the other seeds.
    count = finite.sum(axis=0)
    means = np.where(finite, values, 0.0).sum(axis=0)[count > 0] / count[count > 0]
    if not finite[:, 0].all():
        return None, None, None
    low, high = np.quantile(means[1:], [0.025, 0.975])
    sd = float(values[:, 0].std(ddof=1)) if len(values) > 1 else None
    return float(means[0]), [float(low), float(high)], sd


def _require_finite(values: np.ndarray, what: str) -> None:
    bad = int((~np.isfinite(values.reshape(len(values), -1))).any(axis=1).sum())
    if bad:
        raise NonFiniteError(f"{what} hold NaN or infinite values in {bad} of {len(values)} rows")
