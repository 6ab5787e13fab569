"""What outlives a search's driver: the journal, its trials, and the next driver's use of them."""

import json
import os
import socket
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from ldm_ray.cluster.tune.private import READ_IN, OpenAsha, OpenOptunaSearch
from ldm_ray.cluster.tune.search import ContinuedAsha, StoredSearch
from ldm_ray.cluster.tune.trial import watched
from ldm_ray.config import Config, load_config, shipped_configs
from ldm_ray.errors import DataError, SettingsError
from ldm_ray.layout import JOURNAL
from ldm_ray.storage.store import Store
from ldm_ray.tuning.journal import LOGS_A_FILE, StoreJournal, open_storage, open_study
from ldm_ray.tuning.space import distributions, objectives, trial_config
from ldm_ray.tuning.state import begin_search, load_search, search_of
from tests.s3_server import BUCKET, S3Server

SPACE = {
    "train_ldm.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "denoiser.hidden_widths": {"choices": [[8, 8], [16]]},
    "denoiser.min_snr_gamma": {"choices": [None, 5.0]},
    "schedule.num_steps": {"low": 60, "high": 90},
}


def config_of(*overrides: str, space: dict[str, Any] | None = None) -> Config:
    return load_config(None, [f"tune.space={json.dumps(space or SPACE)}", "train_ldm.epochs=9", *overrides])


class Driver:
    """A search's driver without Tune: it makes the calls that Tune would make."""

    def __init__(self, store: Store, config: Config) -> None:
        storage = open_storage(store, driver=True)
        self.config, self.wanted, self.told = config, objectives(config), 0
        self.study = open_study(storage, self.wanted)

        def told() -> None:
            self.told += 1

        self.search = StoredSearch(self.study, storage, distributions(config), self.wanted, config, told)

    def run(self, name: str, values: list[float], final: dict[str, float] | None = None, stop: bool = False) -> Any:
        """Suggest a trial, report its epochs, and end it if `final` or `stop` says so."""
        point = self.search.suggest(name)
        rows = [{"epoch": float(i + 1), "delta_pcc": value} for i, value in enumerate(values)]
        for row in rows[: -1 if stop else None]:
            self.search.on_trial_result(name, row)
        if stop:
            self.search.on_trial_complete(name, rows[-1])
        elif final is not None:
            self.search.on_trial_complete(name, {"final": True, "epoch": float(len(values))} | final)
        return point


def test_a_driver_goes_on_where_the_last_one_was_killed(tmp_path: Path) -> None:
    """Nothing is closed: a killed driver leaves what it has written, and no more."""
    store, config = Store(str(tmp_path)), config_of()
    begin_search(store, "data", "vae", config)
    first = Driver(store, config)
    first.run("a", [0.1, 0.2], {"delta_pcc": 0.2, "mse": 1.0})
    first.run("b", [0.05, 0.04], stop=True)
    running = first.run("c", [0.3])
    first.search.suggest("d")
    first.search.on_trial_complete("d", {"final": True, "error": "the loss is nan"})
    written = {name: store.read_bytes(f"journal/{name}") for name in store.names("journal")}
    found = load_search(str(tmp_path))
    assert {name: store.read_bytes(f"journal/{name}") for name in store.names("journal")} == written
    assert [trial.state for trial in found.trials] == ["complete", "stopped", "running", "failed"]
    assert [trial.curve for trial in found.trials] == [((1, 0.1), (2, 0.2)), ((1, 0.05), (2, 0.04)), ((1, 0.3),), ()]
    assert found.trials[0].metrics == {"delta_pcc": 0.2, "mse": 1.0, "epoch": 2.0}
    assert found.trials[3].error == "the loss is nan"

    second = Driver(store, config)
    again = second.search.suggest("x")
    assert again == running == {"number": 2, "params": dict(found.trials[2].params)}
    second.search.on_trial_result("x", {"epoch": 2.0, "delta_pcc": 0.35})
    second.search.on_trial_complete("x", {"final": True, "epoch": 2.0, "delta_pcc": 0.35})
    assert second.run("y", [0.1], {"delta_pcc": 0.1})["number"] == 4
    ended = load_search(str(tmp_path)).trials
    assert [trial.number for trial in ended] == [0, 1, 2, 3, 4]
    assert ended[2].curve == ((1, 0.3), (2, 0.35))
    assert ended[:2] == list(found.trials[:2])


def test_a_new_driver_suggests_new_points(tmp_path: Path) -> None:
    """A sampler that restarts with its seed would suggest the first points again."""
    config, points = config_of("tune.random_trials=99"), []
    for number in range(4):
        point = Driver(Store(str(tmp_path)), config).run(f"t{number}", [0.1], {"delta_pcc": 0.1})
        points.append(json.dumps(point["params"], sort_keys=True))
    assert len(set(points)) == 4


def test_several_objectives_are_told_and_stopped(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    config = config_of("tune.objectives=[delta_pcc, energy_distance, sampling_cost]", "tune.random_trials=3")
    driver = Driver(store, config)
    for number in range(6):
        final = {"delta_pcc": 0.1 * number, "energy_distance": 0.5, "sampling_cost": 3.0}
        driver.run(f"t{number}", [0.1, 0.2], final, stop=number % 2 == 1)
    search = search_of(driver.study.get_trials(), "s", config)
    assert [trial.state for trial in search.trials] == ["complete", "stopped"] * 3
    assert driver.study.best_trials[0].values == [0.4, 0.5, 3.0]


def test_early_stops_go_on_from_past_curves(tmp_path: Path) -> None:
    """A fresh scheduler lets the first trial pass; one that knows the past stops worse trials."""
    store, config = Store(str(tmp_path)), config_of("tune.grace_epochs=1", "tune.reduction_factor=3")
    driver = Driver(store, config)
    for number in range(6):
        driver.run(f"t{number}", [0.1 + 0.1 * number] * 3, stop=True)

    def decide(study: optuna.Study, value: float) -> str:
        asha, trial = ContinuedAsha(study, config, objectives(config)[0]), SimpleNamespace(trial_id="new")
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        return asha.on_trial_result(None, trial, {"epoch": 1.0, "delta_pcc": value})  # type: ignore[arg-type]

    fresh = open_study(open_storage(Store(str(tmp_path / "other")), driver=True), objectives(config))
    assert decide(fresh, 0.2) == "CONTINUE"
    assert decide(driver.study, 0.2) == "STOP"
    assert decide(driver.study, 0.9) == "CONTINUE"


def test_a_trial_that_reaches_its_last_epoch_is_not_stopped_before_its_scores() -> None:
    """Four equal trials of nine epochs that differ only at the last one: all run to the end."""
    config = config_of("tune.grace_epochs=1")
    asha = ContinuedAsha(optuna.create_study(direction="maximize"), config, objectives(config)[0])
    for number in range(4):
        trial = SimpleNamespace(trial_id=f"t{number}")
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        for epoch in range(1, 10):
            result = {"epoch": epoch, "delta_pcc": 0.5 - 0.1 * number * (epoch == 9)}
            assert asha.on_trial_result(None, trial, result) == "CONTINUE"  # type: ignore[arg-type]


def test_a_point_whose_suggestion_was_killed_is_completed(tmp_path: Path) -> None:
    """A kill between Optuna's logs leaves a trial with some of its settings; it gets the others."""
    config = config_of()
    first = Driver(Store(str(tmp_path)), config)
    first.study.ask({"schedule.num_steps": distributions(config)["schedule.num_steps"]})
    again = Driver(Store(str(tmp_path)), config).search.suggest("x")
    assert again["number"] == 0
    assert set(again["params"]) == set(SPACE)
    assert again["params"]["schedule.num_steps"] == first.study.get_trials()[0].params["schedule.num_steps"]


def test_values_that_are_no_numbers_do_not_reach_the_journal(tmp_path: Path) -> None:
    driver = Driver(Store(str(tmp_path)), config_of())
    driver.run("a", [0.1, float("nan"), 0.2], {"delta_pcc": float("nan")})
    driver.run("b", [0.1], {"delta_pcc": 0.1, "mse": float("inf")})
    begin_search(Store(str(tmp_path)), "data", "vae", config_of())
    failed, complete = load_search(str(tmp_path)).trials
    assert (failed.state, failed.curve) == ("failed", ((1, 0.1), (3, 0.2)))
    assert complete.metrics == {"delta_pcc": 0.1, "epoch": 1.0}


def test_a_running_trial_is_not_counted_before_it_comes_again(tmp_path: Path) -> None:
    store, config = Store(str(tmp_path)), config_of("tune.grace_epochs=1")
    Driver(store, config).run("a", [0.5])
    study = open_study(open_storage(store), objectives(config))
    assert not any(rung for _, rung in ContinuedAsha(study, config, objectives(config)[0])._brackets[0]._rungs)


def test_a_trial_is_the_same_when_more_are_asked_for() -> None:
    """Its run is resumed only with its own settings."""
    few, more = (trial_config(config_of(f"tune.trials={n}"), {"schedule.num_steps": 60}) for n in (5, 50))
    assert few == more


def test_the_journal_fills_files_and_refuses_a_second_writer(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    journal = StoreJournal(store, driver=True)
    for number in range(LOGS_A_FILE + 5):
        journal.append_logs([{"number": number}])
    assert store.names(JOURNAL) == ["000000.json", "000001.json"]
    store.write_bytes(f"{JOURNAL}/000001.json.tmp", b"{")  # what a driver leaves for a moment, or when it is killed
    second = StoreJournal(store, driver=True)
    assert [log["number"] for log in second.read_logs(3)] == list(range(3, LOGS_A_FILE + 5))
    second.append_logs([{"number": -1}])
    for other in (journal, StoreJournal(store)):  # the driver before it, and a reader
        with pytest.raises(DataError, match="is being searched by another process"):
            other.append_logs([{"number": -2}])
    assert [log["number"] for log in StoreJournal(store).read_logs(LOGS_A_FILE + 5)] == [-1]
    store.write_json("driver.json", {"name": "x", "host": socket.gethostname(), "pid": os.getppid()})
    with pytest.raises(DataError, match=f"is being searched by process {os.getppid()}"):
        StoreJournal(store, driver=True)


def test_the_journal_lives_on_s3(s3: S3Server) -> None:
    store = Store(f"s3://{BUCKET}/journal-test", s3.options)
    config = config_of()
    Driver(store, config).run("a", [0.1], {"delta_pcc": 0.1})
    again = Driver(store, config)
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.COMPLETE]


def test_a_folder_holds_one_search(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    begin_search(store, "data", "vae", config_of())
    begin_search(store, "data", "vae", config_of("tune.trials=99", "ray.num_workers=1"))  # more of the same
    with pytest.raises(DataError, match="holds a search with other settings or data"):
        begin_search(store, "data", "vae", config_of("train_ldm.epochs=10"))
    with pytest.raises(DataError, match="holds no search"):
        load_search(str(tmp_path / "none"))


def test_a_trial_has_the_values_of_its_point() -> None:
    point = {"train_ldm.learning_rate": 0.002, "denoiser.hidden_widths": "[16]", "denoiser.min_snr_gamma": "null"}
    trial = trial_config(config_of(), point)
    assert (trial.train_ldm.learning_rate, trial.denoiser.hidden_widths) == (0.002, (16,))
    assert trial.denoiser.min_snr_gamma is None
    assert trial.train_ldm.epochs == 9


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"denoiser.dropot": {"choices": [0.1]}}, "must name settings that exist; got 'denoiser.dropot'"),
        ({"splits.seed": {"choices": [1]}}, "may only name settings of .*; got 'splits.seed'"),
        ({"denoiser.dropout": {"low": 0.0, "high": 1.5}}, "denoiser.dropout.*less than 1; got 1.5"),
        ({"train_ldm.learning_rate": {"low": 0, "high": 1, "log": True}}, "greater than 0; got 0"),
        ({"denoiser.dropout": {"low": 0.5, "high": 0.5}}, "must have low < high"),
        ({"denoiser.head": {"choices": ["v", "w"]}}, "denoiser.head.*got 'w'"),
        ({"vae.latent_dim": {"low": 16.0, "high": 128.0}}, "vae.latent_dim.*valid integer"),
        ({"train_ldm.epochs": {"choices": [3, 9]}}, "may not vary train_ldm.epochs"),
    ],
)
def test_a_space_that_makes_no_sense_is_said(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        distributions(config_of(space=space))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("tune.objectives=[energy_distance]",), "must begin with one that is measured every epoch"),
        (
            ("tune.objectives=[nll]", "tune.space.target={choices: [delta]}"),
            "only compare trials with the same latents",
        ),
    ],
)
def test_objectives_that_make_no_sense_are_said(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        objectives(config_of(*overrides))


def test_values_that_fit_only_together_may_be_searched() -> None:
    """Head `mean` needs another loss than the default; such pairs are refused trial by trial."""
    distributions(config_of(space={"denoiser.head": {"choices": ["mean", "v"]}, "denoiser.loss": {"choices": ["nll"]}}))


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("tune_")])
def test_the_shipped_searches_are_sound(name: str) -> None:
    """Every value of their spaces is valid for its setting, and a point of first choices is valid."""
    config = load_config(name)
    space = distributions(config)
    assert objectives(config)
    study = optuna.create_study(directions=[objective.direction for objective in objectives(config)])
    trial_config(config, study.ask(space).params)


def test_an_empty_space_is_said() -> None:
    with pytest.raises(SettingsError, match="must name at least one setting"):
        distributions(load_config())


def test_a_silent_trial_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog ends the process of a silent trial, and no other."""
    import time

    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    with watched(0.2) as beat:
        for _ in range(8):
            time.sleep(0.05)
            beat()
    assert ended == []
    with watched(0.2):
        deadline = time.monotonic() + 5
        while not ended and time.monotonic() < deadline:
            time.sleep(0.02)
    assert set(ended) == {1}


def test_the_private_members_are_those_of_the_versions_that_were_read() -> None:
    """When this fails, read `cluster/tune/private.py` beside the new version, then name it there."""
    for package, read_in in READ_IN.items():
        assert version(package).startswith(f"{read_in}."), package
    assert {"_ot_trials", "_ot_study"} <= set(vars(OpenOptunaSearch({}, metric="loss", mode="min")))
    assert hasattr(OpenAsha(metric="loss", mode="min")._brackets[0], "_rungs")
