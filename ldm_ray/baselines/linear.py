"""Ridge regression of the change on the control's principal components, fingerprint, dose and time."""

from dataclasses import dataclass

import numpy as np

from ldm_ray.evaluation.wells import Wells

N_COMPONENTS = 10
PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        components: Principal components of the training controls, (k, n_genes).
        basal_mean: (n_genes,).
        feature_mean: (p,).
        feature_scale: (p,).
        coefficients: (p, n_genes).
        intercept: Mean training change, (n_genes,).
        penalty: Chosen on the validation split.
    """

    components: np.ndarray
    basal_mean: np.ndarray
    feature_mean: np.ndarray
    feature_scale: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    penalty: float

    def predict(self, wells: Wells, fingerprints: np.ndarray) -> np.ndarray:
        """Return control plus predicted change, (n, n_genes).

        Args:
            wells: What to predict for.
            fingerprints: Of each compound of the dataset, (n_compounds, n_bits).
        """
        features = _features(wells, fingerprints, self.components, self.basal_mean)
        delta = ((features - self.feature_mean) / self.feature_scale) @ self.coefficients + self.intercept
        return np.asarray(wells.basal + delta)


def fit_ridge(train: Wells, valid: Wells, fingerprints: np.ndarray) -> Ridge:
    """Fit on the training split; choose the penalty by the validation split's squared error.

    Source: Hoerl & Kennard 1970, doi:10.1080/00401706.1970.10488634, in the eigenbasis of X^T X.
    """
    basal_mean = train.basal.mean(axis=0)
    _, _, components = np.linalg.svd(np.unique(train.basal, axis=0) - basal_mean, full_matrices=False)
    components = components[:N_COMPONENTS]
    features = _features(train, fingerprints, components, basal_mean)
    mean = features.mean(axis=0)
    # Bits keep their scale; the other features are brought to a comparable one.
    scale = np.ones(features.shape[1])
    scale[fingerprints.shape[1] :] = np.maximum(features[:, fingerprints.shape[1] :].std(axis=0), 1e-6)
    x = (features - mean) / scale
    delta = train.y.astype(np.float64) - train.basal
    intercept = delta.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(x.T @ x)
    projected = vectors.T @ (x.T @ (delta - intercept))

    def at(penalty: float) -> Ridge:
        coefficients = vectors @ (projected / (eigenvalues + penalty)[:, None])
        return Ridge(components, basal_mean, mean, scale, coefficients, intercept, penalty)

    def error(penalty: float) -> float:
        return float(((at(penalty).predict(valid, fingerprints) - valid.y) ** 2).mean())

    return at(min(PENALTIES, key=error))


def _features(wells: Wells, fingerprints: np.ndarray, components: np.ndarray, basal_mean: np.ndarray) -> np.ndarray:
    frame = wells.frame
    scores = (wells.basal - basal_mean) @ components.T
    dose, time = np.log10(frame["dose_um"].to_numpy(float)), frame["time_h"].to_numpy(float) / 24.0
    bits = fingerprints[frame["compound_id"].to_numpy()]
    return np.concatenate([bits, scores, dose[:, None], time[:, None]], axis=1, dtype=np.float64)
