"""The state of a search: Optuna's journal, in a folder at any URL."""

import os
import re
import socket
import uuid
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from ldm_ray.errors import DataError
from ldm_ray.layout import DRIVER, JOURNAL
from ldm_ray.storage.store import Store
from ldm_ray.tuning.trials import SearchObjective

FILE = re.compile(r"\d{6}\.json")
LOGS_A_FILE = 200
STUDY = "search"


class StoreJournal(BaseJournalBackend):
    """Optuna's journal in files of up to 200 logs each, for one writer.

    Args:
        store: The search's folder.
        driver: Whether to take over the search: if its last driver still runs, its next log is refused.

    Raises:
        DataError: If `driver` is set and another driver of the search runs on this machine.
    """

    def __init__(self, store: Store, *, driver: bool = False) -> None:
        self._store, self._name = store, uuid.uuid4().hex if driver else ""
        if driver:
            self._take_over()
        # A temporary file may lie beside a local one while it is replaced, or after a kill.
        self._files = [name for name in store.names(JOURNAL) if FILE.fullmatch(name)]
        self._logs = [log for name in self._files for log in store.read_json(f"{JOURNAL}/{name}")["logs"]]
        self._open: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from a number on."""
        return iter(self._logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write logs; the last file is replaced until it is full, so that a kill never leaves half a file.

        Raises:
            DataError: If another driver has taken over, or this journal is read-only.
        """
        if not self._name or self._store.read_json(DRIVER)["name"] != self._name:
            raise DataError(f"{self._store.url} is being searched by another process")
        files = self._files if self._open else [*self._files, f"{len(self._files):06d}.json"]
        written = [*self._open, *logs]
        self._store.write_json(f"{JOURNAL}/{files[-1]}", {"logs": written})
        self._files, self._logs = files, [*self._logs, *logs]
        self._open = written if len(written) < LOGS_A_FILE else []

    def _take_over(self) -> None:
        pid, lives = driver_of(self._store)
        if lives and pid != os.getpid():
            raise DataError(f"{self._store.url} is being searched by process {pid}")
        self._store.write_json(DRIVER, {"name": self._name, "host": socket.gethostname(), "pid": os.getpid()})


def driver_of(store: Store) -> tuple[int, bool | None]:
    """Return the process id of a search's last driver (0: none), and whether it runs (None: on another machine)."""
    if not store.exists(DRIVER):
        return 0, False
    last = store.read_json(DRIVER)
    return int(last["pid"]), _is_alive(last["pid"]) if last["host"] == socket.gethostname() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def open_storage(store: Store, *, driver: bool = False) -> JournalStorage:
    """Open the storage of a search, empty or not; arguments and errors as for `StoreJournal`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return JournalStorage(StoreJournal(store, driver=driver))


def open_study(storage: JournalStorage, objectives: tuple[SearchObjective, ...]) -> optuna.Study:
    """Load the study of a search, or create it."""
    if is_begun(storage):  # create_study would write to the journal before it finds the study
        return optuna.load_study(storage=storage, study_name=STUDY)
    directions = [objective.direction for objective in objectives]
    return optuna.create_study(storage=storage, study_name=STUDY, directions=directions)


def is_begun(storage: JournalStorage) -> bool:
    """Tell whether a search has a study yet."""
    return any(frozen.study_name == STUDY for frozen in storage.get_all_studies())
