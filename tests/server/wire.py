"""Requests as bytes, so that tests say exactly what goes over the wire."""

from __future__ import annotations

import base64
import socket
import struct
from typing import Any

from PIL import Image

from tests.pictures import encoded

BOUNDARY = "the-boundary"

Part = tuple[str, str | None, bytes | str]
"""Field, file name or None for a field of text, and content."""


def form(*parts: Part) -> dict[str, Any]:
    """The body of a multipart form, and its type, as an HTTP client's arguments."""
    body = b"".join(_part(*part) for part in parts) + f"--{BOUNDARY}--\r\n".encode()
    return {"data": body, "headers": {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}}


def _part(field: str, filename: str | None, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    named = f'; filename="{filename}"\r\nContent-Type: image/jpeg' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def bitmap(width: int, height: int = 600, colour: int = 0) -> bytes:
    """An uncompressed picture, over 1 MiB from 600 x 600 on."""
    return encoded(Image.new("RGB", (width, height), (colour, 10, 20)), "BMP")


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def reset(connection: socket.socket) -> None:
    """Close in the rude way: the other side gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
