"""Makes pictures fit for the model that is asked: as large as it will use, in a format and of a weight that it takes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from sensorium.engine import Call, Card, Engine
from sensorium.errors import InvalidModel, SensoriumError
from sensorium.media.encode import QUALITY, Format, Terms, fitted, scaled, within
from sensorium.media.pool import cores
from sensorium.media.source import Source
from sensorium.pricing import estimate, rule_for
from sensorium.schemas.ask import AskRequest, Detail, Picture
from sensorium.schemas.base import Frozen, Request, Result, wrong_fields

MANY = 20
"""Pictures of one question, above which Claude takes smaller ones only."""


class Taken(Frozen):
    """What a card's `input` says of the pictures that its model takes."""

    longest_side: int | None = Field(default=None, ge=32)
    """Pixels of the longer side."""
    longest_side_of_many: int | None = Field(default=None, ge=32)
    """As `longest_side`, where a question shows more than 20 pictures."""
    max_bytes: int | None = Field(default=None, ge=1024)
    """Encoded bytes of one picture."""
    formats: tuple[Format, ...] = Field(default=("jpeg", "png", "webp"), min_length=1)
    """Formats. JPEG or PNG must be among them, since a picture that is encoded anew becomes one of these."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large pictures are sent where the caller does not ask for more."""

    longest_side: int = 1024
    """Pixels of the longer side of a picture that is asked about alone."""
    several_longest_side: int = 2048
    """Of each of several, and of one that is looked at with detail `high`."""
    quality: int = QUALITY
    """Of the JPEGs that are made, 1 to 100."""


DEFAULT = Sizes()


class Fit:
    """Each picture of a question as the card's model will use it; other requests pass as they are."""

    def __init__(self, inner: Engine[Request, Result], card: Card, sizes: Sizes = DEFAULT) -> None:
        self._inner, self._card, self._sizes = inner, card, sizes
        self._takes_urls = bool(card.quirks.get("takes_urls"))
        self._rule = card.rule or rule_for(str(card.quirks.get("model") or card.name))
        self._turns = asyncio.Semaphore(cores() + 1)  # one more, so that no core waits for the event loop

    def run(self, request: Request, call: Call) -> Coroutine[Any, Any, Result]:
        # Not a coroutine itself: words alone must not pay for one more.
        if isinstance(request, AskRequest) and (pictures := request.pictures()):
            return self._shown(request, pictures, call)
        return self._inner.run(request, call)

    async def _shown(self, request: AskRequest, pictures: Sequence[Picture], call: Call) -> Result:
        return await self._inner.run(request.showing(await self._all_fitted(pictures)), call)

    async def _all_fitted(self, pictures: Sequence[Picture]) -> list[Source]:
        """All at once, as far as there are cores: of many who ask, the first are to go out while the others are prepared."""
        taken = _read_taken(self._card)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._fitted(number, pictures, taken)) for number in range(len(pictures))]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
        return [task.result() for task in tasks]

    async def _fitted(self, number: int, pictures: Sequence[Picture], taken: Taken) -> Source:
        source = pictures[number].image
        if self._takes_urls and source.url is not None:
            return source
        try:
            if source.url is not None:
                await source.read()
            async with self._turns:
                return await fitted(source, self._terms(taken, pictures[number].detail, len(pictures)))
        except SensoriumError as error:
            if len(pictures) == 1:
                raise
            raise error.about(f"Picture {number + 1} of {len(pictures)}") from error

    def _terms(self, taken: Taken, detail: Detail, pictures: int) -> Terms:
        size = functools.partial(size_for, self._rule, detail, self._longest(taken, detail, pictures))
        return Terms(size, self._sizes.quality, taken.formats, taken.max_bytes)

    def _longest(self, taken: Taken, detail: Detail, pictures: int) -> int | None:
        """Pixels of the longer side, by the card and by our own defaults; None: no limit."""
        limits = [taken.longest_side, taken.longest_side_of_many if pictures > MANY else None]
        if detail != "original":
            closely = pictures > 1 or detail == "high"
            limits.append(self._sizes.several_longest_side if closely else self._sizes.longest_side)
        return min((limit for limit in limits if limit is not None), default=None)


def size_for(rule: str | None, detail: Detail, longest: int | None, width: int, height: int) -> tuple[int, int]:
    """The size at which a picture is sent: no longer than `longest`, and no larger than the model will use.

    The shape is kept also where the model would squeeze it: squeezing is then its own business, as with any picture.
    """
    if longest is not None and longest < max(width, height):
        width, height = within(longest)(width, height)
    used = estimate(rule, width, height, detail)
    if used.width is None or used.height is None:
        return width, height
    across, down = scaled(width, height, max(used.width / width, used.height / height))
    # Where they differ by rounding only, exactly what the model would make of it.
    return (used.width, used.height) if max(across - used.width, down - used.height) <= 1 else (across, down)


def _read_taken(card: Card) -> Taken:
    try:
        return Taken.model_validate(dict(card.input))
    except ValidationError as error:
        raise InvalidModel(
            f"Model {card.id} cannot be used", why=f"its card's `input` is wrong: {wrong_fields(error, Taken)}"
        ) from error
