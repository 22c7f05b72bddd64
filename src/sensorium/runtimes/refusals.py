"""What a provider says instead of an answer, as one of our errors: by status and by what stands in the body.

Providers agree on little: the same failure has another status, code or only another sentence at each. What is known of
them is in the tables here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from sensorium.errors import (
    ContentFiltered,
    ContextTooLong,
    ProviderDenied,
    ProviderFailed,
    ProviderLimited,
    ProviderRefused,
    SensoriumError,
    final,
)

LONGEST_MESSAGE = 300

LONGEST_WAIT = 3600.0
"""Seconds for which a provider is left alone at most, whatever it asks: else one answer could close it for ever."""

TOO_LONG = re.compile(
    r"context_length_exceeded|maximum context length|prompt is too long|input token count .{0,40}exceeds"
    r"|context (length|window|size)|range of input length should be|too many (input )?tokens",
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"\bcontent_filter|content_policy|content filtering policy|content management policy|data_?inspection_?failed"
    r"|responsible_?ai_?policy|moderation_blocked|safety system|prohibited_content",
    re.IGNORECASE,
)
SPENT = re.compile(
    r"insufficient_quota|billing_hard_limit|credit balance is too low|insufficient.balance|arrearage|PerDay",
    re.IGNORECASE,
)
"""Limits that are not lifted by waiting a little. PerDay: what Gemini calls its daily quotas."""
KEY_WRONG = re.compile(r"API_KEY_INVALID|api key not valid|invalid_api_key", re.IGNORECASE)
BUSY = re.compile(r"overloaded|unavailable|server_error|internal|api_error|timeout", re.IGNORECASE)
LIMITED = re.compile(r"rate_limit|RESOURCE_EXHAUSTED|too_many_requests|throttl", re.IGNORECASE)

_SECRETS = re.compile(r"\b(?:sk|pk|rk|gsk|xai)-[\w*\-]{4,}|\bAIza[\w\-]{8,}|\bBearer \S+|[A-Za-z0-9+/=_\-]{60,}")
"""What looks like a key, or like bytes written as text."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would reach into terminals and logs, and halves of signs, which no answer can hold."""


@dataclass(frozen=True)
class Told:
    """An error as a provider told it."""

    status: int
    message: str = ""
    codes: str = ""
    """Everything that names the kind of error: codes, types, statuses, details."""
    retry_after: float | None = None
    """Seconds after which to try again, where it says so."""
    try_again: bool | None = field(default=None)
    """Whether it says that trying again can help; None: it does not say."""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes, now: float) -> Told:
        """From an answer; `now` is in seconds since 1970."""
        said = cls.within(_parsed(body), status)
        again = {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())
        wait = retry_after(headers, now)
        return cls(status, said.message, said.codes, said.retry_after if wait is None else wait, again)

    @classmethod
    def within(cls, value: Any, status: int = 0) -> Told:
        """From a JSON value, which is the body or an event of a stream; without a status, the one that it names."""
        error = value.get("error", value) if isinstance(value, dict) else value
        if not isinstance(error, dict):
            return cls(status or 500, error if isinstance(error, str) else "")
        message = next(
            (text for name in ("message", "detail", "error") if isinstance(text := error.get(name), str)), ""
        )
        code = error.get("code")
        named = code if isinstance(code, int) and 400 <= code < 600 else 0
        codes = " ".join(_strings([error.get(name) for name in ("code", "type", "status", "reason", "details")]))
        return cls(status or named or _status_of(codes), message, codes, _retry_info(error.get("details")))


def error_of(called: str, told: Told, secret: str | None = None) -> SensoriumError:
    """The error that says it; `called` is the model as a user knows it."""
    why = f"the provider said ({told.status}): {_clean(told.message, secret)}"
    if not told.message:
        why = f"the provider answered {told.status}"
    error = _kind_of(called, told, why)
    return final(error) if told.try_again is False else error


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, else Retry-After in seconds or as a date. None: it does not.

    `now` is in seconds since 1970.
    """
    early = _seconds(headers.get("retry-after-ms", ""), 0.001)
    if early is not None:
        return early
    text = headers.get("Retry-After", "").strip()
    seconds = _seconds(text)
    with suppress(ValueError, OverflowError):
        return _bounded(parsedate_to_datetime(text).timestamp() - now) if seconds is None else seconds
    return None


def _kind_of(called: str, told: Told, why: str) -> SensoriumError:
    status, said = told.status, f"{told.codes} {told.message}"
    if status in (400, 402, 403, 429) and (status == 402 or SPENT.search(said)):
        fix = "Look at the provider's billing page"
        return final(
            ProviderLimited(
                f"The quota for {called} is used up", why=why, fix=fix, retry_after_seconds=told.retry_after or 60.0
            )
        )
    if status == 429:
        return ProviderLimited(f"{called} may not be asked now", why=why, retry_after_seconds=told.retry_after or 1.0)
    if status == 408 or status >= 500:
        return ProviderFailed(f"{called} failed", why=why, retry_after_seconds=told.retry_after)
    if status in (401, 403, 404) or KEY_WRONG.search(said) or status < 400:
        return ProviderDenied(f"{called} cannot be asked", why=why)
    if TOO_LONG.search(said):
        return ContextTooLong(f"This is too much for {called}", why=why)
    if FILTERED.search(said):
        return ContentFiltered(f"{called} may not answer this", why=why)
    return ProviderRefused(f"{called} refused the question", why=why)


def _status_of(codes: str) -> int:
    """The status of an error that was told in a stream without one."""
    if LIMITED.search(codes):
        return 429
    return 500 if BUSY.search(codes) or not codes else 400


def _parsed(body: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        value = json.loads(body)
        return value[0] if isinstance(value, list) and value else value
    return None  # a page of HTML, most likely: nothing to repeat


def _retry_info(details: Any) -> float | None:
    """The delay of a google.rpc.RetryInfo, such as `37s`."""
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            return _seconds(str(detail.get("retryDelay", "")).removesuffix("s"))
    return None


def _seconds(text: str, unit: float = 1.0) -> float | None:
    with suppress(ValueError):
        number = float(text) * unit
        return _bounded(number) if math.isfinite(number) else None
    return None


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), LONGEST_WAIT)


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts in a JSON value, not too deep."""
    if isinstance(value, str):
        yield value[:200]
    elif depth < 5 and isinstance(value, (list, dict)):
        for part in list(value.values() if isinstance(value, dict) else value)[:50]:
            yield from _strings(part, depth + 1)


def _clean(message: str, secret: str | None) -> str:
    """The message in one line, without our key or anything that looks like one, or like a picture."""
    if secret:
        message = message.replace(secret, "***")
    return " ".join(printable(_SECRETS.sub("***", message[:10_000])).split())[:LONGEST_MESSAGE].rstrip(". ")


def printable(text: str) -> str:
    """The text with a space in place of each sign that cannot be shown in a line."""
    return text if text.isprintable() else _UNPRINTABLE.sub(" ", text)
