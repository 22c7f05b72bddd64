"""Server-sent events, read by hand from bytes. Source: HTML standard, 9.2 (`event-stream`)."""

from __future__ import annotations

from sensorium.errors import StreamBroken

LONGEST_EVENT = 1 << 20
"""Bytes of one event; a token takes some hundred."""

_BOM = b"\xef\xbb\xbf"


class Events:
    """Makes events of bytes, however they were cut into reads.

    Lines end with CRLF, LF or CR. An event is its data: the formats of providers repeat the event's name in it.
    """

    kinds: list[bytes]
    """What the events are called that the last `feed` gave, in their order; empty where one has no name."""

    def __init__(self, longest: int = LONGEST_EVENT) -> None:
        self._longest = longest
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._held = self._open = 0
        self._begun = self._after_cr = False
        self._kind, self.kinds = b"", []

    def feed(self, read: bytes) -> list[bytes]:
        """The data of the events that this completes; empty ones are left out, as the standard says.

        Raises StreamBroken when one is too long.
        """
        if self._after_cr and read:
            read, self._after_cr = read.removeprefix(b"\n"), False
        if b"\r" in read:
            self._after_cr = read.endswith(b"\r")
            read = read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = read.split(b"\n")
        found: list[bytes] = []
        self.kinds = []
        for line in lines:
            if self._line:
                self._line.append(line)
                line, self._line, self._open = b"".join(self._line), [], 0
            self._end_line(line, found)
        if rest:
            self._line.append(rest)
            self._open += len(rest)
            self._bound(self._open)
        return found

    def finish(self) -> list[bytes]:
        """The last event of a body that ends well, though without an empty line."""
        return self.feed(b"\n\n")

    def _bound(self, line: int) -> None:
        if self._held + line > self._longest:
            raise StreamBroken("The stream cannot be read", why=f"an event has over {self._longest:,} bytes")

    def _end_line(self, line: bytes, found: list[bytes]) -> None:
        if not self._begun:
            line, self._begun = line.removeprefix(_BOM), True
        if not line:
            if self._data:
                self._end_event(found)
            self._kind = b""
            return
        self._bound(len(line))
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._held += len(line)
        elif line.startswith(b"event:"):
            self._kind = line[6:].removeprefix(b" ")

    def _end_event(self, found: list[bytes]) -> None:
        data, self._data, self._held = b"\n".join(self._data), [], 0
        if data:
            found.append(data)
            self.kinds.append(self._kind)
