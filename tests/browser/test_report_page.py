"""The report page in a real browser: everything in it is there without a network, and nothing overflows."""

from pathlib import Path

from ldm_ray.evaluation.report.folder import write_report
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.layout import METRICS, PAGE
from ldm_ray.settings import EvaluateSettings
from tests.browser.probe import look_at, needs_chromium
from tests.conftest import World


@needs_chromium
def test_the_page_shows_tables_and_pictures_by_itself(world: World, tmp_path: Path) -> None:
    settings = EvaluateSettings(bootstrap_draws=20, min_compounds_per_plate=2)
    report = tmp_path / "report"
    write_report(str(report), evaluate(world.dataset, [], settings, 0), [], world.dataset, world.config)
    assert {METRICS, PAGE, "table.csv", "wells.h5ad"} <= {path.name for path in report.iterdir()}
    seen = look_at(report / PAGE, tmp_path / "alone")
    assert seen.rows > 20
    assert seen.images == seen.loaded >= 2
    assert seen.fits
