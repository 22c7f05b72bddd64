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
from sensorium.cli.screen import Screen, told
from sensorium.errors import SensoriumError
from sensorium.lists import Outcome
from sensorium.registry import Task
from sensorium.schemas.base import Request, Result
from sensorium.verbs import Answerer, request_of


@dataclass(frozen=True, slots=True)
class Question:
    """One input with what will be asked about it, or with why it cannot be."""

    input: Input
    asked: Request | SensoriumError
    target: Path | None = None
    """Where its drawing goes."""


def questions(
    task: Task, inputs: Sequence[Input], fields: dict[str, Any], targets: Sequence[Path | None]
) -> Iterator[Question]:
    """What is asked about each input, made one at a time: requests hold what they have read."""
    for given, target in zip(inputs, targets, strict=True):
        yield Question(given, _asked(task, given, fields), target)


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


class Json:
    """Tells programs: a line for each input."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def __call__(self, question: Question, outcome: Outcome) -> None:
        name = json.dumps(question.input.name, ensure_ascii=False)
        if isinstance(outcome, SensoriumError):
            told = f'"error": {json.dumps(outcome.as_dict(), ensure_ascii=False)}'
        else:
            told = f'"result": {outcome.model_dump_json()}'
        self.screen.write(f'{{"input": {name}, {told}}}')


class ForPeople:
    """Tells people: a view of each result, and on standard error what went wrong."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def __call__(self, question: Question, outcome: Outcome) -> None:
        from sensorium.cli.views import seen

        if isinstance(outcome, SensoriumError):
            self.screen.complain(f"{question.input.name}: {told(outcome)}")
            return
        self.screen.show(seen(question.input.name, outcome, question.target))


def _asked(task: Task, given: Input, fields: dict[str, Any]) -> Request | SensoriumError:
    if isinstance(given.what, SensoriumError):
        return given.what
    try:
        return request_of(task.request, () if given.what is None else (given.what,), fields)
    except SensoriumError as error:
        return error


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
