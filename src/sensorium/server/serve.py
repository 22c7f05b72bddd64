"""Serves until it is told to stop: in this process, or in several that share a socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys

from sensorium.config import Settings
from sensorium.errors import InvalidConfiguration
from sensorium.server.auth import asks_for_keys, make_ready
from sensorium.server.logs import log_to_stderr

log = logging.getLogger("sensorium.server")


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; then answer what is under way, and return. A second signal ends at once.

    Raises InvalidConfiguration when the address cannot be listened on, or the certificate cannot be used.
    """
    log_to_stderr(settings.log_format, settings.log_level)
    _check_certificate(settings)
    _check_workers(settings)
    with _listening(settings) as listening:
        if made := asyncio.run(make_ready(settings)):
            # Not to the log, which may be kept and sent about.
            sys.stderr.write(f"{made}\n")
            sys.stderr.flush()
        log.info("Callers %s", "must send a key" if asks_for_keys(settings) else "need no key (`auth`)")
        url = _url(settings, listening)
        if settings.workers == 1:
            from sensorium.server.process import run

            run(settings, listening, lambda: log.info("Listening on %s", url))
        else:
            from sensorium.jobs.crew import company
            from sensorium.server.supervisor import supervise

            told = "Listening on %s with %d workers"
            supervise(settings, listening, lambda: log.info(told, url, settings.workers), company)
    log.info("Stopped")


def _listening(settings: Settings) -> socket.socket:
    """A socket that connections can be made to, though nobody accepts them yet."""
    try:
        return _bound(settings)
    except OSError as error:
        raise InvalidConfiguration(
            f"Cannot listen on {_bracketed(settings.host)}:{settings.port}",
            why=error.strerror or str(error),
            fix="Choose another `host` or `port`",
        ) from error


def _bound(settings: Settings) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    with contextlib.ExitStack() as unless_bound:
        bound = unless_bound.enter_context(socket.socket(family, kind, protocol))
        if os.name == "posix":  # elsewhere it would allow two servers on one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":
            # What it accepts inherits it: the system itself ends connections whose other side stops reading.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.unread_seconds * 1000))
        bound.bind(address)
        bound.listen(socket.SOMAXCONN)
        unless_bound.pop_all()
    return bound


def _url(settings: Settings, listening: socket.socket) -> str:
    scheme = "https" if settings.certfile else "http"
    return f"{scheme}://{_bracketed(settings.host)}:{listening.getsockname()[1]}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_certificate(settings: Settings) -> None:
    if not settings.certfile and not settings.keyfile:
        return
    if not (settings.certfile and settings.keyfile):
        raise InvalidConfiguration("HTTPS needs both `certfile` and `keyfile`")
    try:
        # The empty password keeps it from asking for one.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.certfile, settings.keyfile, password="")
    except OSError as error:
        files = f"{settings.certfile} and {settings.keyfile}"
        fix = "Name a certificate chain and its own key, both as PEM, the key without a password"
        raise InvalidConfiguration(f"HTTPS cannot use {files}", why=error.strerror or str(error), fix=fix) from error


def _check_workers(settings: Settings) -> None:
    if settings.workers > 1 and os.name == "nt":
        fix = "Leave `workers` at 1; `threads` uses all cores"
        raise InvalidConfiguration("Windows serves from one process only", why="sockets cannot be shared", fix=fix)
