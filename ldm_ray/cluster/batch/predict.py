"""Bulk prediction: a pool of predictors over parts of a table, resumable, to any URL."""

import itertools
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from ldm_ray.bundle.bundle import checksum, load_bundle
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.metrics import counter, gauge, run_tag
from ldm_ray.cluster.pool import placed_pool
from ldm_ray.cluster.reported import raise_reported, reported
from ldm_ray.config import Config
from ldm_ray.errors import LdmRayError, QueryError
from ldm_ray.layout import CONDITIONS, ERRORS, MANIFEST
from ldm_ray.prediction.bulk.conditions import stage
from ldm_ray.prediction.bulk.parts import PartPredictor
from ldm_ray.prediction.bulk.run import BulkRun, parts_done
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store

CPUS_PER_ACTOR = 0.9


def predict_many(
    tables: Callable[[], Iterable[pa.Table]],
    source: str,
    bundle: str,
    out: str,
    config: Config,
    n_samples: int | None = None,
    steps: int | None = None,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Predict conditions in parts; parts that are there already are not predicted again.

    Args:
        tables: Makes the conditions, where they are not staged yet; see `prediction/bulk/conditions.py`.
        source: What they are, so that a folder of other conditions is not gone on with.
        bundle: URL of a diffusion model.
        out: Folder URL of the results.
        config: Settings; of the bundle only what is asked of it.
        n_samples: Latent samples a condition; the bundle's by default.
        steps: Of the sampler; the bundle's by default.
        overwrite: Replace the predictions at `out`; other files there stay.
        on_progress: Told how many conditions are done, and in all.

    Returns:
        The manifest: what was asked, rows predicted and refused.

    Raises:
        QueryError: If `out` holds another prediction, or a number is out of range.
        BundleError: If the bundle is none that can be sampled.
    """
    options = config.storage_options
    store, loaded = Store(out, options), load_bundle(bundle, "ldm", options)
    asked = n_samples or loaded.config.predict.n_samples
    if overwrite and store.exists(MANIFEST):
        rows = iter(tables())
        first = list(itertools.islice(rows, 1))  # refused here, where it cannot be read, before anything is removed
        remove_predictions(store)
        tables = partial(itertools.chain, first, rows)
    found = store.read_json(MANIFEST) if store.exists(MANIFEST) else None
    n_rows = int(found["n_rows"]) if found else 0
    rows_per_part = config.predict.rows_per_part
    if found is None:
        n_rows = stage(tables(), store, CONDITIONS, rows_per_part)
    run = BulkRun(
        bundle,
        checksum(loaded.metadata),
        out,
        source,
        n_rows,
        rows_per_part,
        asked,
        steps,
        config.seed,
        config.predict.columns,
    )
    if found is None:
        store.write_json(MANIFEST, run.described() | {"done": False})
    elif differing := [key for key, value in run.described().items() if found.get(key) != value]:
        key = differing[0]
        now = run.described()[key]
        raise QueryError(f"{out} holds predictions with {key} {found.get(key)!r}; this run has {now!r}")
    _predict_parts(run, store, config, on_progress)
    manifest = run.described() | {"done": True} | _counts(run, store)
    store.write_json(MANIFEST, manifest)
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
    data = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
        _Predict,
        fn_constructor_args=(run, config.storage_options, 0 if actors.gpus else 1),
        batch_size=1,
        batch_format="pyarrow",
        **actors.options,
    )
    for table in data.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
        raise_reported(table)
        parts: list[int] = pa.table(table)["part"].to_pylist()
        done += sum(map(run.rows_of, parts))
        on_progress(done, run.n_rows)


def remove_predictions(store: Store) -> None:
    """Remove a bulk prediction: its own files and no others."""
    for name in store.names():
        if name.startswith("part-") and name.endswith(".parquet"):
            store.remove(name)
    for name in (ERRORS, CONDITIONS, MANIFEST):  # the manifest last: without it what is left would be gone on with
        store.remove(name)


class _Predict:
    """An actor of the pool."""

    def __init__(self, run: BulkRun, storage_options: StorageOptions, threads: int) -> None:
        self._parts = PartPredictor(run, storage_options, threads)
        tags = {"run": run_tag(run.out)}
        self._predicted = counter("bulk_conditions_predicted", tags)
        self._refused = counter("bulk_conditions_refused", tags)
        self._per_second = gauge("bulk_conditions_per_second", tags)

    def __call__(self, batch: pa.Table) -> Any:
        parts = batch["item"].to_pylist()
        try:
            for part in parts:
                self._write(part)
        except LdmRayError as error:
            return reported(error)
        return pa.table({"part": parts})

    def _write(self, part: int) -> None:
        began = time.monotonic()
        written = self._parts.write(part)
        self._per_second.set(sum(written.values()) / (time.monotonic() - began))
        for told, n in ((self._predicted, written["rows"]), (self._refused, written["errors"])):
            if n:  # Ray refuses to add nothing
                told.inc(n)


def _counts(run: BulkRun, store: Store) -> dict[str, int]:
    """Count refused rows from the tables of errors."""
    names = [f"{ERRORS}/{name}" for name in _error_names(store, ".parquet")]
    refused = len(store.read_tables(names, ["row"])) if names else 0
    return {"n_predicted": run.n_rows - refused, "n_errors": refused}


def _error_names(store: Store, ending: str) -> list[str]:
    return [name for name in store.names(ERRORS) if name.endswith(ending)] if store.exists(ERRORS) else []
