"""A picture that cannot be answered changes not one byte of what its neighbours in the message get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pictures import JUNK, jpeg, photograph, png
from tests.server.conftest import Server, running
from tests.server.wire import form

GOOD = {
    "photograph": photograph(),
    "png": png(),
    **{f"jpeg {seed}": jpeg(seed=seed, width=80 + seed) for seed in (0, 1)},
}
BAD = {
    "empty": b"",
    "junk": JUNK,
    "text": b"plain text",
    "half a photograph": photograph()[:3000],
    "a JPEG's head": jpeg()[:40],
    "half a PNG": png()[:60],
    "a PNG's first bytes": b"\x89PNG\r\n\x1a\n" + JUNK,
}
OURS = ("seconds", "loading_seconds", "trace")
"""What of an answer belongs to the run, not to the picture."""

mixtures = st.lists(st.sampled_from([*GOOD, *BAD]), min_size=2, max_size=6)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the models that tasks have by default."""
    with running(tmp_path_factory.mktemp("real"), models={}, cache="off") as started:
        yield started


@pytest.mark.parametrize("task", ["describe_pixels", pytest.param("classify", marks=pytest.mark.slow)])
@settings(max_examples=12)
@given(names=mixtures)
def test_a_bad_picture_in_a_message_leaves_all_other_answers_as_they_were(
    real: Server, task: str, names: list[str]
) -> None:
    mixed = answers(real, task, names)
    alone = answers(real, task, [name for name in names if name in GOOD])
    assert [item for item, name in zip(mixed, names, strict=True) if name in GOOD] == alone
    assert all(b'"error"' in item for item, name in zip(mixed, names, strict=True) if name in BAD)


def answers(server: Server, task: str, names: list[str]) -> list[bytes]:
    """The bytes of each outcome, but for what belongs to the run."""
    if not names:
        return []
    parts = [("image", f"{place}.jpg", {**GOOD, **BAD}[name]) for place, name in enumerate(names)]
    told = requests.post(f"{server.url}/v1/{task}", **form(*parts), timeout=60).json()
    items = told.get("results", [told if "error" in told else {"result": told}])
    return [json.dumps(without_the_run(item)).encode() for item in items]


def without_the_run(item: dict[str, Any]) -> dict[str, Any]:
    for meta in (item.get("result", {}).get("meta", {}), item.get("error", {})):
        for name in OURS:
            meta.pop(name, None)
    return item
