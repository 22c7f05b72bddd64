"""Google's service accounts: a token that the account's key signs, without asking anybody.

Source: AIP-4111, Self-signed JWT.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from pydantic import BaseModel, SecretStr, ValidationError

from sensorium.dependencies import need
from sensorium.errors import MissingKey

LIFE, MARGIN = 3600, 300
"""Seconds: how long a token is good, which is the longest that Google takes, and how long before its end it is renewed."""

LARGEST_FILE = 100_000
"""Bytes; one has some 2,000."""


class _File(BaseModel):
    """The JSON file that the console of Google Cloud gives out."""

    client_email: str
    private_key: SecretStr
    private_key_id: str


class ServiceAccount:
    """One account, for one audience."""

    def __init__(self, path: Path, audience: str) -> None:
        self.path, self._audience = path, audience
        self._token, self._until = "", 0.0
        self._lock = threading.Lock()

    def token(self) -> str:
        """A token that is good for five minutes at least. Blocks: reads the file and signs, once in 55 minutes.

        Raises MissingKey where the file cannot be used, MissingDependency without the extra `auth`.
        """
        with self._lock:
            now = time.time()
            if now > self._until - MARGIN:
                self._token, self._until = self._signed(int(now)), now + LIFE
            return self._token

    def _signed(self, now: int) -> str:
        jwt = need("jwt", for_what="sign with a service account")
        account = self._read()
        claims = {
            "iss": account.client_email,
            "sub": account.client_email,
            "aud": self._audience,
            "iat": now,
            "exp": now + LIFE,
        }
        try:
            signed: str = jwt.encode(
                claims, account.private_key.get_secret_value(), "RS256", {"kid": account.private_key_id}
            )
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            raise self._unusable("its private key is none") from error
        return signed

    def _read(self) -> _File:
        try:
            if self.path.stat().st_size > LARGEST_FILE:
                raise self._unusable(f"it has over {LARGEST_FILE:,} bytes")
            return _File.model_validate_json(self.path.read_bytes())
        except OSError as error:
            raise self._unusable(error.strerror or "it cannot be read") from error
        except ValidationError:  # whose message would show what is in the file
            raise self._unusable("it is no key of a service account") from None

    def _unusable(self, why: str) -> MissingKey:
        return MissingKey(
            f"Cannot use the service account in {self.path}", why=why, fix="Get the JSON key from Google Cloud again"
        )
