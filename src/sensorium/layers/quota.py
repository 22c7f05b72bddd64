"""Keeps what a provider allows: a request goes out when there is room for it, and what it took is counted."""

from __future__ import annotations

import time

from sensorium.engine import Call, Card, Engine
from sensorium.errors import MissingKey, ProviderLimited, SensoriumError
from sensorium.schemas.base import Request, Result, Usage
from sensorium.stores.quota import Lease, Limiter, Limits, domain_of, limits_of
from sensorium.tariff import Tariff
from sensorium.telemetry import Telemetry

MARGIN_SECONDS, MARGIN = 0.1, 0.05
"""How long before the deadline waiting ends, at most, and as a share of the time left: so that callers hear why."""

GRACE_SECONDS = 5.0
"""How much longer than the deadline a place is held, should the process that holds it have died."""
HOLD_SECONDS = 600.0
"""The same where there is no deadline."""

NOTHING = Usage()
"""What requests take that are not counted in tokens."""


class Quota:
    """Reserves what a request is expected to take, and settles what it took.

    A request that was sent counts, however it ended. Its tokens count as billed; as nothing when it failed; as expected
    when the caller left or the answer broke off, since the provider was at work. A provider that says 429 is left
    alone by all who share its limits, for as long as it says.
    """

    def __init__(
        self,
        inner: Engine[Request, Result],
        card: Card,
        limiter: Limiter,
        telemetry: Telemetry,
        usual: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self._inner, self._card, self._limiter, self._telemetry = inner, card, limiter, telemetry
        self._tariff = Tariff(card)
        self._domain, self._limits = domain_of(card), limits_of(card, usual)

    async def run(self, request: Request, call: Call) -> Result:
        most = await self._tariff.most(request) or NOTHING
        expected = most.input_tokens + most.output_tokens
        lease = await self._reserve(expected, call)
        used: int | None = expected
        try:
            result = await self._inner.run(request, call)
            used = self._counted(result.meta.usage, most)
        except MissingKey:
            used = None
            raise
        except SensoriumError as error:
            used = expected if call.heard else 0
            if isinstance(error, ProviderLimited):
                await self._heed(error)
            raise
        finally:
            self._give_back(lease, used)
        return result

    async def _reserve(self, tokens: int, call: Call) -> Lease:
        start, left, end = time.monotonic(), call.patience(), call.remaining()
        hold = HOLD_SECONDS if end is None else end + GRACE_SECONDS
        patience = None if left is None else left - min(MARGIN_SECONDS, MARGIN * left)
        try:
            return await self._limiter.reserve(self._domain, self._limits, tokens, patience=patience, hold=hold)
        except ProviderLimited:
            self._telemetry.quota_refusals[self._domain, "ours"].add()
            raise
        finally:
            self._telemetry.quota_wait_seconds[self._domain].observe(time.monotonic() - start)

    def _give_back(self, lease: Lease, used: int | None) -> None:
        if used is None:
            self._limiter.release(lease)
        else:
            self._limiter.settle(lease, used)

    async def _heed(self, error: ProviderLimited) -> None:
        """Nobody else asks before the provider wants to be asked again."""
        self._telemetry.quota_refusals[self._domain, "theirs"].add()
        if error.retryable:  # else waiting would not help
            await self._limiter.close_for(self._domain, error.retry_after_seconds)

    def _counted(self, usage: Usage | None, most: Usage) -> int:
        """The tokens that an answer took; how near the estimate came is told to telemetry."""
        if usage is None:
            return most.input_tokens + most.output_tokens
        if most.input_tokens and usage.input_tokens and not usage.estimated:
            self._telemetry.provider_estimate[self._card.id].observe(most.input_tokens / usage.input_tokens)
        return usage.input_tokens + usage.output_tokens
