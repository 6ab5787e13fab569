"""Requests to the API in this process, with all layers around it."""

import asyncio
import json

import httpx
from starlette.types import ASGIApp

from ldm_ray.serving.layers import layered
from ldm_ray.serving.record import Observe
from ldm_ray.settings import ServeSettings
from tests.bundles import SMILES

LIMITS = ServeSettings(
    max_conditions=8, max_samples=64, max_draws=40, max_body_bytes=60_000, max_in_flight=24, max_passes=4000
)
CONDITION = {"smiles": SMILES, "cell": "SIMC001", "dose_um": 10.0, "time_h": 24.0}


def nobody(*_: object) -> None:
    """Look away."""


def ask(
    app: ASGIApp,
    *requests: httpx.Request,
    token: str = "",
    seen: Observe = nobody,
    limits: ServeSettings = LIMITS,
    behind_serve: bool = False,
) -> list[httpx.Response]:
    """Send requests at once."""
    server = layered(app, limits, token, seen, behind_serve=behind_serve)
    transport = httpx.ASGITransport(server, raise_app_exceptions=False)

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return list(await asyncio.gather(*(client.send(request) for request in requests)))

    return asyncio.run(send())


def post(body: object, **headers: str) -> httpx.Request:
    """A request for predictions."""
    return raw_post(
        body if isinstance(body, bytes) else json.dumps(body).encode(),
        **{"content-type": "application/json"} | headers,
    )


def raw_post(body: bytes, **headers: str) -> httpx.Request:
    """A request for predictions that says nothing about its body."""
    return httpx.Request("POST", "http://test/v1/predict", content=body, headers=headers)


def get(path: str, **headers: str) -> httpx.Request:
    return httpx.Request("GET", f"http://test{path}", headers=headers)
