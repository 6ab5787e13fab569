"""Contents of the IC50 benchmark's `ic50.json`."""

import math
from collections.abc import Mapping
from typing import Literal, Required, TypedDict

Ic50Score = Literal["rmse", "r2", "pcc", "mse_gain_over_best_baseline"]


class Ic50Row(TypedDict, total=False):
    """Scores of one input of the regressor: mean over seeds, [low, high] over drugs, and sd over seeds.

    None means undefined.
    """

    model: Required[str]
    baseline: Required[bool]
    n_rows: Required[int]
    rmse: float | None
    rmse_interval: list[float] | None
    rmse_sd: float | None
    r2: float | None
    r2_interval: list[float] | None
    r2_sd: float | None
    pcc: float | None
    pcc_interval: list[float] | None
    pcc_sd: float | None
    mse_gain_over_best_baseline: float | None
    mse_gain_over_best_baseline_interval: list[float] | None
    mse_gain_over_best_baseline_sd: float | None


class Ic50Side(TypedDict):
    """One split: number of rows on each side by seed, and the scores."""

    n_train: list[int]
    n_valid: list[int]
    n_test: list[int]
    best_baseline: str
    rows: list[Ic50Row]


class PublishedRow(TypedDict):
    """Scores published for other rows of GDSC2."""

    model: str
    rmse: float
    r2: float


class Ic50Metrics(TypedDict):
    """The whole `ic50.json`; `counts` has the fields of `Ic50Counts`, `splits` the keys of `Ic50Split`."""

    counts: dict[str, int]
    dataset: str
    encoder: str
    dose_um: float
    time_h: float
    seeds: list[int]
    splits: dict[str, Ic50Side]
    published: list[PublishedRow]
    notes: list[str]


def rmse_of(row: Ic50Row) -> float:
    """Return a row's RMSE, by which rows are ranked; infinite if undefined."""
    value = row.get("rmse")
    return math.inf if value is None else value


def interval_of(row: Mapping[str, object], score: Ic50Score) -> list[float] | None:
    """Return the interval of a score; None if undefined."""
    found = row[f"{score}_interval"]
    return found if isinstance(found, list) else None
