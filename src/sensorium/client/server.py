"""Which server is asked, and how."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, FilePath, SecretStr, ValidationError, field_validator

from sensorium.errors import InvalidConfiguration
from sensorium.schemas.base import Frozen, wrong_fields


class Server(Frozen):
    """A server elsewhere. Never shows its key."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    """Where it is: `http://host:8000`, or `https://host/prefix` behind a proxy."""
    key: SecretStr | None = None
    """Who asks. Sent as `Authorization: Bearer`, to this server only."""
    timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """How many seconds each request may take, sending and waiting included, unless it says otherwise."""
    retries: int = Field(default=2, ge=0, le=100)
    """How often a request is sent again after the server was overloaded or the connection broke off."""
    connections: int = Field(default=16, ge=1, le=10_000)
    """How many requests are under way at once; more wait here."""
    pass_urls: bool = True
    """Whether the server fetches what a URL names, under its own rules. Else it is fetched here, and uploaded."""
    ca: FilePath | None = None
    """A file of certificates (PEM) to trust instead of the system's, for a server with a certificate of your own."""
    silence: float = Field(default=45.0, gt=0, allow_inf_nan=False)
    """How many seconds a streamed answer may be silent, signs of life included: a server gives one every 15 s by default."""

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Raises InvalidConfiguration, naming what is wrong."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise InvalidConfiguration("Cannot connect", why=wrong_fields(error, cls)) from error

    @property
    def origin(self) -> str:
        """What to call it in messages: scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def route(self, task: str) -> str:
        return f"{self.url}/v1/{task}"

    def stream(self, identity: str) -> str:
        """Where a streamed answer is."""
        return f"{self.url}/v1/streams/{identity}"

    def trusted(self) -> ssl.SSLContext | bool:
        """What its certificate is checked against. Raises InvalidConfiguration when `ca` holds no certificates."""
        return True if self.ca is None else _trusted(self.ca)

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname or any(ord(sign) < 33 for sign in url.strip()):
            raise ValueError(f"{url[:100]!r} is not an address such as http://host:8000")
        if parts.username or parts.password:
            raise ValueError("names a user; a key goes into `key`")
        if parts.query or parts.fragment:
            raise ValueError("must end with its path")
        if parts.port == 0:  # also looks whether it is a number
            raise ValueError("names no port that can be reached")
        return parts.geturl().rstrip("/")

    @field_validator("key")
    @classmethod
    def _sendable(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value() if key else ""
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError("has signs that no key has; was it cut or pasted with a line break?")
        return key if text else None


def _trusted(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError) as error:
        why = f"no certificates can be read from it ({type(error).__name__})"
        raise InvalidConfiguration(f"Cannot trust {path}", why=why, fix="Name a PEM file") from error
