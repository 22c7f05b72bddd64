"""A request goes in, an engine is chosen and wrapped in its layers, and the result comes out."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from sensorium import discovery
from sensorium.config import Settings, load_settings
from sensorium.deadline import at_most, checked_seconds, no_answer
from sensorium.engine import LOCAL, Call, Caller, Card, Host, Listener, Options, ignore
from sensorium.errors import (
    InvalidConfiguration,
    InvalidModel,
    InvalidRequest,
    SensoriumError,
    ServiceClosed,
    UnknownModel,
)
from sensorium.layers import stack
from sensorium.layers.fit import Sizes
from sensorium.layers.loaded import Loaded
from sensorium.listening import Stream
from sensorium.lists import Outcome, in_order
from sensorium.media import limits
from sensorium.models import Models
from sensorium.pricing import prices
from sensorium.registry import Registry, Task
from sensorium.schemas.base import Request, Result
from sensorium.stores import Store
from sensorium.stores.breakers import Breakers
from sensorium.stores.memory import MemoryStore
from sensorium.stores.quota import Ledger, Limiter, Limits, MemoryLedger, SqliteLedger
from sensorium.stores.quota import limits_of as allowed_by
from sensorium.stores.rates import MemoryRates, Rates, SqliteRates, Standing
from sensorium.stores.sqlite import SqliteStore
from sensorium.stores.usage import UsageBook
from sensorium.telemetry import TELEMETRY, new_trace

MOST_AWAITED = 32
"""Answers that a list awaits at once: all that are sent have a deadline, and should not spend it in line."""

MOST_NAMES = 1000
"""Models of which is remembered where they run; callers can make names up."""


class Sensorium:
    """Everything behind one door. Belongs to the event loop that it is first used in.

    async with Sensorium() as sensorium:
        result = await sensorium.run(ClassifyRequest(image=Source.of("cat.jpg")))
    """

    def __init__(
        self, settings: Settings | None = None, registry: Registry | None = None, book: UsageBook | None = None
    ) -> None:
        self.settings = settings or load_settings()
        _check_tasks(self.settings)
        self.registry = registry or Registry(self.settings.models_dir, pinned=_pinned(self.settings))
        self.store = _store(self.settings)
        self._book = book  # closed by who opened it
        self._limiter = Limiter(_ledger(self.settings))
        self._providers = _providers(self.settings, self._limiter)
        self.models = Models(
            self.registry,
            Host(cache_dir=self.settings.cache_dir, threads=self.settings.threads, device=self.settings.device),
            self._behind_layers,
            changed=self._forget_stacks,
            idle_seconds=self.settings.unload_after_seconds,
        )
        self._limits = limits_of(self.settings)
        self._preloading: asyncio.Task[None] | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._stacks: dict[tuple[str, str | None], stack.AnyEngine] = {}
        self._elsewhere = functools.lru_cache(MOST_NAMES)(self._is_answered_elsewhere)
        self._closed = False
        self._rates = _rates(self.settings)
        self._door = stack.for_door(
            _Work(self),
            running=self.settings.running,
            waiting=self.settings.waiting,
            rates=self._rates,
            elsewhere=self.settings.running_elsewhere,
            is_elsewhere=lambda request: self._elsewhere(request.task, request.model),
        )
        self._calls = stack.for_call(self._door, TELEMETRY, book)
        self._parts = stack.for_call(_Work(self), TELEMETRY)

    async def __aenter__(self) -> Sensorium:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def run(
        self,
        request: Request,
        *,
        options: Options = Options(),  # noqa: B008 - frozen
        timeout: float | None = None,  # noqa: ASYNC109 - covers waiting in line too, and ends in our error
        caller: Caller = LOCAL,
        listener: Listener = ignore,
        trace: str | None = None,
    ) -> Any:
        """The whole answer to one request; parts of it go to the listener as they come.

        `timeout` is in seconds, waiting included; by default `timeout_seconds` of the settings, for several pictures
        twice as long. `trace` is the id
        that the answer and the logs carry; by default a new one.
        """
        seconds = checked_seconds(self.settings.timeout_seconds * request.patience() if timeout is None else timeout)
        if self.settings.privacy == "local":
            options = replace(options, remote=False)
        call = Call(listener, self._parts.run, time.monotonic() + seconds, caller, trace or new_trace(), options)
        with limits.use(self._limits), prices.use(self.settings.prices), at_most(seconds, no_answer):
            return await self._calls.run(request, call)

    async def run_all(self, requests: Sequence[Request], **how: Any) -> list[Outcome]:
        """As many outcomes, in the same order: each a result or the error of that request alone."""
        if len(requests) == 1:
            try:
                return [await self.run(requests[0], **how)]
            except SensoriumError as error:
                return [error]
        return [outcome async for outcome in self.each(requests, **how)]

    def each(self, requests: Iterable[Request], **how: Any) -> AsyncGenerator[Outcome, None]:
        """The outcome of each request, in order, as soon as it is there. Takes requests no faster than it works.

        How many are under way at once, the model says that the first of them asks.
        """
        rest = iter(requests)
        first = tuple(itertools.islice(rest, 1))
        return in_order(itertools.chain(first, rest), partial(self.run, **how), self.at_once(first[0]) if first else 1)

    def at_once(self, request: Request) -> int:
        """How many of a list of such requests are under way: those that are made ready, and those whose answer is awaited."""
        card = self.first_asked(request.task, request.model)
        if card is None or not stack.is_elsewhere(card):
            return self.settings.running
        with suppress(InvalidModel):  # as who asks it will hear
            concurrent = allowed_by(card, self._providers.usual_of(card)).concurrent
            awaited = min(concurrent or (MOST_AWAITED if card.remote else 0), MOST_AWAITED)
            return min(self.settings.running + awaited, self.settings.running_elsewhere)
        return self.settings.running

    def first_asked(self, task: str, model: str | None) -> Card | None:
        """The card of the model that is asked first; None where several are, or none, or one that cannot be asked."""
        with suppress(SensoriumError):  # as who asks will hear
            asked = self.registry.task(task)
            asked = self.registry.task(asked.asks) if asked.asks else asked
            named = [model] if model else self._preferred(asked)
            return self.registry.card(named[0], asked.name) if named and asked.run is None else None
        return None

    def check(self, request: Request) -> None:
        """Raises what would keep any such request from being asked, such as UnknownModel. Nothing is loaded."""
        task = self.registry.asked(request.task)
        task.check(request)
        self._refuse_lacking(task, request)
        self._stack(task, request.model)

    def stream(self, request: Request, *, buffer: int = 64, patience: float = 30.0, **how: Any) -> Stream:
        """The answer's parts as they come, and then the whole of it."""
        return Stream(partial(self.run, request, **how), buffer, patience)

    def start(self) -> None:
        """For servers: load what the settings name under `preload`, and watch the models folder from now on."""
        if self.settings.preload:
            self._preloading = asyncio.create_task(self.models.preload(self.settings.preload))
            self._keepers.append(self._preloading)
        if self.settings.watch_seconds > 0:
            self._keepers.append(asyncio.create_task(self.models.watch(self.settings.watch_seconds)))

    @property
    def preloaded(self) -> bool:
        """Whether all that `preload` names has been loaded, or could not be."""
        return self._preloading is None or self._preloading.done()

    def refuse_when_full(self) -> None:
        """Raises Overloaded while a request would be refused for want of room: a door can ask before it reads a body."""
        self._door.refuse_when_full()

    async def admit(self, task: str, caller: Caller) -> None:
        """Count a request that is worked on later. Raises Forbidden without the task's scope, and RateLimited."""
        await self._door.admit(task, caller)

    async def standing(self, caller: Caller) -> Standing | None:
        """How far the caller's minute is used up; None where nothing is counted."""
        if caller.requests_per_minute is None:
            return None
        return await self._rates.standing(caller.name, caller.requests_per_minute)

    async def aclose(self) -> None:
        """Give models, threads and files back. What still runs ends with ServiceClosed."""
        self._closed = True
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self.models.close()
        await self._rates.close()
        await self._limiter.close()
        if self.store:
            await self.store.close()

    async def work(self, request: Request, call: Call) -> Any:
        """What admission lets through, and what composed tasks ask for."""
        if self._closed:
            raise ServiceClosed("This Sensorium is closed")
        call.remaining()
        task = self.registry.asked(request.task)
        self._refuse_lacking(task, request)
        if task.around is None:
            return await self._answer(task, request, call)
        return await task.around(request, call, lambda bare: self._answer(task, bare, call))

    async def _answer(self, task: Task, request: Request, call: Call) -> Any:
        task.check(request)
        return task.tidy(request, await self._stack(task, request.model).run(request, call))

    def _refuse_lacking(self, task: Task, request: Request) -> None:
        """Raises why none of the models can be asked that a task or part would need which this one needs."""
        for name in task.needs(request):
            needed = self.registry.asked(name)
            failures = [self._lacking(needed, model) for model in self._preferred(needed)]
            if all(failures) and failures[0]:
                raise failures[0]

    def _lacking(self, task: Task, model: str) -> SensoriumError | None:
        try:
            self.registry.require(self._card(task, model))
        except SensoriumError as error:
            return error
        return None

    def _stack(self, task: Task, model: str | None) -> stack.AnyEngine:
        return self._stacks.get((task.name, model)) or self._new_stack(task, model)

    def _new_stack(self, task: Task, model: str | None) -> stack.AnyEngine:
        if task.about is not None and task.run is not None:
            return _Composed(partial(task.run, card=self._spoken_of(model, task.about)))
        if task.asks is not None:
            model = None  # whoever it is passed on to looks at it
        cards = self._named(task, model) if model else [self._card(task, name) for name in self._preferred(task)]
        built = self._build(task, cards)
        # Kept for exact names only: of aliases and ways to write them there is no end.
        if model is None or model in (cards[0].name, cards[0].id):
            self._stacks[task.name, model] = built
        return built

    def _named(self, task: Task, model: str) -> list[Card]:
        """The model that a request names, and those that the settings have it fall back on."""
        first = self._card(task, model)
        fallbacks = self.settings.fallbacks
        names = fallbacks.get(first.id) or fallbacks.get(first.name)
        if names is None:
            names = next((others for name, others in fallbacks.items() if self._is_a_name_of(first, name, task)), [])
        return [first, *(self.registry.card(name, task.name) for name in names if not self._is_of_others(name, task))]

    def _is_a_name_of(self, card: Card, name: str, task: Task) -> bool:
        """Whether the name is another one of the same model, as `openai/gpt-4o` is of `gpt-4o`."""
        with suppress(SensoriumError):
            named = self.registry.card(name, task.name)
            return named.id == card.id if "@" in name else named.name == card.name
        return False

    def _is_of_others(self, name: str, task: Task) -> bool:
        """Whether a model does other tasks only; one that there is not is none."""
        catalogue = self.registry.catalogue
        return catalogue.of(name) is not None and catalogue.of(name, task.name) is None

    def _is_answered_elsewhere(self, task: str, model: str | None) -> bool:
        card = self.first_asked(task, model)
        return card is not None and stack.is_elsewhere(card)

    def _card(self, task: Task, name: str) -> Card:
        try:
            return self.registry.card(name, task.name)
        except UnknownModel as error:
            if task.run is None:
                raise
            fix = "Name them in the setting `models`, for instance `models.classify`"
            raise UnknownModel(f"{task.name} asks models for its parts, and takes none itself", fix=fix) from error

    def _spoken_of(self, model: str | None, task: str) -> Card | None:
        """The card of a model that is not asked itself; None where none of that name does the task."""
        name = model or next(iter(self.settings.models.get(task, ())), None)
        with suppress(UnknownModel):
            return self.registry.card(name, task) if name else None
        return None

    def _preferred(self, task: Task) -> list[str]:
        if task.run is not None:
            return []
        named = self.settings.models.get(task.name) or list(self.registry.own(task))
        if not named:
            able = ", ".join(dict.fromkeys(card.name for card in self.registry.cards if card.does(task.name)))
            raise InvalidRequest(
                f"No model is named for {task.name}",
                why="none comes with sensorium",
                fix=f"Name one by `model`, or set `models.{task.name}`; there are: {able}",
            )
        return named

    def _build(self, task: Task, cards: list[Card]) -> stack.AnyEngine:
        if cards:
            return stack.for_task([(card.id, self.models.engine(card)) for card in cards])
        return _Composed(task.run)

    def _behind_layers(self, loaded: Loaded, content: str) -> stack.AnyEngine:
        return stack.for_model(
            loaded,
            content,
            self.store,
            self.settings.cache_seconds,
            TELEMETRY,
            book=self._book,
            providers=self._providers,
        )

    def _forget_stacks(self) -> None:
        self._stacks = {}
        self._elsewhere.cache_clear()


class _Work:
    """What stands behind the door."""

    def __init__(self, service: Sensorium) -> None:
        self._service = service

    def run(self, request: Request, call: Call) -> Coroutine[Any, Any, Any]:
        return self._service.work(request, call)


class _Composed:
    """A composed task as an engine."""

    def __init__(self, run: Any) -> None:
        self._run = run

    async def run(self, request: Request, call: Call) -> Result:
        result: Result = await self._run(request, call)
        return result


def _check_tasks(settings: Settings) -> None:
    known = {**discovery.modules(discovery.TASKS), **discovery.modules(discovery.PARTS)}
    for name in settings.models:
        if name not in known:
            raise InvalidConfiguration(
                f"The setting `models` names a task {name!r} that does not exist",
                fix=f"There are: {', '.join(sorted(known))}",
            )


def _pinned(settings: Settings) -> list[str]:
    """The models that the settings name with their version."""
    return [name for named in settings.models.values() for name in named if "@" in name]


def _store(settings: Settings) -> Store | None:
    if settings.cache == "memory":
        return MemoryStore(settings.cache_bytes)
    if settings.cache == "redis":
        return _redis_store(settings)
    return SqliteStore(settings.cache_dir / "answers.sqlite") if settings.cache == "sqlite" else None


def _redis_store(settings: Settings) -> Store:
    if settings.redis_url is None:
        raise InvalidConfiguration("`cache` is `redis`, and `redis_url` is not set", fix="Set `redis_url`")
    from sensorium.stores.redis import RedisStore

    return RedisStore(settings.redis_url.get_secret_value())


def _rates(settings: Settings) -> Rates:
    return SqliteRates(settings.cache_dir / "rates.sqlite") if settings.rates == "sqlite" else MemoryRates()


def _ledger(settings: Settings) -> Ledger:
    """Where the use of providers is counted: as far as servers share anything, together."""
    own = SqliteLedger(settings.cache_dir / "quota.sqlite") if settings.rates == "sqlite" else MemoryLedger()
    if settings.redis_url is None:
        return own
    from sensorium.stores.quota_redis import RedisLedger

    return RedisLedger(settings.redis_url.get_secret_value(), own)


def _providers(settings: Settings, limiter: Limiter) -> stack.Providers:
    usual = Limits(
        requests_per_minute=settings.provider_requests_per_minute or None,
        tokens_per_minute=settings.provider_tokens_per_minute or None,
        concurrent=settings.provider_concurrent or None,
    )
    sizes = Sizes(settings.ask_longest_side, settings.ask_several_longest_side, settings.ask_quality)
    return stack.Providers(limiter, Breakers(), usual, settings.provider_attempts, sizes)


def limits_of(settings: Settings) -> limits.Limits:
    """What the settings let in; `limits.use` makes it hold, also for work beside a service."""
    return limits.Limits(
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        pixel_budget=settings.pixel_budget,
        fetch_seconds=settings.fetch_seconds,
        max_redirects=settings.max_redirects,
        allowed_hosts=tuple(settings.allowed_hosts),
    )
