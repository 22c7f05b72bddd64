"""People by OpenCV's HOG detector: weak, and honest about it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from PIL import Image

from sensorium.config import Settings
from sensorium.engines.local.hog_people import CARDS
from sensorium.media.source import Source
from sensorium.schemas.people import People, PeopleRequest
from sensorium.service import Sensorium
from tests.pictures import encoded, png


async def people_in(picture: bytes | Path, folder: Path, times: int = 1, **fields: object) -> list[People]:
    settings = Settings(cache_dir=folder, models_dir=folder / "none", cache="off")
    async with Sensorium(settings) as service:
        asked = [PeopleRequest(image=Source.of(picture), **fields) for _ in range(times)]
        return list(await asyncio.gather(*map(service.run, asked)))


async def test_people_who_walk_are_found_with_boxes_and_scores(tmp_path: Path, shared_data: Path) -> None:
    picture = shared_data / "detection" / "classic" / "bus.jpg"
    found, *others = await people_in(picture, tmp_path, times=6)
    assert found.meta.engine == "hog_people@1"
    assert found.people
    assert [one.people for one in others] == [found.people] * 5
    scores = [one.score for one in found.people]
    assert scores == sorted(scores, reverse=True)
    assert all(0.5 <= score <= 1 for score in scores)
    assert all(0 <= one.box.left < one.box.right <= found.image.width for one in found.people)
    assert all(one.box.height > one.box.width for one in found.people)
    (surest,) = (await people_in(picture, tmp_path, limit=1))[0].people
    assert surest == found.people[0]


async def test_a_picture_without_people_or_smaller_than_one_has_none(tmp_path: Path) -> None:
    for picture in (png(300, 300), png(1, 1), png(63, 127), encoded(Image.new("L", (5000, 3)), "PNG")):
        assert [one.people for one in await people_in(picture, tmp_path)] == [()]


def test_its_card_says_that_it_is_weak() -> None:
    assert "Weak" in CARDS[0].origin
