"""Bulk prediction: a pool of predictors over the parts of a table, resumable, at any URL."""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from ldm_ray.bundle.bundle import checksum, load_bundle
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.metrics import counter, gauge, run_tag
from ldm_ray.cluster.pool import map_in_pool, placed_pool
from ldm_ray.config import Config
from ldm_ray.errors import QueryError
from ldm_ray.layout import CONDITIONS, ERRORS, MANIFEST
from ldm_ray.prediction.bulk.parts import PartPredictor
from ldm_ray.prediction.bulk.run import BulkManifest, BulkRun, parts_done, read_manifest
from ldm_ray.prediction.bulk.staging import stage
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store

CPUS_PER_ACTOR = 0.9


@dataclass(frozen=True, kw_only=True)
class BulkPrediction:
    """What to predict, with which model, and where to write it.

    Attributes:
        tables: Returns the conditions, if they are not staged yet; columns as in `conditions_schema`.
        source: Describes the conditions, so that a folder of other conditions is not resumed.
        bundle: URL of a diffusion model's bundle.
        out: Folder URL of the results.
        config: Settings of this command; the model's own are in its bundle.
        n_samples: Latent samples per condition; by default the bundle's.
        steps: Sampling steps; by default the bundle's.
        overwrite: Replace the predictions at `out`; other files there stay.
    """

    tables: Callable[[], Iterable[pa.Table]]
    source: str
    bundle: str
    out: str
    config: Config
    n_samples: int | None = None
    steps: int | None = None
    overwrite: bool = False


def predict_many(
    asked: BulkPrediction, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> BulkManifest:
    """Predict conditions in parts; existing parts are not predicted again.

    Args:
        asked: What to predict.
        on_progress: Called with the number of conditions done and the total.

    Returns:
        The manifest: what was asked, and the rows predicted and refused.

    Raises:
        QueryError: If `out` holds another prediction, a number is out of range, or every condition was refused.
        BundleError: If the bundle cannot be sampled.
    """
    config, options = asked.config, asked.config.storage_options
    store, loaded = Store(asked.out, options), load_bundle(asked.bundle, "ldm", options)
    tables = asked.tables
    if asked.overwrite and store.exists(MANIFEST):
        rows = iter(tables())
        first = list(itertools.islice(rows, 1))  # read now: a bad table is refused before anything is removed
        remove_predictions(store)
        tables = partial(itertools.chain, first, rows)
    found = read_manifest(store)
    rows_per_part = config.predict.rows_per_part
    run = BulkRun(
        bundle=asked.bundle,
        bundle_id=checksum(loaded.metadata),
        out=asked.out,
        source=asked.source,
        n_rows=found["n_rows"] if found else stage(tables(), store, CONDITIONS, rows_per_part),
        rows_per_part=rows_per_part,
        n_samples=asked.n_samples or loaded.config.predict.n_samples,
        steps=asked.steps,
        seed=config.seed,
        columns=config.predict.columns,
    )
    if found is None:
        store.write_json(MANIFEST, run.described())
    elif differing := [key for key, value in run.described().items() if key != "done" and found.get(key) != value]:
        key = differing[0]
        now = dict(run.described())[key]
        raise QueryError(f"{asked.out} holds predictions with {key} {found.get(key)!r}; this run has {now!r}")
    _predict_parts(run, store, config, on_progress)
    errors = _error_tables(store)
    refused = len(store.read_tables(errors, ["row"])) if errors else 0
    manifest = run.described()
    manifest |= {"n_predicted": run.n_rows - refused, "n_errors": refused, "done": True}
    store.write_json(MANIFEST, manifest)
    if refused == run.n_rows:
        reason = store.read_table(errors[0], ["reason"])["reason"][0]
        raise QueryError(f"none of {refused:,} conditions could be answered; {reason}; see {store.path(ERRORS)}/")
    return manifest


def _predict_parts(run: BulkRun, store: Store, config: Config, on_progress: Callable[[int, int], None]) -> None:
    written = parts_done([*store.names(), *(f"{ERRORS}/{name}" for name in store.names(ERRORS))])
    missing = [part for part in range(run.n_parts) if part not in written]
    done = run.n_rows - sum(map(run.rows_of, missing))
    on_progress(done, run.n_rows)
    if not missing:
        return
    connect(config.ray)
    actors = placed_pool(config.ray, len(missing), CPUS_PER_ACTOR)
    arguments = (run, config.storage_options, 0 if actors.gpus else 1)
    for table in map_in_pool(_PredictParts, arguments, missing, actors):
        done += sum(map(run.rows_of, table["item"].to_pylist()))
        on_progress(done, run.n_rows)


def remove_predictions(store: Store) -> None:
    """Remove a bulk prediction: its own files and no others."""
    for name in store.names():
        if name.startswith("part-") and name.endswith(".parquet"):
            store.remove(name)
    for name in (ERRORS, CONDITIONS, MANIFEST):  # manifest last: without it the rest would be resumed
        store.remove(name)


class _PredictParts:
    """Predicts parts and reports them to Ray's metrics."""

    def __init__(self, run: BulkRun, storage_options: StorageOptions, threads: int) -> None:
        self._parts = PartPredictor(run, storage_options, threads)
        tags = {"run": run_tag(run.out)}
        self._predicted = counter("bulk_conditions_predicted", tags)
        self._refused = counter("bulk_conditions_refused", tags)
        self._per_second = gauge("bulk_conditions_per_second", tags)

    def work(self, item: int) -> None:
        """Predict the part with this number."""
        began = time.monotonic()
        written = self._parts.write(item)
        self._per_second.set((written.rows + written.errors) / (time.monotonic() - began))
        for count, n in ((self._predicted, written.rows), (self._refused, written.errors)):
            if n:  # Ray refuses to add 0
                count.inc(n)


def _error_tables(store: Store) -> list[str]:
    """Return the names of the tables of refused rows, in order."""
    return [f"{ERRORS}/{name}" for name in store.names(ERRORS) if name.endswith(".parquet")]
