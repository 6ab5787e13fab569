"""JSON bodies as clients send them: packed, labelled otherwise or not at all, with a byte order mark."""

import json
import zlib
from collections.abc import Callable, Coroutine
from email.message import Message as Labels
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

JSON_LABEL = (b"content-type", b"application/json")
FORM = "application/x-www-form-urlencoded"
UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
BEFORE_JSON = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"
"""Bytes of byte order marks and of white space, in UTF-8, UTF-16 and UTF-32."""
GZIP_WINDOW = 31
SHOWN = 60


def json_route(max_bytes: int) -> type[APIRoute]:
    """Return a kind of route that reads JSON of at most `max_bytes`, unpacked."""

    class JsonRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def read_first(request: Request) -> Response:
                body = read(await request.body(), request.headers, max_bytes)
                headers = [pair for pair in request.scope["headers"] if pair[0] != JSON_LABEL[0]]
                scope = {**request.scope, "headers": [*headers, JSON_LABEL]}
                return await handle(Request(scope, replay(body, request.receive)))

            return read_first

    return JsonRoute


def read(body: bytes, headers: Headers, max_bytes: int) -> bytes:
    """Return a body as plain UTF-8.

    A body without a content type, or with that of a form (as `curl -d` sends), is read if it is JSON. Only if a browser
    sends it for another page (`Origin`) must it be labelled: browsers send unlabelled bodies without asking first.

    Args:
        body: The body as it came.
        headers: Headers of the request.
        max_bytes: Most bytes after unpacking.

    Raises:
        HTTPException: If it cannot be read: 415 if the headers say so, 413 if it is too large, 400 if it is damaged.
    """
    encodings = [name for part in headers.getlist("content-encoding") for name in _names(part) if name != "identity"]
    if len(encodings) > 1 or not {*encodings} <= {"gzip", "x-gzip"}:
        got = ", ".join(encodings)[:SHOWN]
        raise HTTPException(415, f"content-encoding must be gzip or none; got {got!r}", {"Accept-Encoding": "gzip"})
    if encodings:
        body = _unpacked(body, max_bytes)
    if body:
        _check_label(body, headers)
    return _utf_8(body)


def _names(header: str) -> list[str]:
    return [name for part in header.split(",") if (name := part.strip().lower())]


def _unpacked(body: bytes, max_bytes: int) -> bytes:
    unpacking = zlib.decompressobj(GZIP_WINDOW)
    try:
        plain = unpacking.decompress(body, max_bytes + 1)  # no more than this is unpacked
    except zlib.error as error:
        raise HTTPException(400, f"the body is not gzip as its content-encoding says ({error})") from None
    if len(plain) > max_bytes:
        raise HTTPException(413, f"the body must have at most {max_bytes} bytes when unpacked")
    if not unpacking.eof:
        raise HTTPException(400, "the gzip body is incomplete")
    if unpacking.unused_data:
        raise HTTPException(400, "the gzip body has more data after its end; send one gzip member")
    return plain


def _check_label(body: bytes, headers: Headers) -> None:
    given, labels = headers.get("content-type", ""), Labels()
    labels["content-type"] = given
    kind, charset = labels.get_content_type(), str(labels.get_param("charset", "utf-8")).lower()
    got = f"got {given[:SHOWN]!r}" if given else "got none"
    if charset not in UTF_8:
        raise HTTPException(415, f"the body must be UTF-8; got charset {charset[:SHOWN]!r}")
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if given and kind != FORM:
        raise HTTPException(415, f"content-type must be application/json; {got}")
    if "origin" in headers:
        raise HTTPException(415, f"content-type must be application/json from a browser; {got}")
    if body.lstrip(BEFORE_JSON)[:1] not in (b"{", b"["):
        raise HTTPException(415, f"the body must be JSON, with content-type application/json; {got}, and no JSON")


def _utf_8(body: bytes) -> bytes:
    """Return a body as UTF-8 without a byte order mark; JSON in UTF-16 and UTF-32 shows itself by its zero bytes."""
    encoding = json.detect_encoding(body)
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{body[error.start]:02x} at position {error.start}"
        raise HTTPException(400, f"the body must be UTF-8; {wrong} is not") from None
    return body if encoding == "utf-8" else text.encode()


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that repeats a body already read, then passes on what follows."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
