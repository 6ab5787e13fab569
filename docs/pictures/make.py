"""Make the pictures of README from a finished demo: `make pictures`, or `python docs/pictures/make.py demo`.

`page.png` is the endpoint's page with one prediction of the demo's model; `scores.png` is the report's picture of that
name, made smaller. Needs Debian's chromium.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
PORT = 8017
SMILES = "CN1CCN(c2ccc(F)cc2)CC1"
PAGE_WIDTH, PAGE_HEIGHT = 1000, 977
SCORES_WIDTH = 1400
COLOURS = 128
MAX_BYTES = 150_000
READY_S = 180.0


def main(demo: Path) -> None:
    """Write both pictures beside this file.

    Args:
        demo: Folder left by `ldm-ray demo`.
    """
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "page.png"
        photograph(demo / "ldm", page)
        shrink(page, HERE / "page.png", PAGE_WIDTH)
    shrink(demo / "report" / "scores.png", HERE / "scores.png", SCORES_WIDTH)


def photograph(bundle: Path, to: Path) -> None:
    """Serve a bundle, ask its page for one prediction, and save what the browser shows."""
    command = [sys.executable, "-m", "ldm_ray.cli", "serve", "--bundle", str(bundle), "--port", str(PORT)]
    server = subprocess.Popen(command)
    try:
        wait_until_ready(server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": PAGE_WIDTH, "height": PAGE_HEIGHT})
            page.goto(f"http://127.0.0.1:{PORT}/")
            page.wait_for_selector("#cell option", state="attached")
            page.fill("#smiles", SMILES)
            page.click("#go")
            page.wait_for_selector("#doses canvas")
            page.wait_for_function("document.getElementById('drawing').naturalWidth > 100")
            page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
            page.screenshot(path=to)
            browser.close()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def wait_until_ready(server: "subprocess.Popen[bytes]") -> None:
    """Return when the endpoint answers.

    Raises:
        RuntimeError: If it ends, or does not answer in `READY_S` seconds.
    """
    until = time.monotonic() + READY_S
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz"):
                return
        except OSError:
            time.sleep(1)
    raise RuntimeError("the endpoint does not answer")


def shrink(picture: Path, to: Path, width: int) -> None:
    """Copy a picture, at most `width` pixels wide and in few colours.

    Raises:
        RuntimeError: If it is still too large to commit.
    """
    image = Image.open(picture).convert("RGB")
    height = round(image.height * width / image.width)
    image.resize((width, height), Image.Resampling.LANCZOS).quantize(COLOURS).save(to, optimize=True)
    if to.stat().st_size > MAX_BYTES:
        raise RuntimeError(f"{to} must be at most {MAX_BYTES} bytes; got {to.stat().st_size}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
