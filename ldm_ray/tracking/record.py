"""The record of a training run (`run.json` in its folder), and the table of all runs below a folder."""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal

from ldm_ray import __version__
from ldm_ray.config import PRESETS, Config, config_from_dict
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.errors import DataError
from ldm_ray.layout import MANIFEST, RUN_RECORD
from ldm_ray.settings import optimiser_group
from ldm_ray.storage.store import Store
from ldm_ray.tracking.revision import source_revision

FORMAT_VERSION = 1
RunStatus = Literal["running", "finished", "failed", "diverged", "stopped"]


@dataclass(frozen=True)
class RunRecord:
    """One training run.

    Attributes:
        name: Last part of its folder.
        kind: `vae`, `ldm` or a rival's name.
        folder: URL of its bundle.
        status: Status of the run; a kill leaves it `running`.
        started: Start of the first attempt, UTC, ISO 8601.
        finished: End of the last attempt; empty while it runs.
        seconds: Duration of all attempts together.
        epochs: Epochs trained so far, over all attempts.
        last: Metrics of the last epoch.
        best: Metrics of the epoch with the lowest validation loss.
        failures: How often workers have failed; Ray Train restarts them up to `ray.max_failures` times.
        warnings: Failures of trackers, and failed checks of the model, one line each.
        settings: Resolved settings, without storage options.
        git_revision: See `source_revision`.
        version: Version of the package.
        dataset: URL of the dataset.
        dataset_sha256: Checksum of its manifest, which holds the checksums of its files.
        num_workers: Number of Ray Train workers.
        host: Host name of the driver.
        trackers: Name of each tracker to its own id of this run.
        health: Measurements of the finished model's parts by name; empty in the records of older versions.
    """

    name: str
    kind: str
    folder: str
    status: RunStatus
    started: str
    dataset: str
    dataset_sha256: str
    git_revision: str
    num_workers: int
    host: str
    settings: dict[str, object]
    version: str = __version__
    finished: str = ""
    seconds: float = 0.0
    epochs: int = 0
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    warnings: tuple[str, ...] = ()
    trackers: dict[str, str] = field(default_factory=dict)
    health: dict[str, float] = field(default_factory=dict)


def begin_record(folder: str, kind: str, dataset: PairedDataset, config: Config, num_workers: int) -> RunRecord:
    """Return the record of a run that starts now."""
    return RunRecord(
        name=run_name(folder),
        kind=kind,
        folder=folder,
        status="running",
        started=now(),
        dataset=os.path.abspath(dataset.url) if "://" not in dataset.url else dataset.url,
        dataset_sha256=sha256(dataset.store.read_bytes(MANIFEST)).hexdigest(),
        git_revision=source_revision(),
        num_workers=num_workers,
        host=socket.gethostname(),
        settings=config.model_dump(mode="json"),
    )


def run_name(folder: str) -> str:
    """Return the name of a run with this folder."""
    return folder.rstrip("/").rsplit("/", 1)[-1]


def resumed_record(old: RunRecord, begun: RunRecord) -> RunRecord:
    """Return the record of a resumed run, with the code, workers and host of this attempt."""
    kept = ("started", "seconds", "epochs", "last", "best", "failures", "trackers")
    return replace(begun, **{name: getattr(old, name) for name in kept})


def with_epoch(run: RunRecord, epochs: int, metrics: dict[str, float]) -> RunRecord:
    """Return the record after an epoch.

    Args:
        run: The record before it.
        epochs: Epochs trained so far, including this one.
        metrics: Metrics of this epoch.
    """
    better = not run.best or metrics["valid_loss"] < run.best["valid_loss"]
    return replace(run, epochs=epochs, last=metrics, best=metrics if better else run.best)


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_record(store: Store, run: RunRecord) -> None:
    """Write a record into its run's folder."""
    store.write_json(RUN_RECORD, {"format_version": FORMAT_VERSION} | asdict(run))


def read_record(store: Store, name: str = RUN_RECORD) -> RunRecord:
    """Read a record.

    Raises:
        DataError: If the file is not a record.
    """
    values = store.read_json(name)
    names = {own.name for own in fields(RunRecord)}
    if values.pop("format_version", None) != FORMAT_VERSION or names - values.keys() - {"health"}:
        raise DataError(f"{store.path(name)} is not the record of a run in format {FORMAT_VERSION}")
    values["warnings"] = tuple(values["warnings"])
    return RunRecord(**{key: value for key, value in values.items() if key in names})


def runs_table(root: Store) -> list[RunRecord]:
    """Return the runs in a folder and below it, newest first, each with the folder where it was found.

    Raises:
        DataError: If the folder does not exist, or holds no run.
    """
    if not root.exists():
        raise DataError(f"{root.url} does not exist")
    runs = []
    for name in root.find(RUN_RECORD):
        try:
            run = read_record(root, name)
        except DataError:
            continue  # another program's run.json
        runs.append(replace(run, folder=root.path(name.removesuffix(RUN_RECORD).rstrip("/"))))
    if not runs:
        raise DataError(f"{root.url} holds no training run: no {RUN_RECORD} in it or below")
    return sorted(runs, key=lambda run: run.started, reverse=True)


def epochs_wanted(run: RunRecord) -> int | None:
    """Return how many epochs a run may train; None if its settings do not say."""
    group = run.settings.get(optimiser_group(run.kind))
    epochs = group.get("epochs") if isinstance(group, dict) else None
    return epochs if isinstance(epochs, int) else None


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested settings by dotted key."""
    result: dict[str, object] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def changed_settings(run: RunRecord) -> dict[str, object]:
    """Return a run's settings that differ from its preset, by dotted key."""
    usual = flat(config_from_dict(PRESETS.get(str(run.settings["preset"]), {})).model_dump(mode="json"))
    return {key: value for key, value in flat(run.settings).items() if usual.get(key) != value}
