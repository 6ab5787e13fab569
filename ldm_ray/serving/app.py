"""The HTTP API: routes and limits in front of a backend."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from ldm_ray import __version__
from ldm_ray.data.manifest import Gene
from ldm_ray.serving import problems
from ldm_ray.serving.answers import ARROW, JSON, as_arrow, as_json
from ldm_ray.serving.backend import Backend
from ldm_ray.serving.body import json_route
from ldm_ray.serving.compounds import compounds
from ldm_ray.serving.docs import HERE, add_docs
from ldm_ray.serving.errors import RequestError
from ldm_ray.serving.problems import ERRORS
from ldm_ray.serving.schemas import (
    CellLine,
    ModelInfo,
    ModelName,
    PredictRequest,
    PredictResponse,
)
from ldm_ray.settings import ServeSettings

WEB = Path(__file__).parent / "web"
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
"""The page only contacts this server; its plots set their own styles."""


def create_app(backend: Callable[[], Backend], limits: ServeSettings) -> FastAPI:
    """Build the application; `backend` is called for each request, so that the backend may be replaced."""
    app = FastAPIOffline(  # its documentation page contacts no other host
        title="ldm_ray",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        servers=HERE,
        root_path_in_servers=False,
        redirect_slashes=False,
        description="Predicts drug-induced expression of the landmark genes, with uncertainty.",
    )
    problems.install(app)
    add_docs(app)
    posts = APIRouter(route_class=json_route(limits.max_body_bytes))

    @posts.post(
        "/v1/predict",
        response_model=PredictResponse,
        responses=ERRORS | {200: {"content": {ARROW: {}}, "description": "predictions"}},
        summary="Predict expression profiles",
    )
    async def predict(request: PredictRequest, accept: Annotated[str, Header()] = JSON) -> Response:
        check_limits(request, limits, await backend().model(request.model))
        answer = await backend().predict(request)
        if ARROW in accept:
            return Response(as_arrow(answer, request), media_type=ARROW)
        return Response(as_json(answer, request), media_type=JSON)

    @app.get("/v1/models", responses=ERRORS, summary="Names of the models")
    async def models() -> list[str]:
        return await backend().models()

    @app.get("/v1/model", responses=ERRORS, summary="Describe a model and its training data")
    async def model(model: ModelName = None) -> ModelInfo:
        return await backend().model(model)

    @app.get("/v1/cells", responses=ERRORS, summary="Cell lines that a condition may name")
    async def cells(model: ModelName = None) -> list[CellLine]:
        return await backend().cells(model)

    @app.get(
        "/v1/genes",
        response_model=list[dict[str, Any]],
        responses=ERRORS,
        summary="Genes of a profile, in order",
    )
    async def genes(model: ModelName = None) -> list[Gene]:
        return await backend().genes(model)

    @app.get("/healthz", summary="Whether the server is running")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", responses={503: ERRORS[503]}, summary="Whether queries can be answered")
    async def ready() -> dict[str, str]:
        if not await backend().ready():
            raise HTTPException(503, "the model is still loading", {"Retry-After": "1"})
        return {"status": "ready"}

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html", headers={"Content-Security-Policy": POLICY})

    app.include_router(posts)
    app.include_router(compounds(backend))
    app.mount("/web", StaticFiles(directory=WEB), name="web")
    return app


def check_limits(request: PredictRequest, limits: ServeSettings, model: ModelInfo) -> None:
    """Refuse a request that is too large; where it gives no numbers, the model's own count.

    Raises:
        RequestError: If it is too large; names the field.
    """
    n = len(request.conditions)
    if n > limits.max_conditions:
        raise RequestError("conditions", f"at most {limits.max_conditions} conditions per request; got {n}")
    if request.n_samples is not None and request.n_samples > limits.max_samples:
        raise RequestError("n_samples", f"n_samples must be at most {limits.max_samples}; got {request.n_samples}")
    samples, steps = n * (request.n_samples or model.n_samples), request.steps or model.sampler["steps"]
    if request.wanted == "draws" and samples > limits.max_draws:
        raise RequestError("n_samples", f"at most {limits.max_draws} draws per request; got {samples}")
    if samples * steps > limits.max_passes:
        got = f"{n} x {samples // n} x {steps}"
        raise RequestError(
            "n_samples", f"conditions x n_samples x steps must be at most {limits.max_passes}; got {got}"
        )
