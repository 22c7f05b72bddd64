"""Say what a question to a model would take and cost, without asking it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sensorium import pricing
from sensorium.engine import Call, Card
from sensorium.errors import InvalidRequest, Unseeing
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.schemas.tokens import PictureTokens, TokenCount, TokensRequest

Request = TokensRequest
ABOUT = "ask"


async def run(request: TokensRequest, call: Call, card: Card | None) -> TokenCount:  # noqa: ARG001 - a part asks nobody
    """Of each picture only the header is looked at. `card` is the model's, if it is one that is known here.

    Raises InvalidRequest when no model is named, Unseeing when it takes no pictures, and what reading a picture raises.
    """
    names = tuple(_names(request.model, card))
    sources = tuple(request.sources())
    if sources and card is not None and not card.vision:
        raise Unseeing(f"{card.name} takes no pictures")
    rule = card.rule if card and card.rule else next(filter(None, map(pricing.rule_for, names)), None)
    sizes = await asyncio.gather(*map(_size, sources))
    counted = [pricing.estimate(rule, *size, request.detail) for size in sizes]
    texts = [text for text in (request.system, request.prompt) if text]
    image_tokens = sum(one.tokens for one in counted)
    text_tokens = await in_thread(_text_tokens, texts)
    local = card is not None and not card.remote
    costs = await in_thread(_costs, names, image_tokens + text_tokens, request.max_tokens, local)
    kind = pricing.estimate(rule, None, None)
    return TokenCount(
        model=names[0],
        pictures=tuple(map(_told, sizes, counted)),
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        input_tokens=image_tokens + text_tokens,
        most_output_tokens=request.max_tokens,
        rule=kind.rule_id,
        confidence=kind.confidence,
        input_cost=costs[0],
        most_cost=costs[1],
    )


def _names(asked: str | None, card: Card | None) -> Iterator[str]:
    """What the model is called: as the caller says, as its card says, and as its provider does."""
    if not asked and card is None:
        fix = "Name it with `model`, such as `gpt-4o`, or set `models.ask`"
        raise InvalidRequest("No model is named whose tokens are to be counted", fix=fix)
    if asked:
        yield asked
    if card is not None:
        yield card.name
        if isinstance(named := card.quirks.get("model"), str):
            yield named


async def _size(source: Source) -> tuple[int, int]:
    from sensorium.media.decode import describe

    data = await source.read()
    return (await in_thread(describe, data, source.name)).upright_size


def _told(size: tuple[int, int], counted: pricing.PictureTokens) -> PictureTokens:
    return PictureTokens(
        tokens=counted.tokens,
        width=size[0],
        height=size[1],
        used_width=counted.width or size[0],
        used_height=counted.height or size[1],
        refused=counted.refused,
    )


def _text_tokens(texts: list[str]) -> int:
    return sum(pricing.words(text) + pricing.AROUND for text in texts) + pricing.AROUND


def _costs(
    names: tuple[str, ...], input_tokens: int, output_tokens: int, local: bool
) -> tuple[float | None, float | None]:
    """Of the question alone, and with the longest answer. A local model costs what the setting `prices` says, else nothing."""
    for name in names:
        most = pricing.price(name, input_tokens, output_tokens, published=not local)
        if most is not None:
            return pricing.price(name, input_tokens, 0, published=not local), most
    return (0.0, 0.0) if local else (None, None)
