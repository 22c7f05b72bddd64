"""The HTTP server as an ASGI application: every task and facade behind its route."""

from __future__ import annotations

import asyncio
import functools
import gzip
import importlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

import sensorium
from sensorium import discovery
from sensorium.config import Settings, load_settings
from sensorium.engine import OPERATING, Caller
from sensorium.errors import SensoriumError
from sensorium.registry import Registry, Task
from sensorium.server import files, jobs, models, openapi, resume, ui, usage
from sensorium.server.access import Access
from sensorium.server.auth import asks_for_keys
from sensorium.server.door import CALLER, TRACE, House, head_of
from sensorium.server.exposition import CONTENT_TYPE
from sensorium.server.facades import native
from sensorium.server.facades.base import Facade, Reply, key_of
from sensorium.server.health import readiness
from sensorium.server.origins import KnownHosts
from sensorium.server.shortcut import Shortcut


def create_app(settings: Settings | None = None) -> Starlette:
    """The server, for any ASGI host that runs its lifespan; the service lives in that host's loop.

    Mounted in another application, it needs that application's lifespan: see `running`.
    """
    house = House(settings or load_settings())
    tasks = Registry().tasks
    facades = (*(native.facade_for(task.request) for task in tasks), *_facades())
    long_work, filing = jobs.Jobs(house, tasks), files.Filing(house)
    doors = [*(long_work.door_of(one) for one in facades), long_work.door()]
    app = _Application(
        routes=[
            *doors,
            resume.route(house),
            long_work.events(),
            *filing.routes(),
            *_pages(house, tasks, facades, long_work, filing),
            *ui.routes(),
        ],
        middleware=[Middleware(Access), *_browsers(house.settings), Middleware(Shortcut, doors)],
        exception_handlers={HTTPException: _refused},  # type: ignore[dict-item] # it gets no others
        lifespan=_lifespan(house, long_work, filing),
    )
    for route in app.routes:
        _end_at_the_end(route)
    # To where is written by who asks: a Host that is not ours would send clients, with their keys, elsewhere.
    app.router.redirect_slashes = False
    app.state.house = house
    return app


class _Application(Starlette):
    """Starlette without its own layer for what nobody foresaw: `Access` answers that, and a layer costs every message a call."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = ExceptionMiddleware(self.router, handlers=self.exception_handlers)
        for layer, positional, named in reversed(self.user_middleware):
            app = layer(app, *positional, **named)
        return app


def _end_at_the_end(route: BaseRoute) -> None:
    """Of a regular expression `$` also stands before a line break at the end, so that `/v1/read%0A` would find `/v1/read`;
    and to `.` a line break is no sign."""
    if isinstance(route, Route):
        route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)


def running(app: Starlette) -> AbstractAsyncContextManager[Any]:
    """The service behind the application, as long as the block runs.

    For an application that mounts it: hosts start the outermost application alone.

        vision = create_app()
        host = Starlette(routes=[Mount("/vision", vision)], lifespan=lambda app: running(vision))
    """
    return app.router.lifespan_context(app)


def _browsers(settings: Settings) -> Iterator[Middleware]:
    """Which web pages may ask: without keys only those named, and of those from elsewhere none without being named."""
    if not asks_for_keys(settings):
        yield Middleware(KnownHosts, settings)
    if settings.cors_origins:
        rates = [f"X-RateLimit-{what}-Requests" for what in ("Limit", "Remaining", "Reset")]
        told = ["X-Request-Id", "Retry-After", "WWW-Authenticate", *rates]
        yield Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=told,
        )


def _facades() -> Iterator[Facade]:
    """Those of the modules in `facades/`, and of entry points, that offer one."""
    for name in sorted(discovery.modules(discovery.FACADES).values()):
        module = importlib.import_module(name)
        if hasattr(module, "FACADE"):
            yield module.FACADE


def _lifespan(house: House, *parts: jobs.Jobs | files.Filing) -> Any:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        await house.open()
        for part in parts:
            await part.open()
        try:
            yield
        finally:
            for part in reversed(parts):
                await part.close()
            await house.close()

    return lifespan


def _pages(
    house: House, tasks: Sequence[Task], facades: Sequence[Facade], long_work: jobs.Jobs, filing: files.Filing
) -> list[Route]:
    """What can be asked without a body."""
    described: list[bytes] = []  # made at the first request, since it takes some milliseconds

    async def index(request: Request) -> Reply:
        if ui.wanted(request.headers.get("accept", "")):
            return ui.page()
        prefix = request.scope.get("root_path", "")
        about = {
            "name": "sensorium",
            "version": sensorium.__version__,
            "tasks": {task.name: f"{prefix}/v1/{task.name}" for task in tasks},
            "openapi": f"{prefix}/openapi.json",
            "docs": f"{prefix}/docs",
        }
        return Reply(200, to_json(about), ((b"vary", b"Accept"),))

    async def document(request: Request) -> Reply:
        if not described:
            described.append(to_json(openapi.document(tasks, facades, {**jobs.operations(), **files.operations()})))
        # Where another application has it mounted, or a proxy's prefix stands before the paths.
        servers = to_json([{"url": request.scope.get("root_path") or "/"}])
        body = b'{"servers":%b,%b' % (servers, described[0].removeprefix(b"{"))
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Reply(200, body, ((b"vary", b"Accept-Encoding"),))
        return Reply(200, _squeezed(body), ((b"vary", b"Accept-Encoding"), (b"content-encoding", b"gzip")))

    async def who(request: Request) -> Reply:
        caller: Caller = request.scope[CALLER]
        scopes = ["*", *sorted(OPERATING)] if caller.scopes is None else sorted(caller.scopes)
        told = {"name": caller.name, "scopes": scopes, "requests_per_minute": caller.requests_per_minute}
        return Reply(200, to_json(told))

    async def used(request: Request) -> Reply:
        assert house.book is not None  # noqa: S101 - there once `guarded` has let anybody in
        return await usage.used(house.book, request.scope[CALLER], head_of(request.scope).query)

    async def live(request: Request) -> Reply:  # noqa: ARG001
        return Reply(200, b'{"status":"live"}')

    async def healthy(request: Request) -> Reply:  # noqa: ARG001
        return Reply(200, b'{"status":"healthy","service":"sensorium"}')

    async def ready(request: Request) -> Reply:  # noqa: ARG001
        if house.leaving:
            return Reply(503, b'{"status":"stopping"}')
        usable, told = await asyncio.to_thread(readiness, house.inside[0])
        return Reply(200 if usable else 503, to_json(told))

    async def listed(request: Request) -> Reply:  # noqa: ARG001
        return await models.listed(house.inside[0])

    async def one_model(request: Request) -> Reply:
        return await models.one(house.inside[0], request.path_params["name"], request.scope[TRACE])

    async def reloaded(request: Request) -> Reply:
        return await models.reloaded(house.inside[0], request.path_params["name"], request.scope[TRACE])

    async def metrics(request: Request) -> Reply:  # noqa: ARG001
        return Reply(200, await house.numbers(), ((b"content-type", CONTENT_TYPE),))

    async def unknown_task(request: Request) -> Reply:
        if f"/v1/{request.path_params['task']}" not in (
            "/v1/caller",
            usage.PATH,
            models.LIST,
            jobs.LIST,
            files.FILES,
            files.UPLOADS,
        ):
            Registry().task(request.path_params["task"])
        raise HTTPException(405, headers={"Allow": "GET, HEAD"})

    pages = {"/": index, "/openapi.json": document, "/health": healthy}
    pages |= {"/health/live": live, "/health/ready": ready}
    return [
        *(_page(path, answer) for path, answer in pages.items()),
        _page("/v1/caller", guarded(house, who)),
        _page(usage.PATH, guarded(house, used)),
        _page("/metrics", guarded(house, metrics, "metrics")),
        _page(models.LIST, guarded(house, listed)),
        _page(models.RELOAD, guarded(house, reloaded, "admin"), "POST"),
        _page(models.ONE, guarded(house, one_model)),
        _page(jobs.LIST, guarded(house, long_work.listed)),
        _page(jobs.ONE, guarded(house, long_work.one)),
        _page(jobs.ONE, guarded(house, long_work.cancelled), "DELETE"),
        _page(jobs.SIGNING, guarded(house, long_work.secret)),
        _page(files.FILES, guarded(house, filing.listed)),
        _page(files.FILE, guarded(house, filing.one)),
        _page(files.FILE, guarded(house, filing.deleted), "DELETE"),
        _page(files.UPLOAD, guarded(house, filing.upload)),
        _page(files.CANCEL, guarded(house, filing.cancelled), "POST"),
        _page("/v1/{task}", unknown_task, "POST"),
    ]


@functools.lru_cache(maxsize=2)
def _squeezed(body: bytes) -> bytes:
    """A tenth of it, for browsers; each prefix has one body."""
    return gzip.compress(body, 6)


def guarded(house: House, answer: Any, *scopes: str) -> Any:
    """The page, for callers who have one of the scopes; with none named, for everyone with a good key.

    The answer finds the caller in the scope, as CALLER.
    """

    async def page(request: Request) -> Reply:
        try:
            caller = await house.caller(key_of(head_of(request.scope)))
            if scopes:
                caller.require(*scopes)
        except SensoriumError as error:
            return native.refuse(error, request.scope[TRACE])
        request.scope[CALLER] = caller
        reply: Reply = await answer(request)
        return reply

    return page


def _page(path: str, answer: Any, method: str = "GET") -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return _response(await answer(request))
        except SensoriumError as error:
            return _response(native.refuse(error, request.scope[TRACE]))

    return Route(path, endpoint, methods=[method])


async def _refused(request: Request, error: HTTPException) -> Response:
    """What Starlette's router refuses, in our shape."""
    told = {"code": "not_found", "message": "There is nothing here. See /openapi.json for all routes."}
    if error.status_code == 405:
        told = {
            "code": "method_not_allowed",
            "message": f"This route does not take {request.method[:20]}. See /openapi.json.",
        }
    body = {"error": {**told, "retryable": False, "trace": request.scope[TRACE]}}
    headers = dict(error.headers or {})
    if error.status_code == 405 and (
        allowed := _allowed(request)
    ):  # the router names those of one route, where several share the path
        headers["Allow"] = ", ".join(sorted(allowed))
    return _response(Reply(error.status_code, to_json(body)), headers)


def _allowed(request: Request) -> set[str]:
    """The methods that routes of this path take: those written as the first one is that leads there."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    routes = [one for one in request.app.routes if isinstance(one, Route)]
    written = next((one.path for one in routes if one.path_regex.match(path)), None)
    return {method for one in routes if one.path == written for method in one.methods or ()}


def _response(reply: Reply, headers: dict[str, str] | None = None) -> Response:
    media = None if b"content-type" in dict(reply.headers) else "application/json"
    response = Response(reply.body, reply.status, headers, media_type=media)
    response.raw_headers.extend(reply.headers)
    return response
