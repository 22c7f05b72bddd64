"""What tokens cost: the user's own table, else what providers publish, as the package genai-prices carries it.

Nothing is fetched: newer prices come with a newer package, or are written into the table.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

MILLION = 1_000_000

SHORT = 30_000
"""Input tokens; no provider's steps begin lower."""

_PROVIDERS = {"gemini": "google"}
"""What we call a provider, where the package calls it otherwise."""


class Price(BaseModel):
    """What a million tokens of a model cost, in US dollars."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    input: float = Field(default=0.0, ge=0)
    output: float = Field(default=0.0, ge=0)
    cached: float | None = Field(default=None, ge=0)
    """Of tokens that the provider had in its own cache. Absent: as all others."""

    def of(self, input_tokens: int, output_tokens: int, cached_tokens: int) -> float:
        cached = self.input if self.cached is None else self.cached
        return (
            (input_tokens - cached_tokens) * self.input + cached_tokens * cached + output_tokens * self.output
        ) / MILLION


Table = Mapping[str, Price]

_NONE: Table = MappingProxyType({})
_CURRENT: ContextVar[Table] = ContextVar("sensorium_prices", default=_NONE)


class use:  # noqa: N801 - read as a verb: `with prices.use(table):`
    """Let these prices go before the published ones inside the block, and in tasks started there."""

    __slots__ = ("_before", "_table")

    def __init__(self, table: Table) -> None:
        self._table = table

    def __enter__(self) -> None:
        self._before = _CURRENT.set(self._table)

    def __exit__(self, *error: object) -> None:
        _CURRENT.reset(self._before)


def price(
    model: str, input_tokens: int, output_tokens: int, cached_tokens: int = 0, *, published: bool = True
) -> float | None:
    """What so many tokens cost, in US dollars; None where no price is known. Without `published` by the user's table alone.

    `model` is a provider's name for it, better with `provider/` before it. `cached_tokens` are among `input_tokens`.
    The first call in a process loads the published prices, which takes a third of a second; then it is a look-up.
    """
    table, cached_tokens = _CURRENT.get(), min(cached_tokens, input_tokens)
    if not (table or published):
        return None
    own = (table.get(model) or table.get(model.partition("/")[2])) if table else None
    if own is not None:
        return own.of(input_tokens, output_tokens, cached_tokens)
    # By the hour: some providers are cheaper at night.
    found = published and _published(model, int(time.time() // 3600))
    if not found:
        return None
    if input_tokens <= found.even_up_to:
        return found.each.of(input_tokens, output_tokens, cached_tokens)
    return _calculated(*found.called, input_tokens, output_tokens, cached_tokens)


class _Published(NamedTuple):
    """A published price, in the form that costs a microsecond rather than a quarter of a millisecond."""

    called: tuple[str, str | None]
    """How the package calls the model, and its provider."""
    each: Price
    even_up_to: float
    """Input tokens up to which each costs the same; with some models, more of them are dearer."""


@functools.lru_cache(maxsize=1000)
def _published(model: str, hour: int) -> _Published | None:  # noqa: ARG001 - a key of the cache
    provider, slash, name = model.partition("/")
    called: tuple[str, str | None] = (name, _PROVIDERS.get(provider, provider)) if slash else (model, None)
    try:
        each = Price(
            input=_calculated(*called, 1000, 0, 0) * 1000,
            output=_calculated(*called, 0, 1000, 0) * 1000,
            cached=_calculated(*called, 1000, 0, 1000) * 1000,
        )
        even = [
            most for most in (SHORT, 10 * MILLION) if _near(each.of(most, 100, 10), _calculated(*called, most, 100, 10))
        ]
    except LookupError:
        return None
    return _Published(called, each, (0, SHORT, math.inf)[len(even)])


def _calculated(model: str, provider: str | None, input_tokens: int, output_tokens: int, cached_tokens: int) -> float:
    """Raises LookupError where the model, or the provider, is not known."""
    from genai_prices import Usage, calc_price

    usage: Any = Usage(input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached_tokens)
    return float(calc_price(usage, model, provider_id=provider).total_price)


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(one, other)
