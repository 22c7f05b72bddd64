"""Tokens, and those who would forge them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sensorium.errors import InvalidConfiguration, MissingDependency, Unauthenticated
from sensorium.server.tokens import FRESH_SECONDS, TokenRules, Tokens

SECRET = "the secret of tokens, which is long enough"
ONE, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


def claims(**told: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": time.time() + 60, "scope": "classify read", **told}


def jwk(private: Any, kid: str | None = None, **told: Any) -> dict[str, Any]:
    made = jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return {**made, **({"kid": kid} if kid else {}), **told}


def jwks(folder: Path, *told: dict[str, Any]) -> Path:
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": told}), encoding="utf-8")
    return path


def segment(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def forged(header: object, payload: object, key: bytes | None = None) -> str:
    """What no library would sign."""
    signed = segment(header) + b"." + segment(payload)
    signature = hmac.new(key, signed, hashlib.sha256).digest() if key else b""
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def by_secret(**rules: Any) -> Tokens:
    return Tokens(TokenRules(**rules), SECRET, None)


async def by_file(path: Path) -> Tokens:
    tokens = Tokens(TokenRules(), None, path)
    await tokens.open()
    return tokens


async def refused(tokens: Tokens, token: str, said: str = "token") -> None:
    with pytest.raises(Unauthenticated, match=said) as told:
        await tokens.caller(token)
    assert token not in str(told.value)


async def test_a_good_token_tells_who_asks_and_what_they_may() -> None:
    tokens = by_secret(requests_per_minute=7)
    for token in [jwt.encode(claims(), SECRET)] * 2:  # once checked, once remembered
        caller = await tokens.caller(token)
        assert (caller.name, caller.scopes, caller.requests_per_minute) == (
            "jwt:alice",
            frozenset({"classify", "read"}),
            7,
        )
    listed = await tokens.caller(jwt.encode(claims(scope=["read", 7]), SECRET))
    assert listed.scopes == frozenset({"read"})
    without = await tokens.caller(jwt.encode({"sub": "bob", "exp": time.time() + 60}, SECRET))
    assert without.scopes == frozenset(), "no scope is not every scope"


async def test_a_token_is_good_only_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    tokens = Tokens(TokenRules(), SECRET, None, clock=lambda: now)
    token = jwt.encode(claims(exp=now + 100, nbf=now), SECRET)
    await tokens.caller(token)
    now += 200
    await refused(tokens, token, "expired")  # remembered, and refused nevertheless
    now -= 300
    await refused(tokens, token, "not good yet")


@pytest.mark.parametrize("missing", ["exp", "sub"])
async def test_a_token_without_end_or_name_is_refused(missing: str) -> None:
    await refused(by_secret(), jwt.encode({k: v for k, v in claims().items() if k != missing}, SECRET), missing)


@pytest.mark.parametrize(
    "told",
    [
        {"exp": "tomorrow"},
        {"exp": 1e400},
        {"exp": True},
        {"exp": 10**20},
        {"nbf": []},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "x" * 201},
    ],
    ids=str,
)
async def test_a_token_with_strange_words_is_refused(told: dict[str, Any]) -> None:
    await refused(by_secret(), forged({"alg": "HS256", "typ": "JWT"}, claims(**told), SECRET.encode()))


async def test_a_scope_that_cannot_be_written_is_none() -> None:
    caller = await by_secret().caller(jwt.encode(claims(scope="read \ud800"), SECRET))
    assert caller.scopes == frozenset({"read"})


async def test_audience_and_issuer_must_be_those_that_are_set() -> None:
    tokens = by_secret(audience="sensorium", issuer="https://issuer.example")
    right = {"aud": ["other", "sensorium"], "iss": "https://issuer.example"}
    assert (await tokens.caller(jwt.encode(claims(**right), SECRET))).name == "jwt:alice"
    for wrong in ({"aud": "other"}, {"iss": "https://evil.example"}, {"aud": None}, {"iss": None}):
        told = {name: value for name, value in {**right, **wrong}.items() if value is not None}
        await refused(tokens, jwt.encode(claims(**told), SECRET))
    # Where none is set, they are not looked at.
    assert (await by_secret().caller(jwt.encode(claims(**right), SECRET))).name == "jwt:alice"


async def test_nobody_comes_in_unsigned() -> None:
    names: list[Any] = ["none", "None", "NONE", "", None, 7, ["HS256"], {}]
    for alg in names:
        await refused(by_secret(), forged({"alg": alg}, claims()))
        await refused(by_secret(), forged({"alg": alg}, claims(), SECRET.encode()))
    await refused(by_secret(), forged({}, claims(), SECRET.encode()))
    await refused(by_secret(), forged({"alg": "HS256"}, claims()))


async def test_a_public_key_is_no_secret(tmp_path: Path) -> None:
    """The classic confusion: HS256, signed with the public key that everybody may read."""
    path = jwks(tmp_path, jwk(ONE, "one"))
    tokens = Tokens(TokenRules(), SECRET, path)
    await tokens.open()
    public = ONE.public_key()
    forms = [
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        path.read_bytes(),
        json.dumps(jwk(ONE, "one")).encode(),
    ]
    for known in forms:
        for header in ({"alg": "HS256", "kid": "one"}, {"alg": "HS256"}, {"alg": "RS256", "kid": "one"}):
            await refused(tokens, forged(header, claims(), known))
            await refused(await by_file(path), forged(header, claims(), known))


async def test_a_token_brings_no_key_of_its_own(tmp_path: Path) -> None:
    tokens = await by_file(jwks(tmp_path, jwk(ONE, "one")))
    for more in ({"jwk": jwk(OTHER, "one")}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example"}):
        await refused(tokens, jwt.encode(claims(), OTHER, "RS256", headers={"kid": "one", **more}))


async def test_other_algorithms_of_the_same_family_are_refused(tmp_path: Path) -> None:
    await refused(by_secret(), jwt.encode(claims(), SECRET * 2, "HS512"), "only HS256")
    tokens = await by_file(jwks(tmp_path, jwk(ONE, "one")))
    for algorithm in ("RS512", "PS256"):
        await refused(tokens, jwt.encode(claims(), ONE, algorithm, headers={"kid": "one"}), "only RS256")
    curve = ec.generate_private_key(ec.SECP256R1())
    await refused(tokens, jwt.encode(claims(), curve, "ES256", headers={"kid": "one"}))


async def test_a_key_is_found_by_its_id_and_without_one_only_where_it_is_alone(tmp_path: Path) -> None:
    both = await by_file(jwks(tmp_path, jwk(ONE, "one"), jwk(OTHER, "other")))
    for private, kid in ((ONE, "one"), (OTHER, "other")):
        assert (await both.caller(jwt.encode(claims(), private, "RS256", headers={"kid": kid}))).name == "jwt:alice"
    await refused(both, jwt.encode(claims(), ONE, "RS256", headers={"kid": "other"}))
    await refused(both, jwt.encode(claims(), ONE, "RS256", headers={"kid": "third"}), "not in the file")
    await refused(both, jwt.encode(claims(), ONE, "RS256"), "not in the file")
    alone = await by_file(jwks(tmp_path, jwk(ONE)))
    assert (await alone.caller(jwt.encode(claims(), ONE, "RS256"))).name == "jwt:alice"


async def test_keys_of_other_kinds_and_uses_in_the_file_verify_nothing(tmp_path: Path) -> None:
    shared = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="), "kid": "oct"}
    tokens = await by_file(jwks(tmp_path, jwk(ONE, "one"), shared, jwk(OTHER, "other", use="enc")))
    await refused(tokens, jwt.encode(claims(), SECRET, "HS256", headers={"kid": "oct"}))
    await refused(tokens, jwt.encode(claims(), OTHER, "RS256", headers={"kid": "other"}))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "é.é.é",
        "\x00",
        forged("alg", {}),
        "x" * 8000,
        f"{base64.b64encode(b'[' * 6000).decode()}.e30.x",
    ],
    ids=lambda token: token[:8].encode("unicode_escape").decode(),
)
async def test_what_is_no_token_is_refused_and_breaks_nothing(token: str) -> None:
    with pytest.raises(Unauthenticated):
        await by_secret().caller(token)


async def test_the_file_is_read_again_when_it_changes_and_kept_while_it_is_broken(tmp_path: Path) -> None:
    path = jwks(tmp_path, jwk(ONE, "one"))
    tokens = await by_file(path)
    old = jwt.encode(claims(), ONE, "RS256", headers={"kid": "one"})
    new = jwt.encode(claims(), OTHER, "RS256", headers={"kid": "other"})
    await tokens.caller(old)
    assert tokens._file is not None

    def let_time_pass() -> None:
        assert tokens._file is not None
        tokens._file._looked -= FRESH_SECONDS

    for broken in (b'{"keys": [', b"[]", b'{"keys": []}', b'{"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}]}'):
        path.write_bytes(broken)
        let_time_pass()
        assert (await tokens.caller(old)).name == "jwt:alice"
    path.unlink()
    let_time_pass()
    assert (await tokens.caller(old)).name == "jwt:alice"
    jwks(tmp_path, jwk(OTHER, "other"))
    let_time_pass()
    assert (await tokens.caller(new)).name == "jwt:alice"
    await refused(tokens, old, "not in the file")  # although it was remembered


async def test_what_could_never_be_safe_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="too short"):
        Tokens(TokenRules(), "short", None)
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    for path in (tmp_path / "nowhere.json", jwks(tmp_path, jwk(small, "small"))):
        with pytest.raises(InvalidConfiguration, match="jwks_file"):
            await by_file(path)


async def test_no_more_tokens_are_remembered_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.server.tokens.MOST_REMEMBERED", 3)
    tokens = by_secret()
    for n in range(10):
        await tokens.caller(jwt.encode(claims(sub=f"{n}", jti=os.urandom(4).hex()), SECRET))
    assert len(tokens._remembered) == 3


def test_without_the_package_that_checks_the_command_that_brings_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(MissingDependency, match=r"sensorium\[auth\]"):
        by_secret()
