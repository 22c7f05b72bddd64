"""Asks about a large picture part by part, and makes one answer of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sensorium.engine import Call, Delta, Engine, Progress, ignore
from sensorium.errors import InvalidRequest, SensoriumError
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.media.tiles import Cut, Tile, cut
from sensorium.schemas.ask import Answer, AskRequest
from sensorium.schemas.base import Request, Result, Usage
from sensorium.schemas.structure import Structure

MOST_PARTS = 64
"""Of one picture: 12 megapixels in tiles of 512. Each is a question that is paid for."""

AT_ONCE = 5
"""Parts of one picture that are asked about at the same time."""


class Tiled:
    """Questions with `tile`: each part is asked about with its place told, then the model is asked to sum up.

    Where a schema asks for lists, the parts' lists put together are the answer, and that last question is saved. The
    parts share `max_cost`. When one part fails, so does the question: an answer that left a part out would not say so.
    """

    def __init__(self, inner: Engine[Request, Result]) -> None:
        self._inner = inner

    def run(self, request: Request, call: Call) -> Coroutine[Any, Any, Result]:
        # Not a coroutine itself: what is shown whole must not pay for one more.
        if not isinstance(request, AskRequest) or request.tile is None or request.image is None:
            return self._inner.run(request, call)
        return self._tiled(request, request.image, request.tile, call)

    async def _tiled(self, request: AskRequest, image: Source, side: int, call: Call) -> Result:
        whole = request.altered(tile=None)
        parts = await cut(image, side, most=MOST_PARTS)
        if len(parts.tiles) == 1:
            return await self._inner.run(whole, call)
        return await self._merged(whole, parts, call)

    async def _merged(self, whole: AskRequest, parts: Cut, call: Call) -> Answer:
        share = _sharing(call, len(parts.tiles) + 1)
        answers = await self._ask_each(whole, parts, share, call)
        data = await in_thread(_together, whole.json_schema, [answer.data for answer in answers])
        if data is not None:
            last = answers[-1].altered(text=json.dumps(data, ensure_ascii=False), data=data)
            await call.emit(Delta(last.text))
        else:
            asked = replace(share, listener=ignore if call.listener is ignore else call.emit)
            last = _answer(await self._inner.run(_summing_up(whole, parts, answers), asked))
            answers = [*answers, last]
        return _accounted(last, answers)

    async def _ask_each(self, whole: AskRequest, parts: Cut, share: Call, call: Call) -> list[Answer]:
        room, done = asyncio.Semaphore(AT_ONCE), 0

        async def ask(number: int, tile: Tile, picture: Source) -> Answer:
            nonlocal done
            question = whole.altered(image=picture, prompt=f"{_place(tile, number, parts)}\n\n{whole.prompt}")
            async with room:
                try:
                    answer = _answer(await self._inner.run(question, replace(share, listener=ignore)))
                except SensoriumError as error:
                    raise error.about(f"Part {number} of {len(parts.tiles)}") from error
            done += 1
            await call.emit(Progress(done, len(parts.tiles) + 1))
            return answer

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(ask(number, tile, picture))
                    for number, (tile, picture) in enumerate(parts.tiles, 1)
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
        return [task.result() for task in tasks]


def _sharing(call: Call, questions: int) -> Call:
    """A call for each of so many questions, that cost no more together than the caller allows."""
    most = call.options.max_cost
    options = call.options if most is None else replace(call.options, max_cost=most / questions)
    return replace(call, options=options, heard=False)


def _answer(result: Result) -> Answer:
    if not isinstance(result, Answer):
        raise TypeError(f"a question was answered by a {type(result).__name__}")
    return result


def _place(tile: Tile, number: int, parts: Cut) -> str:
    return (
        f"This is part {number} of {len(parts.tiles)} of a picture of {parts.width} x {parts.height} pixels: "
        f"{tile.left} to {tile.right} across, {tile.top} to {tile.bottom} down, from its top left corner. "
        "Neighbouring parts overlap. Answer for what you see in this part only."
    )


def _summing_up(whole: AskRequest, parts: Cut, answers: Sequence[Answer]) -> AskRequest:
    """The last question: the whole picture, and what was said of its parts."""
    told = "\n\n".join(
        f"Pixels {tile.left} to {tile.right} across, {tile.top} to {tile.bottom} down:\n{answer.text}"
        for (tile, _), answer in zip(parts.tiles, answers, strict=True)
    )
    prompt = (
        f"This is a picture of {parts.width} x {parts.height} pixels, made smaller. Its {len(parts.tiles)} parts were "
        "looked at closely, one by one; they overlap, so the same thing may be told twice. What was said of each:\n\n"
        f"{told}\n\n"
        f"Answer this about the whole picture, without speaking of parts:\n\n{whole.prompt}"
    )
    return whole.altered(prompt=prompt)


def _together(schema: Mapping[str, Any] | None, found: Sequence[Any]) -> Any:
    """The lists of all parts as one, what two parts tell alike kept once; None where that is no answer by the schema."""
    if schema is None:
        return None
    if all(isinstance(one, list) for one in found):
        joined: Any = _joined(found)
    elif all(_is_of_lists(one) and one.keys() == found[0].keys() for one in found):
        joined = {name: _joined([one[name] for one in found]) for name in found[0]}
    else:
        return None
    return joined if _allows(schema, joined) else None


def _is_of_lists(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, list) for one in value.values())


def _joined(lists: Sequence[list[Any]]) -> list[Any]:
    once = {json.dumps(item, sort_keys=True): item for each in lists for item in each}
    return list(once.values())


def _allows(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether it keeps the schema, which may limit how long lists are; where that takes too long to tell, it does not."""
    try:
        return Structure.of(schema).problem(value) is None
    except InvalidRequest:
        return False


def _accounted(last: Answer, answers: Sequence[Answer]) -> Answer:
    """The last answer, with what all of them took, and how the first that was cut off ended."""
    ending = next((answer.ending for answer in answers if answer.ending != "stop"), "stop")
    return last.altered(ending=ending).stamped(usage=_sum([answer.meta.usage for answer in answers]))


def _sum(usages: Sequence[Usage | None]) -> Usage | None:
    """Of all; a number that one of them does not know, nobody knows."""
    known = [usage for usage in usages if usage is not None]
    if not known:
        return None
    pictures = [usage.image_tokens for usage in known]
    costs = [usage.cost for usage in known]
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in known),
        output_tokens=sum(usage.output_tokens for usage in known),
        image_tokens=sum(one for one in pictures if one is not None) if None not in pictures else None,
        cached_tokens=sum(usage.cached_tokens for usage in known),
        cost=sum(one for one in costs if one is not None) if None not in costs else None,
        estimated=any(usage.estimated for usage in known),
    )
