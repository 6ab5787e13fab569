"""What every request must pass before it is answered: token, size, and the number of requests in progress."""

import hmac

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ldm_ray.serving.body import replay
from ldm_ray.serving.problems import problem, request_id
from ldm_ray.serving.rewrite import inside

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
RETRY_AFTER_S = "1"

Refusal = tuple[int, str, dict[str, str]]
"""Status, detail and headers."""


class Gate:
    """An ASGI application that wraps another.

    Args:
        app: The wrapped application.
        max_body_bytes: Larger bodies are refused with 413.
        max_in_flight: Most requests in progress; more are refused with 503 before they are read, except health checks.
        token: Bearer token that requests must carry, except health checks; empty: no token.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_in_flight: int, token: str) -> None:
        self._app, self._max_body_bytes, self._token = app, max_body_bytes, token
        self._max_in_flight, self._in_flight = max_in_flight, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._refused(request)
        self._in_flight += 1
        try:
            body = None if refused else await _read(receive, self._max_body_bytes)
            if body is not None:
                await self._app(scope, replay(body, receive), send)
                return
            status, detail, headers = refused or self._too_large("")
            await problem(status, detail, request_id(request), headers=headers)(scope, receive, send)
        finally:
            self._in_flight -= 1

    def _refused(self, request: Request) -> Refusal | None:
        if inside(request.scope) in OPEN_PATHS:
            return None
        if self._token and not self._knows(request.headers.get("authorization", "")):
            return 401, "the request must carry the bearer token", {"WWW-Authenticate": "Bearer"}
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_body_bytes:
            return self._too_large(f"; got {length[:20]}")
        if self._in_flight >= self._max_in_flight:
            return 503, "too many requests in progress; try again later", {"Retry-After": RETRY_AFTER_S}
        return None

    def _too_large(self, got: str) -> Refusal:
        return 413, f"the body must have at most {self._max_body_bytes} bytes{got}", {"Connection": "close"}

    def _knows(self, authorization: str) -> bool:
        """Whether this is our token; the scheme's case and the number of spaces are free (RFC 9110, 11.4)."""
        scheme, _, given = authorization.strip().partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._token.strip().encode())
        return scheme.lower() == "bearer" and right


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
