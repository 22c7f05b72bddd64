from __future__ import annotations

import pytest

from sensorium.engine import Call
from sensorium.errors import EngineFailed, InvalidRequest, Overloaded, RateLimited, Unavailable
from sensorium.layers import stack
from sensorium.layers.fallback import Fallback
from tests.layers.stand_ins import Ask, Talker, listening


async def test_the_next_model_answers_and_the_answer_says_so() -> None:
    broken = Talker(before=EngineFailed("Model a broke", why="no disk"))
    result = await Fallback([("a@1", broken), ("b@1", Talker())]).run(Ask(text="x y"), Call())
    assert [(one.engine, one.code) for one in result.meta.skipped] == [("a@1", "engine_failed")]
    assert "no disk" in result.meta.skipped[0].message


async def test_half_an_answer_is_never_told_twice() -> None:
    call, heard = listening()
    second = Talker()
    with pytest.raises(EngineFailed):
        await Fallback([("a@1", Talker(after=EngineFailed("cut"))), ("b@1", second)]).run(Ask(text="x y"), call)
    assert len(heard) == 2
    assert second.calls == 0


async def test_a_wrong_request_does_not_fall_through() -> None:
    second = Talker()
    with pytest.raises(InvalidRequest):
        await Fallback([("a@1", Talker(before=InvalidRequest("no"))), ("b@1", second)]).run(Ask(text="x"), Call())
    assert second.calls == 0


async def test_when_all_fail_the_error_lists_all() -> None:
    models = [(f"{name}@1", Talker(before=EngineFailed(f"{name} broke"))) for name in "ab"]
    with pytest.raises(Unavailable, match=r"a@1: a broke; b@1: b broke"):
        await Fallback(models).run(Ask(text="x"), Call())


async def test_a_single_model_fails_as_itself() -> None:
    with pytest.raises(EngineFailed):
        await stack.for_task([("a@1", Talker(before=EngineFailed("a broke")))]).run(Ask(text="x"), Call())


async def test_when_all_are_too_busy_the_caller_hears_when_the_first_has_time() -> None:
    def busy(kind: type[Overloaded], seconds: float) -> Talker:
        return Talker(before=kind("busy", retry_after_seconds=seconds))

    for kinds, kind in (
        ((RateLimited, RateLimited), RateLimited),
        ((RateLimited, Overloaded), Overloaded),
    ):
        with pytest.raises(Overloaded, match="a@1: busy; b@1: busy") as raised:
            await Fallback([("a@1", busy(kinds[0], 9)), ("b@1", busy(kinds[1], 3))]).run(Ask(text="x"), Call())
        assert (type(raised.value), raised.value.retry_after_seconds) == (kind, 3)
    with pytest.raises(Unavailable) as other:
        await Fallback([("a@1", busy(Overloaded, 9)), ("b@1", Talker(before=EngineFailed("broke")))]).run(
            Ask(text="x"), Call()
        )
    assert type(other.value) is Unavailable
