"""One process that serves: an event loop, a service and uvicorn, on a socket that listens already.

Run as a module it is a worker of `sensorium serve --workers N`: the number of the socket is its argument, the settings
come as a line on standard input, and it stops when that input ends, for then nobody looks after it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from pydantic_core import from_json

from sensorium.config import Settings, exactly
from sensorium.errors import SensoriumError, ServiceClosed
from sensorium.runtimes.memory import keep_little
from sensorium.server.app import create_app, running
from sensorium.server.crowd import Crowd, make_room
from sensorium.server.door import House
from sensorium.server.http import Connection
from sensorium.server.logs import log_to_stderr

KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle between requests: longer than proxies keep theirs, which nginx does for 60 s."""

CUT_SECONDS = 5.0
"""How long threads that cannot be stopped may hold up the end, once the time for answers is over."""

COLLECT = (10_000, 20, 50)
"""New objects before the young ones are looked through for garbage, and of how many looks each goes further back."""

log = logging.getLogger("sensorium.server")


def run(settings: Settings, listening: socket.socket, listens: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; then go on with what is under way for `drain_seconds`. A second signal ends at once.

    Takes the socket over; calls `listens` once it serves. Raises ServiceClosed when the server breaks.
    """
    keep_little()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, listening, listens))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":  # for which there is no uvloop
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(settings: Settings, listening: socket.socket, listens: Callable[[], None]) -> None:
    app = create_app(settings)
    house: House = app.state.house
    asked = _asked_to_stop()
    async with running(app):
        server = _Server(_configured(app, settings))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        waiting = asyncio.create_task(asked.wait())
        _collect_seldom()
        listens()
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        house.leaving = True
        server.should_exit = True
        waiting.cancel()
        if not (await asyncio.wait([serving], timeout=settings.drain_seconds))[0]:
            log.warning("Cut off: what is still under way after %g s (`drain_seconds`)", settings.drain_seconds)
            _end_within(CUT_SECONDS)
            house.cut()
            await asyncio.wait([serving], timeout=CUT_SECONDS / 2)
            server.force_exit = True
        broken = (await asyncio.gather(serving, return_exceptions=True))[0]
    if broken is not None:
        raise ServiceClosed("The server could not go on", fix="Read what the log says above") from broken


def _configured(app: Any, settings: Settings) -> uvicorn.Config:
    """The limits, the log and the lifespan are ours; the rest is left as uvicorn has it."""
    return uvicorn.Config(
        app,
        http=partial(Connection, Crowd(make_room())),  # type: ignore[arg-type] # called as the class is
        ws="none",
        interface="asgi3",
        lifespan="off",
        loop="none",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=socket.SOMAXCONN,
        ssl_certfile=settings.certfile,
        ssl_keyfile=settings.keyfile,
        ssl_keyfile_password="",
    )


def _collect_seldom() -> None:
    """What stands until the end is not looked at for garbage again; the rest less often.

    Next to nothing here is garbage that refers to itself, and looking for it took a sixth of what a request costs (measured).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to us, and nobody unheard who came before it stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        came = [one for listening in sockets or [] for one in _come_already(listening)]
        for server in self.servers:
            server.close()  # in the same breath: who comes between is cut off
        for one in came:
            if self.config.is_ssl:  # which has asked for nothing yet, and may take its time
                one.close()
            else:
                await asyncio.get_running_loop().connect_accepted_socket(self._connection, one)
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _come_already(listening: socket.socket) -> Iterator[socket.socket]:
    """The connections that the system has made and nobody has heard of yet."""
    listening.setblocking(False)
    with contextlib.suppress(OSError):
        while True:
            yield listening.accept()[0]


def _asked_to_stop() -> asyncio.Event:
    """Set by the first signal; the second does what it would have done without us."""
    # Not `loop.add_signal_handler`, which Windows does not have.
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for known, handler in before.items():
            signal.signal(known, handler)
        log.info("Stopping: what is under way is finished first")
        loop.call_soon_threadsafe(asked.set)

    for number in before:
        signal.signal(number, stop)
    return asked


def _end_within(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, [0])
    timer.daemon = True
    timer.start()


def main() -> None:
    """What a worker does."""
    ready = os.dup(1)
    os.dup2(2, 1)  # so that nothing else can fill the pipe that its parent reads
    settings = exactly(from_json(_line(0)))
    log_to_stderr(settings.log_format, settings.log_level)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run(settings, socket.socket(fileno=int(sys.argv[1])), lambda: _say_ready(ready))
    except SensoriumError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence, not a traceback
        sys.exit(1)


def _say_ready(pipe: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, which standard input tells
        os.write(pipe, b"ready\n")


def _line(descriptor: int) -> bytes:
    """Read no further than the end of the line."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return file.readline()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
