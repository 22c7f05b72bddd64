"""The straight way to routes leads where the router would."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Route

from sensorium.server.shortcut import Shortcut


@pytest.mark.parametrize(
    ("scope", "led"),
    [
        ({"method": "POST", "path": "/v1/read"}, "the route"),
        ({"method": "POST", "path": "/vision/v1/read", "root_path": "/vision"}, "the route"),
        ({"method": "POST", "path": "/v1/read", "root_path": "/v"}, "the router"),
        ({"method": "GET", "path": "/v1/read"}, "the router"),
        ({"method": "POST", "path": "/v1/read/"}, "the router"),
        ({"type": "lifespan"}, "the router"),
    ],
)
async def test_it_leads_to_a_route_of_that_path_and_method_and_all_else_to_the_router(
    scope: dict[str, Any], led: str
) -> None:
    came: list[str] = []

    class Ends:
        """An application that says that somebody came."""

        def __init__(self, name: str) -> None:
            self._name = name

        async def __call__(self, *_: Any) -> None:
            came.append(self._name)

    route = Route("/v1/read", Ends("the route"), methods=["POST"])
    scope = {"type": "http", **scope}
    await Shortcut(Ends("the router"), [route])(scope, None, None)  # type: ignore[arg-type] # neither is used
    assert came == [led]
    assert (scope.get("route") is route) == (led == "the route")
