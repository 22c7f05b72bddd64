"""Batches that cost money: what they will take is said before, and they stop in time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensorium.batch.estimate import sample_of
from tests.batch.conftest import some, told
from tests.cli.conftest import Sensorium
from tests.pictures import jpeg
from tests.upstream import Upstream, upstream

CARD = """name = "paid"
kind = "openai"
tasks = ["ask"]
licence = "proprietary"
remote = true
rule = "openai/gpt-4o"
limits = {{ requests_per_minute = 100000 }}
[quirks]
base_url = "{url}"
model = "gpt-4o"
"""

ASK = ("--task", "ask", "--prompt", "What is this?", "--model", "paid", "--max-tokens", "100", "-o", "out.jsonl")


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[Upstream]:
    with upstream() as provider:
        yield provider


@pytest.fixture(autouse=True)
def provider(shared_provider: Upstream, models: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    shared_provider.forget()
    (models / "paid.toml").write_text(CARD.format(url=shared_provider.openai))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("SENSORIUM_PRICES", json.dumps({"paid": {"input": 1000.0, "output": 10_000.0}}))
    return shared_provider


def spent(path: Path) -> float:
    return sum(float(line["result"]["meta"]["usage"]["cost"]) for line in told(path))


def test_the_estimate_is_told_first_and_alone_when_asked(sensorium: Sensorium, home: Path, provider: Upstream) -> None:
    some(home / "p", 40)
    done = sensorium("batch", "p", *ASK, "--estimate")
    assert done.exit_code == 0, done.output
    assert "40 inputs: about " in done.stderr
    assert "at most 4,000 out" in done.stderr
    assert provider.requests == []
    assert sensorium("batch", "p", *ASK).stderr.index("40 inputs") == 0
    assert len(provider.requests) == 40


def test_it_stops_before_more_is_spent_than_allowed_and_goes_on_with_more(
    sensorium: Sensorium, home: Path, provider: Upstream
) -> None:
    some(home / "p", 30)
    done = sensorium("batch", "p", *ASK, "--max-cost", "5")
    assert done.exit_code == 1, done.output
    assert "more could cost over $5.00" in done.stderr
    first = spent(Path("out.jsonl"))
    assert 0 < first <= 5
    assert 0 < len(told(Path("out.jsonl"))) == len(provider.requests) < 30
    summary = json.loads(sensorium("batch", "p", *ASK, "--max-cost", "1000", "--json").stdout)
    assert (summary["state"], summary["done"]) == ("complete", 30)
    assert summary["cost"] == pytest.approx(spent(Path("out.jsonl")))
    assert len(provider.requests) == 30, "nothing is paid for twice"


def test_an_input_dearer_than_all_that_is_left_is_not_begun_and_counts_as_no_failure(
    sensorium: Sensorium, home: Path, provider: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate looked at others only."""
    monkeypatch.setattr("sensorium.batch.estimate.SAMPLE", 3)
    some(home / "p", 4)
    large = home / "p" / "0002.jpg"
    large.write_bytes(jpeg(width=2000, height=2000))
    monkeypatch.setattr(
        "sensorium.batch.run.sample_of", lambda items: sample_of([one for one in items if "0002" not in one.id])
    )
    done = sensorium("batch", "p", *ASK, "--max-cost", "2.2", "--at-once", "4")
    assert done.exit_code == 1, done.output
    assert "more could cost over $2.20" in done.stderr
    assert "failed (" not in done.stderr
    assert spent(Path("out.jsonl")) <= 2.2
    assert all("result" in line for line in told(Path("out.jsonl")))
    done = sensorium("batch", "p", *ASK, "--max-cost", "1000", "--json")
    assert json.loads(done.stdout)["done"] == 4
    assert len(provider.requests) == 4
    assert "No inputs are left to do" in sensorium("batch", "p", *ASK, "--max-cost", "1000").stderr


def test_an_allowance_that_is_just_enough_is_no_reason_to_stop(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 3)
    done = sensorium("batch", "p", *ASK, "--max-cost", "100", "--json")
    assert json.loads(done.stdout)["state"] == "complete"


def test_without_a_price_nothing_is_promised(
    sensorium: Sensorium, home: Path, monkeypatch: pytest.MonkeyPatch, models: Path, provider: Upstream
) -> None:
    monkeypatch.delenv("SENSORIUM_PRICES")
    card = (
        (models / "paid.toml").read_text().replace("gpt-4o", "nobody-knows").replace('rule = "openai/nobody-knows"', "")
    )
    (models / "paid.toml").write_text(card)
    some(home / "p", 2)
    done = sensorium("batch", "p", *ASK, "--max-cost", "5")
    assert done.exit_code == 2
    assert "none is known of this model" in done.stderr
    assert provider.requests == []


def test_standard_input_cannot_be_estimated(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    done = sensorium("batch", "-", *ASK, "--max-cost", "5", input=b"p/0000.jpg\n")
    assert done.exit_code == 2
    assert "@list.txt" in done.stderr
