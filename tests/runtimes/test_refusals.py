"""What providers say instead of an answer."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from sensorium.errors import (
    ContentFiltered,
    ContextTooLong,
    ProviderDenied,
    ProviderFailed,
    ProviderLimited,
    ProviderRefused,
    SensoriumError,
)
from sensorium.runtimes.refusals import LONGEST_MESSAGE, LONGEST_WAIT, Told, error_of, retry_after

NOW = 1_800_000_000.0


def said(status: int, body: Any = None, headers: dict[str, str] | None = None, secret: str | None = None) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_of("the model", Told.of(status, headers or {}, raw, NOW), secret)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": " 0.5 "}, 0.5),
        ({"Retry-After": "-4"}, 0.0),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        ({"Retry-After": "Fri, 15 Jan 2027 07:00:30 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "Fri, 99 Jan 99999999999 08:00:30 GMT"}, None),
        ({"Retry-After": "99999999999999"}, LONGEST_WAIT),
        ({"Retry-After": "Fri, 15 Jan 2999 08:00:30 GMT"}, LONGEST_WAIT),
        ({"retry-after-ms": "1e308"}, LONGEST_WAIT),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"retry-after-ms": "?", "Retry-After": "9"}, 9.0),
    ],
)
def test_how_long_to_wait_is_read_from_any_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "no", "code": "context_length_exceeded"}}, ContextTooLong),
        (400, {"object": "error", "message": "maximum context length is 4096 tokens", "code": 400}, ContextTooLong),
        (400, {"error": {"message": "Range of input length should be [1, 30720]"}}, ContextTooLong),
        (413, {"error": {"type": "request_too_large", "message": "prompt is too long"}}, ContextTooLong),
        (400, {"error": {"code": "data_inspection_failed", "message": "Input may be wrong"}}, ContentFiltered),
        (400, {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAI"}}}, ContentFiltered),
        (400, {"error": {"code": "Arrearage", "message": "overdue"}}, ProviderLimited),
        (402, {"error": {"message": "Insufficient Balance"}}, ProviderLimited),
        (422, {"detail": "field required"}, ProviderRefused),
        (400, {"error": "unexpected EOF"}, ProviderRefused),
        (404, {"error": "model 'llava' not found"}, ProviderDenied),
        (400, [{"error": {"code": 400, "message": "API key not valid."}}], ProviderDenied),
        (500, b"<html>", ProviderFailed),
        (503, b"", ProviderFailed),
        (400, b"[" * 100_000, ProviderRefused),
        (400, 7, ProviderRefused),
        (429, {"error": {"details": "wrong", "message": 7}}, ProviderLimited),
    ],
)
def test_every_providers_way_to_say_it_is_understood(status: int, body: Any, kind: type[SensoriumError]) -> None:
    assert type(said(status, body)) is kind


def test_the_providers_reason_is_told_in_one_short_line() -> None:
    error = said(400, {"error": {"message": "the temperature\nis  wrong." + " so" * 1000}})
    assert "the provider said (400): the temperature is wrong. so so" in str(error)
    assert len(error.why) < LONGEST_MESSAGE + 40


def test_the_providers_reason_cannot_reach_into_terminals_logs_or_the_answers_encoding() -> None:
    error = said(400, b'{"error": {"message": "a\\u001b[31m\\u0000b\\ud800c\\u2028d\\u009be"}}')
    assert "a [31m b c d e" in str(error)
    assert json.dumps(error.as_dict(), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "secret", ["s3cret-of-ours", "sk-proj-abcdefgh1234", "AIzaSyD-1234567890", "Bearer abc.def", "QUFB" * 30]
)
def test_nothing_that_looks_like_a_key_or_a_picture_is_repeated(secret: str) -> None:
    error = said(401, {"error": {"message": f"The key {secret} is wrong"}}, secret="s3cret-of-ours")
    assert secret not in str(error)
    assert "The key *** is wrong" in str(error)


def test_no_provider_can_have_itself_left_alone_for_ever() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1e300s"}
    assert said(429, {"error": {"message": "busy", "details": [info]}}).retry_after_seconds == LONGEST_WAIT


def test_a_failing_provider_may_say_when_to_come_back() -> None:
    assert said(503, None, {"Retry-After": "7"}).retry_after_seconds == 7
    assert said(503).retry_after_seconds is None


def test_a_provider_that_says_not_to_try_again_is_believed_also_across_processes() -> None:
    error = said(500, None, {"x-should-retry": "false"})
    assert not error.retryable
    assert not pickle.loads(pickle.dumps(error)).retryable  # noqa: S301 - our own
    assert said(500, None, {"x-should-retry": "true"}).retryable
