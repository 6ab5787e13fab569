"""Errors as problem details (RFC 9457), which name the wrong field and what was wanted."""

import http
import json
import logging
import math
from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ldm_ray.errors import LdmRayError, QueryError, StoreError
from ldm_ray.serving.errors import OverloadedError, RequestError
from ldm_ray.serving.schemas import FieldProblem, Problem

MEDIA_TYPE = "application/problem+json"
SHOWN = 200
log = logging.getLogger("ldm_ray.serve")


def problem(
    status: int,
    detail: str,
    request_id: str,
    errors: Sequence[FieldProblem] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """Build the response for an error."""
    body = Problem(
        title=http.HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id, errors=list(errors)
    )
    return Response(json.dumps(body.model_dump()), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer all errors of an application with problem details."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [FieldProblem(field=_path(item["loc"]), detail=_shown(item)) for item in error.errors()[:20]]
        return problem(422, f"{errors[0].field}: {errors[0].detail}", request_id(request), errors)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        errors = [FieldProblem(field=error.field, detail=str(error))]
        return problem(error.status, f"{error.field}: {error}", request_id(request), errors)

    @app.exception_handler(OverloadedError)
    async def overloaded(request: Request, error: OverloadedError) -> Response:
        headers = {"Retry-After": str(math.ceil(error.retry_after_s))}
        return problem(503, f"{error}; try again later", request_id(request), headers=headers)

    @app.exception_handler(QueryError)
    async def bad(request: Request, error: QueryError) -> Response:
        return problem(422, str(error), request_id(request))

    @app.exception_handler(LdmRayError)
    async def own_fault(request: Request, error: LdmRayError) -> Response:
        log.error("%s: %s", type(error).__name__, error)
        if isinstance(error, StoreError):
            return problem(503, "the model's files cannot be read", request_id(request), headers={"Retry-After": "5"})
        return problem(500, "the model cannot answer; the server's log says why", request_id(request))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        return problem(error.status_code, str(error.detail), request_id(request), headers=headers)


def request_id(request: Request) -> str:
    """Return the id of a request in logs and answers."""
    return str(request.scope.get("request_id", ""))


def _path(location: Sequence[object]) -> str:
    parts = [str(part) for part in location if part != "body"]
    return ".".join(parts) or "body"


def _shown(item: dict[str, object]) -> str:
    """Say what is wrong, and what was given if that is short."""
    message = str(item["msg"]).removeprefix("Value error, ")
    got = item.get("input")
    if isinstance(got, str | int | float | bool) or got is None:
        text = repr(got)
        message += f"; got {text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}"
    return message
