"""Bytes from a URL that somebody else wrote: nothing inside the house can be reached by it.

Every address that a host name stands for is looked at before connecting, the connection is made to just those
addresses, and a redirect starts all over. So a name that answers differently the second time gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from sensorium.errors import FetchFailed, ForbiddenAddress, InvalidRequest
from sensorium.media.limits import Limits

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From a host name and a port to addresses, as text."""

INSTEAD = "Send the file itself, or let the operator add the host to `allowed_hosts`"

_MAY_PASS = {408, 425, 429}
"""Refusals that another try may find gone, as with all of 500 and above; not so a picture that is not there."""

_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16
_HEADERS = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "sensorium"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ISATAP = 0x5EFE
_ALSO_FORBIDDEN = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",  # between providers and their customers
        "168.63.129.16/32",  # public by its number, but it is Azure's host machine
        "192.0.0.0/24",  # for protocols; some clouds keep their metadata there
        "192.31.196.0/24",  # AS112: names of private networks, answered by whoever is near
        "192.175.48.0/24",
        "2001:4:112::/48",
        "2620:4f:8000::/48",
        "192.88.99.0/24",  # relays of 6to4
        "198.18.0.0/15",  # for measuring
        "240.0.0.0/4",  # never given out
        "64:ff9b:1::/48",  # NAT64 into networks of one's own
        "2001::/23",  # for protocols, Teredo with them
        "3fff::/20",  # for documentation
        "5f00::/16",  # segment routing, inside one network
    )
)
"""Beside what Python calls private, which differs by its version. Source: IANA's special-purpose registries."""


@lru_cache(1)
def _resolvers() -> ThreadPoolExecutor:
    """Threads for looking up names that strangers wrote.

    The event loop has few of its own, uvloop two: as many names that nobody answers for would keep providers from being found.
    """
    return ThreadPoolExecutor(32, thread_name_prefix="sensorium-resolving")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_resolvers.cache_clear)  # which has none of its parent's threads


async def system_resolve(host: str, port: int) -> list[str]:
    """What the system's resolver answers; it also reads odd spellings, such as `0x7f.1` or `2130706433`."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_resolvers(), look_up)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def fetch(url: str, limits: Limits, resolve: Resolve = system_resolve) -> bytes:
    """The body of the answer to a GET.

    Raises ForbiddenAddress, FetchFailed, InputTooLarge, or InvalidRequest. No message tells credentials or the query.
    """
    import aiohttp

    from sensorium.media.source import public_url

    name = public_url(url)
    try:
        async with asyncio.timeout(limits.fetch_seconds):
            return await _follow(parsed(url), name, limits, resolve)
    except TimeoutError as error:
        why = f"it took more than {limits.fetch_seconds:g} seconds (`fetch_seconds`)"
        raise FetchFailed(f"Cannot fetch {name}", why=why, fix="Try again later, or send the file itself") from error
    except (aiohttp.ClientError, OSError, UnicodeError, ValueError, zlib.error) as error:
        raise FetchFailed(f"Cannot fetch {name}", why=reason_of(error), fix="Check the URL") from error


def is_public(address: str) -> bool:
    """Whether an IP address may be reached on a stranger's behalf; what embeds another counts as that one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _translated(ip)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or not all(is_public(str(reached)) for reached in _tunnelled(ip)):
            return False
    return (
        ip.is_global
        and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local)
        and not any(ip in network for network in _ALSO_FORBIDDEN if network.version == ip.version)
    )


def _translated(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that is nothing but written as this one."""
    if ip.ipv4_mapped or ip.sixtofour:
        return ip.ipv4_mapped or ip.sixtofour
    if ip in _NAT64 or int(ip) >> 32 == 0:  # the latter: `::a.b.c.d`, given up long ago, and `::`, `::1`
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def _tunnelled(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """IPv4 addresses that a router could send it to, though it is an IPv6 address of its own. Source: RFC 5214, 6.1."""
    if int(ip) >> 32 & 0xFCFFFFFF == _ISATAP:  # `0:5efe`; 0200 says that the IPv4 address is unique
        return [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
    return []


def parsed(url: str) -> URL:
    """Raises InvalidRequest for what is no URL."""
    from yarl import URL

    try:
        return URL(url)
    except (ValueError, TypeError) as error:
        raise InvalidRequest("The URL cannot be read", why=str(error).partition(":")[0], fix="Correct it") from error


async def _follow(url: URL, name: str, limits: Limits, resolve: Resolve) -> bytes:
    for _ in range(limits.max_redirects + 1):
        addresses = await allowed_addresses(url, f"Cannot fetch {name}", limits.allowed_hosts, resolve)
        async with (
            session_to(url, f"Cannot fetch {name}", addresses) as session,
            session.get(url, allow_redirects=False, headers=_HEADERS) as answer,
        ):
            if answer.status not in _REDIRECTS:
                return await _body(answer, name, limits)
            target = answer.headers.get("Location")
        if not target:
            raise FetchFailed(f"Cannot fetch {name}", why="it redirects to nowhere")
        url = url.join(parsed(target))
    raise FetchFailed(f"Cannot fetch {name}", why=f"more than {limits.max_redirects} redirects (`max_redirects`)")


async def allowed_addresses(
    url: URL, what: str, allowed_hosts: tuple[str, ...], resolve: Resolve = system_resolve, *, instead: str = INSTEAD
) -> list[str]:
    """The addresses of the URL's host, all of which may be reached. Else ForbiddenAddress.

    `what` begins the messages of errors: "Cannot fetch cat.jpg"; `instead` says what one may do instead.
    """
    if url.scheme not in ("http", "https"):
        raise ForbiddenAddress(what, why=f"it leads to a {url.scheme}: URL")
    host, port = url.host, url.port
    if not host or port is None:
        raise InvalidRequest(what, why="the URL names no host", fix="Correct the URL")
    try:
        addresses = await resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise FetchFailed(what, why=f"no address is known for {host}", fix="Check it") from error
    if not _is_named(host, port, allowed_hosts) and not all(map(is_public, addresses)):
        raise ForbiddenAddress(what, why=f"{host} is at a private or reserved address", fix=instead)
    if not addresses:
        raise FetchFailed(what, why=f"no address is known for {host}", fix="Check it")
    return addresses


def _is_named(host: str, port: int, allowed: tuple[str, ...]) -> bool:
    shown = f"[{host}]" if ":" in host else host
    return any(entry.lower() in (host.lower(), f"{shown}:{port}".lower()) for entry in allowed)


def session_to(url: URL, what: str, addresses: list[str]) -> aiohttp.ClientSession:
    """A session that can reach only these addresses, and has no cookies, proxies or memory. `what` as above."""
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Pinned(AbstractResolver):
        async def resolve(
            self,
            host: str,
            port: int = 0,
            family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002  # aiohttp names it
        ) -> list[ResolveResult]:
            if host != url.raw_host:
                raise ForbiddenAddress(what, why="it leads to another host")
            return [_pinned(host, address, port) for address in addresses]

        async def close(self) -> None:
            """Nothing to close."""

    def _pinned(host: str, address: str, port: int) -> ResolveResult:
        return ResolveResult(
            hostname=host,
            host=address,
            port=port,
            family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=Pinned(), use_dns_cache=False, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # aiohttp would unpack a bomb before we could count
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),  # ours is around everything, redirects included
    )


async def _body(answer: aiohttp.ClientResponse, name: str, limits: Limits) -> bytes:
    from sensorium.media.source import too_many_bytes

    if not 200 <= answer.status < 300:
        refused = FetchFailed(f"Cannot fetch {name}", why=f"the server answered {answer.status}", fix="Check the URL")
        vars(refused).update(retryable=answer.status >= 500 or answer.status in _MAY_PASS)
        raise refused
    if (answer.content_length or 0) > limits.max_bytes:
        raise too_many_bytes(name, answer.content_length, limits)
    body = bytearray()
    async for chunk in _unpacked(answer, name):
        body += chunk
        if len(body) > limits.max_bytes:
            raise too_many_bytes(name, None, limits)
    return bytes(body)


async def _unpacked(answer: aiohttp.ClientResponse, name: str) -> AsyncIterator[bytes]:
    """The body in pieces of at most 64 kB, whatever the server packed it in."""
    coding = answer.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity"):
        async for chunk in answer.content.iter_chunked(_CHUNK):
            yield chunk
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise FetchFailed(f"Cannot fetch {name}", why=f"the server sent it packed as {coding[:20]!r}, unasked")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, whichever it is
    async for chunk in answer.content.iter_chunked(_CHUNK):
        piece: bytes = unpacker.decompress(chunk, _CHUNK)
        while piece:
            yield piece
            await asyncio.sleep(0)  # of a bomb one chunk has a thousand pieces, and others want their turn
            piece = unpacker.decompress(unpacker.unconsumed_tail, _CHUNK)
        if unpacker.eof:
            return  # what follows is nothing of the picture, and may be endless
    raise FetchFailed(f"Cannot fetch {name}", why="the packed answer was cut short")


def reason_of(error: Any) -> str:
    """Why it failed, without the text of the error: that may repeat the URL with its query and credentials."""
    import aiohttp

    reasons = (
        (aiohttp.ClientConnectorCertificateError, "the server's certificate is not trusted"),
        (aiohttp.ClientSSLError, "no secure connection could be made"),
        (aiohttp.ClientConnectorError, "no connection could be made"),
        (aiohttp.ServerDisconnectedError, "the server closed the connection"),
        (aiohttp.ClientPayloadError, "the answer was cut short"),
        (aiohttp.InvalidURL, "the URL cannot be read"),
        (zlib.error, "the packed answer is damaged"),
        (OSError, "the connection broke"),
    )
    return next((words for kind, words in reasons if isinstance(error, kind)), "the answer is not proper HTTP")
