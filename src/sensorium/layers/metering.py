"""Writes down what callers use: requests where they come in, and work where models do it, within the caller's budget."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

from sensorium.engine import Call, Card, Engine
from sensorium.errors import SensoriumError, TooExpensive
from sensorium.schemas.base import Request, Result, Usage
from sensorium.stores.usage import Amounts, UsageBook
from sensorium.tariff import Tariff
from sensorium.telemetry import Telemetry

SIGNS_A_TOKEN = 3
"""Of words that were told before an answer broke off: fewer than of English text, so that the estimate is not too low."""


ANSWERED = Amounts(requests=1)


class RequestMetering:
    """Counts what callers ask for: once for each outermost call, whatever becomes of it."""

    def __init__(self, inner: Engine[Request, Result], book: UsageBook) -> None:
        self._inner, self._book = inner, book

    async def run(self, request: Request, call: Call) -> Result:
        model, errors = "", 1
        try:
            result = await self._inner.run(request, call)
            model, errors = result.meta.engine, 0
        finally:
            self._book.note(call.caller.name, model, request.task, ANSWERED if model else Amounts(1, errors))
        return result


class ModelMetering:
    """Counts what one model does, for whichever call: inside the cache, so that remembered and shared answers count once.

    What an answer may take is held in the caller's budget before the model is asked, and then replaced by what it took.
    An answer that broke off after words were told, or whose caller left, counts by estimate, also for who has no budget:
    providers charge for it.
    """

    def __init__(
        self,
        inner: Engine[Request, Result],
        card: Card,
        tariff: Tariff | None,
        book: UsageBook | None,
        telemetry: Telemetry,
    ) -> None:
        self._inner, self._model, self._tariff, self._book = inner, card.id, tariff, book
        self._telemetry = telemetry

    def run(self, request: Request, call: Call) -> Coroutine[Any, Any, Result]:
        # Not a coroutine itself: who has no limit must not pay for one more.
        if self._tariff is None:
            return self._measured(request, call, None)
        if self._tariff.ready and call.caller.budget is None and call.options.max_cost is None:
            return self._measured(request, call, None)
        return self._within_limits(request, call, self._tariff)

    async def _within_limits(self, request: Request, call: Call, tariff: Tariff) -> Result:
        if not tariff.ready:
            await tariff.prepare()
        most = await self._most(request, call, tariff)
        if most is None or self._book is None or call.caller.budget is None:
            return await self._measured(request, call, most)
        async with self._book.holding(call.caller.name, call.caller.budget, most, call.remaining()):
            return await self._measured(request, call, most)

    async def _most(self, request: Request, call: Call, tariff: Tariff) -> Usage | None:
        """What the answer may take, where anybody wants to know it."""
        if call.caller.budget is None and call.options.max_cost is None:
            return None
        most = await tariff.most(request)
        if most is not None:
            most = most.altered(cost=tariff.cost(most))
            self._refuse_if_dear(most, call)
        return most

    def _refuse_if_dear(self, most: Usage, call: Call) -> None:
        allowed, budget = call.options.max_cost, call.caller.budget
        if most.cost is None and (allowed is not None or (budget and budget.usd is not None)):
            fix = "Set its price in `prices`, 0 if it costs nothing"
            raise TooExpensive(f"The cost of asking {self._model} is not known", fix=fix)
        if allowed is not None and most.cost is not None and most.cost > allowed:
            why = f"it may cost {most.cost:.4g} US dollars, and `max_cost` allows {allowed:g}"
            fix = "Allow more, lower `max_tokens`, send smaller pictures, or ask a cheaper model"
            raise TooExpensive(f"Asking {self._model} is too expensive", why=why, fix=fix)

    async def _measured(self, request: Request, call: Call, most: Usage | None) -> Result:
        said = call.said
        try:
            result = await self._inner.run(request, call)
        except (SensoriumError, asyncio.CancelledError) as error:
            if call.said > said or isinstance(error, asyncio.CancelledError):
                await self._charge(request, call, most, call.said - said)
            raise
        usage = result.meta.usage
        cost = self._cost(usage)
        if usage is not None and cost is not None:
            usage = usage.altered(cost=cost)
            result = result.stamped(usage=usage)
        self._note(request, call, result.meta.seconds - result.meta.loading_seconds, usage)
        return result

    def _cost(self, usage: Usage | None) -> float | None:
        """What is to be told besides; None where that is known already, or not known here either."""
        if usage is None or usage.cost is not None or self._tariff is None:
            return None
        return self._tariff.cost(usage)

    async def _charge(self, request: Request, call: Call, most: Usage | None, said: int) -> None:
        """Note what an answer took that broke off after so many characters."""
        if most is None and self._tariff is not None:  # nobody wanted to know it before
            most = await self._tariff.most(request)
        if most is not None:
            self._note(request, call, 0.0, self._broken_off(most, said))

    def _broken_off(self, most: Usage, said: int) -> Usage:
        told = most.altered(output_tokens=min(most.output_tokens, math.ceil(said / SIGNS_A_TOKEN)), estimated=True)
        return told.altered(cost=self._tariff.cost(told) if self._tariff else None)

    def _note(self, request: Request, call: Call, seconds: float, usage: Usage | None) -> None:
        if usage is not None:
            self._count(usage)
        if self._book is not None:
            taken = _taken(len([*request.sources()]), max(0.0, seconds), usage)
            self._book.note(call.caller.name, self._model, request.task, taken)

    def _count(self, usage: Usage) -> None:
        telemetry, model = self._telemetry, self._model
        telemetry.tokens[model, "input"].add(usage.input_tokens)
        telemetry.tokens[model, "cached"].add(usage.cached_tokens)
        telemetry.tokens[model, "output"].add(usage.output_tokens)
        if usage.cost is None:
            telemetry.unpriced_answers[model].add()
        else:
            telemetry.cost[model].add(usage.cost)


def _taken(pictures: int, seconds: float, usage: Usage | None) -> Amounts:
    """By place: half as dear as by name."""
    if usage is None:
        return Amounts(0, 0, pictures, seconds)
    tokens, cost = (usage.input_tokens, usage.output_tokens), usage.cost
    return Amounts(0, 0, pictures, seconds, *tokens, cost or 0.0, int(cost is None))
