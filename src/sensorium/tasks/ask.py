"""Ask a vision-language model about pictures, or about words alone."""

from __future__ import annotations

from sensorium.schemas.ask import AskRequest

Request = AskRequest
DEFAULT = "perception"
