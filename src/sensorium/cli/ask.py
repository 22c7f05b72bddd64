"""Asks about every input of a command line, and tells the answers in order as they come."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.cli.group import exit_code
from sensorium.cli.inputs import Input
from sensorium.cli.screen import Screen, plain, told
from sensorium.engine import Delta
from sensorium.errors import SensoriumError
from sensorium.lists import Outcome
from sensorium.registry import Task
from sensorium.schemas.ask import Answer
from sensorium.schemas.base import Request, Result
from sensorium.schemas.picture import Picture
from sensorium.verbs import Answerer, request_of


@dataclass(frozen=True, slots=True)
class Question:
    """One input with what will be asked about it, or with why it cannot be."""

    input: Input
    asked: Request | SensoriumError
    target: Path | None = None
    """Where its drawing goes, or the picture that is the answer."""


def questions(
    task: Task, inputs: Sequence[Input], fields: dict[str, Any], targets: Sequence[Path | None]
) -> Iterator[Question]:
    """What is asked about each input, made one at a time: requests hold what they have read."""
    for given, target in zip(inputs, targets, strict=True):
        yield Question(given, _asked(task, given, {**fields, **_format(task, target)}), target)


async def answer(
    answerer: Answerer, asked: Iterable[Question], count: int, how: dict[str, Any], tell: ForPeople | Json
) -> int:
    """Ask and tell; the worst of the exit codes."""
    worst = 0
    with tell.screen.progress(count) as advance:
        async with aclosing(_outcomes(answerer, asked, how)) as outcomes:
            async for question, outcome in outcomes:
                final = await _drawn(question, outcome)
                # In a thread: while a reader pauses, as in `| less`, time must not run out for what is under way.
                await asyncio.to_thread(tell, question, final)
                advance()
                worst = max(worst, exit_code(final) if isinstance(final, SensoriumError) else 0)
    return worst


async def follow(answerer: Answerer, question: Question, how: dict[str, Any], tell: ForPeople) -> int:
    """Ask one question, and tell the words of the answer as they come; the exit code."""
    if not isinstance(question.asked, Request):
        tell(question, question.asked)
        return exit_code(question.asked)
    from sensorium.cli.views import account

    stream, said = answerer.stream(question.asked, **how), False
    try:
        async for event in stream:
            if isinstance(event, Delta):
                said = True
                # In a thread: while a reader pauses, as in `| less`, the words that come must be taken in.
                await asyncio.to_thread(tell.screen.say, event.text)
    except SensoriumError as error:
        tell.screen.say("\n" if said else "")
        tell(question, error)
        return exit_code(error)
    # Not every model says something before it has said all.
    tell.screen.say("\n" if said else f"{stream.result.text}\n")
    tell.screen.note(account(stream.result))
    return 0


class Json:
    """Tells programs: a line for each input."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def __call__(self, question: Question, outcome: Outcome) -> None:
        asked = {"inputs": question.input.names} if question.input.names else {"input": question.input.name}
        name = json.dumps(asked, ensure_ascii=False).removesuffix("}")
        if isinstance(outcome, SensoriumError):
            told = f'"error": {json.dumps(outcome.as_dict(), ensure_ascii=False)}'
        else:
            told = f'"result": {outcome.model_dump_json(exclude=_written(question, outcome))}'
        self.screen.write(f"{name}, {told}}}")


def _written(question: Question, outcome: Result) -> set[str]:
    """What need not be told, since it lies in a file."""
    return {"data"} if question.target is not None and isinstance(outcome, Picture) else set()


class ForPeople:
    """Tells people: a view of each result, and on standard error what went wrong."""

    def __init__(self, screen: Screen, *, alone: bool = False) -> None:
        """`alone`: there is one input, so that words need no heading."""
        self.screen, self._alone = screen, alone

    def __call__(self, question: Question, outcome: Outcome) -> None:
        from sensorium.cli.views import account, seen

        if isinstance(outcome, SensoriumError):
            self.screen.complain(f"{question.input.name}: {told(outcome)}")
        elif self._alone and isinstance(outcome, Answer):
            self.screen.show(plain(outcome.text))
            self.screen.note(account(outcome))
        else:
            self.screen.show(seen(question.input.name, outcome, question.target))


def _asked(task: Task, given: Input, fields: dict[str, Any]) -> Request | SensoriumError:
    if isinstance(given.what, SensoriumError):
        return given.what
    try:
        return request_of(task.request, given.several if given.what is None else (given.what,), fields)
    except SensoriumError as error:
        return error


def _format(task: Task, target: Path | None) -> dict[str, str]:
    """Of a picture that goes into a file, what the file's name says."""
    if target is None or "format" not in task.request.model_fields:
        return {}
    from sensorium.media.encode import FORMATS

    return {"format": FORMATS[target.suffix.lower()]}


async def _outcomes(
    answerer: Answerer, asked: Iterable[Question], how: dict[str, Any]
) -> AsyncGenerator[tuple[Question, Outcome], None]:
    """Every question with its outcome, in order; those that cannot be asked keep their place."""
    waiting: deque[Question] = deque()

    def requests() -> Iterator[Request]:
        for question in asked:
            waiting.append(question)
            if isinstance(question.asked, Request):
                yield question.asked

    async with aclosing(answerer.each(requests(), **how)) as outcomes:
        async for outcome in outcomes:
            for question in _up_to_the_next_request(waiting):
                yield question, outcome if isinstance(question.asked, Request) else question.asked
    for question in waiting:
        if isinstance(question.asked, SensoriumError):
            yield question, question.asked


def _up_to_the_next_request(waiting: deque[Question]) -> Iterator[Question]:
    while True:
        question = waiting.popleft()
        yield question
        if isinstance(question.asked, Request):
            return


async def _drawn(question: Question, outcome: Outcome) -> Outcome:
    """The outcome, once its drawing is written; or why that failed."""
    if question.target is None or not isinstance(outcome, Result) or not isinstance(question.asked, Request):
        return outcome
    from sensorium.cli.drawings import draw

    try:
        await draw(next(question.asked.sources()), outcome, question.target)
    except SensoriumError as error:
        return error
    return outcome
