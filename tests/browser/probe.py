"""A page as a real browser shows it, alone in an empty folder and without a network."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="wants Debian's chromium")
PROBE = """<script>addEventListener("load", () => { const images = [...document.images];
  document.title = [document.querySelectorAll("tbody tr").length, images.length,
    images.filter(i => i.naturalWidth > 100).length,
    document.documentElement.scrollWidth <= innerWidth].join(" "); });</script>"""


@dataclass(frozen=True)
class Seen:
    """What a browser found: table rows, pictures, those of them that loaded, and whether nothing overflows."""

    rows: int
    images: int
    loaded: int
    fits: bool


def look_at(page: Path, folder: Path) -> Seen:
    """Open a copy of a page in a new folder, 1200 pixels wide."""
    folder.mkdir()
    check = folder / "check.html"
    check.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", "--dump-dom"]
    run = subprocess.run([*command, check.as_uri()], capture_output=True, text=True, timeout=120)
    rows, images, loaded, fits = run.stdout.split("<title>")[1].split("</title>")[0].split()
    return Seen(int(rows), int(images), int(loaded), fits == "true")
