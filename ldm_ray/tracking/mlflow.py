"""MLflow: a local sqlite file, or a server."""

import importlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ldm_ray.errors import SettingsError
from ldm_ray.tracking.record import RunRecord, RunStatus, flat

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
PARAMS_PER_REQUEST = 100
"""MLflow accepts no more at once."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Train's controller waits, so MLflow's default of 7 attempts of 120 s would hold up a run for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Defaults for variables that the user has not set."""


def check_mlflow(uri: str) -> None:
    """Refuse a tracking URI that cannot work, and a missing extra.

    Raises:
        SettingsError: If it cannot work; says what is needed.
    """
    parts = urlsplit(uri)
    is_file = uri.startswith(SQLITE) and len(uri) > len(SQLITE)
    if not is_file and not (parts.scheme in ("http", "https") and parts.hostname):
        raise SettingsError(f"track.mlflow must be {SQLITE}FILE or http(s)://HOST; got {uri!r}")
    if parts.password is not None:
        raise SettingsError(
            "track.mlflow must hold no password, since settings are saved;"
            " set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    _prepare()
    try:
        for package in ("mlflow.tracking", *(("alembic", "sqlalchemy") if is_file else ())):
            importlib.import_module(package)
    except ImportError:
        raise SettingsError(
            "track.mlflow needs the extra 'mlflow', from the top of the repository:"
            " pip install --constraint constraints.txt --editable '.[mlflow]'"
        ) from None


def absolute_uri(uri: str) -> str:
    """Return a URI that processes in other folders of this machine can use."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


class MlflowTracker:
    """Writes a run's settings as parameters, its metrics by epoch, and where code and data came from as tags."""

    name = "mlflow"

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri, self._experiment, self._run_id = absolute_uri(uri), experiment, ""

    def start(self, run: RunRecord) -> str:
        """Start an MLflow run, or mark the one in the record as running again."""
        client = self._client()
        self._run_id = run.trackers.get(self.name, "")
        if self._run_id:
            client.update_run(self._run_id, status="RUNNING")
        else:
            self._run_id = self._create(client, run)
        return self._run_id

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics at step `epoch`."""
        from mlflow.entities import Metric

        at_ms = int(time.time() * 1000)
        self._client().log_batch(self._run_id, [Metric(name, value, at_ms, epoch) for name, value in metrics.items()])

    def conclude(self, epochs: int, figures: Mapping[str, float]) -> None:
        """Write the figures as metrics of the last step."""
        self.log(epochs, figures)

    def finish(self, status: RunStatus) -> None:
        """Set MLflow's status; the tag `status` holds ours, with the kind of failure."""
        if self._run_id:
            client = self._client()
            client.set_tag(self._run_id, "status", status)
            client.set_terminated(self._run_id, "FINISHED" if status == "finished" else "FAILED")

    def _create(self, client: "MlflowClient", run: RunRecord) -> str:
        from mlflow.entities import Param

        found = client.get_experiment_by_name(self._experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(self._experiment)
        tags = {
            "kind": run.kind,
            "folder": run.folder,
            "git_revision": run.git_revision,
            "mlflow.source.git.commit": run.git_revision,
            "dataset": run.dataset,
            "dataset_sha256": run.dataset_sha256,
            "version": run.version,
            "num_workers": str(run.num_workers),
            "host": run.host,
        }
        known = {name: value for name, value in tags.items() if value}
        run_id = client.create_run(experiment_id, run_name=run.name, tags=known).info.run_id
        params = [Param(key, str(value)) for key, value in flat(run.settings).items()]
        for first in range(0, len(params), PARAMS_PER_REQUEST):
            client.log_batch(run_id, params=params[first : first + PARAMS_PER_REQUEST])
        return str(run_id)

    def _client(self) -> "MlflowClient":
        _prepare()
        from mlflow.tracking import MlflowClient

        if self._uri.startswith(SQLITE):
            Path(self._uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(self._uri)


def _prepare() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
