"""Errors as problem details (RFC 9457), which name the wrong field and what was wanted."""

import http
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ldm_ray.errors import LdmRayError, QueryError, StoreError
from ldm_ray.serving.errors import OverloadedError, RequestError
from ldm_ray.serving.schemas import FieldProblem, Problem

MEDIA_TYPE = "application/problem+json"
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {MEDIA_TYPE: {}}, "description": what}
    for status, what in {
        400: "the body cannot be read",
        401: "the token is missing or wrong",
        404: "no such model",
        413: "the body is too large",
        415: "the body is not JSON in UTF-8, plain or gzip",
        422: "the request cannot be answered; the answer names the wrong field",
        503: "too much is waiting; Retry-After says when to try again",
    }.items()
}
"""What the API's description says about errors."""
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
        errors = [_field_problem(item) for item in error.errors()[:20]]
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

    @app.exception_handler(Exception)
    async def unexpected(request: Request, _: Exception) -> Response:  # is raised again afterwards, so the log has it
        return problem(500, "the server failed; its log says why", request_id(request))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        headers, detail = dict(error.headers or {}), str(error.detail)
        if error.status_code == 405:
            headers["Allow"] = _allowed(headers.get("Allow", "GET"))
            detail = f"this path takes {headers['Allow']}; got {request.method}"
        elif error.status_code == 404:
            detail = f"there is nothing at {request.url.path[:SHOWN]!r}; /docs lists the paths"
        return problem(error.status_code, detail, request_id(request), headers=headers)


def request_id(request: Request) -> str:
    """Return the id of a request in logs and answers."""
    return str(request.scope.get("request_id", ""))


def _allowed(methods: str) -> str:
    """Name HEAD, which no route needs to know (`serving/rewrite.py`), beside GET."""
    return ", ".join(sorted({*methods.split(", "), *(["HEAD"] if "GET" in methods else [])}))


def _field_problem(item: dict[str, Any]) -> FieldProblem:
    if item["type"] == "json_invalid":  # its path is a position in the text
        return FieldProblem(field="body", detail=f"no JSON: {item['ctx']['error']} at character {item['loc'][-1]}")
    return FieldProblem(field=_path(item["loc"]), detail=_shown(item))


def _path(location: Sequence[object]) -> str:
    parts = [str(part) for part in location if part != "body"]
    return ".".join(parts) or "body"


def _shown(item: dict[str, Any]) -> str:
    """Say what is wrong, and what was given if that is short."""
    message = str(item["msg"]).removeprefix("Value error, ")
    got = item.get("input")
    if item["type"] == "model_attributes_type":
        message = "Input should be a JSON object" + ("; got a list" if isinstance(got, list) else "")
    if isinstance(got, str | int | float | bool) or got is None:
        text = repr(got)
        message += f"; got {text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}"
    return message
