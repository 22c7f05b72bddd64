"""The waist: everything that answers is an Engine, called with a request and a Call.

    result = await engine.run(request, call)

A cache, a retry or a fallback is an engine that holds another engine. Partial answers
leave by `await call.emit(event)`; the return value is always the whole answer, so plain
calls, streams and job progress are one path.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import Field, ValidationError

from sensorium.errors import DeadlineExceeded, Forbidden, InvalidModel, InvalidRequest
from sensorium.schemas.base import Frozen, Request, Result, wrong_fields
from sensorium.schemas.events import Delta as Delta
from sensorium.schemas.events import Event as Event
from sensorium.schemas.events import Item as Item
from sensorium.schemas.events import Progress as Progress
from sensorium.telemetry import new_trace

Req = TypeVar("Req", bound=Request, contravariant=True)
Res = TypeVar("Res", bound=Result, covariant=True)
F = TypeVar("F", bound=Frozen)


class Engine(Protocol[Req, Res]):
    """Answers a request."""

    async def run(self, request: Req, call: Call) -> Res: ...


Listener = Callable[[Event], Awaitable[None]]
Runner = Callable[[Request, "Call"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """How a caller wants to be served."""

    cache: bool = True
    """Whether a remembered answer will do."""
    priority: int = 0
    """Higher goes first among requests that wait."""
    remote: bool = True
    """Whether models may answer for which pixels or words leave the house."""
    max_cost: float | None = None
    """The most that the answer may cost, in US dollars, by the estimate before it is asked for."""


async def ignore(event: Event) -> None:
    """The listener of a caller that only wants the whole answer."""


async def alone(request: Request, call: Call) -> Any:  # noqa: ARG001 - a Runner
    """The runner of a call made outside a service."""
    raise InvalidRequest(f"Cannot run {request.task!r} from here", why="the call was made outside a service")


EARLY_SECONDS = 0.002
"""By so much an event loop's timer may go off too early: some count whole milliseconds."""


def has_come(moment: float | None) -> bool:
    """Whether a moment on the clock of `time.monotonic` is here, as timers see it; None never comes."""
    return moment is not None and time.monotonic() >= moment - EARLY_SECONDS


OPERATING = frozenset({"admin", "metrics"})
"""Scopes that are no tasks: to change how the server runs, and to see what it does. `*` does not bring them."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a caller may spend in a day or a month of UTC; None: as much as they like."""

    per: Literal["day", "month"]
    usd: float | None = None
    """US dollars."""
    tokens: int | None = None
    """Of questions and answers together."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may."""

    name: str
    scopes: frozenset[str] | None = None
    """Names of tasks, `*` for every task, and those of `OPERATING`; None: everything."""
    requests_per_minute: int | None = None
    budget: Budget | None = None

    def may(self, scope: str) -> bool:
        """Whether the scope is theirs."""
        return self.scopes is None or scope in self.scopes or ("*" in self.scopes and scope not in OPERATING)

    def require(self, *scopes: str) -> None:
        """Raises Forbidden unless one of these scopes is theirs."""
        if not any(map(self.may, scopes)):
            named = " or ".join(f"`{scope}`" for scope in scopes)
            raise Forbidden(f"{self.name} may not do this", why=f"the scope {named} is missing", scope=scopes[0])


LOCAL = Caller("local")
"""Code in this process, and whoever asks where no key is needed: may do everything."""


@dataclass(slots=True)
class Call:
    """What travels beside a request: who asks, until when, and how to reach others. Nothing else belongs here."""

    listener: Listener = ignore
    runner: Runner = alone
    deadline: float | None = None
    """When the caller stops waiting, on the clock of `time.monotonic`. Whoever sets it ends the work then."""
    caller: Caller = LOCAL
    trace: str = field(default_factory=new_trace)
    options: Options = Options()
    heard: bool = False
    """Whether the caller has been told part of the answer: after that, no retry and no fallback."""
    said: int = 0
    """How many characters of words the model said, whether anybody listened or not."""
    begin_by: float | None = None
    """When another model is asked instead, as `deadline`, if nothing was told until then; None: no other is."""

    async def emit(self, event: Event) -> None:
        """Tell the caller part of the answer, or progress; waits while the caller is slow.

        Raises ReaderStalled when the caller has stopped listening.
        """
        if isinstance(event, Delta):
            self.said += len(event.text)
        if self.listener is ignore:
            return
        if not isinstance(event, Progress):
            self.heard = True
        await self.listener(event)

    async def run(self, request: Request) -> Any:
        """Have another task done as part of this one; its events are not forwarded."""
        return await self.runner(request, replace(self, listener=ignore, heard=False))

    def remaining(self) -> float | None:
        """Seconds until the deadline; None when there is none.

        Raises DeadlineExceeded when it has passed.
        """
        if self.deadline is None:
            return None
        if has_come(self.deadline):
            raise DeadlineExceeded("The answer was not ready in time", fix="Allow more time with `timeout`")
        return self.deadline - time.monotonic()

    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return has_come(self.deadline)

    def patience(self) -> float | None:
        """Seconds that a model has from here on: to the deadline, or to `begin_by` while nothing was told; None: no end.

        Raises as `remaining`. When `begin_by` has passed, none are left.
        """
        left = self.remaining()
        if left is None or self.begin_by is None or self.heard:
            return left
        return min(left, max(0.0, self.begin_by - time.monotonic()))


class Weights(Frozen):
    """Where a model's weights are."""

    file: str
    """A path in the models folder, or in `package`, with forward slashes."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    package: str | None = None
    """The import name of an installed package that carries the file."""
    builder: str | None = None
    """What turns the file into an ONNX graph, for weights that are not one; a name in `runtimes/`."""
    alone: bool = False
    """Of a known card: whether the file is the model as soon as it lies in the models folder, without a card beside it."""


class Card(Frozen):
    """One model: what it is, where it comes from and how to feed it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.:\-]*)*$", max_length=200)
    """Of a provider's model it is provider/model, with the provider's own name for it; a card in a folder has no slash."""
    version: str = Field(default="1", pattern=r"^[A-Za-z0-9_.\-]+$")
    kind: str
    """The engine kind that runs it: the name of a module in `engines/`, or of an entry point."""
    tasks: tuple[str, ...]
    """What it can do; `*` stands for every task."""
    licence: str
    """SPDX identifier of the weights' licence."""
    origin: str = ""
    """Who made it, and where it is published."""
    aliases: tuple[str, ...] = ()
    """Other names that find it."""
    weights: Weights | None = None
    input: Mapping[str, Any] = {}
    """How pictures are prepared; the kind says which keys."""
    labels: str | None = None
    """`imagenet`, or a text file beside the weights with one name a line."""
    quirks: Mapping[str, Any] = {}
    """What is odd about it; the kind says which keys."""
    install: str = ""
    """The command that brings the weights, for a model that sensorium's own packages do not carry."""
    remote: bool = False
    """Whether pixels leave the house."""
    vision: bool = True
    """Whether it takes pictures."""
    rule: str | None = None
    """How it counts the tokens of pictures: the name of a rule in `pricing/`."""
    limits: Mapping[str, Any] = {}
    """What its provider allows: `requests_per_minute`, `tokens_per_minute`, `concurrent`."""
    cached: bool = True
    """Whether its answers are remembered; not those of one that only asks others, whose answers are."""
    takes_tokens: bool = True
    """Whether an answer to `ask` takes tokens, and so needs room in a budget; not that of one that only asks tasks without any."""
    quota: str | None = None
    """The quota domain: models that share one share limits and circuit breaker. Absent: their address and key."""
    folder: Path | None = Field(default=None, exclude=True)
    """The folder that the card was read from; None for a card that stands beside its kind."""

    @property
    def id(self) -> str:
        """model@version: what registry, cache and metrics call it."""
        return f"{self.name}@{self.version}"

    def input_as(self, kind: type[F]) -> F:
        """What the card says under `input`. Raises InvalidModel, saying what is wrong with it."""
        return self._as(kind, self.input, "a wrong input")

    def quirks_as(self, kind: type[F]) -> F:
        """The card's quirks. Raises InvalidModel, saying what is wrong with them."""
        return self._as(kind, self.quirks, "wrong quirks")

    def _as(self, kind: type[F], said: Mapping[str, Any], wrong: str) -> F:
        try:
            return kind.model_validate(dict(said))
        except ValidationError as error:
            raise InvalidModel(f"The card of model {self.id} has {wrong}", why=wrong_fields(error, kind)) from error

    def does(self, task: str) -> bool:
        return "*" in self.tasks or task in self.tasks


@dataclass(frozen=True, slots=True)
class Host:
    """What an engine may use of the machine."""

    cache_dir: Path
    """Where built graphs are kept between runs."""
    threads: int = 1
    """How many requests a session may work on at once, one core each."""
    queue: int = 256
    """How many requests may wait for a session."""
    device: str = "auto"
    """What to compute on: `cpu`, `cuda`, `cuda:N`, or `auto`, the first graphics card if it works."""


class Preparing(Protocol):
    """How a picture becomes what a model's graph takes.

    A kind whose models can be calibrated on pictures offers `preparation(card) -> Preparing` beside its `Engine`.
    """

    @property
    def at_least(self) -> int:
        """Pixels that the shorter side of the decoded picture should have."""

    def fast(self, pixels: Any) -> Any:
        """Of pixels, uint8 (height, width, 3), RGB, the array for the graph's one input."""


class Loadable(Protocol):
    """What a kind's `Engine` class offers beside `run`. Both may block, and are called in a thread."""

    def load(self) -> None:
        """Make ready to answer. Heavy imports and weights belong here."""

    def close(self) -> None:
        """Give memory and threads back."""
