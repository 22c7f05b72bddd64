"""A ledger of quotas in Redis or Valkey, for several machines: one script, and Redis's own clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from string import Template

from sensorium.stores.quota import MINUTE, PLACE_SECONDS, SECOND, SOON, Lease, Ledger, Limits
from sensorium.stores.redis import client, reply_to
from sensorium.telemetry import TELEMETRY

PREFIX = "sensorium:quota:"
"""Before every key, so that other programs' keys are left alone."""

PAUSE_SECONDS = 1.0
"""How long Redis is left alone once it has failed."""

SCRIPT = Template("""
-- KEYS[1]: the account of a domain, as JSON. ARGV[1]: what to do; the rest as each says.
-- It is `Account` of stores/quota.py once more: what changes here changes there.
local SPANS = {requests = {$minute_width, $minute_slots}, tokens = {$minute_width, $minute_slots},
               starts = {$second_width, $second_slots}}

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local found = redis.call('GET', KEYS[1])
local account = found and cjson.decode(found)
    or {requests = {}, starts = {}, tokens = {}, leases = {}, closed_until = 0}

local function slot_of(window, moment)
    return math.floor(moment / SPANS[window][1])
end

local function used(window)
    local here, total = slot_of(window, now), 0
    for slot, amount in pairs(account[window]) do
        if math.abs(here - tonumber(slot)) > SPANS[window][2] then
            account[window][slot] = nil
        else
            total = total + amount
        end
    end
    return total
end

local function wait(window, limit, amount)
    if limit == 0 then return 0 end
    local over = used(window) + math.min(amount, limit) - limit
    if over <= 0 then return 0 end
    local slots = {}
    for slot in pairs(account[window]) do slots[#slots + 1] = tonumber(slot) end
    table.sort(slots)
    for _, slot in ipairs(slots) do
        over = over - account[window][string.format('%.0f', slot)]
        if over <= 0 then
            return math.max((slot + SPANS[window][2] + 1) * SPANS[window][1] - now, 0) + $soon
        end
    end
    return 0
end

local function add(window, moment, amount)
    used(window)
    if amount == 0 or slot_of(window, now) - slot_of(window, moment) > SPANS[window][2] then return end
    local slot = string.format('%.0f', slot_of(window, moment))
    account[window][slot] = (account[window][slot] or 0) + amount
end

local function under_way()
    local count = 0
    for lease, expires in pairs(account.leases) do
        if expires <= now then account.leases[lease] = nil else count = count + 1 end
    end
    return count
end

local function keep()
    local last = math.max(now + ($minute_slots + 2) * $minute_width, account.closed_until)
    for _, expires in pairs(account.leases) do last = math.max(last, expires) end
    redis.call('SET', KEYS[1], cjson.encode(account), 'PX', math.ceil((last - now) * 1000))
end

local act = {}

-- lease, seconds to hold it, tokens, and the limits, 0 for none: requests, starts, tokens, concurrent
function act.take(lease, hold, tokens, requests, starts, most_tokens, concurrent)
    if account.leases[lease] then return 0 end  -- asked again, because the first reply was lost
    local seconds = math.max(account.closed_until - now, wait('requests', requests, 1), wait('starts', starts, 1),
        wait('tokens', most_tokens, tokens))
    if seconds > 0 then return seconds end
    local busy = under_way()
    if concurrent > 0 and busy >= concurrent then return $place end
    add('requests', now, 1)
    add('starts', now, 1)
    add('tokens', now, tokens)
    account.leases[lease] = now + hold
    keep()
    return 0
end

-- lease, its moment, how many requests and tokens more, or less
function act.settle(lease, moment, requests, tokens)
    if not account.leases[lease] then return 0 end  -- settled, or given up
    account.leases[lease] = nil
    add('requests', moment, requests)
    add('starts', moment, requests)
    add('tokens', moment, tokens)
    keep()
    return 0
end

-- seconds
function act.close_for(_, seconds)
    account.closed_until = math.max(account.closed_until, now + seconds)
    keep()
    return 0
end

local numbers = {}
for at = 3, #ARGV do numbers[#numbers + 1] = tonumber(ARGV[at]) end
return {string.format('%.6f', act[ARGV[1]](ARGV[2], unpack(numbers))), string.format('%.6f', now)}
""").substitute(
    minute_width=MINUTE.width,
    minute_slots=MINUTE.slots,
    second_width=SECOND.width,
    second_slots=SECOND.slots,
    soon=SOON,
    place=PLACE_SECONDS,
)

log = logging.getLogger("sensorium.quota")


class RedisLedger:
    """Of all machines that share a Redis. Where it fails, `spare` counts, and Redis is asked again a second later.

    What was counted in one is not known to the other: at most twice the limit passes in the minute around a failure.
    Raises InvalidConfiguration for an address that is none.
    """

    def __init__(self, url: str, spare: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = client(url, for_what="share limits through Redis")
        self._script = self._redis.register_script(SCRIPT)
        self._spare, self._clock = spare, clock
        self._again: float | None = None

    async def take(self, domain: str, limits: Limits, tokens: int, hold: float) -> Lease | float:
        lease = Lease(domain, tokens, 0.0, self)
        most = (limits.requests_per_minute, limits.starts, limits.tokens_per_minute, limits.concurrent)
        told = await self._asked("take", domain, lease.id, hold, tokens, *(limit or 0 for limit in most))
        if told is None:
            return await self._spare.take(domain, limits, tokens, hold)
        wait, now = told
        return wait or Lease(domain, tokens, now, self, lease.id)

    async def settle(self, lease: Lease, used: int | None) -> None:
        requests = -1 if used is None else 0
        await self._asked("settle", lease.domain, lease.id, lease.moment, requests, (used or 0) - lease.tokens)

    async def close_for(self, domain: str, seconds: float) -> None:
        if await self._asked("close_for", domain, "", seconds) is None:
            await self._spare.close_for(domain, seconds)

    async def close(self) -> None:
        await self._redis.aclose(close_connection_pool=True)
        await self._spare.close()

    async def _asked(self, what: str, domain: str, lease: str, *numbers: float) -> tuple[float, float] | None:
        """What the script tells, and Redis's time; None while Redis cannot be used."""
        if self._again is not None and self._clock() < self._again:
            return None
        try:
            wait, now = await reply_to(self._script(keys=[f"{PREFIX}{domain}"], args=[what, lease, *numbers]))
        except Exception as error:  # noqa: BLE001 - whatever it is: limits are then kept by the spare
            self._report(error)
            return None
        self._again = None
        return float(wait), float(now)

    def _report(self, error: Exception) -> None:
        TELEMETRY.quota_errors["redis"].add()
        if self._again is None:
            log.warning("Redis cannot be used (%s): limits are kept without it", type(error).__name__)
        self._again = self._clock() + PAUSE_SECONDS
