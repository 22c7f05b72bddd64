"""What a line of the server's log looks like, and where it goes."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from sensorium.telemetry import TRACE

GATHER_SECONDS = 0.1
"""How long lines that are no warnings wait for others to be written with."""
LONGEST = 10_000
"""Characters of a message or a traceback: foreign exceptions may quote what they were given."""

_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), 127)}


class Text(logging.Formatter):
    """`2026-11-21 07:10:05 what happened trace=...`, a message never being more than one line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._second = 0, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """Written out once a second."""
        second = int(record.created)
        if second != self._second[0]:
            self._second = second, super().formatTime(record, datefmt)
        return self._second[1]

    def format(self, record: logging.LogRecord) -> str:
        """As logging's own, which takes four times as long for a line that tells of no exception."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        record.message, record.asctime = record.getMessage(), self.formatTime(record, self.datefmt)
        return self.formatMessage(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        message = record.message[:LONGEST]
        if not message.isprintable():
            message = message.translate(_CONTROLS)
        trace = TRACE.get()
        return f"{record.asctime} {message} trace={trace}" if trace else f"{record.asctime} {message}"

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


class Gathered(logging.StreamHandler[Any]):
    """Writes lines many at a time, from a thread of its own: writing each took 8 % of what a request costs (measured).

    A warning, or worse, is written at once with all that came before it. What kills the process outright may take the
    last `GATHER_SECONDS` of lines with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque()
        self._some = threading.Event()
        threading.Thread(target=self._write_now_and_then, name="sensorium-log", daemon=True).start()

    def handle(self, record: logging.LogRecord) -> Any:
        """Without the lock: putting a line aside needs none."""
        if self.filters and not (record := self.filter(record)):  # type: ignore[assignment] # 3.12 has others made of them
            return False
        self.emit(record)
        return record

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:  # noqa: BLE001 - logging's own way: it must never break what it tells of
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self.flush()
        elif not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        with self.lock:  # type: ignore[union-attr] # there is one until `close`
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if lines:
                self.stream.write("\n".join(lines) + "\n")
            super().flush()

    def _write_now_and_then(self) -> None:
        while self._some.wait():
            time.sleep(GATHER_SECONDS)
            self._some.clear()
            self.flush()


def log_to_stderr(form: str = "text", level: str = "info") -> None:
    """From now on; `form` and `level` as the settings `log_format` and `log_level`."""
    # Logging's own advice: our lines name neither code nor thread, and finding them out is a third of a line's work.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger("sensorium")
    if not root.handlers:
        root.addHandler(Gathered())
    for handler in root.handlers:
        handler.setFormatter(Json() if form == "json" else Text())
    root.setLevel(level.upper())
    root.propagate = False
