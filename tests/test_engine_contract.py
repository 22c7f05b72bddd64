"""What every engine and model must do. A new one is tested here on the day it is registered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sensorium.config import Settings
from sensorium.engine import Card, Options
from sensorium.errors import InvalidInput, MissingDependency, ModelNotInstalled, SensoriumError
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.schemas.base import Request, Result
from sensorium.schemas.examples import example_of
from sensorium.service import Sensorium
from tests.pictures import jpeg, photograph

REGISTRY = Registry()

HERE = [card for card in REGISTRY.cards if ".remote." not in REGISTRY.kinds[card.kind].__name__]
"""Models that answer in this process; those of providers are held to theirs in tests/engines/remote."""

PAIRS = [(card, task.name) for card in HERE for task in REGISTRY.tasks if task.run is None and card.does(task.name)]
READY = [(card, task) for card, task in PAIRS if REGISTRY.state(card) == "ready"]

each_ready = pytest.mark.parametrize(("card", "task"), READY, ids=[f"{card.name}-{task}" for card, task in READY])
each_card = pytest.mark.parametrize("card", REGISTRY.cards, ids=lambda card: card.name)
FRESH = Options(cache=False)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sensorium(cache_dir: Path) -> AsyncIterator[Sensorium]:
    """One for all: models are loaded once."""
    async with Sensorium(Settings(cache_dir=cache_dir, models_dir=cache_dir / "none")) as service:
        yield service


def ask(card: Card, task: str, picture: bytes) -> Request:
    request = REGISTRY.asked(task).request
    words = dict.fromkeys(request.positional, "What is this?")
    return request.model_validate({"image": Source.of(picture), "model": card.id, **words})


@in_one_loop
@each_ready
async def test_it_answers_with_the_tasks_result_and_says_who_answered(
    sensorium: Sensorium, card: Card, task: str
) -> None:
    result = await sensorium.run(ask(card, task, photograph()))
    assert type(result) is REGISTRY.task(task).answer
    assert result.meta.engine == card.id
    assert result.meta.seconds > 0
    assert type(result).model_validate_json(result.model_dump_json()) == result


@in_one_loop
@each_ready
async def test_one_bad_picture_fails_alone_and_its_neighbours_answer_as_if_it_were_not_there(
    sensorium: Sensorium, card: Card, task: str
) -> None:
    good = [ask(card, task, jpeg(seed=seed)) for seed in range(3)]
    alone = await sensorium.run_all(good, options=FRESH)
    mixed = await sensorium.run_all([good[0], ask(card, task, b"no picture"), *good[1:]], options=FRESH)
    assert isinstance(mixed[1], InvalidInput)
    assert [without_meta(one) for one in (mixed[0], *mixed[2:])] == [without_meta(one) for one in alone]


@in_one_loop
@each_ready
async def test_its_errors_are_ours(sensorium: Sensorium, card: Card, task: str) -> None:
    for picture in (b"", b"\xff\xd8\xff", jpeg()[:200]):
        with pytest.raises(SensoriumError):
            await sensorium.run(ask(card, task, picture))


@in_one_loop
@each_ready
async def test_cancelling_leaves_it_able_to_answer(sensorium: Sensorium, card: Card, task: str) -> None:
    await sensorium.run(ask(card, task, jpeg(seed=8)))
    for after in (0.0, 0.001, 0.01):
        running = asyncio.create_task(sensorium.run(ask(card, task, jpeg(seed=9)), options=FRESH))
        await asyncio.sleep(after)
        running.cancel()
        await asyncio.wait([running])
    assert isinstance(await sensorium.run(ask(card, task, jpeg(seed=9)), options=FRESH), Result)


@each_ready
async def test_it_gives_its_threads_back(cache_dir: Path, card: Card, task: str) -> None:
    before = set(threading.enumerate())
    async with Sensorium(Settings(cache_dir=cache_dir, models_dir=cache_dir / "none")) as service:
        await service.run(ask(card, task, jpeg()))
    assert not [thread.name for thread in set(threading.enumerate()) - before if card.name in thread.name]


@each_card
def test_a_card_says_all_that_a_user_must_know(card: Card) -> None:
    assert card.licence
    assert card.origin
    assert card.tasks
    assert "agpl" not in card.licence.lower()
    assert card.weights is None or card.weights.package is None or card.weights.sha256


@in_one_loop
@pytest.mark.parametrize("card", HERE, ids=lambda card: card.name)
async def test_a_model_that_is_not_installed_says_what_brings_it(sensorium: Sensorium, card: Card) -> None:
    if REGISTRY.state(card) == "ready":
        pytest.skip("it is installed")
    with pytest.raises((ModelNotInstalled, MissingDependency), match=card.install.split(" ")[0] or "models folder"):
        await sensorium.run(ask(card, card.tasks[0], jpeg()))


@pytest.mark.parametrize("task", REGISTRY.tasks, ids=lambda task: task.name)
def test_every_task_has_an_answer_that_serves_as_example(task: object) -> None:
    answer = example_of(task.answer)  # type: ignore[attr-defined] # parametrised over tasks
    assert type(answer).model_validate_json(answer.model_dump_json()) == answer


def without_meta(outcome: Result | SensoriumError) -> str:
    assert isinstance(outcome, Result), outcome
    return outcome.model_dump_json(exclude={"meta"})
