"""The keys as a server knows them: in memory, and never older than half a second."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from typing import NamedTuple

from sensorium.engine import Caller
from sensorium.errors import InvalidConfiguration, Unauthenticated, Unavailable
from sensorium.stores.keys import Key, Keys, Version, parts_of

FRESH_SECONDS = 0.5
"""How long the keys are used without looking whether they have changed."""

log = logging.getLogger("sensorium.server")

NOBODY = Key("", "", secrets.token_bytes(32), frozenset(), 0.0)
"""Stands for every unknown key: comparing with it takes as long as with one that is known."""


class Known(NamedTuple):
    """A key, and who sends it."""

    key: Key
    caller: Caller


STRANGER = Known(NOBODY, NOBODY.caller)


class Keyring:
    """Finds out whose key it is. What is made or revoked elsewhere counts within half a second."""

    def __init__(self, keys: Keys, unseal: Callable[[Key], str], clock: Callable[[], float] = time.time) -> None:
        self._keys, self._unseal, self._clock = keys, unseal, clock
        self._known: dict[str, Known] = {}
        self._version: Version | None = None
        self._looked = float("-inf")
        self._looking = asyncio.Lock()

    async def caller(self, text: str) -> Caller:
        """Whose key this is. Raises Unauthenticated when it is not a good one."""
        arrived = time.monotonic()
        if self._looked < arrived - FRESH_SECONDS:
            await self._look(arrived - FRESH_SECONDS)
        identity, secret = parts_of(text)
        known = self._find(identity, secret)
        if known is STRANGER:  # perhaps it was made a moment ago
            await self._look(arrived)
            known = self._find(identity, secret)
        return self._good(known)

    async def signer(self, identity: str) -> tuple[Caller, str]:
        """Whose key has this id, and its secret, to verify a signature with.

        Raises Unauthenticated when there is no good key of that id, or none that signs.
        """
        arrived = time.monotonic()
        await self._look(arrived - FRESH_SECONDS if identity in self._known else arrived)
        known = self._known.get(identity, STRANGER)
        caller = self._good(known)
        if known.key.sealed is None:
            fix = "Make one with `sensorium keys create NAME --signing`"
            raise Unauthenticated("This key cannot sign", why="its secret was not kept", fix=fix)
        try:
            return caller, self._unseal(known.key)
        except InvalidConfiguration as error:
            raise _told_to_the_operator(error) from error

    async def close(self) -> None:
        await self._keys.close()

    def _find(self, identity: str, secret: str) -> Known:
        known = self._known.get(identity, STRANGER)
        return known if known.key.has(secret) else STRANGER

    def _good(self, known: Known) -> Caller:
        if known is STRANGER:
            raise Unauthenticated("The key is not known", fix="Check it; `sensorium keys create` makes a new one")
        state = known.key.state(self._clock())
        if state != "good":
            raise Unauthenticated(f"The key is {state}", fix="Ask the operator of this server for a new one")
        return known.caller

    async def _look(self, since: float) -> None:
        """Make sure that what is known is as of that moment or later; all who wait at once share one look."""
        if self._looked >= since:
            return
        async with self._looking:
            if self._looked < since:
                now = time.monotonic()
                await self._read()
                self._looked = now

    async def _read(self) -> None:
        try:
            news = await self._keys.news(self._version)
        except (sqlite3.Error, InvalidConfiguration) as error:
            # With old keys it would go on letting in those that were revoked.
            raise _told_to_the_operator(error) from error
        if news:
            self._version, keys = news
            self._known = {key.id: Known(key, key.caller) for key in keys}


def _told_to_the_operator(error: Exception) -> Unavailable:
    """What a caller hears; folders and causes are the operator's business."""
    log.error("The keys cannot be read: %s", error)
    return Unavailable("The keys cannot be read", fix="Tell the operator of this server")
