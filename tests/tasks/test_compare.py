"""Comparing pictures: the lists are filled by the schema, whoever answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sensorium.config import Settings
from sensorium.errors import CorruptMedia, InvalidRequest, ProviderFailed, UnknownModel, UnstructuredAnswer
from sensorium.media.source import Source
from sensorium.schemas.ask import AskRequest
from sensorium.schemas.compare import CompareRequest, Comparison
from sensorium.service import Sensorium
from tests.fakes import put_fake
from tests.pictures import jpeg, png

RED, BLUE = Source.of(png(60, 40, colour=(220, 20, 30))), Source.of(png(90, 60, colour=(0, 70, 200)))


@pytest.fixture
async def sensorium(tmp_path: Path) -> AsyncIterator[Sensorium]:
    models = tmp_path / "models"
    put_fake(models, "broken", 'fail = "provider_failed"')
    put_fake(models, "chatty", 'words = ["Nice!"]')
    quick = {"read": ["fake"]}  # which is ready at once
    async with Sensorium(Settings(cache_dir=tmp_path, models_dir=models, models=quick)) as service:
        yield service


async def test_perception_compares_what_local_tasks_see(sensorium: Sensorium) -> None:
    told = await sensorium.run(CompareRequest(images=(RED, BLUE)))
    assert isinstance(told, Comparison)
    assert told.meta.engine == told.answered_by == "perception@1"
    assert any("flat" in sentence for sentence in told.similarities)
    assert any("Picture 1" in sentence and "red" in sentence for sentence in told.differences)
    assert any("Picture 2" in sentence and "blue" in sentence for sentence in told.differences)
    assert "Picture 2 has the most pixels." in told.recommendation


async def test_equal_pictures_have_no_differences(sensorium: Sensorium) -> None:
    told = await sensorium.run(CompareRequest(images=(RED, RED, RED)))
    assert told.differences == ()
    assert "All have 60 × 40 pixels." in told.similarities


async def test_it_answers_in_the_language_of_the_question(sensorium: Sensorium) -> None:
    told = await sensorium.run(CompareRequest(images=(RED, BLUE), question="哪一张更清晰？"))
    assert any("红色" in sentence for sentence in told.differences)


async def test_the_model_is_passed_on(sensorium: Sensorium) -> None:
    told = await sensorium.run(CompareRequest(images=(RED, BLUE), model="fake"))
    assert told.meta.engine == "fake@1"
    assert told.similarities == ("example",)
    with pytest.raises(UnknownModel, match="for ask"):
        await sensorium.run(CompareRequest(images=(RED, BLUE), model="nobody"))


async def test_a_bad_picture_and_too_few_are_refused(sensorium: Sensorium) -> None:
    with pytest.raises(CorruptMedia):
        await sensorium.run(CompareRequest(images=(RED, Source.of(jpeg()[:300]))))
    with pytest.raises(ValueError, match="two pictures or more"):
        CompareRequest(images=(RED,))


async def test_a_model_that_does_not_compare_is_told_without_a_word_of_schemas(sensorium: Sensorium) -> None:
    with pytest.raises(UnstructuredAnswer, match="name another model by `model`") as failed:
        await sensorium.run(CompareRequest(images=(RED, BLUE), model="chatty"))
    assert "schema" not in str(failed.value).lower()
    assert failed.value.text == "Nice!"


async def test_a_failing_model_fails_the_comparison(sensorium: Sensorium) -> None:
    with pytest.raises(ProviderFailed):
        await sensorium.run(CompareRequest(images=(RED, BLUE), model="broken"))


def test_several_pictures_are_given_twice_the_time() -> None:
    assert CompareRequest(images=(RED, BLUE)).patience() == 2
    assert AskRequest(image=RED, images=(BLUE,), prompt="?").patience() == 2
    assert AskRequest(image=RED, prompt="?").patience() == 1
    assert CompareRequest(images=(RED, BLUE)).max_tokens == 2048


async def test_a_hostile_schema_is_refused_by_the_whole_house(sensorium: Sensorium) -> None:
    with pytest.raises(InvalidRequest, match="json_schema"):
        await sensorium.run(AskRequest(image=RED, prompt="?", json_schema={"$ref": "http://127.0.0.1/"}))
