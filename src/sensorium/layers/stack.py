"""The order of the layers, written once, with the reasons.

metrics            every call, nested ones too; sees what callers see, and so also who is sent away
  metering         once per outermost call; outside admission, for requests that are sent away count too
    admission      scope, rate, then fairness; once per outermost call: a parent that held a
                   place while its children wait for one would be a deadlock. Who waits for another
                   machine holds none of the places that stand for cores
      fallback     outside the cache: inside it, the second-best answer would be
                   remembered as the best
      privacy      of remote models only; inside fallback, so that local ones are still asked, and
                   outside the cache, so that equal questions do not share what only one allowed
      sight        of models without vision; where privacy is, for the same reasons
        cache      per model, with single flight; keyed by the pictures as sent
          metering what the model does, within the caller's budget; inside the cache: remembered
                   answers cost nothing, and shared ones count once
            tile   of models that answer `ask`: each part of a large picture is a question of its own
              structured   of the same: only an answer that keeps its schema is remembered
                fit        of remote models: pictures made fit before they leave the house; `prepare` for
                           those that answer about one picture in other ways
                  retry    asks again what may pass; outside the quota, which each attempt has to keep
                    quota  what the provider allows
                      loaded   the engine itself
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sensorium.engine import Card, Engine
from sensorium.layers.admission import Admission
from sensorium.layers.cache import Cache
from sensorium.layers.fallback import Fallback
from sensorium.layers.fit import Fit, Sizes
from sensorium.layers.loaded import Loaded
from sensorium.layers.metering import ModelMetering, RequestMetering
from sensorium.layers.metrics import Metrics
from sensorium.layers.prepare import Prepare
from sensorium.layers.privacy import Privacy
from sensorium.layers.quota import Quota
from sensorium.layers.retry import Retry
from sensorium.layers.sight import Sight
from sensorium.layers.structured import Structured
from sensorium.layers.tile import Tiled
from sensorium.schemas.base import Request, Result
from sensorium.stores import Store
from sensorium.stores.breakers import Breakers
from sensorium.stores.quota import Limiter, Limits
from sensorium.stores.rates import Rates
from sensorium.stores.usage import UsageBook
from sensorium.tariff import Tariff
from sensorium.telemetry import Telemetry

AnyEngine = Engine[Request, Result]


@dataclass(frozen=True, slots=True)
class Providers:
    """How remote models are treated."""

    limiter: Limiter
    breakers: Breakers
    usual: Limits = field(default_factory=Limits)
    """What a provider allows whose card says nothing."""
    attempts: int = 3
    sizes: Sizes = field(default_factory=Sizes)

    def usual_of(self, card: Card) -> Limits:
        """A server of one's own says itself when it has enough."""
        return self.usual if card.remote else Limits()


def for_model(
    loaded: Loaded,
    content: str,
    store: Store | None,
    seconds: float,
    telemetry: Telemetry,
    *,
    book: UsageBook | None = None,
    providers: Providers | None = None,
) -> AnyEngine:
    """One model behind its own layers; no store, no cache. `content` tells it from others of the same name.

    Without a book nothing is written down; `providers` say how remote models are treated.
    """
    card = loaded.card
    engine: AnyEngine = loaded
    if is_elsewhere(card) and providers is not None:
        engine = _before_provider(engine, card, providers, telemetry)
    if card.does("ask"):
        engine = Tiled(Structured(engine, native=bool(card.quirks.get("json_schema", not card.remote))))
    tariff = Tariff(card) if card.does("ask") and card.takes_tokens else None
    engine = ModelMetering(engine, card, tariff, book, telemetry)
    if store is not None and card.cached:
        engine = Cache(engine, store, content, seconds, telemetry)
    if card.does("ask") and not card.vision:
        engine = Sight(engine, card)
    return Privacy(engine, card) if card.remote else engine


def _before_provider(engine: AnyEngine, card: Card, providers: Providers, telemetry: Telemetry) -> AnyEngine:
    engine = Quota(engine, card, providers.limiter, telemetry, providers.usual_of(card))
    engine = Retry(engine, card, providers.breakers, telemetry, providers.attempts)
    return Fit(engine, card, providers.sizes) if card.does("ask") else Prepare(engine, card)


def for_task(models: Sequence[tuple[str, AnyEngine]]) -> AnyEngine:
    """The models that may answer a task, best first."""
    return Fallback(models) if len(models) > 1 else models[0][1]


def for_door(
    engine: AnyEngine,
    *,
    running: int,
    waiting: int,
    rates: Rates,
    elsewhere: int,
    is_elsewhere: Callable[[Request], bool],
) -> Admission:
    """What every call from outside passes before it is worked on."""
    return Admission(
        engine, running=running, waiting=waiting, rates=rates, elsewhere=elsewhere, is_elsewhere=is_elsewhere
    )


def is_elsewhere(card: Card) -> bool:
    """Whether the model runs in another process or on another machine: here its answer is only awaited."""
    return card.remote or "base_url" in card.quirks


def for_call(engine: AnyEngine, telemetry: Telemetry, book: UsageBook | None = None) -> AnyEngine:
    """What every call passes first, whether from outside or a part of another; parts are not written in the book."""
    return Metrics(engine if book is None else RequestMetering(engine, book), telemetry)
