"""Ridge regression of the change on the control's principal components, fingerprint, dose and time."""

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from ldm_ray.data.wells import Wells

N_COMPONENTS = 10
PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


@dataclass(frozen=True)
class Features:
    """Regressors of the change: fingerprint bits, control scores, log10 dose and time.

    Attributes:
        fingerprints: Bits of each compound of the dataset, (n_compounds, n_bits).
        components: Principal components of controls, (k, n_genes).
        basal_mean: Mean of those controls, (n_genes,).
    """

    fingerprints: np.ndarray
    components: np.ndarray
    basal_mean: np.ndarray

    @property
    def n_bits(self) -> int:
        """Number of features that keep their scale."""
        return int(self.fingerprints.shape[1])

    @property
    def width(self) -> int:
        """Number of features."""
        return self.n_bits + len(self.components) + 2

    def of(self, wells: Wells) -> np.ndarray:
        """Return the features of wells, (n, width), float64."""
        frame = wells.frame
        scores = (wells.basal - self.basal_mean) @ self.components.T
        dose, time = np.log10(frame["dose_um"].to_numpy(float)), frame["time_h"].to_numpy(float) / 24.0
        bits = self.fingerprints[frame["compound_id"].to_numpy()]
        return np.concatenate([bits, scores, dose[:, None], time[:, None]], axis=1, dtype=np.float64)


def control_features(fingerprints: np.ndarray, controls: np.ndarray) -> Features:
    """Build the features, with principal components of the given control profiles, (n, n_genes)."""
    mean = controls.mean(axis=0)
    centred = controls.astype(np.float64) - mean
    n = centred.shape[1]
    _, vectors = scipy.linalg.eigh(centred.T @ centred, subset_by_index=[max(0, n - N_COMPONENTS), n - 1])
    return Features(fingerprints, vectors[:, ::-1].T, mean)


@dataclass
class NormalEquations:
    """Sums for least squares over wells added block by block, float64."""

    width: int
    n_genes: int
    n: int = 0
    x_sum: np.ndarray = field(init=False)
    y_sum: np.ndarray = field(init=False)
    xx: np.ndarray = field(init=False)
    xy: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.x_sum, self.y_sum = np.zeros(self.width), np.zeros(self.n_genes)
        self.xx, self.xy = np.zeros((self.width, self.width)), np.zeros((self.width, self.n_genes))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add features (n, width) and changes (n, n_genes)."""
        self.n += len(x)
        self.x_sum += x.sum(axis=0)
        self.y_sum += y.sum(axis=0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def error_of(self, coefficients: np.ndarray, intercept: np.ndarray) -> float:
        """Squared error of y = x B + c over these wells, minus the part that depends on neither B nor c."""
        fit = np.sum((self.xx @ coefficients) * coefficients) - 2 * np.sum(self.xy * coefficients)
        cross = 2 * (self.x_sum @ coefficients - self.y_sum) @ intercept
        return float(fit + cross + self.n * intercept @ intercept)


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        features: Its regressors.
        coefficients: (width, n_genes), for unscaled features.
        intercept: (n_genes,).
        penalty: Chosen on the validation split.
    """

    features: Features
    coefficients: np.ndarray
    intercept: np.ndarray
    penalty: float

    def predict(self, wells: Wells) -> np.ndarray:
        """Return control plus predicted change, (n, n_genes), float32."""
        delta = self.features.of(wells) @ self.coefficients + self.intercept
        return np.asarray(wells.basal + delta, dtype=np.float32)


def fit_ridge(features: Features, train: NormalEquations, valid: NormalEquations) -> Ridge:
    """Solve on the training wells; choose the penalty by the validation wells' squared error.

    Bits keep their scale; the other features are scaled to standard deviation 1.

    Source: Hoerl & Kennard 1970, doi:10.1080/00401706.1970.10488634, in the eigenbasis of X^T X.
    """
    mean, y_mean = train.x_sum / train.n, train.y_sum / train.n
    covariance = train.xx - train.n * np.outer(mean, mean)
    scale = np.ones(train.width)
    spread = np.sqrt(np.maximum(covariance.diagonal() / train.n, 0.0))
    scale[features.n_bits :] = np.maximum(spread[features.n_bits :], 1e-6)
    eigenvalues, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    projected = vectors.T @ ((train.xy - train.n * np.outer(mean, y_mean)) / scale[:, None])

    def at(penalty: float) -> Ridge:
        scaled = vectors @ (projected / (np.maximum(eigenvalues, 0.0) + penalty)[:, None])
        coefficients = scaled / scale[:, None]
        return Ridge(features, coefficients, y_mean - mean @ coefficients, penalty)

    def error(penalty: float) -> float:
        fitted = at(penalty)
        return valid.error_of(fitted.coefficients, fitted.intercept)

    return at(min(PENALTIES, key=error))
