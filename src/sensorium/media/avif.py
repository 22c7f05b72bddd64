"""AVIF: how large the coded pictures are, as the decoder will find them; the container may say otherwise.

Sources: ISO/IEC 14496-12 (boxes, tracks), ISO/IEC 23008-12 (items), AV1 bitstream specification, 5.5 (sequence header).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

T = TypeVar("T")

_SEQUENCE_HEADER = 1
_WHOLE = 1 << 62
"""The length of an extent that names none: to the end of the file, or nothing, as one reads it. So it is refused."""

_MOST = 20_000
"""Boxes in a box, items with their extents, and units of AV1 in a file: one walks over each. A picture has some ten, a
grid some thousand."""

_LARGEST_OVERLAP = 4
"""Times the size of the file that all items may add up to, though they name one place."""


class Coded(NamedTuple):
    """A coded picture, by its sequence header."""

    width: int
    height: int
    most_pixels: int
    """Of a frame: unless it is a still, a frame may name a size of its own, of as many bits."""
    bytes_a_pixel: float
    """That its samples take when decoded."""

    @property
    def most_bytes(self) -> float:
        return self.most_pixels * self.bytes_a_pixel


class Structure(NamedTuple):
    """What is coded in a file."""

    of_items: list[Coded]
    """Pictures that stand alone, or are tiles of a grid; their transparency apart."""
    of_tracks: list[Coded]
    """First frames of animations."""
    in_grid: bool
    """Whether the picture may be put together of several."""


def structure(data: bytes) -> Structure:
    """All pictures in the file. Raises ValueError, LookupError or struct.error when it cannot be read."""
    boxes = _only(memoryview(data), b"meta", b"moov")
    types, items = _items(data, boxes[b"meta"][4:]) if b"meta" in boxes else ({}, iter(()))
    tracks = _first_samples(data, boxes[b"moov"]) if b"moov" in boxes else iter(())
    return Structure(_coded_in(items), _coded_in(tracks), b"grid" in types.values())


def _coded_in(samples: Iterable[bytes | memoryview]) -> list[Coded]:
    units = itertools.chain.from_iterable(map(_units, samples))
    return [_sequence_header(payload) for kind, payload in _not_many(units) if kind == _SEQUENCE_HEADER]


def _not_many(things: Iterable[T]) -> Iterator[T]:
    for count, thing in enumerate(things):
        if count >= _MOST:
            raise ValueError("it is cut into too many pieces")
        yield thing


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = at + size if size else len(data)
        if end < at + head:
            raise ValueError("a box is shorter than its own head")
        yield kind, data[at + head : end]
        at = end


def _only(data: memoryview, *names: bytes) -> dict[bytes, memoryview]:
    """The boxes of these names, of which there may be no second: the decoder might take the other one."""
    found: dict[bytes, memoryview] = {}
    for kind, body in _not_many(_boxes(data)):
        if kind in found:
            raise ValueError("a box stands there twice")
        if kind in names:
            found[kind] = body
    return found


def _items(data: bytes, meta: memoryview) -> tuple[dict[int, bytes], Iterator[bytes]]:
    """The type of each item, and the bytes of each that is coded as AV1."""
    boxes = _only(meta, b"iinf", b"iloc", b"idat")
    types = _types(boxes.get(b"iinf", memoryview(b"")))
    places = _places(boxes[b"iloc"]) if b"iloc" in boxes else {}
    coded = [place for number, place in places.items() if types.get(number) == b"av01"]
    if sum(length for _, extents in coded for _, length in extents) > _LARGEST_OVERLAP * len(data):
        raise ValueError("its items are longer than the file")
    sources = {0: memoryview(data), 1: boxes.get(b"idat", memoryview(b""))}
    return types, (_joined(sources[method], extents) for method, extents in coded)


def _joined(source: memoryview, extents: list[tuple[int, int]]) -> bytes:
    return b"".join(source[start : start + length] for start, length in extents)


def _types(iinf: memoryview) -> dict[int, bytes]:
    types: dict[int, bytes] = {}
    for kind, body in _not_many(_boxes(iinf[8 if any(iinf[:1]) else 6 :])):
        if kind == b"infe" and body[0] in (2, 3):
            number, _, type_ = struct.unpack_from(">HH4s" if body[0] == 2 else ">IH4s", body, 4)
            if number in types:
                raise ValueError("an item stands there twice")
            types[number] = type_
    return types


def _places(iloc: memoryview) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    """Of each item: where its extents are (0: in the file, 1: in `idat`), and the start and length of each."""
    fields = _Fields(iloc, 4)
    version = iloc[0]
    sizes = fields.number(2)
    of_start, of_length, of_base, of_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    places: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    left = _MOST
    for _ in range(fields.number(2 if version < 2 else 4)):
        number = fields.number(2 if version < 2 else 4)
        method = fields.number(2) & 15 if version else 0
        fields.number(2)  # which file: this one, or the decoder refuses it
        base = fields.number(of_base)
        count = fields.number(2)
        left -= 1 + count
        if number in places or left < 0:
            raise ValueError("an item lies in two places, or in too many")
        extents = []
        for _ in range(count):
            fields.number(of_index if version else 0)
            start = base + fields.number(of_start)
            extents.append((start, fields.number(of_length) or _WHOLE))
        places[number] = (method, extents)
    return places


def _first_samples(data: bytes, moov: memoryview) -> Iterator[memoryview]:
    """The first sample of each track: no other is decoded."""
    for kind, trak in _not_many(_boxes(moov)):
        table = _inside(trak, b"mdia", b"minf", b"stbl") if kind == b"trak" else None
        if table is None:
            continue
        boxes = _only(table, b"stsz", b"stco", b"co64")
        if b"stsz" not in boxes or not (b"stco" in boxes or b"co64" in boxes):
            continue
        size, _, first = struct.unpack_from(">III", boxes[b"stsz"].tobytes() + bytes(4), 4)
        for name, layout in ((b"stco", ">I"), (b"co64", ">Q")):
            if name in boxes:
                (start,) = struct.unpack_from(layout, boxes[name], 8)
                yield memoryview(data)[start : start + (size or first)]


def _inside(box: memoryview, *path: bytes) -> memoryview | None:
    for name in path:
        found = _only(box, name).get(name)
        if found is None:
            return None
        box = found
    return box


def _units(sample: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The units of AV1: the kind and the content of each."""
    sample = memoryview(sample)  # a slice of it costs nothing, however many there are
    at = 0
    while at < len(sample):
        head = sample[at]
        at += 2 if head & 4 else 1
        length = len(sample) - at
        if head & 2:
            length, at = _leb128(sample, at)
        yield head >> 3 & 15, sample[at : at + length]
        at += length


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 56, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            break
    return value, at


def _sequence_header(payload: memoryview) -> Coded:
    bits = _Bits(payload)
    profile, _, still = bits.take(3), bits.take(1), bits.take(1)
    if still:
        bits.take(5)
    else:
        _skip_timing_and_operating_points(bits)
    across, down = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(across) + 1, bits.take(down) + 1
    _skip_tools(bits, bool(still))
    deep = bits.take(1)
    if profile == 2 and deep:
        bits.take(1)
    grey = profile != 1 and bits.take(1)
    samples_a_pixel = 1 if grey else 1.5 if profile == 0 else 3
    return Coded(width, height, width * height if still else 1 << across + down, samples_a_pixel * (2 if deep else 1))


def _skip_timing_and_operating_points(bits: _Bits) -> None:
    of_delay = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.skip_exponential()
        if bits.take(1):  # the decoder's model
            of_delay = bits.take(5) + 1
            bits.take(42)
    displayed_late = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if of_delay and bits.take(1):
            bits.take(2 * of_delay + 1)
        if displayed_late and bits.take(1):
            bits.take(4)


def _skip_tools(bits: _Bits, still: bool) -> None:
    if not still and bits.take(1):  # frames have numbers
        bits.take(7)
    bits.take(3)
    if not still:
        bits.take(4)
        ordered = bits.take(1)
        if ordered:
            bits.take(2)
        chosen_by_frame = bits.take(1)
        if (chosen_by_frame or bits.take(1)) and not bits.take(1):
            bits.take(1)
        if ordered:
            bits.take(3)
    bits.take(3)


class _Fields:
    """Big-endian numbers, one after another."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data, self._at = data, at

    def number(self, size: int) -> int:
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise ValueError("a table is cut short")
        return int.from_bytes(self._data[start : self._at], "big")


class _Bits:
    """Bits, the highest first."""

    def __init__(self, data: memoryview) -> None:
        # The longest header, of 32 operating points, has some 350 bytes.
        self._left = 8 * min(len(data), 512)
        self._value = int.from_bytes(data[:512], "big")

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("a sequence header is cut short")
        return self._value >> self._left & (1 << count) - 1

    def skip_exponential(self) -> None:
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        self.take(zeros if zeros < 32 else 0)
