from __future__ import annotations

import json
import re
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sensorium.stores.usage import Amounts
from tests.cli.conftest import Sensorium, lines
from tests.cli.test_usage import note


def made(sensorium: Sensorium, *words: str) -> dict[str, Any]:
    told = sensorium("keys", "create", *words, "--json")
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_the_key_alone_is_on_standard_output_and_told_once(sensorium: Sensorium) -> None:
    told = sensorium("keys", "create", "商店")
    assert re.fullmatch(r"sk-sensorium-[a-z0-9]{12}-[A-Za-z0-9]{43}\n", told.stdout)
    assert "every task" in told.stderr
    assert "Authorization: Bearer" in told.stderr
    for later in (sensorium("keys", "list"), sensorium("keys", "list", "--json")):
        assert "商店" in later.stdout
        assert told.stdout.rpartition("-")[2].strip() not in later.output


def test_a_key_is_made_as_it_was_asked_for(sensorium: Sensorium) -> None:
    key = made(
        sensorium, "shop", "--scope", "classify", "--scope", "describe-pixels", "--expires", "30d", "--rate", "600"
    )
    assert key["scopes"] == ["classify", "describe_pixels"]
    assert (key["requests_per_minute"], key["state"], key["signing"]) == (600, "good", False)
    left = datetime.fromisoformat(key["expires"]) - datetime.now(UTC)
    assert abs(left - timedelta(days=30)) < timedelta(minutes=1)
    assert "secret_key" not in key
    (listed,) = lines(sensorium("keys", "list", "--json"))
    assert listed == {name: value for name, value in key.items() if name != "key"}
    table = sensorium("keys", "list").stdout
    assert "classify, describe_pixels" in table
    assert "600" in table


@pytest.mark.parametrize(
    ("text", "expires"),
    [("2099-12-31", "2099-12-31T00:00:00+00:00"), ("2099-01-01T08:00+08:00", "2099-01-01T00:00:00+00:00")],
)
def test_a_date_is_an_end_too(sensorium: Sensorium, text: str, expires: str) -> None:
    assert made(sensorium, "shop", "--expires", text)["expires"] == expires


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("shop", "--scope", "clasify"), "Did you mean classify?"),
        (("shop", "--scope", "xyz"), "There are: *, admin, metrics"),
        (("shop", "--expires", "soon"), "is no time"),
        (("shop", "--expires", "2001-01-01"), "is over"),
        (("shop", "--rate", "0"), "--rate"),
        (("jwt:alice",), "cannot be called"),
        ((), "NAME"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_and_no_key_is_made(sensorium: Sensorium, words: tuple[str, ...], said: str) -> None:
    told = sensorium("keys", "create", *words)
    assert told.exit_code == 2
    assert said in told.stderr
    assert "sk-sensorium" not in told.output
    assert not lines(sensorium("keys", "list", "--json"))


def test_a_name_is_taken_once(sensorium: Sensorium) -> None:
    made(sensorium, "shop")
    told = sensorium("keys", "create", "shop")
    assert told.exit_code == 2
    assert "sensorium keys revoke shop" in told.stderr
    assert not told.stdout


def test_a_key_is_revoked_by_name_or_id(sensorium: Sensorium) -> None:
    by_id = made(sensorium, "one")["id"]
    made(sensorium, "two")
    assert f"Revoked one ({by_id})." in sensorium("keys", "revoke", by_id).stdout
    assert json.loads(sensorium("keys", "revoke", "two", "--json").stdout)["state"] == "revoked"
    assert [key["state"] for key in lines(sensorium("keys", "list", "--json"))] == ["revoked", "revoked"]
    assert "revoked" in sensorium("keys", "list").stdout
    told = sensorium("keys", "revoke", "two")
    assert told.exit_code == 2
    assert "sensorium keys list" in told.stderr


def test_a_key_that_signs_comes_in_two_parts_and_is_kept_sealed(sensorium: Sensorium, tmp_path: Path) -> None:
    key = made(sensorium, "sdk", "--signing")
    assert key["key"] == f"sk-sensorium-{key['secret_id']}-{key['secret_key']}"
    assert key["signing"]
    assert "sign" in sensorium("keys", "list").stdout
    data = tmp_path / "data"
    assert all(key["secret_key"].encode() not in file.read_bytes() for file in data.iterdir())
    if sys.platform != "win32":
        assert stat.S_IMODE((data / "server.key").stat().st_mode) == 0o600
    told = sensorium("keys", "create", "another", "--signing")
    assert all(part in told.stderr for part in ("id ", "secret "))


def test_the_servers_key_may_come_from_the_environment_and_is_never_shown(
    sensorium: Sensorium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORIUM_SEALING_KEY", "too short")
    told = sensorium("keys", "create", "sdk", "--signing")
    assert told.exit_code == 2
    assert "sealing_key" in told.stderr
    secret = "a sealing key of forty signs, more or less"
    monkeypatch.setenv("SENSORIUM_SEALING_KEY", secret)
    monkeypatch.setenv("SENSORIUM_JWT_SECRET", secret)
    made(sensorium, "sdk", "--signing")
    assert not (tmp_path / "data" / "server.key").exists()
    for told in (sensorium("settings"), sensorium("settings", "--json"), sensorium("doctor", "--json")):
        assert secret not in told.output
    assert "**********" in sensorium("settings").stdout


def test_a_list_of_nothing_says_how_to_begin(sensorium: Sensorium) -> None:
    assert "sensorium keys create" in sensorium("keys", "list").stdout


def test_a_budget_is_made_listed_with_what_is_spent_and_changed(sensorium: Sensorium, tmp_path: Path) -> None:
    key = made(sensorium, "intern", "--budget-usd", "5", "--budget-tokens", "1000000", "--per", "day")
    assert key["budget"] == {"per": "day", "usd": 5.0, "tokens": 1_000_000}
    made(sensorium, "shop")
    note(tmp_path, "intern", Amounts(requests=1, input_tokens=1200, output_tokens=34, cost=0.25))
    listed = {told["name"]: told for told in lines(sensorium("keys", "list", "--json"))}
    assert (listed["intern"]["spent_usd"], listed["intern"]["spent_tokens"]) == (0.25, 1234)
    assert listed["shop"]["budget"] is None
    table = " ".join(sensorium("keys", "list").stdout.split())
    assert "budget" in table
    assert "no limit" in table
    told = sensorium("keys", "budget", "intern", "--usd", "7.5")
    assert "may spend: $7.50 a month" in told.stdout
    assert "no limit" in sensorium("keys", "budget", "intern", "--none").stdout
    assert lines(sensorium("keys", "budget", "intern", "--tokens", "5", "--json"))[0]["budget"]["tokens"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("budget", "shop"), "Give --usd, --tokens or both; or --none alone"),
        (("budget", "shop", "--usd", "5", "--none"), "Give --usd"),
        (("budget", "nobody", "--usd", "5"), "No key in use"),
        (("budget", "shop", "--usd", "-1"), "-1"),
        (("create", "other", "--budget-usd", "much"), "much"),
        (("create", "other", "--budget-usd", "5", "--per", "year"), "year"),
    ],
)
def test_a_wrong_budget_is_told(sensorium: Sensorium, words: tuple[str, ...], said: str) -> None:
    made(sensorium, "shop")
    told = sensorium("keys", *words)
    assert told.exit_code == 2
    assert said in told.stderr
