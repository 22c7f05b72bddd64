"""What must be remembered or shared. One interface for each concern; memory, SQLite and, later, Redis behind it."""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """Values by key, each for a while. Forgetting early is allowed; telling an old value is not."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or its time is over."""

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        """Remember a value for that long."""

    async def delete(self, key: str) -> None:
        """Forget a value, if there is one."""

    async def close(self) -> None:
        """Give files and threads back."""
