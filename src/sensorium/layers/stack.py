"""The order of the layers, written once, with the reasons.

metrics            every call, nested ones too; sees what callers see, and so also who is sent away
  admission        scope, rate, then fairness; once per outermost call: a parent that held a
                   place while its children wait for one would be a deadlock
    fallback       outside the cache: inside it, the second-best answer would be
                   remembered as the best
      cache        per model, with single flight
        loaded     the engine itself
"""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.engine import Engine
from sensorium.layers.admission import Admission
from sensorium.layers.cache import Cache
from sensorium.layers.fallback import Fallback
from sensorium.layers.loaded import Loaded
from sensorium.layers.metrics import Metrics
from sensorium.schemas.base import Request, Result
from sensorium.stores import Store
from sensorium.stores.rates import Rates
from sensorium.telemetry import Telemetry

AnyEngine = Engine[Request, Result]


def for_model(loaded: Loaded, content: str, store: Store | None, seconds: float, telemetry: Telemetry) -> AnyEngine:
    """One model behind its own layers; no store, no cache. `content` tells it from others of the same name."""
    return loaded if store is None else Cache(loaded, store, content, seconds, telemetry)


def for_task(models: Sequence[tuple[str, AnyEngine]]) -> AnyEngine:
    """The models that may answer a task, best first."""
    return Fallback(models) if len(models) > 1 else models[0][1]


def for_door(engine: AnyEngine, *, running: int, waiting: int, rates: Rates) -> Admission:
    """What every call from outside passes before it is worked on."""
    return Admission(engine, running=running, waiting=waiting, rates=rates)


def for_call(engine: AnyEngine, telemetry: Telemetry) -> AnyEngine:
    """What every call passes first, whether from outside or a part of another."""
    return Metrics(engine, telemetry)
