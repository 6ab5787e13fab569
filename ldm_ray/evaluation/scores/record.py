"""Contents of an evaluation's `metrics.json`."""

from collections.abc import Mapping
from typing import Literal, NotRequired, Required, TypedDict, cast

from ldm_ray.bundle.health import Health
from ldm_ray.evaluation.scores.bootstrap import Interval
from ldm_ray.layout import METRICS
from ldm_ray.storage.store import Store

Score = Literal[
    "rmse",
    "rmse_infinite_samples",
    "pcc",
    "r2",
    "crps",
    "coverage_50",
    "coverage_80",
    "coverage_95",
    "delta_pcc",
    "systematic_pcc",
    "explained_share",
    "top50_rmse",
    "top50_pcc",
    "precision_at_50",
    "discrimination",
    "discrimination_cosine",
    "energy_distance",
    "mmd",
    "correlation_error",
    "correlation_spearman",
    "top30_overlap",
    "correlation_error_pooled",
    "correlation_spearman_pooled",
    "top30_overlap_pooled",
    "mse_gain_over_best_trivial",
    "mse_gain_over_best_baseline",
    "rmse_normalised",
    "delta_pcc_normalised",
]


class DistributionScores(TypedDict, total=False):
    """Similarity of predicted and measured wells as clouds; `_pooled` is over all cell lines and times together."""

    energy_distance: float | None
    energy_distance_interval: list[float]
    mmd: float | None
    mmd_interval: list[float]
    correlation_error: float | None
    correlation_error_interval: list[float]
    correlation_spearman: float | None
    correlation_spearman_interval: list[float]
    top30_overlap: float | None
    correlation_error_pooled: float | None
    correlation_spearman_pooled: float | None
    top30_overlap_pooled: float | None


class MetricsRow(DistributionScores, total=False):
    """The scores of one prediction; docs/evaluation.md explains their names.

    A score that does not apply is left out; None means undefined on these wells. An interval is [low, high], 95%, over
    compounds.
    """

    model: Required[str]
    prediction: Required[str]
    rmse: Required[float]
    rmse_interval: list[float]
    rmse_infinite_samples: float
    pcc: float | None
    pcc_interval: list[float]
    r2: float | None
    r2_interval: list[float]
    crps: float | None
    crps_interval: list[float]
    coverage_50: float | None
    coverage_50_interval: list[float]
    coverage_80: float | None
    coverage_80_interval: list[float]
    coverage_95: float | None
    coverage_95_interval: list[float]
    delta_pcc: float | None
    delta_pcc_interval: list[float]
    systematic_pcc: float | None
    systematic_pcc_interval: list[float]
    explained_share: float | None
    explained_share_interval: list[float]
    top50_rmse: float | None
    top50_rmse_interval: list[float]
    top50_pcc: float | None
    top50_pcc_interval: list[float]
    precision_at_50: float | None
    precision_at_50_interval: list[float]
    discrimination: float | None
    discrimination_interval: list[float]
    discrimination_cosine: float | None
    discrimination_cosine_interval: list[float]
    mse_gain_over_best_trivial: float
    mse_gain_over_best_trivial_interval: list[float]
    mse_gain_over_best_baseline: float
    mse_gain_over_best_baseline_interval: list[float]
    rmse_normalised: float | None
    delta_pcc_normalised: float | None


class ReplicateCeiling(TypedDict, total=False):
    """See `Ceiling`; empty without replicates, and without delta scores if no replicate has a reserved control."""

    n_pairs: int
    n_wells: int
    n_cell_lines: int
    replicate_rmse: float
    replicate_rmse_interval: list[float]
    replicate_pcc: float
    replicate_pcc_interval: list[float]
    replicate_r2: float
    replicate_r2_interval: list[float]
    replicate_delta_pcc: float
    replicate_delta_pcc_interval: list[float]
    rmse_floor: float
    rmse_floor_interval: list[float]
    delta_pcc_ceiling: float
    delta_pcc_ceiling_interval: list[float]
    delta_pcc_root_of_mean: float
    delta_pcc_root_of_mean_interval: list[float]


class RealAgainstReal(TypedDict):
    """Distribution scores of one half of the measured wells against the other."""

    energy_distance_real: float | None
    mmd_real: float | None
    top30_overlap_half_half: int
    top30_overlap_half_half_pooled: int


class Ceilings(ReplicateCeiling, RealAgainstReal):
    """All ceilings that the measurements allow."""


class ModelDescription(TypedDict):
    """Description of a model; `published_size` exists for PertDiT only, `health` if its parts were measured."""

    name: str
    kind: str
    n_parameters: int
    epochs: int
    best_epoch: int
    encoder: str
    seed: int
    published_size: NotRequired[bool]
    health: NotRequired[Health]


class Comparison(TypedDict):
    """How much better one model is than another on the same wells, with its 95% interval over compounds.

    Attributes:
        model: Name of a diffusion model of ours.
        than: Name of the other model.
        prediction: `one_draw`, or `mean` for each model's mean of the first N draws.
        score: `mse_gain` (share of the other's squared error that is saved), or the difference in `pcc` or `r2`.
        value: Positive if `model` is better.
        interval: [low, high].
    """

    model: str
    than: str
    prediction: Literal["one_draw", "mean"]
    score: Literal["mse_gain", "pcc", "r2"]
    value: float
    interval: list[float]


class BestRows(TypedDict):
    """Names of the rows that gains are measured from."""

    best_trivial: str
    best_baseline: str


class Metrics(BestRows):
    """The whole `metrics.json`.

    Attributes:
        dataset: URL of the dataset.
        simulated: Whether the dataset is simulated.
        split: Split that was scored.
        unseen: What is unseen in the test side.
        n_profiles: Number of scored wells; the counts below are of these wells.
        n_compounds: Number of parent structures.
        n_conditions: Number of conditions (cell line, parent structure, dose, time).
        n_cell_lines: Number of cell lines.
        n_plates: Number of plates.
        seed: Seed of sub-samples, draws and the bootstrap.
        rows: One row per prediction.
        comparisons: Every diffusion model of ours against every other model, paired by well.
        ceiling: Ceilings that the measurements allow.
        models: The scored models.
        notes: What was left out, and the sizes of sub-samples.
    """

    dataset: str
    simulated: bool
    split: str
    unseen: str
    n_profiles: int
    n_compounds: int
    n_conditions: int
    n_cell_lines: int
    n_plates: int
    seed: int
    rows: list[MetricsRow]
    comparisons: NotRequired[list[Comparison]]
    ceiling: Ceilings
    models: list[ModelDescription]
    notes: list[str]


def read_metrics(store: Store, folder: str = "") -> Metrics:
    """Read an evaluation's metrics from a report folder."""
    return cast(Metrics, store.read_json(f"{folder}/{METRICS}" if folder else METRICS))


def add_score(row: DistributionScores, score: Score, interval: Interval | None) -> None:
    """Add a score and its interval to a row; None if undefined."""
    fields = cast("dict[str, object]", row)  # a TypedDict has no computed keys
    fields[score] = None if interval is None else interval.value
    if interval is not None:
        fields[f"{score}_interval"] = interval.as_list()


def interval_of(values: Mapping[str, object], name: str) -> list[float] | None:
    """Return the interval of a score or ceiling; None if it has none."""
    found = values.get(f"{name}_interval")
    return found if isinstance(found, list) else None
