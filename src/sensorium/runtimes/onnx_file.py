"""What an ONNX file may hold: everything it needs, and nothing that reaches outside of it.

A tensor in an ONNX file may name another file as its content, and a model from a stranger could so read any file of the
machine. The file is walked as protobuf, skipping over the weights themselves, so that one of 500 MB takes milliseconds
and no memory. Source of the field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from sensorium.errors import InvalidModel

MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Which fields of a message hold messages in which a tensor may lie."""

EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""Fields of a tensor that say its content lies elsewhere."""

VARINT, EIGHT_BYTES, DELIMITED, FOUR_BYTES = 0, 1, 2, 5
"""Protobuf's wire types."""


class _Malformed(Exception):
    """Not protobuf, or cut short."""


def check(path: Path) -> None:
    """Nothing, when the file is whole in itself.

    Raises InvalidModel when it is no ONNX file, is cut short, or has tensors that lie in other files.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            reaching_out = _reaches_out(content)
    except (OSError, ValueError, _Malformed) as error:
        raise InvalidModel(
            f"Cannot read {path.name} as an ONNX model",
            why=str(error),
            fix="Get the whole file again, and put it in place of this one",
        ) from error
    if reaching_out:
        raise InvalidModel(
            f"{path.name} is refused",
            why="some of its tensors lie in other files",
            fix="Save it as one file: `onnx.save(onnx.load(path), path)`",
        )


def _reaches_out(content: mmap.mmap) -> bool:
    waiting = [("model", 0, len(content))]
    graphs = 0
    while waiting:
        message, place, end = waiting.pop()
        while place < end:
            tag, place = _varint(content, place)
            if tag >= 2**32:  # onnxruntime would cut it to 32 bits, and see another field
                raise _Malformed("it is no ONNX model")
            number, wire = tag >> 3, tag & 7
            length, place = _extent(content, place, wire)
            if place + length > end:
                raise _Malformed("it is cut short, or no ONNX model")
            if message == "tensor" and number in (EXTERNAL_DATA, DATA_LOCATION):
                # A location of 0 says that the tensor is here, but some writers say it all the same.
                if number == EXTERNAL_DATA or any(content[place : place + length]):
                    return True
            elif wire == DELIMITED and (inner := MESSAGES[message].get(number)):
                graphs += message == "model" and inner == "graph"
                waiting.append((inner, place, place + length))
            place += length
    if not graphs:
        raise _Malformed("it holds no graph")
    return False


def _extent(content: mmap.mmap, place: int, wire: int) -> tuple[int, int]:
    """How many bytes a field's value takes, and where it begins."""
    if wire == DELIMITED:
        return _varint(content, place)
    if wire == VARINT:
        return _varint(content, place)[1] - place, place
    if wire in (EIGHT_BYTES, FOUR_BYTES):
        return (8 if wire == EIGHT_BYTES else 4), place
    raise _Malformed("it is no ONNX model")


def _varint(content: mmap.mmap, place: int) -> tuple[int, int]:
    """A number of up to 64 bits in groups of seven, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            break
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
    raise _Malformed("it is cut short, or no ONNX model")
