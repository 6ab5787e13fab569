"""The outermost layer: gives each request an id, and records how it was answered."""

import json
import logging
import time
import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ID_HEADER = "x-request-id"
MAX_ID = 100
log = logging.getLogger("ldm_ray.serve")

Observe = Callable[[str, int, float], None]
"""Called with route, status and seconds of each answered request."""


class Record:
    """An ASGI application that wraps another.

    Args:
        app: The wrapped application.
        observe: Called for every answer.
        behind_serve: Whether Ray Serve's proxy is in front. It gives each request an id and puts it into each answer,
            its own errors included; a second header here would repeat it.
    """

    def __init__(self, app: ASGIApp, observe: Observe, *, behind_serve: bool) -> None:
        self._app, self._observe, self._behind_serve = app, observe, behind_serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Request(scope).headers.get(ID_HEADER, "")
        own_id = given if given and (self._behind_serve or _usable(given)) else uuid.uuid4().hex
        scope["request_id"] = own_id
        began, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not self._behind_serve:
                    message["headers"] = [*message.get("headers", []), (ID_HEADER.encode(), own_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, status, seconds)
            line = {"request_id": own_id, "method": scope["method"], "route": route, "status": status}
            log.info(json.dumps(line | {"ms": round(1000 * seconds, 1)}))


def _usable(given: str) -> bool:
    return given.isascii() and given.isprintable() and len(given) <= MAX_ID
