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
        self._held = 0
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
        head, *lines = read.split(b"\n")
        self._hold(head)
        found: list[bytes] = []
        self.kinds = []
        for following in lines:
            self._end_line(found)
            self._hold(following)
        return found

    def finish(self) -> list[bytes]:
        """The last event of a body that ends well, though without an empty line."""
        return self.feed(b"\n\n")

    def _hold(self, part: bytes) -> None:
        self._held += len(part)
        if self._held > self._longest:
            raise StreamBroken("The stream cannot be read", why=f"an event has over {self._longest:,} bytes")
        if part:
            self._line.append(part)

    def _end_line(self, found: list[bytes]) -> None:
        line = b"".join(self._line)
        self._line = []
        if not self._begun:
            line, self._begun = line.removeprefix(_BOM), True
        if not line:
            data, self._data, self._held = b"\n".join(self._data), [], 0
            if data:
                found.append(data)
                self.kinds.append(self._kind)
            self._kind = b""
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        else:
            self._held -= len(line)
            if line.startswith(b"event:"):
                self._kind = line[6:].removeprefix(b" ")
