"""Seals the secrets of keys that sign: whoever gets the file with the keys cannot read them without the server's own.

Of the server's own key other secrets are derived too, one for each purpose: none of them tells another.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sensorium.dependencies import need
from sensorium.errors import InvalidConfiguration

FILE = "server.key"

SHORTEST = 32
"""Signs of a server's key that is not made here."""

NONCE_BYTES = 12
"""As NIST SP 800-38D recommends for GCM."""


class Seal:
    """AES-256-GCM under one key; each secret is bound to the id of its key."""

    def __init__(self, text: str) -> None:
        self._key = hashlib.sha256(b"sensorium seals\0" + text.strip().encode()).digest()

    def close(self, secret: str, identity: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed: bytes = self._cipher().encrypt(nonce, secret.encode(), identity.encode())
        return nonce + sealed

    def open(self, sealed: bytes, identity: str) -> str:
        """Raises InvalidConfiguration when it was sealed with another key, or for another id."""
        cipher = self._cipher()
        from cryptography.exceptions import InvalidTag

        try:
            secret: bytes = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], identity.encode())
        except InvalidTag as error:
            raise InvalidConfiguration(
                f"The key {identity} cannot be opened",
                why="it was sealed with another server key",
                fix=f"Bring back the old `sealing_key` or {FILE}, or make a new key",
            ) from error
        return secret.decode()

    def _cipher(self) -> Any:
        aead = need("cryptography.hazmat.primitives.ciphers.aead", for_what="keep keys that sign")
        return aead.AESGCM(self._key)


def seal_of(given: SecretStr | None, folder: Path, *, make: bool = False) -> Seal:
    """With the key given, else the one in the folder's file, which is made if wanted.

    Raises InvalidConfiguration when it is too short, missing, or open to others.
    """
    return Seal(_long_enough(_from_file(folder / FILE, make) if given is None else given.get_secret_value()))


def derived(given: SecretStr | None, folder: Path, purpose: str) -> bytes:
    """32 bytes that only who has the server's own key can know; the key is made if there is none. Raises as `seal_of`."""
    text = _long_enough(_from_file(folder / FILE, True) if given is None else given.get_secret_value())
    return hmac.digest(text.strip().encode(), f"sensorium: {purpose}".encode(), "sha256")


def _long_enough(text: str) -> str:
    if len(text.strip()) < SHORTEST:
        why = f"it must have at least {SHORTEST} signs"
        raise InvalidConfiguration("The server's own key is too short", why=why, fix="Set a longer `sealing_key`")
    return text


def _from_file(path: Path, make: bool) -> str:
    try:
        if make and not path.exists():
            _make(path)
        _refuse_open_to_others(path)
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        fix = "Bring the file back, or set `sealing_key`"
        raise InvalidConfiguration(f"The server's own key {path} cannot be used", why=why, fix=fix) from error


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(f"{secrets.token_hex(32)}\n")
    # A link, not a rename: of two that make one at once, the second must take the first's.
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(half)
    half.unlink()


def _refuse_open_to_others(path: Path) -> None:
    if sys.platform != "win32" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InvalidConfiguration(
            f"The server's own key {path} is open to others", fix=f"Make it yours alone: `chmod 600 {path}`"
        )
