"""What every request passes through: request id, token, body size, log line and latency."""

import hmac
import json
import logging
import time
import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ldm_ray.serving.problems import problem

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
MAX_ID = 100
RETRY_AFTER_S = "1"
log = logging.getLogger("ldm_ray.serve")

Observe = Callable[[str, int, float], None]
"""Called with route, status and seconds of each answered request."""


class Gate:
    """An ASGI application that wraps another.

    Args:
        app: The wrapped application.
        max_body_bytes: Larger bodies are refused with 413.
        max_in_flight: Most requests in progress; more are refused with 503 before they are read, except health checks.
        token: Bearer token that requests must carry, except health checks; empty: no token.
        observe: Called for every answer.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_in_flight: int, token: str, observe: Observe) -> None:
        self._app, self._max_body_bytes, self._token, self._observe = app, max_body_bytes, token, observe
        self._max_in_flight, self._in_flight = max_in_flight, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        scope["request_id"] = own_id = _id_of(request)
        began, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", own_id.encode())]
            await send(message)

        refused = self._refused(request)
        self._in_flight += 1
        try:
            if refused is None:
                body = await _read(receive, self._max_body_bytes)
                if body is None:
                    refused = (413, f"the body must have at most {self._max_body_bytes} bytes", {"Connection": "close"})
            if refused is not None:
                response = problem(refused[0], refused[1], own_id, headers=refused[2])
                await response(scope, receive, answer)
            else:
                await self._app(scope, _replay(body or b"", receive), answer)
        finally:
            self._in_flight -= 1
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, status, seconds)
            line = {"request_id": own_id, "method": scope["method"], "route": route, "status": status}
            log.info(json.dumps(line | {"ms": round(1000 * seconds, 1)}))

    def _refused(self, request: Request) -> tuple[int, str, dict[str, str]] | None:
        if request.url.path in OPEN_PATHS:
            return None
        if self._token:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                return 401, "the request must carry the bearer token", {"WWW-Authenticate": "Bearer"}
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._max_body_bytes:
            detail = f"the body must have at most {self._max_body_bytes} bytes; got {length[:20]}"
            return 413, detail, {"Connection": "close"}
        if self._in_flight >= self._max_in_flight:
            return 503, "too many requests in progress; try again later", {"Retry-After": RETRY_AFTER_S}
        return None


def _id_of(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if given.isascii() and given.isprintable() and 0 < len(given) <= MAX_ID else uuid.uuid4().hex


async def _read(receive: Receive, limit: int) -> bytes | None:
    """Read a body; return None if it exceeds the limit."""
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that repeats a body already read, then passes on what follows."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
