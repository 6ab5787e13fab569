"""Searches over settings with Ray Tune; after an interruption at any moment, the same command resumes.

Optuna's study in the search's folder is the only state: each trial's number, settings, curve and result. Tune starts
afresh each time, with the trials that are left; its scheduler first replays the curves of past trials. A trial that
was running is suggested again under its own number, and its Ray Train run resumes from its last checkpoint.
"""

import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune

from ldm_ray.bundle.bundle import check_autoencoder, load_bundle
from ldm_ray.cluster.batch.embed import embed
from ldm_ray.cluster.connect import check_cleaning, connect, wait_for_train_runs
from ldm_ray.cluster.placement import share_cluster
from ldm_ray.cluster.tune.private import OpenAsha, OpenOptunaSearch, suggest_missing
from ldm_ray.cluster.tune.trial import ERROR, FINAL, Claims, TrialSpec, run_trial, trial_folder
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.errors import DataError, LdmRayError
from ldm_ray.evaluation.health.examine import passed
from ldm_ray.keys import Purpose, generator
from ldm_ray.layout import RUN, RUN_RECORD
from ldm_ray.storage.store import Store
from ldm_ray.tracking.record import read_record, write_record
from ldm_ray.tuning.journal import STUDY, open_storage, open_study
from ldm_ray.tuning.report import write_trials
from ldm_ray.tuning.space import distributions, objectives, searches_autoencoder
from ldm_ray.tuning.state import begin_search, search_of
from ldm_ray.tuning.trials import Search, SearchObjective

ATTEMPTS = 3
CPUS_OF_A_TRIAL = 0.01
"""CPUs of a trial's driver; its workers have their own."""
OnSearch = Callable[[Search], None]


def run_search(data: str, vae: str, out: str, config: Config, on_progress: OnSearch = lambda search: None) -> Search:
    """Search the settings that `tune.space` names, or resume the search in `out`.

    Args:
        data: URL of the dataset.
        vae: Bundle of the autoencoder under all trials; empty if the space varies the autoencoder too.
        out: Folder URL of the search.
        config: The settings that every trial starts from, and the search's own.
        on_progress: Called with the search whenever a trial has news.

    Raises:
        SettingsError: If the space or the objectives are not possible.
        DataError: If `out` holds another search.
    """
    wanted, space = objectives(config), distributions(config)
    data, vae, out = (_absolute(url) for url in (data, vae, out))
    store = Store(out, config.storage_options)
    _check_autoencoder(open_dataset(data, config.storage_options), vae, config)
    begin_search(store, data, vae, config)
    storage = open_storage(store, driver=True)
    study = open_study(storage, wanted)

    def announce() -> None:
        search = search_of(study.get_trials(deepcopy=False), out, config)
        write_trials(store, search)
        on_progress(search)

    left = config.tune.trials - sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    if left > 0:
        connect(config.ray, dashboard=True)
        check_cleaning()
        embed(open_dataset(data, config.storage_options), config)
        concurrent, placement = share_cluster(config.ray, config.tune.concurrent, config.tune.gpus_per_trial)
        spec = TrialSpec(data, vae, out, config, wanted, placement, Claims.remote())  # type: ignore[attr-defined]
        _run_tune(spec, StoredSearch(study, storage, space, wanted, config, announce), study, left, concurrent)
        wait_for_train_runs()  # they would overwrite the records written below
    _clear(store, study)
    announce()
    ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    if ended < config.tune.trials:
        raise LdmRayError(f"interrupted with {ended} of {config.tune.trials} trials ended; the same command resumes")
    return search_of(study.get_trials(deepcopy=False), out, config)


def _run_tune(spec: TrialSpec, searcher: "StoredSearch", study: optuna.Study, left: int, concurrent: int) -> None:
    """Run the remaining trials with Tune."""
    trainable = tune.with_resources(tune.with_parameters(run_trial, spec=spec), {"CPU": CPUS_OF_A_TRIAL})
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints a table even at verbose=0
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=ContinuedAsha(study, spec.config, spec.objectives[0]),
                num_samples=left,
                max_concurrent_trials=concurrent,
                reuse_actors=False,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
            ),
        ).fit()


class StoredSearch(OpenOptunaSearch):
    """OptunaSearch with a study that outlives the driver.

    Trials that were running when the last driver ended are suggested first. A trial that the scheduler stops is
    reported to Optuna as pruned, with its curve; Ray's own class would report it as complete.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: optuna.storages.BaseStorage,
        space: Mapping[str, Any],
        wanted: Sequence[SearchObjective],
        config: Config,
        announce: Callable[[], None],
    ) -> None:
        trials = study.get_trials(deepcopy=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # A new sampler with the same seed would suggest its first points again.
            seed = int(generator(config.seed, Purpose.SUGGESTIONS, len(trials)).integers(2**31))
            sampler = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True, n_startup_trials=config.tune.random_trials
            )
        super().__init__(
            dict(space),
            metric=[objective.name for objective in wanted],
            mode=["min" if objective.direction == "minimize" else "max" for objective in wanted],
            sampler=sampler,
            storage=storage,
            study_name=STUDY,
        )
        self._study, self._searched = study, dict(space)
        self._unfinished = [t for t in trials if t.state == TrialState.RUNNING]
        self._first, self._names, self._announce = wanted[0].name, [objective.name for objective in wanted], announce
        self._curves: dict[str, dict[int, float]] = {}
        self._since: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune saves its searcher now and then, but the study is saved already."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing; see `__getstate__`."""

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return a trial's number and settings."""
        if self._unfinished:
            self.resume_trial(trial_id, self._unfinished.pop(0))
        super().suggest(trial_id)
        trial = self.optuna_trial(trial_id)
        suggest_missing(trial, self._searched)
        self._curves[trial_id] = {int(epoch): value for epoch, value in trial.user_attrs.get("curve", [])}
        self._since[trial_id] = time.monotonic() - trial.user_attrs.get("seconds", 0.0)
        return {"number": trial.number, "params": dict(trial.params)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch's value."""
        if self._take(trial_id, result):
            self._keep(trial_id)
            self._announce()

    def on_trial_complete(  # positional as in Ray's own signature
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Tell Optuna how a trial ended, once."""
        result = result or {}
        # Tune reports the epoch at which the scheduler stops a trial only here.
        self._take(trial_id, result)
        self._keep(trial_id)
        trial = self.optuna_trial(trial_id)
        self.forget_trial(trial_id)
        values: list[Any] = [result.get(name) for name in self._names]
        if error or ERROR in result:
            trial.set_user_attr("error", str(result.get(ERROR, "its process died, and died again after each restart")))
            self._study.tell(trial.number, state=TrialState.FAIL)
        elif FINAL in result and not all(map(_is_number, values)):
            trial.set_user_attr("error", f"no finite value of {', '.join(self._names)}")
            self._study.tell(trial.number, state=TrialState.FAIL)
        elif FINAL in result:
            known = {key: float(value) for key, value in result.items() if _is_measure(key, value)}
            trial.set_user_attr("metrics", known)
            self._study.tell(trial.number, values)
        else:
            self._tell_stopped(trial, self._curves[trial_id])
        self._announce()

    def _tell_stopped(self, trial: optuna.Trial, curve: Mapping[int, float]) -> None:
        if len(self._names) == 1:
            for epoch, value in curve.items():
                trial.report(value, epoch)
        self._study.tell(trial.number, state=TrialState.PRUNED)

    def _take(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Add an epoch's value to the curve; return False if the result is not an epoch's."""
        if FINAL in result or not _is_number(result.get(self._first)):
            return False
        self._curves[trial_id][int(result["epoch"])] = float(result[self._first])
        return True

    def _keep(self, trial_id: str) -> None:
        trial = self.optuna_trial(trial_id)
        trial.set_user_attr("curve", sorted(self._curves[trial_id].items()))
        trial.set_user_attr("seconds", round(time.monotonic() - self._since[trial_id], 1))


class ContinuedAsha(OpenAsha):
    """Asynchronous successive halving that knows the trials of earlier drivers.

    Source: Li et al. 2020 (arXiv:1810.05934), algorithm 2.
    """

    def __init__(self, study: optuna.Study, config: Config, objective: SearchObjective) -> None:
        asked = config.tune
        longest = config.train_ldm.epochs + 1  # trials end on their own, and report their scores after the last epoch
        super().__init__(
            time_attr="epoch",
            metric=objective.name,
            mode="min" if objective.direction == "minimize" else "max",
            max_t=longest,
            grace_period=min(asked.grace_epochs, longest),
            reduction_factor=asked.reduction_factor,
            stop_last_trials=False,
        )
        self.drop_rungs_from(config.train_ldm.epochs)  # stopping a trial at its last epoch would save nothing
        sign = 1.0 if objective.direction == "maximize" else -1.0
        for trial in study.get_trials(deepcopy=False):
            if not trial.state.is_finished():
                continue  # it will resume, and report for itself
            curve = [(int(epoch), sign * value) for epoch, value in trial.user_attrs.get("curve", [])]
            self.replay(f"past-{trial.number}", curve)


def _check_autoencoder(dataset: PairedDataset, vae: str, config: Config) -> None:
    """Refuse an autoencoder that does not fit the space or the data, since every trial would fail."""
    if vae and searches_autoencoder(config):
        raise DataError("tune.space varies the autoencoder, so each trial trains its own; leave --vae out")
    if not vae and not searches_autoencoder(config):
        raise DataError("give --vae, since tune.space does not vary the autoencoder")
    if vae:
        autoencoder = load_bundle(vae, "vae", config.storage_options)
        check_autoencoder(autoencoder, dataset, config)
        passed(autoencoder, dataset, config.checks)


def _clear(store: Store, study: optuna.Study) -> None:
    """Remove the checkpoints of ended trials, and record which trials were stopped early."""
    for trial in study.get_trials(deepcopy=False):
        folder = Store(store.path(trial_folder(trial.number)), store.storage_options)
        if trial.state.is_finished():
            folder.remove(RUN)
        if trial.state == TrialState.PRUNED and folder.exists(RUN_RECORD):
            write_record(folder, replace(read_record(folder), status="stopped"))


def _absolute(url: str) -> str:
    """Return an absolute path or URL, since trials run in folders of their own."""
    return os.path.abspath(url) if url and "://" not in url else url


def _is_measure(key: str, value: Any) -> bool:
    """Tell our measures apart from what Tune adds to a result."""
    own = ("loss", "vlb", "mse", "delta_pcc", "x0_mse", "mean_mse", "energy_distance", "sampling_cost", "epoch")
    return key in own and _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
