"""A regressor of drug sensitivity on expression and compound features.

    LN_IC50 = mean + sd MLP(P (x - x_mean) / x_scale)

P holds the leading principal components of the scaled training rows. A few hundred compounds and cell lines span far
fewer directions than there are features: the components keep 99.9% of the variance, make a fit several times faster,
and drop directions without training data (whose weights would keep their random initial values).

Source: the input and the target follow Kim & Yoo, Table 2 (predicted profile and compound embedding to LN_IC50).

Note:
    The paper does not state the regressor's layers; 512-128-1 and the projection are ours.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from ldm_ray.errors import NonFiniteError, ShapeError

HIDDEN_WIDTHS = (512, 128)
DROPOUT = 0.2
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
ROWS_PER_STEP = 256
MAX_EPOCHS = 60
PATIENCE_EPOCHS = 8
MAX_COMPONENTS = 512
ROWS_FOR_COMPONENTS = 2048
VARIANCE_KEPT = 0.999
LARGEST_SCORE = 5.0
"""Scaled features are clipped here: a bit set in one of 200 training compounds would otherwise be 14 deviations."""
ROWS_PER_PREDICTION = 4096


class Ic50Regressor(nn.Module):
    """MLP on scaled and projected features.

    Args:
        x_mean: Mean of each feature over the training rows, (width_in,).
        x_scale: Its standard deviation, (width_in,); infinite for a constant feature, which is thereby ignored.
        components: Projection of scaled features, (width_in, k).
        y_mean: Mean LN_IC50 of the training rows.
        y_sd: Its standard deviation.
    """

    def __init__(self, x_mean: Tensor, x_scale: Tensor, components: Tensor, y_mean: Tensor, y_sd: Tensor) -> None:
        super().__init__()
        self.x_mean: Tensor
        self.x_scale: Tensor
        self.components: Tensor
        self.y_mean: Tensor
        self.y_sd: Tensor
        for name, value in (("x_mean", x_mean), ("x_scale", x_scale), ("components", components)):
            self.register_buffer(name, value)
        self.register_buffer("y_mean", y_mean)
        self.register_buffer("y_sd", y_sd)
        layers: list[nn.Module] = []
        width = components.shape[1]
        for hidden in HIDDEN_WIDTHS:
            layers += [nn.Linear(width, hidden), nn.LeakyReLU(0.01), nn.Dropout(DROPOUT)]
            width = hidden
        self.head = nn.Sequential(*layers, nn.Linear(width, 1))

    def project(self, x: Tensor) -> Tensor:
        """Map features (batch, width_in) to scaled components (batch, k)."""
        return scaled(x, self.x_mean, self.x_scale) @ self.components

    def forward(self, x: Tensor) -> Tensor:
        """Map features (batch, width_in) to LN_IC50, (batch,)."""
        return self.y_mean + self.y_sd * self.score(self.project(x))

    def score(self, h: Tensor) -> Tensor:
        """Map components (batch, k) to the standardised target, (batch,)."""
        out: Tensor = self.head(h)
        return out[:, 0]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predict LN_IC50, (n,), from features (n, width_in).

        Raises:
            ShapeError: If the number of features is wrong.
        """
        if x.ndim != 2 or x.shape[1] != len(self.x_mean):
            raise ShapeError(f"features must be (n, {len(self.x_mean)}); got {x.shape}")
        self.eval()
        with torch.no_grad():
            parts = [self(part) for part in _tensor(x).split(ROWS_PER_PREDICTION)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)


def scaled(x: Tensor, x_mean: Tensor, x_scale: Tensor) -> Tensor:
    """Scale features and clip their tails, same shape as `x`."""
    return ((x - x_mean) / x_scale).clamp(-LARGEST_SCORE, LARGEST_SCORE)


def fit_ic50(
    x_train: np.ndarray, y_train: np.ndarray, x_valid: np.ndarray, y_valid: np.ndarray, seed: int
) -> Ic50Regressor:
    """Fit the regressor; the epoch with the smallest validation error is kept.

    Scaling, projection and the target's moments come from the training rows alone. Torch's global generator is
    unchanged afterwards.

    Args:
        x_train: Features, (n, width_in).
        y_train: LN_IC50, (n,).
        x_valid: Features of the validation rows, used for early stopping, (m, width_in).
        y_valid: Their LN_IC50, (m,).
        seed: Seed of weights, dropout and order; same seed, same numbers.

    Raises:
        NonFiniteError: If a feature or target is NaN or infinite.
        ShapeError: If shapes do not match.
    """
    _check(x_train, y_train, "training")
    _check(x_valid, y_valid, "validation")
    # Only the CPU's generator: `torch.manual_seed` would also reseed the GPUs, which the fork does not restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _fit(_tensor(x_train), _tensor(y_train), _tensor(x_valid), _tensor(y_valid))


def _fit(x: Tensor, y: Tensor, x_valid: Tensor, y_valid: Tensor) -> Ic50Regressor:
    spread, x_mean = torch.std_mean(x, dim=0, correction=0)
    x_scale = torch.where(spread > 1e-6, spread, torch.inf)
    y_mean, y_sd = y.mean(), y.std(correction=0).clamp_min(1e-6)
    components = _components(scaled(x[torch.randperm(len(x))[:ROWS_FOR_COMPONENTS]], x_mean, x_scale))
    model = Ic50Regressor(x_mean, x_scale, components, y_mean, y_sd)
    h, target = model.project(x), (y - y_mean) / y_sd
    h_valid, target_valid = model.project(x_valid), (y_valid - y_mean) / y_sd
    optimizer = torch.optim.AdamW(model.head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best_loss, best, waited = float("inf"), copy.deepcopy(model.head.state_dict()), 0
    for _ in range(MAX_EPOCHS):
        model.train()
        for rows in torch.randperm(len(h)).split(ROWS_PER_STEP):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model.score(h[rows]), target[rows])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            valid_loss = float(nn.functional.mse_loss(model.score(h_valid), target_valid))
        if valid_loss < best_loss:
            best_loss, best, waited = valid_loss, copy.deepcopy(model.head.state_dict()), 0
        else:
            waited += 1
        if waited == PATIENCE_EPOCHS:
            break
    model.head.load_state_dict(best)
    return model.eval()


def _components(x: Tensor) -> Tensor:
    """Leading principal components of centred rows, (width_in, k), scaled to an average variance of 1.

    Source: Halko, Martinsson & Tropp 2011, doi:10.1137/090771806 (randomised decomposition).
    """
    _, singular, vectors = torch.svd_lowrank(x, q=min(MAX_COMPONENTS, *x.shape), niter=2)
    power = singular**2
    k = min(len(power), 1 + int((power.cumsum(0) < VARIANCE_KEPT * x.square().sum()).sum()))
    scale = torch.sqrt(power[:k].sum() / (len(x) * k)).clamp_min(1e-6)
    return vectors[:, :k] / scale


def _check(x: np.ndarray, y: np.ndarray, what: str) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1] or len(x) == 0:
        raise ShapeError(
            f"{what} features and targets must be (n, width) and (n,), n at least 1; got {x.shape}, {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise NonFiniteError(f"{what} features and targets of the IC50 regressor must be finite; got NaN or infinity")


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
