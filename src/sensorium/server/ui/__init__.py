"""The pages for people: `/`, to look at pictures, and `/docs`, every route with a form to try it. Nothing on them comes from elsewhere."""

from __future__ import annotations

import functools
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sensorium.server.facades.base import Reply

FOLDER = Path(__file__).parent

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

FILES = {
    "/docs": FOLDER / "docs.html",
    "/docs/page.css": FOLDER / "docs.css",
    "/docs/page.js": FOLDER / "docs.js",
    **{f"/ui/{file.name}": file for file in sorted((FOLDER / "page").iterdir()) if file.suffix in (".css", ".js")},
}
"""Path and file. Pages name the others relative to themselves, so that any prefix may stand before."""

HEADERS = {
    # `blob:` is the preview of a picture that the reader has chosen, `data:` an empty icon.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A page that has opened this one keeps no hold of it, and none may ask for more than the camera.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "Cache-Control": "no-cache",
}

STRICT = f"{HEADERS['Content-Security-Policy']}; require-trusted-types-for 'script'; trusted-types 'none'"
"""Of the page at `/`: browsers refuse whatever would make markup or a script of a text."""


def routes() -> list[Route]:
    """The page at `/docs`, and what both pages are made of."""
    return [_route(path, file) for path, file in FILES.items()]


def wanted(accept: str) -> bool:
    """Whether a browser asks at `/`, by its `Accept`; programs get JSON there."""
    accepted = accept.lower()
    return "text/html" in accepted and "application/json" not in accepted


@functools.cache
def page() -> Reply:
    """The page at `/`."""
    headers = {
        **HEADERS,
        "Content-Security-Policy": STRICT,
        "Content-Type": "text/html; charset=utf-8",
        "Vary": "Accept",
    }
    raw = tuple((name.lower().encode(), value.encode()) for name, value in headers.items())
    return Reply(200, (FOLDER / "page" / "index.html").read_bytes(), raw)


def _route(path: str, file: Path) -> Route:
    content = file.read_bytes()

    async def endpoint(request: Request) -> Response:  # noqa: ARG001
        return Response(content, headers=HEADERS, media_type=KINDS[file.suffix])

    return Route(path, endpoint)
