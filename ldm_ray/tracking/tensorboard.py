"""TensorBoard's event files, in the run's folder at any URL."""

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ldm_ray.layout import TENSORBOARD
from ldm_ray.storage.store import Store
from ldm_ray.tracking.record import RunRecord, RunStatus


class TensorBoardTracker:
    """Writes events to a local file and copies it to the run's folder after each epoch.

    A resumed run adds a file, which TensorBoard shows as the same curve. Events are written in this thread, since
    tensorboardX's SummaryWriter uses another, for which `flush` does not wait.
    """

    name = "tensorboard"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._run: RunRecord | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._events: Any = None

    def start(self, run: RunRecord) -> str:
        """Remember the run; the first epoch opens the file."""
        self._run = run
        return TENSORBOARD

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write a scalar for each metric, at step `epoch`."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        events = self._open()
        for name, value in metrics.items():
            events.write_event(Event(wall_time=time.time(), step=epoch, summary=scalar(name, value)))
        self._copy()

    def conclude(self, epochs: int, figures: Mapping[str, float]) -> None:
        """Write a scalar for each figure at the last step."""
        self.log(epochs, figures)

    def finish(self, status: RunStatus) -> None:
        """Remove the local file; its copy is complete."""
        if self._folder is not None:
            self._events.close()
            self._folder.cleanup()
            self._folder, self._events = None, None

    def _open(self) -> Any:
        if self._folder is None:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.summary import text

            assert self._run is not None
            self._folder = tempfile.TemporaryDirectory(prefix="ldm_ray_")
            # Two processes may write within a second, which is all that the name says of the time.
            self._events = EventsWriter(str(Path(self._folder.name) / "events"), filename_suffix=f".{os.getpid()}")
            settings = "    " + yaml.safe_dump(self._run.settings, sort_keys=False).replace("\n", "\n    ")  # as code
            self._events.write_event(Event(wall_time=time.time(), step=0, summary=text("settings", settings)))
        return self._events

    def _copy(self) -> None:
        assert self._folder is not None
        self._events.flush()
        (file,) = Path(self._folder.name).iterdir()
        self._store.write_bytes(f"{TENSORBOARD}/{file.name}", file.read_bytes())
