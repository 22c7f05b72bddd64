"""Keeps pictures and words in the house, for callers or settings that want that."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sensorium.engine import Call, Card, Engine
from sensorium.errors import RemoteForbidden
from sensorium.schemas.base import Request, Result


class Privacy:
    """A remote model, for those who allow remote ones. Inside fallback: others are asked in its place."""

    def __init__(self, inner: Engine[Request, Result], card: Card) -> None:
        self._inner, self._card = inner, card

    def run(self, request: Request, call: Call) -> Coroutine[Any, Any, Result]:
        """Raises RemoteForbidden at once."""
        if call.options.remote:
            return self._inner.run(request, call)
        raise RemoteForbidden(
            f"Model {self._card.id} was not asked",
            why="it is remote, and `privacy` is local",
            fix="Name a local model, or allow remote ones by `privacy = any`",
        )
