"""The page of a search in a real browser, however long its keys and its errors are."""

from dataclasses import replace
from pathlib import Path

from ldm_ray.storage.store import Store
from ldm_ray.tuning.report import write_tune_report
from tests.browser.probe import look_at, needs_chromium
from tests.searches import DELTA, ENERGY, RMSE, SPACE, planted_search

N_TRIALS = 30


@needs_chromium
def test_the_page_shows_tables_and_pictures_by_itself(tmp_path: Path) -> None:
    search = planted_search(N_TRIALS, RMSE, DELTA, ENERGY)
    trials = [replace(trial, error=trial.error and trial.error + 40 * " and so on") for trial in search.trials]
    names = write_tune_report(Store(str(tmp_path / "report")), replace(search, trials=trials, settings="x" * 2000))
    seen = look_at(tmp_path / "report" / "report.html", tmp_path / "alone")
    assert seen.rows == N_TRIALS + 1 + len(SPACE)  # the failed trial has a row in two tables
    assert seen.images == seen.loaded == len([name for name in names if name.endswith(".png")]) == 6
    assert seen.fits


@needs_chromium
def test_a_search_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    write_tune_report(Store(str(tmp_path / "report")), replace(planted_search(), trials=[]))
    seen = look_at(tmp_path / "report" / "report.html", tmp_path / "alone")
    assert (seen.rows, seen.images, seen.fits) == (len(SPACE), 0, True)
