from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from sensorium.errors import Overloaded, SensoriumError, every_error

each_error = pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)


def test_every_code_is_its_own() -> None:
    codes = [kind.code for kind in every_error()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch("[a-z][a-z0-9_]+", code) for code in codes)


@each_error
def test_every_error_says_what_it_is_and_what_to_do(kind: type[SensoriumError]) -> None:
    assert kind.__doc__
    assert kind.remedy.endswith(".")


@each_error
def test_every_error_crosses_processes_whole(kind: type[SensoriumError]) -> None:
    error = kind("It broke", why="the disk is full", fix="Free some room")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(again), str(again), again.as_dict()) == (kind, str(error), error.as_dict())


def test_a_message_is_what_why_and_fix_as_sentences() -> None:
    assert str(SensoriumError("It broke", why="no disk", fix="Buy one")) == "It broke: no disk. Buy one."
    assert str(SensoriumError("It broke.")) == "It broke."
    assert str(SensoriumError("No model 'x'", fix="Did you mean y?")) == "No model 'x'. Did you mean y?"


def test_overload_says_when_to_come_back() -> None:
    assert Overloaded("Full", retry_after_seconds=2.5).as_dict()["retry_after_seconds"] == 2.5


def test_the_tree_at_the_top_of_the_file_names_every_class() -> None:
    import sensorium.errors

    drawn = set(re.findall(r"[├└]── (\w+)", sensorium.errors.__doc__ or ""))
    assert drawn == {kind.__name__ for kind in every_error()[1:]}


def test_every_code_but_the_inner_nodes_is_provoked_by_a_test() -> None:
    inner = {"error", "invalid_input", "unavailable"}
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    missing = [
        kind.code
        for kind in every_error()
        if kind.code not in inner and not re.search(rf"raises\(\(?[^)]*\b{kind.__name__}\b|\b{kind.code}\b", tests)
    ]
    assert not missing
