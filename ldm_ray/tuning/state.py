"""Reads and writes the state of a search in its folder."""

from collections.abc import Sequence
from typing import TypedDict, cast

from optuna.trial import FrozenTrial, TrialState

from ldm_ray.config import Config, config_from_dict, deciding, dump_config
from ldm_ray.errors import DataError
from ldm_ray.layout import SEARCH
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store
from ldm_ray.tuning.journal import is_begun, open_storage, open_study
from ldm_ray.tuning.space import distributions, objectives
from ldm_ray.tuning.trials import Search, Trial, TrialStatus

STATES: dict[TrialState, TrialStatus] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


class SearchRecord(TypedDict):
    """Contents of `search.json`: URLs of data and autoencoder (empty if searched), and the settings as JSON."""

    data: str
    vae: str
    settings: dict[str, object]


def begin_search(store: Store, data: str, vae: str, config: Config) -> None:
    """Record a new search, or check that the recorded one is the same; more trials may be asked for.

    Raises:
        DataError: If the folder holds another search.
    """
    wanted: SearchRecord = {"data": data, "vae": vae, "settings": config.model_dump(mode="json")}
    if store.exists(SEARCH):
        recorded = cast(SearchRecord, store.read_json(SEARCH))
        if _comparable(recorded) != _comparable(wanted):
            raise DataError(f"{store.url} holds a search with other settings or data; choose another --out")
    store.write_json(SEARCH, wanted)


def read_record(store: Store) -> tuple[str, str, Config]:
    """Return data URL, autoencoder URL (empty if searched) and settings of a search.

    Raises:
        DataError: If there is no search.
    """
    if not store.exists(SEARCH):
        raise DataError(f"{store.url} holds no search (no {SEARCH})")
    record = cast(SearchRecord, store.read_json(SEARCH))
    return record["data"], record["vae"], config_from_dict(record["settings"])


def load_search(url: str, storage_options: StorageOptions | None = None) -> Search:
    """Read a search, running or ended; nothing is written, since a driver may be writing.

    Raises:
        DataError: If there is no search.
    """
    store = Store(url, storage_options or {})
    _, _, config = read_record(store)
    storage = open_storage(store)
    trials = open_study(storage, objectives(config)).get_trials(deepcopy=False) if is_begun(storage) else []
    return search_of(trials, store.url, config)


def search_of(trials: Sequence[FrozenTrial], url: str, config: Config) -> Search:
    """Return a search with the trials of its study."""
    return Search(
        name=url.rstrip("/").rpartition("/")[2],
        objectives=objectives(config),
        space=distributions(config),
        trials=[trial_of(frozen) for frozen in trials],
        wanted=config.tune.trials,
        settings=dump_config(config),
        seed=config.seed,
    )


def trial_of(frozen: FrozenTrial) -> Trial:
    """Read one trial."""
    kept = frozen.user_attrs
    return Trial(
        number=frozen.number,
        state=STATES[frozen.state],
        params=dict(frozen.params),
        metrics=kept.get("metrics", {}),
        curve=tuple((int(epoch), float(value)) for epoch, value in kept.get("curve", [])),
        seconds=float(kept.get("seconds", 0.0)),
        error=str(kept.get("error", "")),
    )


def _comparable(record: SearchRecord) -> tuple[str, str, dict[str, object]]:
    """Return what must not change when a search is resumed."""
    config = config_from_dict(record["settings"])  # settings added since then take their defaults
    free = {"trials", "concurrent", "gpus_per_trial", "silence_s"}
    settings = deciding(config) | {"tune": config.tune.model_dump(mode="json", exclude=free)}
    return record["data"], record["vae"], settings
