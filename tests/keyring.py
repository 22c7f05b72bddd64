"""Keys for tests, made as the command line makes them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from sensorium.stores.keys import FILE, Key, Secret, SqliteKeys


def new_key(name: str, *, scopes: tuple[str, ...] = ("*",), **fields: Any) -> tuple[Secret, Key]:
    secret = Secret.new()
    told = {"created": time.time(), **fields}
    return secret, Key(id=secret.id, name=name, digest=secret.digest, scopes=frozenset(scopes), **told)


def kept_key(data_dir: Path, name: str, **fields: Any) -> str:
    """The text of a key that is in the folder's file now."""
    secret, key = new_key(name, **fields)

    async def keep() -> None:
        store = SqliteKeys(data_dir / FILE)
        await store.add(key)
        await store.close()

    asyncio.run(keep())
    return secret.text
