"""A proxy in the environment, as on a company's network: this machine is reached directly, others through it or not."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import getproxies, proxy_bypass

import pytest

from ldm_ray.loopback import is_loopback, keep_from_proxies
from ldm_ray.serving.client import Client, ServerError

DEAD = "http://user:secret@127.0.0.1:9"
SPELLINGS = [name for text in ("http", "https", "all", "no") for name in (f"{text}_proxy", f"{text}_PROXY".upper())]


class Models(BaseHTTPRequestHandler):
    """A server, or a proxy: it answers whatever is asked."""

    def do_GET(self) -> None:
        """Tell what was asked."""
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        failing = "broken" in self.path or "portal" in self.path
        self.send_response(403 if "broken" in self.path else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if failing else "application/json")
        self.end_headers()
        self.wfile.write(b"<html>not allowed</html>" if failing else b'[{"cell": "A", "times_h": [6]}]')

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in SPELLINGS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_this_machine_is_asked_directly(
    environment: pytest.MonkeyPatch, server: ThreadingHTTPServer, host: str, variable: str
) -> None:
    environment.setenv(variable, DEAD)
    with Client(f"http://{host}:{server.server_port}", retries=0) as client:
        assert client.cells() == [{"cell": "A", "times_h": [6]}]


def test_other_servers_are_asked_through_the_proxy_unless_no_proxy_names_them(
    environment: pytest.MonkeyPatch, server: ThreadingHTTPServer
) -> None:
    environment.setenv("http_proxy", f"127.0.0.1:{server.server_port}")
    with Client("http://lab.example:8000", retries=0) as client:
        client.cells()
    assert server.asked == ["http://lab.example:8000/v1/cells"]  # type: ignore[attr-defined]
    environment.setenv("no_proxy", "lab.example")
    with Client("http://lab.example:8000", retries=0) as client, pytest.raises(ServerError) as caught:
        client.cells()
    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "variable", "proxy", "said"),
    [
        ("http://lab.example", "http_proxy", DEAD, "through the proxy http://127.0.0.1:9 (NO_PROXY=lab.example avoids"),
        ("https://lab.example", "HTTPS_PROXY", DEAD, "through the proxy http://127.0.0.1:9"),
        ("http://lab.example", "ALL_PROXY", "socks5://127.0.0.1:9", "proxy socks5://127.0.0.1:9 .* 'socksio' package"),
        ("http://lab.example", "http_proxy", "socks4://127.0.0.1:9", "proxy socks4://127.0.0.1:9 .* Unknown scheme"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    environment: pytest.MonkeyPatch, url: str, variable: str, proxy: str, said: str
) -> None:
    environment.setenv(variable, proxy)
    with pytest.raises(ServerError, match="cannot be reached through the proxy") as caught, Client(url, retries=0) as c:
        c.cells()
    assert caught.match(said.replace("(", r"\("))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("host", "status"), [("broken.example", 403), ("portal.example", 200)])
def test_an_answer_that_is_not_the_servers_names_the_proxy(
    environment: pytest.MonkeyPatch, server: ThreadingHTTPServer, host: str, status: int
) -> None:
    environment.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    said = f"the server answered {status} with text/html through the proxy http://127.0.0.1:{server.server_port}"
    with pytest.raises(ServerError, match=said), Client(f"http://{host}") as client:
        client.cells()


def test_a_url_that_is_none_is_one_line() -> None:
    with pytest.raises(ServerError, match="url must be like http://HOST:PORT; got 'http://127.0.0.1:PORT'"):
        Client("http://127.0.0.1:PORT")


def test_what_this_machine_is_called() -> None:
    here = ["localhost", "me.localhost", "127.0.0.1", "127.3.2.1", "::1", "0.0.0.0", "::"]
    assert all(map(is_loopback, here))
    assert not any(map(is_loopback, ["lab.example", "localhost.example", "10.0.0.1", "128.0.0.1", "2001:db8::1", ""]))


def test_libraries_are_told_not_to_ask_a_proxy_for_this_machine(environment: pytest.MonkeyPatch) -> None:
    keep_from_proxies()
    assert "no" not in getproxies()
    environment.setenv("https_proxy", DEAD)
    environment.setenv("NO_PROXY", "lab.example, .corp")
    keep_from_proxies("10.0.0.7")
    for host in ("localhost:8000", "127.0.0.1:8265", "10.0.0.7", "lab.example", "a.corp"):
        assert proxy_bypass(host), host
    assert not proxy_bypass("public.example")
    environment.setenv("no_proxy", "*")
    keep_from_proxies()
    assert proxy_bypass("public.example")
