"""One process that serves: an event loop, a service and granian, on a socket that listens already.

Run as a module it is a worker of `sensorium serve --workers N`: the number of the socket is its argument, the settings
come as a line on standard input, and it stops when that input ends, for then nobody looks after it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.log import LogLevels
from granian.server.embed import Server
from pydantic_core import from_json

from sensorium.config import Settings, exactly
from sensorium.errors import SensoriumError, ServiceClosed
from sensorium.server.app import create_app
from sensorium.server.door import House
from sensorium.server.logs import log_to_stderr

MOST_CONNECTIONS = 4096
"""Connections at once, slow senders included; how many requests are worked on, `running` and `waiting` say."""

SETTLE_SECONDS = 0.2
"""granian's threads may still let go of idle connections when `run` returns; ending the interpreter meanwhile makes them complain."""

CUT_SECONDS = 5.0
"""How long threads that cannot be stopped may hold up the end, once the time for answers is over."""

log = logging.getLogger("sensorium.server")


def run(settings: Settings, listening: socket.socket, listens: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; then go on with what is under way for `drain_seconds`. A second signal ends at once.

    Takes the socket over; calls `listens` once it serves. Raises ServiceClosed when the server breaks.
    """
    asyncio.run(_serve(settings, listening, listens))


async def _serve(settings: Settings, listening: socket.socket, listens: Callable[[], None]) -> None:
    app = create_app(settings)
    house: House = app.state.house
    server = _Server(app, listening, settings)
    asked = _asked_to_stop()
    serving = asyncio.create_task(server.serve())
    telling = asyncio.create_task(_tell(house, listens))
    waiting = asyncio.create_task(asked.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    house.leaving = True
    server.stop()  # type: ignore[no-untyped-call]
    for task in (telling, waiting):
        task.cancel()
    if not (await asyncio.wait([serving], timeout=settings.drain_seconds))[0]:
        log.warning("Cut off: what is still under way after %g s (`drain_seconds`)", settings.drain_seconds)
        _end_within(CUT_SECONDS)
        house.cut()
        await asyncio.wait([serving], timeout=CUT_SECONDS / 2)
        serving.cancel()
    broken = (await asyncio.gather(serving, return_exceptions=True))[0]
    await asyncio.sleep(SETTLE_SECONDS)
    if server.interrupt_children:
        raise ServiceClosed("The server could not go on", fix="Read what the log says above") from broken


class _Server(Server):
    """granian's server in this loop, on a socket that others may share."""

    def __init__(self, app: object, listening: socket.socket, settings: Settings) -> None:
        self._listening = listening
        super().__init__(
            app,
            address=settings.host,
            port=listening.getsockname()[1],
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=socket.SOMAXCONN,
            backpressure=MOST_CONNECTIONS,
            log_level=LogLevels.error,
            ssl_cert=settings.certfile,
            ssl_key=settings.keyfile,
            ssl_protocol_min=SSLProtocols.tls12,
        )

    def _init_shared_socket(self) -> None:
        if sys.platform == "win32":  # where granian takes no socket of others
            self._listening.close()
            super()._init_shared_socket()
        else:
            self._shd = SocketHolder(self._listening.detach(), False, self.backlog)  # type: ignore[call-arg,assignment] # as it pickles them


async def _tell(house: House, listens: Callable[[], None]) -> None:
    await house.opened.wait()
    listens()


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
