"""The layers around the API, from the outside inwards: record, rewrite, CORS, compression, gate."""

from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp

from ldm_ray.serving.answers import ARROW
from ldm_ray.serving.gate import Gate
from ldm_ray.serving.record import Observe, Record
from ldm_ray.serving.rewrite import Rewrite
from ldm_ray.settings import ServeSettings

MIN_PACKED_BYTES = 4096
PACK_LEVEL = 1
"""Higher levels of gzip take several times as long for a few per cent."""
UNPACKED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, ARROW)
"""Float32 in Arrow hardly gets smaller."""
METHODS = ("GET", "HEAD", "POST")
SENT = ("Authorization", "Content-Encoding", "Content-Type", "X-Request-ID")
SHOWN = ("Retry-After", "X-Request-ID")


def layered(
    app: ASGIApp, settings: ServeSettings, token: str, observe: Observe, *, behind_serve: bool = False
) -> ASGIApp:
    """Put the layers around an application.

    Args:
        app: The routes.
        settings: Limits, and the origins whose pages may ask.
        token: Bearer token that requests must carry; empty: none.
        observe: Called for every answer.
        behind_serve: Whether Ray Serve's proxy gives requests their ids.
    """
    app = Gate(app, settings.max_body_bytes, settings.max_in_flight, token)
    app = GZipMiddleware(app, MIN_PACKED_BYTES, PACK_LEVEL, exclude_content_types=UNPACKED)
    if settings.cors_origins:  # outside of the gate: a browser asks first without the token, and reads errors too
        app = CORSMiddleware(app, settings.cors_origins, METHODS, SENT, expose_headers=SHOWN)
    return Record(Rewrite(app), observe, behind_serve=behind_serve)
