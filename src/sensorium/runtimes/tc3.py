"""TC3-HMAC-SHA256: how requests to Tencent Cloud are signed.

Source: Tencent Cloud API 3.0, Signature v3.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

METHOD = "TC3-HMAC-SHA256"


def authorization(
    secret_id: str, secret_key: str, service: str, headers: Mapping[str, str], payload_sha256: str, timestamp: int
) -> str:
    """The header Authorization of a POST to `/`.

    `headers` are those that are signed, by names in small letters and in the order of the alphabet, `content-type` and
    `host` among them, with values as they are sent. `timestamp` is in seconds since 1970, and goes as `X-TC-Timestamp`.
    """
    names = ";".join(headers)
    written = "".join(f"{name}:{value}\n" for name, value in headers.items())
    date = datetime.fromtimestamp(timestamp, UTC).date().isoformat()
    scope = f"{date}/{service}/tc3_request"
    asked = "\n".join(("POST", "/", "", written, names, payload_sha256))
    to_sign = "\n".join((METHOD, str(timestamp), scope, hashlib.sha256(asked.encode()).hexdigest()))
    key = f"TC3{secret_key}".encode()
    for step in (date, service, "tc3_request", to_sign):
        key = hmac.digest(key, step.encode(), "sha256")
    return f"{METHOD} Credential={secret_id}/{scope}, SignedHeaders={names}, Signature={key.hex()}"


def sha256_of(parts: Iterable[bytes]) -> str:
    """The checksum of a body in parts, in hex."""
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return checksum.hexdigest()
