from __future__ import annotations

import asyncio
import hmac
import re
import sqlite3
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.engine import Budget
from sensorium.errors import InvalidConfiguration, InvalidRequest, MissingDependency, Unauthenticated, Unavailable
from sensorium.stores.keyring import FRESH_SECONDS, Keyring
from sensorium.stores.keys import PREFIX, Key, Secret, SqliteKeys
from sensorium.stores.sealing import FILE, Seal, seal_of
from tests.keyring import new_key
from tests.stores.test_stores import Clock


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[SqliteKeys]:
    store = SqliteKeys(tmp_path / "keys.sqlite")
    yield store
    await store.close()


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def ring(keys: SqliteKeys) -> Keyring:
    return Keyring(keys, lambda key: "")


async def test_a_key_is_known_by_its_text_and_by_nothing_near_it(keys: SqliteKeys) -> None:
    secret, key = new_key("shop", scopes=("classify",), requests_per_minute=60)
    await keys.add(key)
    keyring = ring(keys)
    caller = await keyring.caller(secret.text)
    assert (caller.name, caller.scopes, caller.requests_per_minute) == ("shop", frozenset({"classify"}), 60)
    for wrong in (
        secret.text[:-1],
        secret.text + "x",
        secret.text.swapcase(),
        PREFIX,
        "",
        f"{PREFIX}{secret.id}-",
        "-",
    ):
        with pytest.raises(Unauthenticated, match="not known"):
            await keyring.caller(wrong)


async def test_the_file_holds_no_secret_and_is_the_owners_alone(tmp_path: Path, keys: SqliteKeys) -> None:
    secret, key = new_key("shop")
    await keys.add(key)
    files = files_in(tmp_path)
    assert all(secret.secret.encode() not in file.read_bytes() for file in files)
    if sys.platform != "win32":
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_key_tells_nothing_when_it_is_printed() -> None:
    secret, key = new_key("shop", sealed=b"sealed")
    assert secret.secret not in repr(secret) + str(secret)
    assert repr(key.digest)[2:-1] not in repr(key)
    assert "sealed" not in repr(key)


def test_secrets_are_long_and_never_the_same() -> None:
    made = [Secret.new() for _ in range(100)]
    assert len({secret.secret for secret in made} | {secret.id for secret in made}) == 200
    assert all(re.fullmatch(r"sk-sensorium-[a-z0-9]{12}-[A-Za-z0-9]{43}", secret.text) for secret in made)


@settings(max_examples=30)
@given(sent=st.text(max_size=80), known_id=st.booleans())
def test_whatever_is_sent_costs_the_same_comparisons(sent: str, known_id: bool) -> None:
    secret, key = new_key("shop")
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def spy(ours: bytes, theirs: bytes) -> bool:
        compared.append((len(ours), len(theirs)))
        return compare(ours, theirs)

    class OneKey(SqliteKeys):
        async def news(self, since: object) -> tuple[tuple[int, int], list[Key]]:
            return (1, 1), [key]

    async def ask() -> None:
        keyring = ring(OneKey(Path("never opened")))
        with pytest.raises(Unauthenticated):
            await keyring.caller(f"{PREFIX}{secret.id}-{sent}" if known_id else sent)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hmac, "compare_digest", spy)
        asyncio.run(ask())
    assert compared == [(32, 32)] * 2  # the second after having looked whether the key was just made


async def test_what_is_made_and_revoked_elsewhere_counts_soon(
    tmp_path: Path, keys: SqliteKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = ring(keys)
    with pytest.raises(Unauthenticated):
        await keyring.caller("sk-sensorium-a-b")
    elsewhere = SqliteKeys(tmp_path / "keys.sqlite")
    secret, key = new_key("shop")
    await elsewhere.add(key)
    assert (await keyring.caller(secret.text)).name == "shop", "a new key is good at once"
    assert FRESH_SECONDS <= 0.5
    monkeypatch.setattr("sensorium.stores.keyring.FRESH_SECONDS", 3600.0)
    await elsewhere.revoke("shop")
    assert (await keyring.caller(secret.text)).name == "shop", "what was just read is not read again"
    monkeypatch.setattr("sensorium.stores.keyring.FRESH_SECONDS", 0.0)
    with pytest.raises(Unauthenticated, match="revoked"):
        await keyring.caller(secret.text)
    await elsewhere.close()


async def test_another_file_in_the_place_of_the_first_is_noticed(
    tmp_path: Path, keys: SqliteKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensorium.stores.keyring.FRESH_SECONDS", 0.0)
    secret, key = new_key("shop")
    await keys.add(key)
    keyring = ring(keys)
    await keyring.caller(secret.text)
    for file in files_in(tmp_path):
        file.unlink()
    with pytest.raises(Unauthenticated, match="not known"):
        await keyring.caller(secret.text)


async def test_an_expired_key_is_told_so_only_to_who_has_its_secret(keys: SqliteKeys) -> None:
    secret, key = new_key("shop", created=time.time() - 20, expires=time.time() - 10)
    await keys.add(key)
    keyring = ring(keys)
    with pytest.raises(Unauthenticated, match="expired"):
        await keyring.caller(secret.text)
    with pytest.raises(Unauthenticated, match="not known"):
        await keyring.caller(secret.text[:-1])


async def test_a_key_is_good_until_it_expires(keys: SqliteKeys) -> None:
    clock = Clock()
    secret, key = new_key("shop", expires=clock.now + 10)
    await keys.add(key)
    keyring = Keyring(keys, lambda key: "", clock)
    clock.now += 9
    assert (await keyring.caller(secret.text)).name == "shop"
    clock.now += 1
    with pytest.raises(Unauthenticated, match="expired"):
        await keyring.caller(secret.text)


async def test_keys_that_cannot_be_read_let_nobody_in(tmp_path: Path) -> None:
    class Broken(SqliteKeys):
        async def news(self, since: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(Unavailable, match="cannot be read") as told:
        await ring(Broken(tmp_path / "keys.sqlite")).caller("sk-sensorium-a-b")
    assert "disk" not in str(told.value)
    with pytest.raises(Unavailable):
        await ring(SqliteKeys(Path("/dev/null/keys.sqlite"))).caller("sk-sensorium-a-b")


async def test_a_name_is_in_use_once_and_free_again_when_its_key_is_over(keys: SqliteKeys) -> None:
    await keys.add(new_key("shop")[1])
    with pytest.raises(InvalidRequest, match="already"):
        await keys.add(new_key("shop")[1])
    await keys.revoke("shop")
    await keys.add(new_key("shop", created=1.0, expires=2.0)[1])
    await keys.add(new_key("shop")[1])
    assert [key.state(time.time()) for key in await keys.every()] == ["revoked", "revoked", "good"]
    with pytest.raises(InvalidRequest, match="No key in use"):
        await keys.revoke("another")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "jwt:me", "x" * 65, "\x1b[31m"])
async def test_a_name_that_would_confuse_is_refused(keys: SqliteKeys, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be called"):
        await keys.add(new_key(name)[1])


async def test_only_one_of_many_is_the_first_key(tmp_path: Path) -> None:
    stores = [SqliteKeys(tmp_path / "keys.sqlite") for _ in range(8)]
    made = await asyncio.gather(*(store.add(new_key("first")[1], only_first=True) for store in stores))
    assert sorted(made) == [False] * 7 + [True]
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_key_that_signs_gives_its_secret_back_to_the_server_alone(tmp_path: Path, keys: SqliteKeys) -> None:
    seal = seal_of(None, tmp_path, make=True)
    secret = Secret.new()
    _, plain = new_key("plain")
    signing = Key(secret.id, "signs", secret.digest, frozenset("*"), 0.0, sealed=seal.close(secret.secret, secret.id))
    await keys.add(signing)
    await keys.add(plain)
    keyring = Keyring(keys, lambda key: seal_of(None, tmp_path).open(key.sealed or b"", key.id))
    caller, held = await keyring.signer(secret.id)
    assert (caller.name, held) == ("signs", secret.secret)
    assert secret.secret.encode() not in (tmp_path / "keys.sqlite-wal").read_bytes()
    with pytest.raises(Unauthenticated, match="cannot sign"):
        await keyring.signer(plain.id)
    with pytest.raises(Unauthenticated, match="not known"):
        await keyring.signer("nobody")
    (tmp_path / FILE).write_text("another server's own key, as long as is needed")
    with pytest.raises(Unavailable, match="Tell the operator"):
        await keyring.signer(secret.id)


def test_a_sealed_secret_opens_for_its_own_key_and_server_alone() -> None:
    seal = Seal("a" * 32)
    sealed = seal.close("secret", "one")
    assert seal.open(sealed, "one") == "secret"
    assert sealed != seal.close("secret", "one")
    for other, identity in ((seal, "two"), (Seal("b" * 32), "one")):
        with pytest.raises(InvalidConfiguration, match="cannot be opened"):
            other.open(sealed, identity)


def test_the_servers_own_key_is_made_once_and_must_be_its_owners_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot be used"):
        seal_of(None, tmp_path)
    sealed = seal_of(None, tmp_path, make=True).close("secret", "one")
    assert seal_of(None, tmp_path, make=True).open(sealed, "one") == "secret"
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
        (tmp_path / FILE).chmod(0o644)
        with pytest.raises(InvalidConfiguration, match="open to others"):
            seal_of(None, tmp_path)


def test_without_the_package_that_seals_the_command_that_brings_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    for work in (lambda: Seal("a" * 32).close("secret", "one"), lambda: Seal("a" * 32).open(b"sealed", "one")):
        with pytest.raises(MissingDependency, match=r"sensorium\[auth\]"):
            work()


async def test_a_budget_is_kept_changed_and_taken_away(keys: SqliteKeys) -> None:
    secret, key = new_key("shop", budget=Budget("month", usd=5.0))
    await keys.add(key)
    assert (await ring(keys).caller(secret.text)).budget == Budget("month", usd=5.0)
    await keys.allow("shop", Budget("day", tokens=1000))
    assert [known.budget for known in await keys.every()] == [Budget("day", tokens=1000)]
    assert (await keys.allow(key.id, None)).budget is None
    assert [known.budget for known in await keys.every()] == [None]
    with pytest.raises(InvalidRequest, match="No key in use"):
        await keys.allow("another", None)


async def test_a_file_from_before_there_were_budgets_is_read_and_takes_them(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "keys.sqlite") as old:
        old.executescript(
            "CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL, sealed BLOB,"
            " scopes TEXT NOT NULL, requests_per_minute INTEGER, created REAL NOT NULL, expires REAL, revoked REAL)"
            " WITHOUT ROWID;"
        )
        secret = Secret.new()
        row = (secret.id, "old", secret.digest, None, '["*"]', 60, 1.0, None, None)
        old.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    old.close()
    keys = SqliteKeys(tmp_path / "keys.sqlite")
    caller = await ring(keys).caller(secret.text)
    assert (caller.name, caller.requests_per_minute, caller.budget) == ("old", 60, None)
    await keys.allow("old", Budget("day", usd=1.0))
    assert (await ring(keys).caller(secret.text)).budget == Budget("day", usd=1.0)
    await keys.close()
