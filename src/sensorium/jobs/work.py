"""The one function that does items, whoever asks for them: children of a batch, workers of a server, or another machine.

An item goes in and its outcome comes out as JSON bytes, so that both can be stored and sent as they are:

    {"task": "classify", "request": {"image": {"path": "cat.jpg"}, "top_k": 3}, "options": {"cache": false}}
    {"result": {...}} or {"error": {"code": ..., "message": ..., "retryable": ..., "trace": ...}}
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

from pydantic import Field
from pydantic_core import to_json

from sensorium.engine import LOCAL, Caller, Options
from sensorium.errors import EngineFailed, InvalidRequest, SensoriumError
from sensorium.lists import Outcome
from sensorium.schemas.base import Frozen, Request, Result, checked
from sensorium.server.facades.native import item
from sensorium.service import Sensorium
from sensorium.telemetry import new_trace

log = logging.getLogger("sensorium.jobs")


class Order(Frozen):
    """One item: what is asked, and how it is to be served."""

    task: str = Field(max_length=200)
    request: dict[str, Any]
    """The fields of the task's request. Orders come from ourselves, so a source may be a path, or a spooled upload."""
    options: Options = Options()
    timeout: float | None = None
    """Seconds that it may take; None: as the settings say."""
    caller: Caller = LOCAL
    """Who is served, whose budget is charged, and by whose scopes it is looked at once more."""
    trace: str = Field(default_factory=new_trace)
    """The id that outcome and logs carry."""
    discreet: bool = False
    """Whether the words of foreign exceptions go to the log alone, as over HTTP, where the outcome is not for their owner."""

    @classmethod
    def about(cls, request: Request, **how: Any) -> Order:
        """The order of a request; `how` are the other fields."""
        return cls(task=request.task, request=request.model_dump(mode="json", exclude_unset=True), **how)

    def encoded(self) -> bytes:
        """As JSON. A path that is no text, which UTF-8 cannot hold, is written with escapes."""
        fields = self.model_dump(exclude_defaults=True)
        return json.dumps(fields, default=sorted, separators=(",", ":")).encode("ascii")


async def work(service: Sensorium, requests: Sequence[bytes]) -> list[bytes]:
    """The outcome of each order, in the same order. One bad item never spoils its neighbours.

    As many are under way at once as of a list of such requests.
    """
    asked = [_read(service, request) for request in requests]
    first = next((one for _, one in asked if isinstance(one, Request)), None)
    turns = asyncio.Semaphore(service.at_once(first) if first else 1)

    async def outcome(order: Order, one: Request | SensoriumError) -> bytes:
        async with turns:
            return _told(await _outcome(service, order, one), order)

    return await asyncio.gather(*(outcome(*one) for one in asked))


def _read(service: Sensorium, request: bytes) -> tuple[Order, Request | SensoriumError]:
    """The order, and what it asks; or why it cannot be asked."""
    order = Order(task="", request={})
    try:
        order = Order.model_validate(json.loads(request))
        kind = service.registry.task(order.task).request
        return order, checked(kind, order.request, order.task, trusted=True)
    except SensoriumError as error:
        return order, error
    except ValueError as error:  # pydantic's is one too
        return order, InvalidRequest("This is no order", why=str(error).partition("\n")[0])


async def _outcome(service: Sensorium, order: Order, asked: Request | SensoriumError) -> Outcome:
    if isinstance(asked, SensoriumError):
        return asked
    how: dict[str, Any] = {
        "options": order.options,
        "timeout": order.timeout,
        "caller": order.caller,
        "trace": order.trace,
    }
    try:
        result: Result = await service.run(asked, **how)
    except SensoriumError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a mistake of ours must not take the neighbours along
        failed = EngineFailed("The work failed", why=f"{type(error).__name__}: {error}")
        failed.__cause__ = error
        return failed
    return result


def _told(outcome: Outcome, order: Order) -> bytes:
    if isinstance(outcome, EngineFailed) and order.discreet:
        log.error("%s (trace %s)", outcome, order.trace, exc_info=outcome)
    if isinstance(outcome, SensoriumError) and not order.discreet:
        took = {"usage": outcome.usage} if outcome.usage else {}
        return to_json({"error": {**outcome.as_dict(), "trace": order.trace, **took}})
    return item(outcome, order.trace)
