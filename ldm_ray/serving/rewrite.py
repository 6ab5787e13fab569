"""Requests in the forms that clients send, rewritten to the one that the routes know."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = ("/v1/", "/healthz/", "/readyz/")
COMPOUND = "/v1/compounds/"


class Rewrite:
    """Answers HEAD as GET without a body (RFC 9110, 9.3.2), and ignores a slash too many in a path.

    Args:
        app: The wrapped application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        within, head = inside(scope), scope["method"] == "HEAD"
        path = scope["path"].removesuffix(within) + _plain(within)
        if path == scope["path"] and not head:
            await self._app(scope, receive, send)
            return
        # A copy: the server looks up in its own scope whether the method is HEAD.
        inner = {**scope, "path": path, "method": "GET" if head else scope["method"]}
        try:
            await self._app(inner, receive, _without_body(send) if head else send)
        finally:
            scope["route"] = inner.get("route")


def inside(scope: Scope) -> str:
    """Return the path below the prefix under which the API is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _plain(path: str) -> str:
    """Drop a doubled slash at a path's start and, in the API, a slash at its end; a SMILES stays as it is."""
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if path.endswith("/") and path.startswith(API) and (path == COMPOUND or not path.startswith(COMPOUND)):
        return path[:-1]
    return path


def _without_body(send: Send) -> Send:
    async def head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return head
