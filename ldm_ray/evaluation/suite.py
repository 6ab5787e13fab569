"""Scores every prediction on the same wells and returns the content of `metrics.json`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ldm_ray.bundle.bundle import Bundle, check_splits
from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.manifest import by_of
from ldm_ray.data.wells import Wells, draw_sample, open_wells
from ldm_ray.errors import BundleError
from ldm_ray.evaluation.baselines.fit import TRIVIAL, fit_baselines
from ldm_ray.evaluation.baselines.truth import open_truth
from ldm_ray.evaluation.comparison import compare_models
from ldm_ray.evaluation.judge import Judge
from ldm_ray.evaluation.predictions import model_inputs
from ldm_ray.evaluation.scores.predicted import PredictedWells
from ldm_ray.evaluation.scores.record import Metrics, MetricsRow, ModelDescription, ReplicateCeiling, Score, interval_of
from ldm_ray.evaluation.scoring import BlockRunner, Scoring, in_turn
from ldm_ray.evaluation.tally import Tally, merge
from ldm_ray.keys import keys_of
from ldm_ray.settings import EvaluateSettings, PertditSettings

OnStage = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """The scores, and the data for pictures and exports.

    Attributes:
        metrics: The content of `metrics.json`.
        wells: The sampled wells.
        predictions: Predictions for them, in the order of the table.
        correlations: Gene-gene correlations within cell line and time over all wells: measured, then of each row.
    """

    metrics: Metrics
    wells: Wells
    predictions: list[PredictedWells]
    correlations: list[np.ndarray]


def evaluate(
    dataset: PairedDataset,
    bundles: Sequence[Bundle],
    settings: EvaluateSettings,
    seed: int,
    on_progress: OnStage = lambda what, done, total: None,
    run: BlockRunner = in_turn,
    names: Sequence[str] = (),
) -> Evaluation:
    """Score models beside baselines, ablations and ceilings; wells are read in blocks.

    Args:
        dataset: The paired dataset, with the bundles' genes.
        bundles: The models.
        settings: Split, sub-samples, intervals.
        seed: Seed of sub-samples, draws and the bootstrap.
        on_progress: Called with the current step, and wells done and in total.
        run: Scores the blocks.
        names: Names of the bundles' rows; by default the bundles' kinds.

    Raises:
        BundleError: If genes or splits differ.
        NonFiniteError: If a prediction is NaN or infinite.
    """
    for bundle in bundles:
        if bundle.kind == "vae":
            raise BundleError("an autoencoder alone predicts nothing; give the bundle of a model trained on it")
        bundle.check_genes(dataset.manifest["genes"], dataset.url)
        check_splits(bundle, dataset.manifest["splits"], dataset.url)
    scoring = prepare_scoring(dataset, bundles, settings, seed, on_progress, names)
    tally = merge(run(scoring, lambda done, total: on_progress("scoring wells", done, total)))
    return conclude(dataset, scoring, tally)


def prepare_scoring(
    dataset: PairedDataset,
    bundles: Sequence[Bundle],
    settings: EvaluateSettings,
    seed: int,
    on_progress: OnStage = lambda what, done, total: None,
    names: Sequence[str] = (),
) -> Scoring:
    """List the scored wells, draw the sample, and fit the baselines; arguments as in `evaluate`."""
    reader = open_wells(dataset, settings.split, settings.max_profiles, seed)
    truth = open_truth(dataset)
    baselines = fit_baselines(
        open_wells(dataset, "train"),
        open_wells(dataset, "valid"),
        MorganEncoder().encode(dataset.parent_smiles.tolist()),
        truth,
        seed,
        settings.rows_per_block,
        lambda done, total: on_progress("fitting baselines", done, total),
    )
    compounds = reader.index["compound_id"].to_numpy()
    names = names or row_names([bundle.kind for bundle in bundles])
    return Scoring(
        reader=reader,
        sample=draw_sample(reader.index, settings.sample_wells, seed),
        groups=np.asarray(reader.index.groupby(["cell_id", "time_h"]).ngroup()),
        half=keys_of(f"{seed}:half:{key}" for key in reader.index["profile_key"]) & 1,
        baselines=baselines,
        models=[model_inputs(dataset, bundle, compounds, name) for bundle, name in zip(bundles, names, strict=True)],
        truth=truth,
        settings=settings,
        seed=seed,
    )


def row_names(kinds: Sequence[str]) -> list[str]:
    """Name rows after kinds; a second bundle of a kind is, for example, `ldm-2`."""
    names = []
    for number, kind in enumerate(kinds):
        before = kinds[:number].count(kind)
        names.append(f"{kind}-{before + 1}" if before else kind)
    return names


def conclude(dataset: PairedDataset, scoring: Scoring, tally: Tally) -> Evaluation:
    """Turn tallies into the scores of every row, with intervals, gains and ceilings."""
    wells = scoring.reader.read(scoring.sample.numbers)
    judge = Judge(scoring, wells, tally.halves, by_of(dataset.manifest["splits"]))
    rows = [judge.score(row) for row in tally.rows]
    best = judge.add_gaps(rows, tally.rows)
    ceiling = judge.ceiling()
    add_normalised(rows, ceiling)
    index = scoring.reader.index
    metrics: Metrics = {
        "dataset": dataset.url,
        "simulated": dataset.manifest["simulated"],
        "split": scoring.settings.split,
        "unseen": by_of(dataset.manifest["splits"]),
        "n_profiles": len(index),
        "n_compounds": int(index["compound_id"].nunique()),
        "n_conditions": int(index["condition_id"].nunique()),
        "n_cell_lines": int(index["cell_id"].nunique()),
        "n_plates": int(index["plate"].nunique()),
        "seed": scoring.seed,
        **best,
        "rows": rows,
        "comparisons": compare_models(
            judge.boot,
            judge.compound,
            tally.rows,
            [inputs.name for inputs in scoring.models if inputs.bundle.kind == "ldm"],
            [inputs.name for inputs in scoring.models],
        ),
        "ceiling": {**ceiling, **judge.distribution.real_against_real()},
        "models": [describe_model(inputs.name, inputs.bundle) for inputs in scoring.models],
        "notes": judge.notes(dataset.cells),
    }
    correlations = [judge.distribution.real[True][0], *(row.moments.correlation(within=True) for row in tally.rows)]
    return Evaluation(metrics, wells, [row.prediction() for row in tally.rows], correlations)


def describe_model(name: str, bundle: Bundle) -> ModelDescription:
    """Describe a model: its kind, size, epochs, encoder and seed."""
    networks = [bundle.build_ldm(), bundle.build_vae()] if bundle.kind == "ldm" else [bundle.build_baseline()]
    described: ModelDescription = {
        "name": name,
        "kind": bundle.kind,
        "n_parameters": sum(p.numel() for network in networks for p in network.parameters()),
        "epochs": len(bundle.metadata["history"]),
        "best_epoch": bundle.metadata["best_epoch"] + 1,
        "encoder": bundle.metadata["encoder"]["name"],
        "seed": bundle.config.seed,
    }
    if "health" in bundle.metadata:
        described["health"] = bundle.metadata["health"]
    if bundle.kind.startswith("pertdit"):
        width = bundle.metadata["encoder"]["dim"]
        described["published_size"] = bundle.config.pertdit == PertditSettings() and width == 1024
    return described


def add_normalised(rows: list[MetricsRow], ceiling: ReplicateCeiling) -> None:
    """Add (score - best trivial) / (ceiling - best trivial), with the best trivial row of each score.

    None if the ceiling does not lie beyond that row's interval.

    Source: docs/evaluation.md, `of ceiling`.
    """
    _normalise(rows, "rmse", "rmse_normalised", -1.0, ceiling.get("rmse_floor"))
    _normalise(rows, "delta_pcc", "delta_pcc_normalised", 1.0, ceiling.get("delta_pcc_ceiling"))


def _normalise(rows: list[MetricsRow], score: Score, normalised: Score, sign: float, limit: float | None) -> None:
    """Add one normalised score; `sign` is 1 if higher is better, else -1."""
    trivial = [
        (value, interval)
        for row in rows
        if row["model"] in TRIVIAL
        and (value := row.get(score)) is not None
        and (interval := interval_of(row, score)) is not None
    ]
    best, bounds = max(trivial, key=lambda found: sign * found[0], default=(None, None))
    for row in rows:
        row[normalised] = None
        own = row.get(score)
        if limit is None or best is None or bounds is None or own is None:
            continue
        if sign * limit > max(sign * bound for bound in bounds):
            row[normalised] = (own - best) / (limit - best)
