"""What a line of the server's log looks like, and where it goes."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from sensorium.telemetry import TRACE

LONGEST = 10_000
"""Characters of a message or a traceback: foreign exceptions may quote what they were given."""

_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), 127)}


class Text(logging.Formatter):
    """`2026-11-21 07:10:05 what happened trace=...`, a message never being more than one line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = record.message[:LONGEST].translate(_CONTROLS)
        trace = TRACE.get()
        return super().formatMessage(record) + (f" trace={trace}" if trace else "")

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return super().formatException(ei)[-LONGEST:]


class Json(Text):
    """One JSON object a line: time, level, logger, message, trace, error; and what else the line is about."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:LONGEST],
            "trace": TRACE.get() or None,
            "error": self.formatException(record.exc_info) if record.exc_info else None,
            **getattr(record, "fields", {}),
        }
        return json.dumps({name: value for name, value in told.items() if value is not None}, ensure_ascii=False)


def log_to_stderr(form: str = "text", level: str = "info") -> None:
    """From now on; `form` and `level` as the settings `log_format` and `log_level`."""
    root = logging.getLogger("sensorium")
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for handler in root.handlers:
        handler.setFormatter(Json() if form == "json" else Text())
    root.setLevel(level.upper())
    root.propagate = False
