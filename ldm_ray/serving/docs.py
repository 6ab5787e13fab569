"""The API's own documentation, at /docs and /redoc: it contacts no other host, and works behind any prefix."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse

OPENAPI, STATIC = "openapi.json", "static-offline-docs"
"""Relative to the pages, and where fastapi_offline mounts its files. A proxy that adds a prefix need not say so."""
HERE = [{"url": "."}]
"""The API's address, relative to its description."""
POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; worker-src blob:"
)
"""ReDoc would load a logo from its maker's host."""


def add_docs(app: FastAPI) -> None:
    """Add the pages to an application that was made by `FastAPIOffline`."""
    title, icon = str(app.title), f"{STATIC}/favicon.png"

    @app.get("/docs", include_in_schema=False)
    async def swagger() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url=OPENAPI,
            title=title,
            swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{STATIC}/swagger-ui.css",
            swagger_favicon_url=icon,
        )
        return _alone(page)

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        page = get_redoc_html(
            openapi_url=OPENAPI,
            title=title,
            redoc_js_url=f"{STATIC}/redoc.standalone.js",
            with_google_fonts=False,
            redoc_favicon_url=icon,
        )
        return _alone(page)


def _alone(page: HTMLResponse) -> HTMLResponse:
    page.headers["Content-Security-Policy"] = POLICY
    return page
