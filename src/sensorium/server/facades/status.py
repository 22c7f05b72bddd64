"""Which HTTP status an error has, and what of it a client is told."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from sensorium import errors
from sensorium.errors import EngineFailed, SensoriumError

STATUS: dict[type[SensoriumError], int] = {
    errors.SensoriumError: 500,
    errors.InvalidInput: 400,
    errors.UnknownTask: 404,
    errors.UnknownStream: 404,
    errors.UnknownJob: 404,
    errors.UnknownFile: 404,
    errors.IdempotencyConflict: 409,
    errors.InputTooLarge: 413,
    errors.UnidentifiedMedia: 415,
    errors.UnsupportedMedia: 415,
    errors.CorruptMedia: 422,
    errors.NoFace: 422,
    errors.FetchFailed: 422,
    errors.UploadIncomplete: 408,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.Unavailable: 503,
    errors.MissingDependency: 501,
    errors.ModelNotInstalled: 501,
    errors.InvalidModel: 500,
    errors.ReloadFailed: 409,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.StreamGone: 410,
    errors.JobGone: 410,
    errors.MissingKey: 424,
    errors.ProviderDenied: 502,
    errors.ProviderFailed: 502,
    errors.TooExpensive: 402,
    errors.UnstructuredAnswer: 502,
    errors.InvalidConfiguration: 500,
    errors.EngineFailed: 500,
}
"""A class that is not named here has the status of the nearest one above it."""

CHALLENGE = b'Bearer realm="sensorium"'

HTTP_CODES = {"not_found": 404, "method_not_allowed": 405}
"""Codes of failures that only an HTTP client can meet."""


def status_of(kind: type[SensoriumError]) -> int:
    """The status of an error class."""
    return next(STATUS[above] for above in kind.__mro__ if above in STATUS)


def status_of_all(failures: Iterable[SensoriumError]) -> int:
    """One status for a message of which no part could be answered: the gravest."""
    return max(status_of(type(error)) for error in failures)


def sentence(error: SensoriumError) -> str:
    """What a client is told. The words of foreign exceptions stay in the log."""
    if isinstance(error, EngineFailed) and error.__cause__ is not None:
        return f"{error.what}. The server's log says more under the trace id of this answer."
    return str(error)


def described(error: SensoriumError, trace: str) -> dict[str, Any]:
    """An error as the JSON that clients get."""
    return {**error.as_dict(), "message": sentence(error), "trace": trace}


def headers_of(failures: Collection[SensoriumError]) -> tuple[tuple[bytes, bytes], ...]:
    """`Retry-After`, in whole seconds, when waiting can help; `WWW-Authenticate` when another key can."""
    waits = [
        error.retry_after_seconds
        for error in failures
        if isinstance(error, (errors.Overloaded, errors.CircuitOpen)) and error.retryable
    ]
    after = ((b"retry-after", str(max(1, math.ceil(max(waits)))).encode()),) if waits else ()
    return after + tuple(
        (b"www-authenticate", wanted) for wanted in {_challenge(error) for error in failures} if wanted
    )


def _challenge(error: SensoriumError) -> bytes:
    """What RFC 6750 has a server say of the credential that it wants."""
    if isinstance(error, errors.Unauthenticated):
        return CHALLENGE + (b', error="invalid_token"' if error.attempted else b"")
    if isinstance(error, errors.Forbidden) and error.scope:
        return CHALLENGE + f', error="insufficient_scope", scope="{error.scope}"'.encode()
    return b""
