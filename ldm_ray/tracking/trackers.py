"""Trackers that follow a run: TensorBoard, MLflow, W&B. A failing tracker is reported once and never stops a run."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ldm_ray.settings import TrackSettings
from ldm_ray.storage.store import Store
from ldm_ray.tracking.mlflow import MlflowTracker, check_mlflow
from ldm_ray.tracking.record import RunRecord, RunStatus
from ldm_ray.tracking.tensorboard import TensorBoardTracker
from ldm_ray.tracking.wandb import WandbTracker, check_wandb

RETRY_AFTER_S = 60.0
"""Seconds before a failed tracker is tried again; longer if failing took long."""

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One tracker, in one process; the driver and Train's controller each have their own."""

    name: str

    def start(self, run: RunRecord) -> str:
        """Start the run, or resume the one that `run.trackers` names; return its id."""

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, counted from 1."""

    def conclude(self, epochs: int, figures: Mapping[str, float]) -> None:
        """Log what was measured of the finished model; called on the driver, before `finish`."""

    def finish(self, status: RunStatus) -> None:
        """Record how the run ended; may be called in both processes."""


class Guarded:
    """Shields a run from a tracker's failures; rows that could not be logged are sent again with later ones."""

    def __init__(self, tracker: Tracker, run: RunRecord) -> None:
        self.name = tracker.name
        self.run_id = run.trackers.get(tracker.name, "")
        self._complaint = f"tracking by {tracker.name} fails, the run continues: "
        self.warning = next((said for said in run.warnings if said.startswith(self._complaint)), "")
        self._tracker, self._run, self._started = tracker, run, False
        self._waiting: list[tuple[int, Mapping[str, float]]] = []
        self._again_at = 0.0

    def start(self) -> None:
        """Start the run with this tracker."""
        self._attempt(self._send)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch."""
        self._waiting.append((epoch, metrics))
        self._attempt(self._send)

    def conclude(self, epochs: int, figures: Mapping[str, float]) -> None:
        """Log what was measured of the model that the run made in so many epochs."""
        self._attempt(self._send)
        self._attempt(lambda: self._tracker.conclude(epochs, figures))

    def finish(self, status: RunStatus) -> None:
        """Log what is waiting, and how the run ended."""
        self._again_at = 0.0
        self._attempt(self._send)
        self._attempt(lambda: self._tracker.finish(status))

    def _send(self) -> None:
        if not self._started:
            self.run_id = self._tracker.start(self._run)
            self._started = True
        while self._waiting:
            self._tracker.log(*self._waiting[0])
            del self._waiting[0]

    def _attempt(self, act: Callable[[], None]) -> None:
        """Try an action, but spend at most a tenth of the time on a server that does not answer."""
        began = time.monotonic()
        if began < self._again_at:
            return
        try:
            act()
        except Exception as error:  # each client has its own errors
            took = time.monotonic() - began
            self._again_at = time.monotonic() + max(RETRY_AFTER_S, 10 * took)
            if not self.warning:
                self.warning = self._complaint + " ".join(str(error).split())[:160]
                log.warning(self.warning)


def check_trackers(track: TrackSettings) -> None:
    """Refuse trackers that cannot work, before any training.

    Raises:
        SettingsError: If a URI has another form, or an extra is not installed.
    """
    if track.mlflow:
        check_mlflow(track.mlflow)
    if track.wandb:
        check_wandb()


def build_trackers(track: TrackSettings, store: Store, run: RunRecord) -> list[Guarded]:
    """Return the trackers of the settings; nothing is opened yet, so they can be sent to another process.

    Args:
        track: Settings of the trackers.
        store: The run's folder.
        run: The run's record.
    """
    trackers: list[Tracker] = []
    if track.tensorboard:
        trackers.append(TensorBoardTracker(store))
    if track.mlflow:
        trackers.append(MlflowTracker(track.mlflow, track.experiment))
    if track.wandb:
        trackers.append(WandbTracker(track.wandb, track.wandb_mode, track.experiment))
    return [Guarded(tracker, run) for tracker in trackers]
