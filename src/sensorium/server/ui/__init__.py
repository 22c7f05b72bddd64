"""The page at `/docs`: every route with its schemas, examples and a form to try it. Nothing on it comes from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/page.css": ("docs.css", "text/css"),
    "/docs/page.js": ("docs.js", "text/javascript"),
}
"""Path, file in this folder, and type. The page names the others relative to itself, so that any prefix may stand before."""

HEADERS = {
    # `blob:` is the preview of a picture that the reader has chosen, `data:` an empty icon.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes() -> list[Route]:
    """The page and what it is made of."""
    return [_route(path, *file) for path, file in FILES.items()]


def _route(path: str, file: str, kind: str) -> Route:
    content = (Path(__file__).parent / file).read_bytes()

    async def endpoint(request: Request) -> Response:  # noqa: ARG001
        return Response(content, headers=HEADERS, media_type=kind)

    return Route(path, endpoint)
