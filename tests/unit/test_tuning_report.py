"""The findings of a search, on searches with a known truth, and the page that shows them."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from ldm_ray.errors import DataError
from ldm_ray.storage.store import Store
from ldm_ray.tuning.analysis import best_trial, importance, pareto_front, wins
from ldm_ray.tuning.report import in_short, write_tune_report
from ldm_ray.tuning.study import study_of
from ldm_ray.tuning.tables import ranked
from ldm_ray.tuning.trials import Search, Trial
from tests.searches import DELTA, ENERGY, EPOCHS, RATE, RMSE, SPACE, planted_search

OF = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@pytest.fixture(scope="module")
def search() -> Search:
    found = planted_search()
    assert {trial.state for trial in found.trials} == {"complete", "stopped", "failed", "running"}
    return found


@pytest.fixture(scope="module")
def folder(search: Search, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the search."""
    folder = tmp_path_factory.mktemp("report")
    written(search, folder)
    return folder


def of_values(*values: float, direction: Literal["minimize", "maximize"] = "minimize") -> Search:
    """A search of complete trials without curves, one per value."""
    objective = replace(RMSE, direction=direction)
    space = {"x": FloatDistribution(0.0, 1.0), "even": CategoricalDistribution([True, False])}
    params = [{"x": n / len(values), "even": n % 2 == 0} for n in range(len(values))]
    trials = [Trial(n, "complete", params[n], {"rmse": value}) for n, value in enumerate(values)]
    return Search("values", (objective,), space, trials, len(values), "", 0)


def written(search: Search, folder: Path) -> str:
    names = write_tune_report(Store(str(folder)), search)
    assert sorted(names) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return (folder / "report.html").read_text()


def test_a_study_holds_what_the_search_holds(search: Search, capfd: pytest.CaptureFixture[str]) -> None:
    verbosity = optuna.logging.get_verbosity()
    study = study_of(search)
    assert optuna.logging.get_verbosity() == verbosity
    assert capfd.readouterr().err == ""
    known = [trial for trial in search.trials if trial.state != "running"]
    assert [trial.user_attrs["number"] for trial in study.trials] == [trial.number for trial in known]
    for frozen, trial in zip(study.trials, known, strict=True):
        assert frozen.state == OF[trial.state]
        assert frozen.params == trial.params
        assert frozen.distributions == SPACE
        assert frozen.intermediate_values == dict(trial.curve)
        assert frozen.value == (trial.metrics["rmse"] if trial.state == "complete" else None)
    assert study.best_trial.user_attrs["number"] == best_trial(search).number


def test_a_study_of_several_objectives_has_their_directions_and_front() -> None:
    search = planted_search(30, RMSE, DELTA, ENERGY)
    study = study_of(search)
    assert [d.name.lower() for d in study.directions] == ["minimize", "maximize", "minimize"]
    assert sorted(trial.user_attrs["number"] for trial in study.best_trials) == pareto_front(search)


def test_a_complete_trial_without_its_metric_has_failed_for_optuna() -> None:
    search = of_values(1.0, 2.0)
    study = study_of(replace(search, trials=[search.trials[0], replace(search.trials[1], metrics={})]))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]


@pytest.mark.parametrize("seed", [0, 1])
def test_importance_finds_the_setting_that_matters_though_most_trials_are_stopped(seed: int) -> None:
    search = planted_search(40, seed=seed)
    assert len(search.complete) < 12
    rows = importance(search)
    assert [rows[0].key, {row.key for row in rows}] == [RATE, set(SPACE)]
    assert rows[0].share - 2 * rows[0].spread > rows[1].share
    assert sum(row.share for row in rows) == pytest.approx(1.0)


def test_importance_weighs_a_log_setting_evenly_on_its_log_scale() -> None:
    """Optuna's fANOVA takes log settings as they are: what happens below 1 is then a thousandth of 1e-3 to 1e3."""
    rng = np.random.default_rng(0)
    space = {"log": FloatDistribution(1e-3, 1e3, log=True), "even": FloatDistribution(0.0, 1.0)}
    trials = []
    for number in range(40):
        log10, even = rng.uniform(-3, 3), rng.uniform()
        value = float(log10 > 0) + 0.3 * even  # half the log range
        trials.append(Trial(number, "complete", {"log": 10**log10, "even": even}, {"rmse": value}))
    search = Search("log", (RMSE,), space, trials, 40, "", 0)
    rows = importance(search)
    assert rows[0].key == "log"
    assert importance(search) == rows
    raw = optuna.importance.get_param_importances(
        study_of(search), evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    assert raw["log"] < raw["even"]


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, 2.0, 3.0, 4.0, 5.0), (1.0,) * 9])
def test_importance_is_empty_with_few_or_equal_trials(values: tuple[float, ...]) -> None:
    assert importance(of_values(*values)) == []


def test_importance_leaves_out_what_was_not_varied() -> None:
    search = of_values(*range(9))
    one = {"one": CategoricalDistribution(["only"])}
    trials = [replace(t, params={**t.params, "one": "only"}) for t in search.trials]
    assert [row.key for row in importance(replace(search, space={**search.space, **one}, trials=trials))] == [
        "x",
        "even",
    ]
    assert importance(replace(search, space=one, trials=[replace(t, params={"one": "only"}) for t in trials])) == []


def test_a_stopped_trial_is_compared_at_the_epochs_it_had() -> None:
    """Compared by final values, the quick starter that was stopped would lose to everyone."""
    slow = Trial(0, "complete", {}, {"rmse": 1.0}, ((1, 9.0), (2, 8.0), (3, 1.0)))
    slower = Trial(1, "complete", {}, {"rmse": 2.0}, ((1, 9.5), (2, 9.0), (3, 2.0)))
    stopped = Trial(2, "stopped", {}, {"rmse": 5.0}, ((1, 5.0),))
    failed = Trial(3, "failed", {}, {"rmse": 0.1}, ((1, 0.1),))
    search = Search("wins", (RMSE,), {}, [slow, slower, stopped, failed], 4, "", 0)
    assert wins(search) == {0: 0.5, 1: 0.0, 2: 1.0}
    upwards = replace(search, objectives=(replace(RMSE, direction="maximize"),))
    assert wins(upwards) == {0: 0.5, 1: 1.0, 2: 0.0}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=12))
def test_the_pareto_front_is_what_brute_force_finds(points: list[tuple[int, int, int]]) -> None:
    names = ("rmse", "delta_pcc", "energy_distance")
    trials = [
        Trial(7 * n, "complete", {}, dict(zip(names, map(float, point), strict=True))) for n, point in enumerate(points)
    ]
    losses = [(a, -b, c) for a, b, c in points]
    undominated = [
        7 * n
        for n, own in enumerate(losses)
        if not any(all(o <= s for o, s in zip(other, own, strict=True)) and other != own for other in losses)
    ]
    worthless = Trial(1, "stopped", {}, {"rmse": -1.0, "delta_pcc": 9.0, "energy_distance": -1.0})
    search = Search("front", (RMSE, DELTA, ENERGY), {}, [worthless, *trials], 0, "", 0)
    assert pareto_front(search) == undominated


def test_the_best_trial_is_complete_and_follows_the_direction() -> None:
    assert best_trial(of_values(2.0, 1.0, 3.0, 1.0)).number == 1
    assert best_trial(of_values(2.0, 1.0, 3.0, 3.0, direction="maximize")).number == 2


def test_without_a_complete_trial_there_is_no_best_one(search: Search) -> None:
    trials = [trial for trial in search.trials if trial.state in ("stopped", "failed")]
    n_stopped = sum(trial.state == "stopped" for trial in trials)
    with pytest.raises(
        DataError, match=f"planted needs at least one complete trial; got 1 failed, {n_stopped} stopped"
    ):
        best_trial(replace(search, trials=trials))
    with pytest.raises(DataError, match="got no trial at all"):
        best_trial(replace(search, trials=[]))


def test_the_table_has_the_best_first_and_failed_ones_last(search: Search) -> None:
    order = ranked(search)
    assert order[0] == best_trial(search)
    assert order[-1].state == "failed"
    assert [t.state for t in order] == sorted(
        (t.state for t in order), key=["complete", "stopped", "running", "failed"].index
    )
    stopped = [trial.metrics["rmse"] for trial in order if trial.state == "stopped"]
    assert stopped == sorted(stopped)


def test_the_summary_counts_trials_hours_and_saved_epochs(search: Search) -> None:
    lines = " ".join(in_short(search, importance(search)))
    stopped = [trial for trial in search.trials if trial.state == "stopped"]
    trained = sum(len(trial.curve) for trial in search.trials)
    saved = sum(EPOCHS - len(trial.curve) for trial in stopped)
    assert f"24 of 26 trials: {len(search.complete)} complete, {len(stopped)} stopped early, 1 failed" in lines
    assert f"saved {100 * saved / (trained + saved):.0f} % of epochs: {trained} were trained" in lines
    assert f"Best: trial {best_trial(search).number}," in lines
    assert f"{trained / 60:.2f} hours" in lines
    assert f"{RATE} mattered most" in lines


def test_the_report_shows_and_escapes(search: Search, folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert f'<tr class="model"><td>{best_trial(search).number}</td>' in page
    assert "optuna 5" in page


def test_the_csv_has_one_row_a_trial(search: Search, folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))
    assert len(rows) == len(search.trials)
    for row, trial in zip(rows, search.trials, strict=True):
        assert (int(row["number"]), row["state"], float(row["seconds"])) == (trial.number, trial.state, trial.seconds)
        assert (int(row["epochs"]), float(row["rmse"]), row["error"]) == (
            len(trial.curve),
            trial.metrics["rmse"],
            trial.error,
        )
        assert {key: row[key] for key in SPACE} == {key: str(value) for key, value in trial.params.items()}


def test_three_objectives_have_a_picture_of_their_front(tmp_path: Path) -> None:
    search = planted_search(30, RMSE, DELTA, ENERGY)
    page = written(search, tmp_path)
    assert (tmp_path / "pictures" / "pareto.png").stat().st_size > 10_000
    for number in pareto_front(search):
        assert f'<tr class="model"><td>{number}</td>' in page


def test_a_report_replaces_the_pictures_of_an_earlier_one(search: Search, tmp_path: Path) -> None:
    written(of_values(3.0, 2.0, 1.0), tmp_path)
    page = written(replace(search, trials=[]), tmp_path)
    assert "0 of 26 trials started" in page
    assert "data:image" not in page


def test_a_search_without_a_complete_trial_still_has_a_page(search: Search, tmp_path: Path) -> None:
    trials = [trial for trial in search.trials if trial.state != "complete"]
    page = written(replace(search, trials=trials), tmp_path)
    assert "No trial is complete" in page
    failed = [trial for trial in trials if trial.state == "failed"]
    page = written(replace(search, trials=[replace(failed[0], metrics={}, curve=())]), tmp_path)
    assert "Importance needs at least 6 complete or stopped trials; there are 0." in page


@pytest.mark.parametrize(
    ("values", "direction"),
    [((1.0,), "minimize"), ((2.0, 2.0), "minimize"), ((1.0, 1.1, -500.0, 1.2, 1.3, 1.4), "maximize")],
)
def test_awkward_values_can_be_drawn(
    values: tuple[float, ...], direction: Literal["minimize", "maximize"], tmp_path: Path
) -> None:
    assert "Settings together" in written(of_values(*values, direction=direction), tmp_path)
