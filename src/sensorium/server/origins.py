"""Without keys, the browser of somebody on this machine must not be a way in for web pages from elsewhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from sensorium.config import Settings
from sensorium.errors import ForeignHost
from sensorium.server.auth import is_loopback
from sensorium.server.body import Arrival
from sensorium.server.door import TRACE, answer
from sensorium.server.facades.native import refuse

MOST_REMEMBERED = 64
"""Names that clients used, with what became of them."""


class KnownHosts:
    """Refuses requests whose `Host` is not this server's, or whose `Origin` is a page from elsewhere.

    A page may have its own name lead to 127.0.0.1 once it is loaded (DNS rebinding): then the browser takes this server
    for a part of it, but still tells the name. What proxies say of other names (`X-Forwarded-*`) is not believed.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = {name.lower() for name in (settings.host.strip("[]"), *settings.trusted_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in settings.cors_origins}
        self._everywhere = _is_everywhere(settings.host)
        self._knows = lru_cache(MOST_REMEMBERED)(lambda host: self._is_ours(_name(f"//{host}")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (foreign := self._foreign(scope)):
            await answer(refuse(foreign, scope[TRACE]), scope, Arrival(receive), send)
        else:
            await self._app(scope, receive, send)

    def _foreign(self, scope: Scope) -> ForeignHost | None:
        hosts = list(_values(scope, b"host"))
        for host in hosts:
            if not self._knows(host):
                fix = 'Ask by its own address; or let the operator set `trusted_hosts`, or `auth = "on"`'
                return ForeignHost(f"This server is not {host[:100]!r}", fix=fix)
        for origin in _values(scope, b"origin"):
            if not self._may_ask(origin.lower(), hosts):
                fix = "Let the operator set `cors_origins`"
                return ForeignHost(f"Pages of {origin[:100]!r} may not ask this server", fix=fix)
        return None

    def _is_ours(self, name: str) -> bool:
        known = name in self._names or "*" in self._names or is_loopback(name) or name.endswith(".localhost")
        # No name server can lead an address elsewhere.
        return known or (self._everywhere and _is_address(name))

    def _may_ask(self, origin: str, hosts: list[str]) -> bool:
        if origin in self._origins or "*" in self._origins:
            return True
        at = origin.partition("://")[2]
        name = _name(origin)
        return at in hosts or name in self._names or "*" in self._names or is_loopback(name)


def _values(scope: Scope, name: bytes) -> Iterator[str]:
    return (value.decode("latin-1").lower() for known, value in scope["headers"] if known == name)


def _name(url: str) -> str:
    """The host without its port; what is malformed has a name that nobody has."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".") or "?"
    except ValueError:
        return "?"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_everywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
