"""Cross-validates the autoencoder: one run per fold, as many at once as fit, all scored on the same test wells."""

from collections.abc import Callable
from typing import Any, Literal, TypedDict

import numpy as np
import ray

from ldm_ray.bundle.bundle import load_bundle
from ldm_ray.bundle.presence import bundle_exists
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.placement import Placement, share_cluster
from ldm_ray.cluster.progress import start_board, watching
from ldm_ray.cluster.train.run import Run, ensure_bundle
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.folds import fold_dataset, folds
from ldm_ray.errors import BundleError, DataError, LdmRayError
from ldm_ray.evaluation.reconstruction import ReconstructionScores, score_reconstruction
from ldm_ray.layout import FOLDS
from ldm_ray.storage.store import Store
from ldm_ray.training.status import TrainingStatus

SCORES: tuple[Literal["pcc", "r2", "rmse"], ...] = ("pcc", "r2", "rmse")
CPUS_OF_A_FOLD = 0.01
"""CPUs of a fold's driver; its workers have their own."""


class FoldRow(ReconstructionScores):
    """One fold: scores on the test wells, number and loss of its kept epoch, and a line for each failed check."""

    fold: int
    epochs: int
    valid_loss: float
    failed: list[str]


class FoldsTable(TypedDict):
    """`folds.json`: the folds, mean and standard deviation (n - 1) of their scores, and how many ran at once."""

    folds: list[FoldRow]
    mean: dict[str, float]
    sd: dict[str, float]
    at_once: int


FoldsStatus = dict[str, TrainingStatus]
"""The status of each fold by `fold0`, ...."""


def run_folds(
    dataset: PairedDataset,
    out: str,
    config: Config,
    *,
    overwrite: bool = False,
    on_progress: Callable[[FoldsStatus], None] = lambda status: None,
) -> FoldsTable:
    """Train one autoencoder per fold and score each on the fixed test wells; finished folds are not repeated.

    Args:
        dataset: Dataset written by `prepare`.
        out: Folder URL; bundles go to `fold0`, ..., the table to `folds.json`.
        config: Settings of the autoencoder; `ray.num_workers` is per fold.
        overwrite: Start over.
        on_progress: Called with the status of all folds, by `fold0`, ....

    Returns:
        The contents of `folds.json`: the scores of each fold, their mean and standard deviation (n - 1).

    Raises:
        DataError: If the dataset has no test wells, or a fold would be empty.
    """
    store = Store(out, config.storage_options)
    if not dataset.manifest["splits"]["split"]["test"]:
        raise DataError(f"{dataset.url} has no test wells to score folds on")
    if overwrite:
        for name in ("data", FOLDS, *(f"fold{fold}" for fold in folds(dataset))):
            store.remove(name)
    connect(config.ray)
    concurrent, placement = share_cluster(config.ray, 0)
    board = start_board()
    waiting, scores = folds(dataset), dict[int, FoldRow]()
    running: dict[Any, int] = {}
    with watching(board, on_progress):
        while waiting or running:
            while waiting and len(running) < concurrent:
                fold = waiting.pop(0)
                task = _fold.options(num_cpus=CPUS_OF_A_FOLD).remote(
                    dataset.url, store.url, fold, config, placement, board
                )
                running[task] = fold
            (done,), _ = ray.wait(list(running), num_returns=1)
            fold = running.pop(done)
            result: FoldRow | str = ray.get(done)
            if isinstance(result, str):
                raise LdmRayError(f"fold {fold}: {result}")
            scores[fold] = result
    return _write(store, [scores[fold] for fold in sorted(scores)], concurrent)


@ray.remote
def _fold(data: str, out: str, fold: int, config: Config, placement: Placement, board: Any) -> FoldRow | str:
    """Train and score one fold; an error comes back as text, since Ray would wrap it in a traceback."""
    try:
        store, options = Store(out, config.storage_options), config.storage_options
        folder, url = f"data/fold{fold}", store.path(f"fold{fold}")
        if not bundle_exists(url, options):
            part = Store(store.path(folder), options)
            own = fold_dataset(open_dataset(data, options), fold, part)

            def hear(status: TrainingStatus) -> None:
                board.put.remote({f"fold{fold}": status})

            ensure_bundle(Run(kind="vae", dataset=own, out=url, config=config, placement=placement, on_status=hear))
            store.remove(folder)
        bundle = load_bundle(url, "vae", options)
        n_wells = bundle.metadata["trained_on"]["splits"]["split"]["train"]
        wanted = (config.target, config.vae, config.train_vae.long_enough(n_wells), config.seed)
        if (bundle.config.target, bundle.config.vae, bundle.config.train_vae, bundle.config.seed) != wanted:
            raise BundleError(f"{url} was trained with other settings; --overwrite retrains all folds")
        scored = score_reconstruction(bundle, open_dataset(data, options))
    except LdmRayError as error:
        return str(error)
    kept = bundle.metadata["best_epoch"]
    return {
        "fold": fold,
        **scored,
        "epochs": kept + 1,
        "valid_loss": bundle.metadata["history"][kept]["valid_loss"],
        "failed": bundle.metadata.get("health", {}).get("failed", []),
    }


def _write(store: Store, rows: list[FoldRow], concurrent: int) -> FoldsTable:
    values = {name: np.array([row[name] for row in rows]) for name in SCORES}
    table: FoldsTable = {
        "folds": rows,
        "mean": {name: float(value.mean()) for name, value in values.items()},
        "sd": {name: float(value.std(ddof=1)) for name, value in values.items()},
        "at_once": concurrent,
    }
    store.write_json(FOLDS, table)
    return table
