from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sensorium.stores.usage import FILE, Amounts, UsageBook, day_of
from tests.cli.conftest import Sensorium, lines

TODAY = day_of(time.time())


def note(folder: Path, key: str, amounts: Amounts, *, model: str = "gpt@1", days_ago: int = 0) -> None:
    """As a server does that uses this folder."""

    async def noted() -> None:
        book = UsageBook(folder / "data" / FILE, lambda: time.time() - days_ago * 86400)
        book.note(key, model, "ask", amounts)
        await book.close()

    asyncio.run(noted())


def test_what_was_used_is_a_table_with_a_sum_and_says_what_is_not_priced(sensorium: Sensorium, tmp_path: Path) -> None:
    assert "Nothing was used" in sensorium("usage").stdout
    note(tmp_path, "shop", Amounts(requests=1200, errors=3, input_tokens=5000, output_tokens=70, cost=0.125))
    note(tmp_path, "商店", Amounts(pictures=4, seconds=2.5, unpriced=1), model="")
    table = [row.split() for row in sensorium("usage").stdout.splitlines()]
    assert table[0][:4] == ["model", "requests", "errors", "pictures"]
    assert table[1] == ["gpt@1", "1,200", "3", "0", "0.0", "5,000", "70", "$0.1250"]
    assert table[2] == ["-", "0", "0", "4", "2.5", "0", "0", "$0.0000+"]
    assert table[3] == ["all", "1,200", "3", "4", "2.5", "5,000", "70", "$0.1250+"]
    assert "商店" in sensorium("usage", "--by", "key").stdout


def test_programs_get_a_line_for_each(sensorium: Sensorium, tmp_path: Path) -> None:
    note(tmp_path, "shop", Amounts(requests=2))
    note(tmp_path, "robot", Amounts(requests=1))
    assert lines(sensorium("usage", "--by", "key", "--json")) == [
        {"key": "shop", **Amounts(requests=2)._asdict()},
        {"key": "robot", **Amounts(requests=1)._asdict()},
    ]
    assert [line["requests"] for line in lines(sensorium("usage", "--key", "robot", "--json"))] == [1]
    assert [line["day"] for line in lines(sensorium("usage", "--by", "day", "--json"))] == [TODAY]


def test_only_what_is_not_older_than_asked_for_is_told(sensorium: Sensorium, tmp_path: Path) -> None:
    note(tmp_path, "shop", Amounts(requests=1))
    note(tmp_path, "shop", Amounts(requests=10), days_ago=5)
    note(tmp_path, "shop", Amounts(requests=100), days_ago=40)
    date = (datetime.now(UTC).date() - timedelta(days=5)).isoformat()
    for words, requests in ((["--since", "4d"], 1), (["--since", date], 11), ([], 11), (["--since", "90d"], 111)):
        assert [line["requests"] for line in lines(sensorium("usage", "--json", *words))] == [requests]


@pytest.mark.parametrize("words", [("--by", "secret"), ("--since", "yesterday")])
def test_a_wrong_option_is_told(sensorium: Sensorium, words: tuple[str, str]) -> None:
    told = sensorium("usage", *words)
    assert told.exit_code == 2
    assert words[1] in told.stderr
