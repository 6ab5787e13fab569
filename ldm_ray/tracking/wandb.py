"""Weights & Biases, online or offline."""

import importlib
import os
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from ldm_ray.errors import SettingsError
from ldm_ray.tracking.record import RunRecord, RunStatus, flat


def check_wandb() -> None:
    """Refuse a missing extra.

    Raises:
        SettingsError: If it is missing.
    """
    try:
        importlib.import_module("wandb")
    except ImportError:
        raise SettingsError(
            "track.wandb needs the extra 'wandb', from the top of the repository:"
            " pip install --constraint constraints.txt --editable '.[wandb]'"
        ) from None


class WandbTracker:
    """Writes a run's settings as its config, and its metrics by epoch.

    Only one process at a time may write a W&B run: Train's controller, or the driver if training failed.
    """

    name = "wandb"

    def __init__(self, project: str, mode: Literal["online", "offline"], group: str) -> None:
        self._project, self._mode, self._group = project, mode, group
        self._folder = os.getcwd()
        self._run: RunRecord | None = None
        self._id = ""
        self._open: Any = None

    def start(self, run: RunRecord) -> str:
        """Choose the id of the run, or take the record's; W&B is contacted at the first epoch."""
        self._run, self._id = run, run.trackers.get(self.name) or uuid.uuid4().hex[:12]
        return self._id

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics at step `epoch`."""
        self._opened().log(dict(metrics), step=epoch)

    def conclude(self, epochs: int, figures: Mapping[str, float]) -> None:
        """Write the figures into the run's summary; an offline run has ended in the controller and takes no more."""
        if self._mode == "online":
            self._opened().summary.update(dict(figures))

    def finish(self, status: RunStatus) -> None:
        """End the run; on the driver, nothing is to be added to a run that finished or is offline."""
        if self._open is None and (status == "finished" or self._mode == "offline"):
            return
        opened = self._opened()
        opened.summary["status"] = status
        opened.finish(exit_code=0 if status == "finished" else 1)
        self._open = None

    def _opened(self) -> Any:
        if self._open is None:
            import wandb

            assert self._run is not None
            source = ("kind", "folder", "git_revision", "dataset", "dataset_sha256", "version", "num_workers", "host")
            self._open = wandb.init(
                project=self._project,
                group=self._group,
                name=self._run.name,
                id=self._id,
                resume="allow",
                mode=self._mode,
                dir=self._folder,
                config=flat(self._run.settings) | {f"run.{name}": getattr(self._run, name) for name in source},
                settings=wandb.Settings(silent=True, console="off"),
            )
        return self._open
