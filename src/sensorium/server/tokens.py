"""Tokens (JWT) as credentials: HS256 with a secret, RS256 with the public keys of a file."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sensorium.dependencies import need
from sensorium.engine import Caller
from sensorium.errors import InvalidConfiguration, SensoriumError, Unauthenticated

LEEWAY_SECONDS = 10
"""How far the issuer's clock may be from ours."""

SHORTEST_SECRET = 32
"""Bytes, as RFC 7518 demands of HS256."""

SMALLEST_RSA_BITS = 2048
"""As RFC 7518 demands of RS256."""

FRESH_SECONDS = 0.5
"""How long the file is trusted without looking whether it has changed."""

MOST_REMEMBERED = 1024
"""Tokens that were found good; checking a signature again costs ten times as much as all else."""

LONGEST_NAME = 200

LAST_SECOND = 1e12
"""Some 30,000 years after 1970."""

log = logging.getLogger("sensorium.server")


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say, and what its caller gets."""

    audience: str | None = None
    issuer: str | None = None
    requests_per_minute: int | None = None


class Good(NamedTuple):
    """A token whose signature and words were right."""

    caller: Caller
    begins: float
    ends: float


class Tokens:
    """Finds out whose token it is.

    A secret verifies HS256 and nothing else, a public key RS256 and nothing else: a token cannot choose. Otherwise one
    signed by HS256 with the public key, which everybody knows, would pass.
    """

    def __init__(
        self, rules: TokenRules, secret: str | None, jwks: Path | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._rules, self._secret, self._clock = rules, secret, clock
        self._file = JwksFile(jwks) if jwks else None
        self._remembered: OrderedDict[str, Good] = OrderedDict()
        need("jwt", for_what="check tokens")
        if secret is not None and len(secret.encode()) < SHORTEST_SECRET:
            raise InvalidConfiguration("`jwt_secret` is too short", why=f"HS256 needs {SHORTEST_SECRET} bytes")

    async def open(self) -> None:
        """Raises InvalidConfiguration when the file with the keys cannot be used."""
        if self._file:
            await asyncio.to_thread(self._file.read)

    async def caller(self, token: str) -> Caller:
        """Whose token this is. Raises Unauthenticated when it is not a good one."""
        if self._file and await self._file.renewed():
            self._remembered.clear()
        good = self._remembered.get(token) or self._checked(token)
        now = self._clock()
        if now >= good.ends + LEEWAY_SECONDS:
            raise Unauthenticated("The token has expired", fix="Get a new one from its issuer")
        if now < good.begins - LEEWAY_SECONDS:
            raise Unauthenticated("The token is not good yet", fix="Check the clocks, or wait")
        self._remember(token, good)
        return good.caller

    def _remember(self, token: str, good: Good) -> None:
        self._remembered[token] = good
        self._remembered.move_to_end(token)
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    def _checked(self, token: str) -> Good:
        import jwt

        try:
            claims = self._decoded(token, jwt.get_unverified_header(token))
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise Unauthenticated("The token is not good", why=_why(error)) from error
        caller = Caller(f"jwt:{claims['sub']}", frozenset(_scopes(claims)), self._rules.requests_per_minute)
        return Good(caller, float(claims.get("nbf", 0)), float(claims["exp"]))

    def _decoded(self, token: str, header: Mapping[str, Any]) -> dict[str, Any]:
        import jwt

        algorithm, key = self._key(header)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._rules.audience,
            issuer=self._rules.issuer,
            # Times are looked at at every use.
            options={
                "require": ["exp", "sub"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": self._rules.audience is not None,
            },
        )
        if not all(_is_time(claims[name]) for name in ("exp", "nbf") if name in claims):
            raise ValueError("a time is no number of seconds")
        if not 0 < len(claims["sub"]) <= LONGEST_NAME or not claims["sub"].isprintable():
            raise ValueError(f"`sub` must have 1 to {LONGEST_NAME} printable signs")
        return claims

    def _key(self, header: Mapping[str, Any]) -> tuple[str, Any]:
        """The one algorithm that is tried, and its key."""
        named = header.get("alg")
        if named == "HS256" and self._secret is not None:
            return named, self._secret
        if named == "RS256" and self._file and (key := self._file.key(header.get("kid"))):
            return named, key
        taken = [name for name, there in (("HS256", self._secret), ("RS256", self._file)) if there]
        known = "its key is not in the file of keys" if named in taken else f"only {' and '.join(taken)} is taken"
        raise Unauthenticated("The token is not good", why=known)


class JwksFile:
    """The RSA keys of a file, read again when it changes. A file that is half written leaves the old ones in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[str | None, Any] = {}
        self._seen: tuple[int, int, int] | None = None
        self._looked = float("-inf")
        self._complaint = ""

    def key(self, named: object) -> Any:
        """The key of that id, or the only one for a token that names none; else None."""
        if named is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(named) if isinstance(named, str) else None

    async def renewed(self) -> bool:
        """Look for a change, unless that was just done; whether the keys are new ones."""
        now = time.monotonic()
        if now - self._looked < FRESH_SECONDS:
            return False
        self._looked = now
        try:
            return await asyncio.to_thread(self.read)
        except SensoriumError as error:
            if str(error) != self._complaint:
                log.error("%s The keys read before stay in force.", error)  # noqa: TRY400 - it says all
            self._complaint = str(error)
            return False

    def read(self) -> bool:
        """Read the file if it has changed; whether it had. Raises InvalidConfiguration when it cannot be used."""
        try:
            found = self._path.stat()
            seen = found.st_mtime_ns, found.st_size, found.st_ino
            if seen == self._seen:
                return False
            self._keys, self._seen = dict(_rsa_keys(json.loads(self._path.read_bytes()))), seen
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise InvalidConfiguration(f"`jwks_file` {self._path} cannot be used", why=why) from error
        return True


def _rsa_keys(document: Any) -> Iterable[tuple[str | None, Any]]:
    """The keys that may verify RS256, by id. Others may stand beside them, and are never used."""
    found = [
        (told.get("kid"), _rsa_key(told))
        for told in document["keys"]
        if told.get("kty") == "RSA" and told.get("alg", "RS256") == "RS256" and told.get("use", "sig") == "sig"
    ]
    if not found:
        raise ValueError("it holds no RSA key for RS256")
    return found


def _rsa_key(told: Mapping[str, Any]) -> Any:
    import jwt

    try:
        key = jwt.PyJWK({name: told[name] for name in ("kty", "n", "e")}, algorithm="RS256").key
    except (jwt.PyJWTError, ValueError) as error:
        raise ValueError(f"the key {told.get('kid')!r} is malformed") from error
    if key.key_size < SMALLEST_RSA_BITS:
        raise ValueError(f"the key {told.get('kid')!r} has fewer than {SMALLEST_RSA_BITS} bits")
    return key


def _scopes(claims: Mapping[str, Any]) -> Iterable[str]:
    """Words in one text, as RFC 8693 writes them, or a list; none where the claim is missing."""
    told = claims.get("scope", "")
    words = told.split() if isinstance(told, str) else told if isinstance(told, list) else []
    return [word for word in words if isinstance(word, str) and word.isprintable()]


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LAST_SECOND


def _why(error: Exception) -> str:
    """What is wrong, in PyJWT's words; they never hold the token itself."""
    words = str(error)
    return words[:1].lower() + words[1:]
