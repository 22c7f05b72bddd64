"""Damage that Pillow would overlook, or report on the terminal: found by reading the structure of the file."""

from __future__ import annotations

import ctypes
import struct
import zlib

from sensorium.errors import CorruptMedia, InputTooLarge, UnsupportedMedia

FIX = "Get the file again from where it came"

FEW = 4
"""Broken entries in a TIFF's directory that are let pass: careless programs write private ones."""

LARGEST_OVERLAP = 4
"""Times the size of a TIFF that its entries may add up to: Pillow reads each for itself, though all name one place."""

MOST_PIECES = 100_000
"""Strips or tiles of a TIFF: each takes some ten microseconds, whatever is in it (measured)."""

MOST_CHUNKS = 20_000
"""Of a PNG or WebP: Pillow takes some ten microseconds for each of a PNG, and some hundred bytes (measured). Encoders
write one for every 4 kB of pixels, or fewer and larger ones."""

MOST_BLOCKS = 100_000
"""Of a GIF, before its first frame. Full ones in 20 MB are fewer; two-byte ones filled 900 MB (measured)."""

_PLACES = (273, 324)
"""The tags that say where strips and tiles are."""

_TIFF_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""Bytes a value, by the number of its type."""


def refuse_damaged(data: bytes, format_: str, name: str) -> None:
    """Raise CorruptMedia when a PNG or TIFF is damaged in a way that its decoder does not see.

    And InputTooLarge when a PNG, WebP, GIF or TIFF is cut into so many pieces that walking over them would take too long.
    """
    if format_ == "png":
        _refuse_wrong_checksums(data, name)
    elif format_ == "webp":
        _refuse_many_chunks(data, name)
    elif format_ == "gif":
        _refuse_many_blocks(data, name)
    elif format_ == "tiff" and data[2:4] in (b"*\0", b"\0*"):
        _refuse_broken_directory(data, name)
    elif format_ == "tiff":  # made for files over 4 GB; its directory has another layout
        raise UnsupportedMedia(f"{name} cannot be decoded", why="it is a BigTIFF", fix="Save it as a plain TIFF")


def _refuse_wrong_checksums(data: bytes, name: str) -> None:
    """Pillow looks at the checksums of the chunks before the pixels only. Source: PNG specification, 13.2."""
    view = memoryview(data)
    at, chunks = 8, 0
    while at + 12 <= len(data):
        chunks += 1
        if chunks > MOST_CHUNKS:
            raise _too_many(name, "chunks")
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


def _refuse_many_chunks(data: bytes, name: str) -> None:
    """Source: RFC 9649, 2.3."""
    at = 12
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(data):
            return
        (length,) = struct.unpack_from("<I", data, at + 4)
        at += 8 + length + length % 2
    raise _too_many(name, "chunks")


def _refuse_many_blocks(data: bytes, name: str) -> None:
    """Comments and the like before the first frame; later frames are not looked at. Source: GIF89a, 15 to 26."""
    inside = False
    try:
        at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        for _ in range(MOST_BLOCKS):
            if inside:  # an extension, of which each part says how long it is; an empty one ends it
                inside = data[at] > 0
                at += 1 + data[at]
            elif data[at] in b",;":
                return
            else:  # stray bytes between blocks are skipped, as Pillow does
                inside = data[at] == ord("!")
                at += 2 if inside else 1
    except IndexError:
        return  # cut short: the decoder says so
    raise _too_many(name, "blocks")


def _too_many(name: str, pieces: str) -> InputTooLarge:
    return InputTooLarge(f"{name} is too large", why=f"it is cut into too many {pieces}", fix="Save it anew")


def _refuse_broken_directory(data: bytes, name: str) -> None:
    """libtiff writes a line to the terminal for each entry that it cannot read: a made-up file has thousands."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        entries = list(struct.iter_unpack(order + "HHII", data[start + 2 : start + 2 + 12 * count]))
    except struct.error as error:
        raise CorruptMedia(f"{name} is damaged", why="its directory is not in the file", fix=FIX) from error
    lengths = [_length(kind, values) for _, kind, values, _ in entries]
    broken = sum(
        not length or (length > 4 and offset + length > len(data))
        for length, (*_, offset) in zip(lengths, entries, strict=True)
    )
    if len(entries) < count or broken > FEW or sum(lengths) > LARGEST_OVERLAP * len(data):
        raise CorruptMedia(f"{name} is damaged", why="its directory names places that are not in the file", fix=FIX)
    if any(tag in _PLACES and values > MOST_PIECES for tag, _, values, _ in entries):
        raise _too_many(name, "strips or tiles")


def _length(kind: int, values: int) -> int:
    """In bytes, of an entry's values; 0 when it has none."""
    return values * (_TIFF_SIZES[kind] if kind < len(_TIFF_SIZES) else 0)


def silence_libtiff() -> None:
    """Keep the libtiff that Pillow is linked with from writing to the terminal: what it dislikes, our errors tell.

    It has no other way to be told so. Where Pillow holds it whole, as on Windows, it goes on writing.
    """
    from PIL import _imaging

    try:
        library = ctypes.CDLL(_imaging.__file__)  # finds what it is linked with, too
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
    except (AttributeError, OSError):
        return
