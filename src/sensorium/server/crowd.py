"""Who is connected: when there is no room left, whoever has most connections gives one up."""

from __future__ import annotations

import ipaddress
import logging
import sys
from functools import lru_cache
from typing import Protocol

MOST_CONNECTIONS = 4096
"""Connections at once, slow senders included; how many requests are worked on, `running` and `waiting` say.
One that is idle takes 10 kB, with HTTPS 55 kB (measured)."""

FILES = 512
"""How many files are left for all else: models, uploads, stores, and connections to providers."""

log = logging.getLogger("sensorium.server")


class Member(Protocol):
    """One connection."""

    @property
    def address(self) -> str:
        """Where it comes from; empty where that is not known."""

    @property
    def idle(self) -> bool:
        """Whether nothing is asked on it."""

    @property
    def stuck(self) -> bool:
        """Whether only its other side can go on: by sending the rest of a request, or by reading an answer."""

    def let_go(self) -> None:
        """End it without a word."""


class Crowd:
    """The connections of a process.

    Nobody needs a share of their own while there is room. Without room, a newcomer takes the place of the oldest connection
    of whoever has most: of one that is idle, and if it comes from elsewhere also of one that is stuck. What is worked on stays.
    So one address cannot lock out the others, and a proxy, which has all connections, loses none that it uses.
    """

    def __init__(self, most: int = MOST_CONNECTIONS) -> None:
        self._most, self._size = most, 0
        self._origins: dict[str, dict[Member, None]] = {}

    def enter(self, newcomer: Member) -> bool:
        """Whether there is room for it; also one that is refused is counted until it leaves."""
        self._origins.setdefault(origin_of(newcomer.address), {})[newcomer] = None
        self._size += 1
        if self._size <= self._most:
            return True
        members = max(self._origins.values(), key=len)
        going = next((one for one in members if one.idle and one is not newcomer), None)
        if going is None and newcomer not in members:
            going = next((one for one in members if one.stuck), None)
        if going is None:
            return False
        self.leave(going)
        going.let_go()
        return True

    def leave(self, member: Member) -> None:
        origin = origin_of(member.address)
        members = self._origins.get(origin, {})
        if member in members:
            del members[member]
            self._size -= 1
            if not members:
                del self._origins[origin]


@lru_cache(1024)
def origin_of(address: str) -> str:
    """Whom an address stands for: of IPv6 everyone has 2**64 of them."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip), 64), strict=False))


def make_room() -> int:
    """For how many connections there is room, once the process may open as many files as it is allowed to.

    Most systems begin with 1,024, which that many idle connections would use up: then no file can be opened any more.
    """
    if sys.platform == "win32":  # which knows no such limit
        return MOST_CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_CONNECTIONS
    room = max(soft - FILES, soft // 2)
    log.warning("Room for %d connections only: a process may open %d files here (`ulimit -n`)", room, soft)
    return room
