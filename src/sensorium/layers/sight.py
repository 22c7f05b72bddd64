"""Keeps pictures from models that take none: they would be refused, or answered as if they had been seen."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sensorium.engine import Call, Card, Engine
from sensorium.errors import Unseeing
from sensorium.schemas.ask import AskRequest
from sensorium.schemas.base import Request, Result


class Sight:
    """A model without vision, for questions of words alone. Inside fallback: others are asked in its place."""

    def __init__(self, inner: Engine[Request, Result], card: Card) -> None:
        self._inner, self._card = inner, card

    def run(self, request: Request, call: Call) -> Coroutine[Any, Any, Result]:
        """Raises Unseeing at once."""
        if isinstance(request, AskRequest) and (pictures := len(request.pictures())):
            shown = "a picture" if pictures == 1 else f"{pictures} pictures"
            raise Unseeing(f"Model {self._card.id} was not asked", why=f"it takes no pictures, and was shown {shown}")
        return self._inner.run(request, call)
