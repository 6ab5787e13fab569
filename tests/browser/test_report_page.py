"""The report page in a real browser: everything in it is there without a network, and nothing overflows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ldm_ray.evaluation.report import METRICS, PAGE, write_report
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.settings import EvaluateSettings
from tests.conftest import World

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="wants Debian's chromium")


def test_the_page_shows_tables_and_pictures_by_itself(world: World, tmp_path: Path) -> None:
    settings = EvaluateSettings(bootstrap_draws=20, min_compounds_per_plate=2)
    report = tmp_path / "report"
    write_report(str(report), evaluate(world.dataset, [], settings, 0), [], world.dataset, world.config)
    assert {METRICS, PAGE, "table.csv", "wells.h5ad"} <= {path.name for path in report.iterdir()}
    alone = tmp_path / "alone" / PAGE
    alone.parent.mkdir()
    alone.write_bytes((report / PAGE).read_bytes())
    check = alone.with_name("check.html")
    probe = """<script>addEventListener("load", () => { const images = [...document.images];
      document.title = [document.querySelectorAll("tbody tr").length, images.length,
        images.filter(i => i.naturalWidth > 100).length,
        document.documentElement.scrollWidth <= innerWidth].join(" "); });</script>"""
    check.write_text(alone.read_text().replace("</body>", probe + "</body>"))
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", "--dump-dom"]
    run = subprocess.run([*command, check.as_uri()], capture_output=True, text=True, timeout=120)
    title = run.stdout.split("<title>")[1].split("</title>")[0].split()
    rows, images, loaded, fits = int(title[0]), int(title[1]), int(title[2]), title[3]
    assert rows > 20
    assert images == loaded >= 2
    assert fits == "true"
