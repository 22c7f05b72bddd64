"""Damage that Pillow would overlook, or report on the terminal: found by reading the structure of the file."""

from __future__ import annotations

import struct
import zlib

from sensorium.errors import CorruptMedia, InputTooLarge, UnsupportedMedia

FIX = "Get the file again from where it came"

FEW = 4
"""Broken entries in a TIFF's directory that are let pass: careless programs write private ones."""

MOST_PIECES = 100_000
"""Strips or tiles of a TIFF: each takes some ten microseconds, whatever is in it (measured)."""

_PLACES = (273, 324)
"""The tags that say where strips and tiles are."""

_TIFF_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""Bytes a value, by the number of its type."""


def refuse_damaged(data: bytes, format_: str, name: str) -> None:
    """Raise CorruptMedia when a PNG or TIFF is damaged in a way that its decoder does not see."""
    if format_ == "png":
        _refuse_wrong_checksums(data, name)
    elif format_ == "tiff" and data[2:4] in (b"*\0", b"\0*"):
        _refuse_broken_directory(data, name)
    elif format_ == "tiff":  # made for files over 4 GB; its directory has another layout
        raise UnsupportedMedia(f"{name} cannot be decoded", why="it is a BigTIFF", fix="Save it as a plain TIFF")


def _refuse_wrong_checksums(data: bytes, name: str) -> None:
    """Pillow looks at the checksums of the chunks before the pixels only. Source: PNG specification, 13.2."""
    view = memoryview(data)
    at = 8
    while at + 12 <= len(data):
        length, chunk = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data) or chunk == b"IEND":
            return
        critical = not chunk[0] & 0x20
        if critical and zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise CorruptMedia(
                f"{name} is damaged", why=f"the checksum of its {chunk.decode('latin-1')} chunk is wrong", fix=FIX
            )
        at = end + 4


def _refuse_broken_directory(data: bytes, name: str) -> None:
    """libtiff writes a line to the terminal for each entry that it cannot read: a made-up file has thousands."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        entries = list(struct.iter_unpack(order + "HHII", data[start + 2 : start + 2 + 12 * count]))
    except struct.error as error:
        raise CorruptMedia(f"{name} is damaged", why="its directory is not in the file", fix=FIX) from error
    broken = sum(_is_broken(kind, values, offset, len(data)) for _, kind, values, offset in entries)
    if len(entries) < count or broken > FEW:
        raise CorruptMedia(f"{name} is damaged", why="its directory names places that are not in the file", fix=FIX)
    if any(tag in _PLACES and values > MOST_PIECES for tag, _, values, _ in entries):
        raise InputTooLarge(f"{name} is too large", why="it is cut into too many strips or tiles", fix="Save it anew")


def _is_broken(kind: int, values: int, offset: int, size: int) -> bool:
    bytes_each = _TIFF_SIZES[kind] if kind < len(_TIFF_SIZES) else 0
    length = bytes_each * values
    return not bytes_each or (length > 4 and offset + length > size)
