"""What one model takes and costs, before it is asked and after."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sensorium import pricing
from sensorium.engine import Card
from sensorium.errors import SensoriumError
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.schemas.ask import AskRequest, Picture, Words
from sensorium.schemas.base import Request, Usage

ESTIMATE = Usage(estimated=True)

LONG = 2_000
"""Signs from which words are counted in a thread: that takes about a millisecond then."""


class Tariff:
    """Of the model of a card. A local one costs nothing, unless the setting `prices` says otherwise."""

    def __init__(self, card: Card) -> None:
        self._card = card
        named = card.quirks.get("model")
        own = (f"{card.kind}/{named}", named) if isinstance(named, str) else ()
        self._names = (card.name, *own)
        self._rule = card.rule or next(filter(None, map(pricing.rule_for, self._names)), None)
        self.ready = False
        """Whether prices are at hand."""

    async def prepare(self) -> None:
        """Have prices at hand: they are read once in a process, which takes a third of a second."""
        if not self.ready:
            await in_thread(self.cost, Usage())
            self.ready = True

    async def most(self, request: Request) -> Usage | None:
        """The most that the answer will take, without its cost; None for a request that takes no tokens.

        A picture whose size is not known, as it is passed on by its address, takes the most that any can.
        """
        if not isinstance(request, AskRequest):
            return None
        conversation = request.conversation()
        pictures = [part for message in conversation for part in message.parts if isinstance(part, Picture)]
        seen = sum(await asyncio.gather(*map(self._seen, pictures))) if pictures else 0
        texts = [part.text for message in conversation for part in message.parts if isinstance(part, Words)]
        said = _words(texts) if sum(map(len, texts)) < LONG else await in_thread(_words, texts)
        around = pricing.AROUND * (1 + len(conversation))
        return ESTIMATE.altered(input_tokens=seen + said + around, output_tokens=request.max_tokens, image_tokens=seen)

    def cost(self, usage: Usage) -> float | None:
        """In US dollars; None where no price is known."""
        for name in self._names:
            counted = usage.input_tokens, usage.output_tokens, usage.cached_tokens
            known = pricing.price(name, *counted, published=self._card.remote)
            if known is not None:
                return known
        return None if self._card.remote else 0.0

    async def _seen(self, picture: Picture) -> int:
        width, height = await _size(picture.image)
        return pricing.estimate(self._rule, width, height, picture.detail).tokens


def _words(texts: list[str]) -> int:
    return sum(map(pricing.words, texts))


async def _size(source: Source) -> tuple[int, int] | tuple[None, None]:
    """The upright size in pixels; unknown of what is passed on unfetched, or is no picture, as whoever reads it will say."""
    if source.url is None:
        with suppress(SensoriumError):
            return await in_thread(_size_now, source)
    return None, None


def _size_now(source: Source) -> tuple[int, int]:
    from sensorium.media.decode import describe

    return describe(source.read_now(), source.name).upright_size
