"""Makes a value that keeps a schema of what a model says: asks for it, reads it, mends it, checks it, asks again.

While a schema is asked for, no words are passed on as they come: what turns out wrong could not be unsaid. For the same
reason nobody listens to the model, so that layers inside may repeat an attempt that broke. Once an answer is known to be
good, it is said whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any

from sensorium.engine import Call, Delta, Engine, ignore
from sensorium.errors import SensoriumError, UnstructuredAnswer
from sensorium.media.pool import in_thread
from sensorium.schemas.ask import Answer, AskRequest, Message, Words
from sensorium.schemas.base import Request, Result, Usage
from sensorium.schemas.structure import Structure

MOST_ATTEMPTS = 3
"""The first, and two that are told what was wrong."""
LARGEST_MENDED = 200_000
"""Characters of an answer that is mended; mending one takes up to a second."""
QUOTED = 20_000
"""Characters of a wrong answer that the model is shown again."""

INSTRUCTION = "Answer with one JSON value that keeps this JSON schema, and with nothing before or after it:\n{schema}"
COMPLAINT = "That answer cannot be used: {fault}.\nAnswer again, with nothing but one JSON value that keeps this schema:\n{schema}"

_FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)```", re.DOTALL)


class Unreadable(ValueError):
    """The text holds no JSON value."""


class Structured:
    """A model whose answers keep the schema that was asked for. `native`: its provider takes schemas by itself.

    Native answers are checked too: a provider may be set up wrongly, or cut an answer off.
    """

    def __init__(self, inner: Engine[Request, Result], native: bool) -> None:
        self._inner, self._native = inner, native

    def run(self, request: Request, call: Call) -> Coroutine[Any, Any, Result]:
        # Not a coroutine itself: what has no schema must not pay for one more.
        if not isinstance(request, AskRequest) or request.json_schema is None:
            return self._inner.run(request, call)
        return self._structured(request, call)

    async def _structured(self, request: AskRequest, call: Call) -> Result:
        structure = await in_thread(Structure.of, request.json_schema)
        asking = request if self._native else _instructed(request, structure)
        answers: list[Answer] = []
        while True:
            answers.append(await self._attempt(asking, call, answers))
            fault, data = await in_thread(_judged, answers[-1], structure)
            if fault is None:
                break
            if len(answers) == MOST_ATTEMPTS or answers[-1].ending == "content_filter":
                raise _failed(answers, fault)
            asking = _again(asking, answers[-1].text, fault, structure)
        good = _with_data(answers, data)
        await call.emit(Delta(good.text))
        return good

    async def _attempt(self, request: AskRequest, call: Call, before: list[Answer]) -> Answer:
        try:
            # A call of its own each time: its deadline may have been put off meanwhile.
            answer = await self._inner.run(request, replace(call, listener=ignore, heard=False))
        except SensoriumError as error:
            error.usage = _sum([*(one.meta.usage for one in before), error.usage])
            raise
        assert isinstance(answer, Answer)  # noqa: S101 - what `ask` answers with
        return answer


def read(text: str, *, mend: bool = True) -> Any:
    """The JSON value in a model's words: the whole of them, or a fenced block, or what is left once mended.

    Raises Unreadable. Blocks.
    """
    block = _FENCED.search(text)
    inner = block[1] if block else text
    for candidate in dict.fromkeys((text, inner)):
        try:
            return _strictly(candidate)
        except (ValueError, RecursionError):
            continue
    if not mend:
        raise Unreadable("it was cut off, and so is not whole JSON")
    return _mended(inner)


def _strictly(text: str) -> Any:
    return json.loads(text, parse_constant=_no_number, parse_float=_finite)


def _mended(text: str) -> Any:
    import json_repair

    start = min((place for sign in "{[" if (place := text.find(sign)) >= 0), default=None)
    if start is None:
        raise Unreadable("it is not JSON")
    if len(text) - start > LARGEST_MENDED:
        raise Unreadable("it is not JSON, and too long to be mended")
    try:
        # Written and read again, so that what it makes of numbers is held to the same.
        return _strictly(json.dumps(json_repair.loads(text[start:])))
    except (ValueError, RecursionError, TypeError) as error:
        raise Unreadable("it is not JSON, and cannot be mended") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]} is too large")
    return number


def _judged(answer: Answer, structure: Structure) -> tuple[str | None, Any]:
    """What is wrong with an answer, or None and its value."""
    try:
        # What was cut off is not mended: the end would be made up.
        data = read(answer.text, mend=answer.ending == "stop")
    except Unreadable as error:
        return str(error), None
    return structure.problem(data), data


def _instructed(request: AskRequest, structure: Structure) -> AskRequest:
    """The same question with the schema in words."""
    words = INSTRUCTION.format(schema=structure.text)
    if request.prompt:
        return request.altered(prompt=f"{request.prompt}\n\n{words}", json_schema=None)
    *before, last = request.messages
    if last.role != "user":
        return request.altered(messages=(*request.messages, _said("user", words)), json_schema=None)
    return request.altered(messages=(*before, last.altered(parts=(*last.parts, Words(text=words)))), json_schema=None)


def _again(request: AskRequest, text: str, fault: str, structure: Structure) -> AskRequest:
    """The conversation with the wrong answer and what is wrong with it. Providers refuse an empty message."""
    complaint = COMPLAINT.format(fault=fault, schema=structure.text)
    said = (*request.conversation(), _said("assistant", text[:QUOTED] if text.strip() else "(nothing)"))
    return request.altered(messages=said, system=None, prompt=complaint, image=None, images=())


def _said(role: Any, text: str) -> Message:
    return Message(role=role, parts=(Words(text=text),))


def _with_data(answers: list[Answer], data: Any) -> Answer:
    """The last answer with its value; its text is JSON, also where the model wrote more, or less."""
    last = answers[-1]
    try:
        _strictly(last.text)
        text = last.text
    except ValueError:
        text = json.dumps(data, ensure_ascii=False)
    usage = _sum(one.meta.usage for one in answers)
    return last.altered(text=text, data=data, meta=last.meta.altered(usage=usage, seconds=_seconds(answers)))


def _failed(answers: list[Answer], fault: str) -> UnstructuredAnswer:
    times = f"{len(answers)} times" if len(answers) > 1 else "once"
    error = UnstructuredAnswer(
        f"The answer of {answers[-1].meta.engine or 'the model'} does not have the form that was asked for",
        why=f"asked {times}; of the last answer, {fault}",
        fix="Ask another model, or loosen the schema",
        text=answers[-1].text,
    )
    error.usage = _sum(one.meta.usage for one in answers)
    return error


def _seconds(answers: list[Answer]) -> float:
    return sum(one.meta.seconds for one in answers)


def _sum(usages: Iterable[Usage | None]) -> Usage | None:
    """All of them together; what is not known of one is not known of all."""
    told = [usage for usage in usages if usage is not None]
    if len(told) < 2:
        return told[0] if told else None
    return Usage(
        input_tokens=sum(one.input_tokens for one in told),
        output_tokens=sum(one.output_tokens for one in told),
        image_tokens=_known([one.image_tokens for one in told]),
        cached_tokens=sum(one.cached_tokens for one in told),
        cost=_known([one.cost for one in told]),
        estimated=any(one.estimated for one in told),
    )


def _known(parts: list[Any]) -> Any:
    return None if None in parts else sum(parts)
