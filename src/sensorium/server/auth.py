"""Finds out who asks: by key, by token, or nobody in particular where no key is asked for."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sensorium.config import Settings
from sensorium.engine import Caller
from sensorium.errors import Unauthenticated
from sensorium.server.tokens import TokenRules, Tokens
from sensorium.stores import keys
from sensorium.stores.keyring import Keyring
from sensorium.stores.keys import Key, Keys, Secret, SqliteKeys
from sensorium.stores.sealing import Seal, seal_of

log = logging.getLogger("sensorium.server")

FIRST_NAME = "first"
"""What the key is called that a server makes when there is none."""


class Guard:
    """Lets nobody in without a good key or token."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keyring = Keyring(SqliteKeys(settings.data_dir / keys.FILE), self._unsealed)
        self._tokens = _tokens(settings)

    async def open(self) -> None:
        """Raises InvalidConfiguration when keys or tokens cannot be checked as the settings want it."""
        if self._tokens:
            await self._tokens.open()

    def caller(self, credential: str | None) -> Coroutine[Any, Any, Caller]:
        """Whose key or token this is. Raises Unauthenticated when it is not a good one, or there is none."""
        if credential is None:
            fix = "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise Unauthenticated("This server asks for a key", fix=fix, attempted=False)
        if self._tokens and not credential.startswith(keys.PREFIX):
            return self._tokens.caller(credential)
        return self._keyring.caller(credential)

    async def signer(self, identity: str) -> tuple[Caller, str]:
        """Whose key has this id, and its secret, for facades whose clients sign instead of sending the key."""
        return await self._keyring.signer(identity)

    async def close(self) -> None:
        await self._keyring.close()

    def _unsealed(self, key: Key) -> str:
        return self._seal.open(key.sealed or b"", key.id)

    @cached_property
    def _seal(self) -> Seal:
        return seal_of(self._settings.sealing_key, self._settings.data_dir)


@dataclass(frozen=True, slots=True)
class FirstKey:
    """A key that was made because there was none; its text is told once, and then forgotten."""

    secret: Secret

    def __str__(self) -> str:
        return (
            "This server asks for a key, and there was none. One was made; it is shown only now:\n\n"
            f"    {self.secret.text}\n\n"
            f"It is called `{FIRST_NAME}` and may do every task. Send it as `Authorization: Bearer KEY`.\n"
            "`sensorium keys --help` makes, lists and revokes keys; `--auth off` asks for none."
        )


def asks_for_keys(settings: Settings) -> bool:
    """Whether callers must say who they are."""
    if settings.auth == "auto":
        return not is_loopback(settings.host) or _has_tokens(settings)
    return settings.auth == "on"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


async def make_ready(settings: Settings) -> FirstKey | None:
    """Before the server starts: see that callers can be checked, and make a key where nobody could come in at all.

    Raises InvalidConfiguration or MissingDependency when they cannot.
    """
    if not asks_for_keys(settings):
        return None
    if tokens := _tokens(settings):
        await tokens.open()
    store = SqliteKeys(settings.data_dir / keys.FILE)
    try:
        return None if tokens else await _first_key(store)
    finally:
        await store.close()


async def _first_key(store: Keys) -> FirstKey | None:
    secret = Secret.new()
    key = Key(secret.id, FIRST_NAME, secret.digest, frozenset({"*"}), time.time())
    if await store.add(key, only_first=True):
        return FirstKey(secret)
    if all(known.state(key.created) != "good" for known in await store.every()):
        log.warning("All keys are revoked or expired: nobody can ask. `sensorium keys create NAME` makes one")
    return None


def _has_tokens(settings: Settings) -> bool:
    return settings.jwt_secret is not None or settings.jwks_file is not None


def _tokens(settings: Settings) -> Tokens | None:
    if not _has_tokens(settings):
        return None
    rules = TokenRules(settings.jwt_audience, settings.jwt_issuer, settings.jwt_rate)
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret is not None else None
    return Tokens(rules, secret, settings.jwks_file)
