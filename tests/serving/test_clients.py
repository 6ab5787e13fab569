"""What HTTP clients, proxies, monitors and browsers send: each is answered as RFC 9110 says, or told what is wrong."""

import codecs
import gzip
import json
import tracemalloc
import zlib
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from ldm_ray.config import load_config
from ldm_ray.errors import SettingsError
from ldm_ray.serving.app import create_app
from ldm_ray.serving.layers import layered
from tests.serving.asking import CONDITION, LIMITS, ask, get, nobody, post, raw_post

BODY = {"conditions": [CONDITION], "n_samples": 2, "return": "mean"}
TEXT = json.dumps(BODY).encode()
FORM = "application/x-www-form-urlencoded"
ORIGIN = "https://lab.example"
OPEN = LIMITS.model_copy(update={"cors_origins": (ORIGIN,)})


@pytest.fixture(scope="module")
def right(app: FastAPI) -> object:
    """The answer to BODY."""
    (response,) = ask(app, post(BODY))
    return response.json()


PATHS = ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/v1/cells", "/v1/genes", "/web/page.js", "/v1/nothing"]


@pytest.mark.parametrize("packed", ["identity", "gzip"])
def test_head_is_get_without_a_body(app: FastAPI, packed: str) -> None:
    named = {"accept-encoding": packed, "x-request-id": "mine"}
    heads = ask(app, *(httpx.Request("HEAD", f"http://test{path}", headers=named) for path in PATHS))
    for path, head, full in zip(PATHS, heads, ask(app, *(get(path, **named) for path in PATHS)), strict=True):
        assert (head.status_code, head.content) == (full.status_code, b""), path
        assert head.headers == full.headers, path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/predict", "POST"),
        ("HEAD", "/v1/predict", "POST"),
        ("POST", "/v1/cells", "GET, HEAD"),
        ("DELETE", "/v1/compounds/CCO", "GET, HEAD"),
        ("POST", "/web/page.js", "GET, HEAD"),
        ("OPTIONS", "/v1/predict", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(app: FastAPI, method: str, path: str, allowed: str) -> None:
    (response,) = ask(app, httpx.Request(method, f"http://test{path}"))
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.headers["content-type"] == "application/problem+json"


def test_a_slash_too_many_is_ignored_but_not_in_a_molecule(app: FastAPI, right: object) -> None:
    at_end = post(BODY)
    at_end.url = httpx.URL("http://test/v1/predict/")
    at_start = post(BODY)
    at_start.url = httpx.URL("http://test//v1/predict")
    ended, started, health, molecule = ask(app, at_end, at_start, get("/healthz/"), get("/v1/compounds/C/C=C/"))
    assert ended.json() == started.json() == right
    assert health.status_code == 200
    assert "got 'C/C=C/'" in molecule.json()["detail"]


@pytest.mark.parametrize("written", ["Bearer s3cret", "bearer s3cret", "BEARER   s3cret ", "Bearer \ts3cret"])
def test_the_scheme_of_a_token_has_no_case(app: FastAPI, written: str) -> None:
    (response,) = ask(app, get("/v1/models", authorization=written), token="s3cret\n")
    assert response.status_code == 200


@pytest.mark.parametrize("written", ["Basic s3cret", "s3cret", "Bearer", "Bearer s3cret s3cret", "Bearers3cret", ""])
def test_any_other_token_is_refused(app: FastAPI, written: str) -> None:
    (response,) = ask(app, get("/v1/models", authorization=written), token="s3cret")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (TEXT, {}),
        (TEXT, {"content-type": FORM}),
        (TEXT, {"content-type": "Application/JSON; Charset=UTF-8"}),
        (TEXT, {"content-type": "application/problem+json", "origin": ORIGIN}),
        (codecs.BOM_UTF8 + TEXT, {"content-type": "application/json"}),
        (codecs.BOM_UTF8 + TEXT, {}),
        (TEXT.decode().encode("utf-16"), {"content-type": "application/json"}),
        (TEXT.decode().encode("utf-16"), {}),
        (b"\r\n" + TEXT, {}),
        (gzip.compress(TEXT), {"content-type": "application/json", "content-encoding": "gzip"}),
        (gzip.compress(TEXT), {"content-encoding": "X-GZip, identity"}),
        (TEXT, {"content-encoding": "identity"}),
    ],
)
def test_json_is_read_however_it_is_packed_and_labelled(
    app: FastAPI, right: object, body: bytes, headers: dict[str, str]
) -> None:
    (response,) = ask(app, raw_post(body, **headers))
    assert response.status_code == 200, response.text
    assert response.json() == right


PACKED = {"content-encoding": "gzip"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (TEXT, {"content-type": "text/plain"}, 415, "content-type must be application/json; got 'text/plain'"),
        (TEXT, {"content-type": "json"}, 415, "got 'json'"),
        (
            b"smiles=CCO&cell=A",
            {"content-type": FORM},
            415,
            f"must be JSON, with content-type application/json; got '{FORM}', and",
        ),
        (b"CCO", {}, 415, "got none, and no JSON"),
        (TEXT, {"origin": ORIGIN}, 415, "from a browser; got none"),
        (TEXT, {"content-type": FORM, "origin": ORIGIN}, 415, "from a browser"),
        (TEXT, {"content-type": "application/json; charset=iso-8859-1"}, 415, "must be UTF-8; got charset 'iso-8859-1"),
        (TEXT, {"content-encoding": "br"}, 415, "content-encoding must be gzip or none; got 'br'"),
        (TEXT, {"content-encoding": "gzip, gzip"}, 415, "got 'gzip, gzip'"),
        (TEXT, PACKED, 400, "the body is not gzip as its content-encoding says"),
        (gzip.compress(TEXT)[:-9], PACKED, 400, "the gzip body is incomplete"),
        (gzip.compress(TEXT)[:-6] + b"000000", PACKED, 400, "incorrect data check"),
        (gzip.compress(TEXT) * 2, PACKED, 400, "more data after its end"),
        (b'{"a": "\xb5M"}', {"content-type": "application/json"}, 400, "must be UTF-8; byte 0xb5 at position 7 is not"),
        (b"[]", {"content-type": "application/json"}, 422, "body: Input should be a JSON object; got a list"),
        (b"{'a': 1}", {}, 422, "body: no JSON: Expecting property name enclosed in double quotes at character 1"),
        (b"", {}, 422, "body: Field required"),
    ],
)
def test_what_is_not_read_is_named(app: FastAPI, body: bytes, headers: dict[str, str], status: int, said: str) -> None:
    (response,) = ask(app, raw_post(body, **headers))
    assert response.status_code == status, response.text
    assert said in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"
    assert ("accept-encoding" in response.headers) == ("content-encoding must" in response.json()["detail"])


def test_a_zip_bomb_is_refused_without_unpacking_it(app: FastAPI) -> None:
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([*(packing.compress(b" " * 1_000_000) for _ in range(50)), packing.flush()])
    assert len(bomb) < LIMITS.max_body_bytes
    tracemalloc.start()
    (response,) = ask(app, raw_post(bomb, **PACKED))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (response.status_code, response.json()["detail"]) == (
        413,
        "the body must have at most 60000 bytes when unpacked",
    )
    assert peak < 5_000_000


def test_large_answers_are_packed_for_those_who_accept_it(app: FastAPI) -> None:
    whole = {"conditions": [CONDITION], "n_samples": 2}
    packed, plain, arrow, small, page = ask(
        app,
        post(whole, **{"accept-encoding": "gzip"}),
        post(whole, **{"accept-encoding": "identity"}),
        post(whole, **{"accept-encoding": "gzip", "accept": "application/vnd.apache.arrow.stream"}),
        get("/healthz", **{"accept-encoding": "gzip"}),
        get("/web/page.js", **{"accept-encoding": "gzip"}),
    )
    assert packed.headers["content-encoding"] == page.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "Accept-Encoding"
    assert packed.json() == plain.json()
    assert int(packed.headers["content-length"]) < 0.7 * len(plain.content)
    for response in (plain, arrow, small):
        assert "content-encoding" not in response.headers


class Failing:
    """A backend with a bug."""

    async def models(self) -> list[str]:
        raise ZeroDivisionError


def everything(app: FastAPI) -> list[httpx.Request]:
    """A request for each kind of answer: right, refused by each layer, and failed."""
    return [
        get("/healthz"), get("/v1/models", authorization="Bearer t"), get("/v1/models"),
        get("/v2", authorization="Bearer t"), get("/v1/predict", authorization="Bearer t"),
        post(BODY, authorization="Bearer t"), post({}, authorization="Bearer t"),
        post(b" " * 60_001, authorization="Bearer t"), raw_post(b"CCO", authorization="Bearer t"),
        get("/web/page.js", authorization="Bearer t"), get("/docs", authorization="Bearer t"),
        httpx.Request("OPTIONS", "http://test/v1/predict", headers=asking_first()),
        httpx.Request("HEAD", "http://test/readyz"),
    ]  # fmt: skip


def asking_first(origin: str = ORIGIN) -> dict[str, str]:
    """Headers of a browser's preflight."""
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-request-id",
    }


@pytest.mark.parametrize("given", ["", "mine-7", "x" * 101, "a\tb"])
def test_every_answer_has_one_request_id(app: FastAPI, given: str) -> None:
    failing = create_app(Failing, LIMITS)  # type: ignore[arg-type]
    for around, requests in ((app, everything(app)), (failing, [get("/v1/models", authorization="Bearer t")])):
        for request in requests:
            if given:
                request.headers["x-request-id"] = given
        for limits in (LIMITS, OPEN):
            for response in ask(around, *requests, token="t", limits=limits):
                (own,) = response.headers.get_list("x-request-id")
                assert own == given if given == "mine-7" else len(own) == 32
                if response.headers["content-type"] == "application/problem+json" and response.content:
                    assert response.json()["request_id"] == own
                    assert response.json()["status"] == response.status_code


def test_behind_serve_its_proxy_gives_the_id(app: FastAPI) -> None:
    """Ray Serve's proxy names each request and repeats the name in the answer; a second header would be ours."""
    fine, missing = ask(
        app, get("/healthz", **{"x-request-id": "x" * 101}), get("/v2", **{"x-request-id": "theirs"}), behind_serve=True
    )
    assert "x-request-id" not in fine.headers
    assert "x-request-id" not in missing.headers
    assert missing.json()["request_id"] == "theirs"


def test_a_bug_is_a_problem_that_says_where_to_look(app: FastAPI) -> None:
    failing = create_app(Failing, LIMITS)  # type: ignore[arg-type]
    (response,) = ask(failing, get("/v1/models", origin=ORIGIN), limits=OPEN)
    assert (response.status_code, response.json()["detail"]) == (500, "the server failed; its log says why")
    assert response.headers["access-control-allow-origin"] == ORIGIN


def test_other_origins_may_ask_if_the_settings_say_so(app: FastAPI) -> None:
    def first(origin: str) -> httpx.Request:
        return httpx.Request("OPTIONS", "http://test/v1/predict", headers=asking_first(origin))

    (closed,) = ask(app, first(ORIGIN))
    assert closed.status_code == 405
    assert "access-control-allow-origin" not in closed.headers
    allowed, other, answer, refused = ask(
        app, first(ORIGIN), first("https://evil.example"), post(BODY, origin=ORIGIN, authorization="bearer t"),
        post(BODY, origin=ORIGIN), token="t", limits=OPEN,
    )  # fmt: skip
    assert (allowed.status_code, other.status_code, answer.status_code, refused.status_code) == (200, 400, 200, 401)
    assert allowed.headers["access-control-allow-methods"] == "GET, HEAD, POST"
    assert "access-control-allow-origin" not in other.headers
    for response in (allowed, answer, refused):
        assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in refused.headers["access-control-expose-headers"]
    every = LIMITS.model_copy(update={"cors_origins": ("*",)})
    assert ask(app, post(BODY, origin=ORIGIN), limits=every)[0].headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", ["https://lab.example/", "lab.example", "https://lab.example/app", ""])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match="serve.cors_origins"):
        load_config(None, [f"serve.cors_origins=['{origin}']"])
    config = load_config(None, ["serve.cors_origins=['https://Lab.Example:8443', '*']"])
    assert config.serve.cors_origins == ("https://lab.example:8443", "*")


@pytest.mark.parametrize("smiles", ["CC#N", "F/C=C/F", "F/C=C\\F", "C[N+](C)(C)C", "C%12CCCCC%12", "[NH4+]"])
def test_a_molecule_that_is_escaped_is_read(app: FastAPI, smiles: str) -> None:
    in_path, in_query = ask(
        app, get(f"/v1/compounds/{quote(smiles, safe='')}"), get(f"/v1/compounds?smiles={quote(smiles, safe='')}")
    )
    assert in_path.status_code == 200, in_path.text
    assert in_path.json() == in_query.json()


@pytest.mark.parametrize(
    ("path", "got"),
    [
        ("/v1/compounds//C=C/C", "'/C=C/C'"),
        ("/v1/compounds/C%5BN%20%5D(C)(C)C", "'C[N ](C)(C)C'"),
        ("/v1/compounds?smiles=C[N+](C)(C)C", "'C[N ](C)(C)C'"),
        ("/v1/compounds/C%12CCCCC%12", "'C\\x12CCCCC\\x12'"),
    ],
)
def test_a_molecule_that_is_not_escaped_is_refused_with_how_to(app: FastAPI, path: str, got: str) -> None:
    (response,) = ask(app, get(path))
    assert response.status_code == 422
    assert f"got {got}; in a URL write # as %23, % as %25, + as %2B" in response.json()["detail"]


def test_pages_have_relative_links_and_so_work_behind_a_prefix(app: FastAPI) -> None:
    page, docs, redoc, described = ask(app, *map(get, ("/", "/docs", "/redoc", "/openapi.json")))
    assert "url: 'openapi.json'" in docs.text
    for shown in (page, docs, redoc):
        assert 'src="/' not in shown.text
        assert 'href="/' not in shown.text
        assert shown.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' data:;")
    assert described.json()["servers"] == [{"url": "."}]
    inside = FastAPI()
    inside.mount("/ldm", layered(app, LIMITS, "s3cret", nobody))
    slashed = post(BODY, authorization="bearer s3cret")
    slashed.url = httpx.URL("http://test/ldm/v1/predict/")
    health, icon, closed, predicted = ask(
        inside,
        get("/ldm/healthz"),
        get("/ldm/static-offline-docs/favicon.png", authorization="bearer s3cret"),
        get("/ldm/v1/cells"),
        slashed,
    )
    assert [r.status_code for r in (health, icon, closed, predicted)] == [200, 200, 401, 200]
