"""The state of a search in Optuna's own journal, kept in a folder at any URL."""

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from ldm_ray.data.store import Store
from ldm_ray.errors import DataError
from ldm_ray.tuning.trials import Objective

JOURNAL = "journal"
LOGS_A_FILE = 200
STUDY = "search"


class StoreJournal(BaseJournalBackend):
    """Optuna's journal as files of up to 200 logs each, for one writer.

    Args:
        store: The search's folder.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # A local file that is being replaced has a part beside it for a moment.
        self._files = [name for name in store.names(JOURNAL) if name.endswith(".json")]
        self._logs = [log for name in self._files for log in store.read_json(f"{JOURNAL}/{name}")["logs"]]
        self._open: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from a number on."""
        return iter(self._logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write logs; a file is replaced whole until it is full, so that a kill leaves no half of one.

        Raises:
            DataError: If another process has written to the journal since it was opened.
        """
        if not self._open:
            name = f"{len(self._files):06d}.json"
            if self._store.exists(f"{JOURNAL}/{name}"):
                raise DataError(f"{self._store.url} is being searched by another process")
            self._files.append(name)
        self._open += logs
        self._logs += logs
        self._store.write_json(f"{JOURNAL}/{self._files[-1]}", {"logs": self._open})
        if len(self._open) >= LOGS_A_FILE:
            self._open = []


def open_storage(store: Store) -> JournalStorage:
    """Open the storage of a search, empty or not."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return JournalStorage(StoreJournal(store))


def open_study(storage: JournalStorage, objectives: tuple[Objective, ...]) -> optuna.Study:
    """Load the study of a search, or create it."""
    if is_begun(storage):  # to create it anew would write to the journal before Optuna finds that it is there
        return optuna.load_study(storage=storage, study_name=STUDY)
    directions = [objective.direction for objective in objectives]
    return optuna.create_study(storage=storage, study_name=STUDY, directions=directions)


def is_begun(storage: JournalStorage) -> bool:
    """Tell whether a search has a study."""
    return any(frozen.study_name == STUDY for frozen in storage.get_all_studies())
