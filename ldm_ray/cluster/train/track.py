"""Keeps a run's record and trackers up to date, by callbacks in Ray Train's controller."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray.train

from ldm_ray.bundle.health import Health
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.errors import LdmRayError, NonFiniteError
from ldm_ray.evaluation.health.figures import health_figures
from ldm_ray.layout import RUN_RECORD, TENSORBOARD
from ldm_ray.settings import TrackSettings
from ldm_ray.storage.store import Store
from ldm_ray.tracking.record import (
    RunRecord,
    RunStatus,
    begin_record,
    now,
    read_record,
    resumed_record,
    with_epoch,
    write_record,
)
from ldm_ray.tracking.trackers import Guarded, build_trackers

log = logging.getLogger(__name__)


def start_run(
    store: Store, kind: str, dataset: PairedDataset, config: Config, num_workers: int, *, resume: bool
) -> RunRecord:
    """Write the record of a run that starts or resumes, and start each tracker.

    Args:
        store: The run's folder.
        kind: What is trained.
        dataset: The paired dataset.
        config: All settings.
        num_workers: Number of Ray Train workers.
        resume: Continue the existing record, if there is one.
    """
    run = begin_record(store.url, kind, dataset, config, num_workers)
    if resume and (old := _recorded(store)):
        run = resumed_record(old, run)
    else:
        store.remove(TENSORBOARD)
    trackers = build_trackers(config.track, store, run)
    for tracker in trackers:
        tracker.start()
    run = _heard(run, trackers)
    write_record(store, run)
    return run


@dataclass
class Ending:
    """What is known of a run when it ends.

    Attributes:
        status: How it ended.
        health: What was measured of its bundle.
    """

    status: RunStatus = "failed"
    health: Health = field(default_factory=Health)


def finish_run(run: RunRecord, store: Store, track: TrackSettings, ending: Ending, seconds: float) -> None:
    """Record how a run ended, and notify each tracker; never raises, so as not to hide how the run ended.

    Args:
        run: The record that `start_run` returned.
        store: The run's folder.
        track: Settings of the trackers.
        ending: How it ended.
        seconds: Seconds of this attempt.
    """
    latest = _recorded(store) or run
    trackers, figures = build_trackers(track, store, latest), health_figures(ending.health)
    for tracker in trackers:
        if figures:
            tracker.conclude(latest.epochs, {f"health/{name}": value for name, value in figures.items()})
        tracker.finish(ending.status)
    done = replace(latest, status=ending.status, finished=now(), seconds=round(run.seconds + seconds, 3))
    done = replace(done, health=figures, warnings=(*done.warnings, *ending.health.get("failed", [])))
    _keep(store, _heard(done, trackers))
    for warning in latest.warnings:
        if warning not in run.warnings:  # the driver has logged its own already
            log.warning(warning)


@contextmanager
def finishing(run: RunRecord, store: Store, track: TrackSettings) -> Iterator[Ending]:
    """Record how the block ended: Ctrl-C is a failure too; a kill leaves the run `running`."""
    began, ending = time.monotonic(), Ending()
    try:
        yield ending
        ending.status = "finished"
    except NonFiniteError:
        ending.status = "diverged"
        raise
    finally:
        finish_run(run, store, track, ending, time.monotonic() - began)


class TrackingCallback(ray.train.UserCallback):
    """Passes each epoch on to the record and the trackers; built on the driver, called in Train's controller.

    Epochs that are repeated after a restart, with the same losses, are not passed on again.
    """

    def __init__(self, run: RunRecord, store: Store, track: TrackSettings) -> None:
        self._run, self._store = run, store
        self._trackers = build_trackers(track, store, run)
        self._began, self._seconds_before = time.time(), run.seconds

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray.train.Checkpoint | None
    ) -> None:
        """Take a report of all workers; only the end of an epoch is passed on."""
        row = metrics[0]
        if "epoch" in row and int(row["epoch"]) >= self._run.epochs:
            values = {name: float(value) for name, value in row.items() if _is_finite(value) and name != "epoch"}
            self._run = with_epoch(self._run, int(row["epoch"]) + 1, values)
            for tracker in self._trackers:
                tracker.log(self._run.epochs, values)
            self._record()
        if row.get("finished"):
            for tracker in self._trackers:
                tracker.finish("finished")

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Count a failure of workers; Ray Train decides whether to restart them."""
        self._run = replace(self._run, failures=self._run.failures + 1)
        self._record()

    def _record(self) -> None:
        seconds = round(self._seconds_before + time.time() - self._began, 3)
        self._run = _heard(replace(self._run, seconds=seconds), self._trackers)
        _keep(self._store, self._run)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _heard(run: RunRecord, trackers: list[Guarded]) -> RunRecord:
    """Return the record with ids and warnings of the trackers."""
    ids = {tracker.name: tracker.run_id for tracker in trackers if tracker.run_id}
    warnings = [tracker.warning for tracker in trackers if tracker.warning]
    return replace(run, trackers=run.trackers | ids, warnings=tuple(dict.fromkeys([*run.warnings, *warnings])))


def _recorded(store: Store) -> RunRecord | None:
    try:
        return read_record(store)
    except LdmRayError:
        return None


def _keep(store: Store, run: RunRecord) -> None:
    """Write a record; a failure to do so must not end the run."""
    try:
        write_record(store, run)
    except LdmRayError as error:
        log.warning("cannot write %s: %s", RUN_RECORD, error)
