"""The served page in a real browser, around a real model: a query end to end, an error, a phone, and no other host."""

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import Page, expect, sync_playwright

from ldm_ray.serving.app import create_app
from ldm_ray.serving.local import LocalBackend
from ldm_ray.serving.served import ServedModel
from ldm_ray.settings import ServeSettings
from tests.browser.probe import CHROMIUM, needs_chromium
from tests.bundles import SMILES, random_bundle
from tests.conftest import World
from tests.s3_server import free_port

pytestmark = [
    needs_chromium,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    """The API of a model in this process, on a real port."""
    model = ServedModel("demo", random_bundle(world), max_waiting=1_000_000)
    backend, port = LocalBackend({"demo": model}), free_port()
    app = create_app(lambda: backend, ServeSettings())
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    model.close()


@pytest.fixture(scope="module")
def pages(url: str) -> Iterator[tuple[Page, Page, list[str]]]:
    """A desktop's page, a phone's, and every address that either requested."""
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        desktop = browser.new_page(viewport={"width": 1280, "height": 900})
        phone = browser.new_page(viewport={"width": 375, "height": 740}, has_touch=True, is_mobile=True)
        for page in (desktop, phone):
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: pytest.fail(str(error)))
        yield desktop, phone, asked
        browser.close()


def test_a_query_from_the_keyboard_to_the_csv(url: str, pages: tuple[Page, Page, list[str]], tmp_path: Path) -> None:
    page, _, _ = pages
    page.goto(url)
    expect(page.locator("#cell option")).to_have_count(3)
    page.focus("#smiles")
    page.keyboard.type(SMILES)
    expect(page.locator("#caption")).to_contain_text(SMILES)
    assert page.evaluate("document.getElementById('drawing').naturalWidth") > 100
    page.keyboard.press("Enter")
    page.wait_for_selector("#doses canvas")
    assert page.locator(".gene").count() == 24
    assert page.locator("#volcano canvas").count() == 1
    assert "SIMC001, 10 µM, 24 h" in page.inner_text("#title")
    assert page.locator("#error").is_hidden()
    page.locator(".gene").nth(3).focus()
    page.keyboard.press("Enter")
    name = page.locator(".gene").nth(3).locator(".name").inner_text()
    expect(page.locator("#dose-title")).to_contain_text(name)
    assert page.locator(".gene[aria-pressed=true] .name").inner_text() == name
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "prediction.csv")
    lines = (tmp_path / "prediction.csv").read_text().splitlines()
    assert lines[0] == "gene,control_log2,predicted_log2,change_log2,sd_log2"
    assert len(lines) == 979
    page.screenshot(path=tmp_path / "desktop.png", full_page=True)


def test_the_link_gives_the_same_query_on_a_phone(
    url: str, pages: tuple[Page, Page, list[str]], tmp_path: Path
) -> None:
    desktop, phone, _ = pages
    link = desktop.get_attribute("#link", "href")
    assert link is not None
    phone.goto(url + "/" + link)
    phone.wait_for_selector("#doses canvas")
    assert phone.inner_text("#title") == desktop.inner_text("#title")
    shown = ".gene .value"
    assert phone.locator(shown).all_inner_texts() == desktop.locator(shown).all_inner_texts()
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page overflows sideways"
    phone.screenshot(path=tmp_path / "phone.png", full_page=True)


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("#smiles", "C1CC", "smiles must be a molecule that RDKit can parse, of at most 500 atoms; got 'C1CC'"),
        ("#smiles", "", "Enter a compound as SMILES."),
        ("#dose", "-3", "The dose must be a number above 0, in µM."),
        ("#time", "soon", "The time must be a number above 0, in hours."),
    ],
)
def test_an_error_is_shown_kindly(
    url: str, pages: tuple[Page, Page, list[str]], field: str, text: str, said: str
) -> None:
    page, _, _ = pages
    page.goto(f"{url}/?smiles=CCO&cell=SIMC002")
    page.wait_for_selector("#doses canvas")
    page.fill(field, text)
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert said in page.inner_text("#error")
    assert page.get_attribute(field, "aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == field[1:]


def test_the_documentation_is_shown_and_no_request_left_the_host(url: str, pages: tuple[Page, Page, list[str]]) -> None:
    page, _, asked = pages
    page.goto(f"{url}/docs")
    page.wait_for_selector("text=Predict expression profiles")
    hosts = {urlsplit(address).hostname for address in asked if not address.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
