"""Runs the server in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from types import FrameType

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from sensorium.config import Settings
from sensorium.errors import InvalidConfiguration, ServiceClosed
from sensorium.server.app import create_app
from sensorium.server.auth import asks_for_keys, make_ready

BACKLOG = 1024
"""Connections that the system holds until they are accepted."""

MOST_CONNECTIONS = 4096
"""Requests under way at once, slow senders included; how many are worked on, `running` and `waiting` say."""

SETTLE_SECONDS = 0.2
"""granian's threads may still let go of idle connections when `serve` returns; ending the interpreter meanwhile makes them complain."""

log = logging.getLogger("sensorium.server")


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; then answer what is under way, and return. A second signal ends at once.

    Raises InvalidConfiguration when the address cannot be listened on.
    """
    _log_to_stderr()
    port = _free_port(settings.host, settings.port)
    if made := asyncio.run(make_ready(settings)):
        # Not to the log, which may be kept and sent about.
        sys.stderr.write(f"{made}\n")
        sys.stderr.flush()
    log.info("Callers %s", "must send a key" if asks_for_keys(settings) else "need no key (`auth`)")
    asyncio.run(_serve(settings, port))


async def _serve(settings: Settings, port: int) -> None:
    server = Server(
        create_app(settings),
        address=settings.host,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=MOST_CONNECTIONS,
        log_level=LogLevels.error,
    )
    _stop_on_signals(server)
    announcing = asyncio.create_task(_announce(settings.host, port))
    await server.serve()
    announcing.cancel()
    await asyncio.sleep(SETTLE_SECONDS)
    if server.interrupt_children:
        raise ServiceClosed("The server could not go on", fix="Read what the log says above")
    log.info("Stopped")


async def _announce(host: str, port: int) -> None:
    """Say where it listens, once it does: what reads the line may connect at once."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    while True:
        try:
            _, writer = await asyncio.open_connection(reachable, port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            break
    log.info("Listening on http://%s:%d", _bracketed(host), port)


def _stop_on_signals(server: Server) -> None:
    # Not `loop.add_signal_handler`, which Windows does not have.
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for known, handler in before.items():
            signal.signal(known, handler)
        log.info("Stopping: what is under way is finished first")
        loop.call_soon_threadsafe(server.stop)

    for number in before:
        signal.signal(number, stop)


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises InvalidConfiguration when the address cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            if hasattr(signal, "SIGHUP"):  # elsewhere than on Windows, where it would allow two servers on one port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise InvalidConfiguration(
            f"Cannot listen on {_bracketed(host)}:{port}",
            why=error.strerror or str(error),
            fix="Choose another `host` or `port`",
        ) from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("sensorium")
    if not root.handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
