"""Tensors of a checkpoint in torch's first file format, read without torch and without running anything in it.

The format is four pickles (a magic number, a protocol number, facts about the writer's machine, the object itself), a
pickled list of storage keys, then each storage's element count and raw bytes, little-endian. A pickle is a program for
a small stack machine; the one here knows only the steps that tensors by name need, and none of them calls anything.
Source: torch/serialization.py, `_legacy_save`.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium.errors import InvalidModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_BYTES = 2**31
MAX_STEPS = 1_000_000
"""Steps of one pickle. EfficientNet-Lite2's 400 tensors take 20,000."""

DTYPES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "<i1",
    "torch ByteStorage": "<u1",
    "torch BoolStorage": "|b1",
}
ORDERED_DICT = "collections OrderedDict"
REBUILD = "torch._utils _rebuild_tensor_v2"


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that a pickle mentions; never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of elements that follows the pickles."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage, counted in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Malformed(Exception):
    """Why a checkpoint cannot be read; becomes InvalidModel, which names the file."""


def read(path: Path) -> dict[str, NDArray[np.generic]]:
    """The tensors of a state dict, by name, in the file's order; read-only views with the file's strides.

    Raises InvalidModel for anything else: another format, a damaged or cut file, or a pickle that asks for more than
    tensors.
    """
    try:
        return _tensors(_content(path))
    except OSError as error:
        raise InvalidModel(f"Cannot read {path.name}", why=str(error)) from error
    except (_Malformed, ValueError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise InvalidModel(
            f"Cannot read {path.name} as a torch checkpoint", why=str(error) or type(error).__name__, fix=_FIX
        ) from error


def _content(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise _Malformed(f"it is larger than {MAX_BYTES} bytes")
    return path.read_bytes()


_FIX = "Install the model again, or export it to ONNX"


def _tensors(content: bytes) -> dict[str, NDArray[np.generic]]:
    stream = io.BytesIO(content)
    if _unpickle(stream) != MAGIC or _unpickle(stream) != PROTOCOL:
        raise _Malformed("it does not begin as one")
    if not isinstance(system := _unpickle(stream), dict) or system.get("little_endian") is not True:
        raise _Malformed("it was not written on a little-endian machine")
    state, keys = _unpickle(stream), _unpickle(stream)
    if not isinstance(state, dict) or not all(isinstance(tensor, _Tensor) for tensor in state.values()):
        raise _Malformed("it is not a state dict, tensors by name")
    storages = _storages(stream, keys, {tensor.storage for tensor in state.values()})
    return {name: _view(storages[tensor.storage.key], tensor) for name, tensor in state.items()}


def _storages(stream: io.BytesIO, keys: Any, wanted: set[_Storage]) -> dict[str, NDArray[np.generic]]:
    import numpy as np

    named = {storage.key: storage for storage in wanted}
    if not isinstance(keys, list) or len(named) != len(wanted) or sorted(keys) != sorted(named):
        raise _Malformed("its list of storages and its tensors disagree")
    content, found = stream.getbuffer().toreadonly(), {}
    for key in keys:
        storage, start = named[key], stream.tell() + 8
        if int.from_bytes(stream.read(8), "little") != storage.elements:
            raise _Malformed(f"storage {key} is cut short or not of the declared size")
        found[key] = np.frombuffer(content, storage.dtype, storage.elements, start)
        stream.seek(start + found[key].nbytes)
    return found


def _view(storage: NDArray[np.generic], tensor: _Tensor) -> NDArray[np.generic]:
    import numpy as np

    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    elements = math.prod(tensor.shape)
    # A stride of 0 repeats elements, so a few bytes could claim to be terabytes: refused as torch never saves such weights.
    if elements > storage.size or (elements and tensor.offset + reach >= storage.size):
        raise _Malformed("a tensor reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    if not elements:
        return np.empty(tensor.shape, storage.dtype)
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)


_MARK = object()


def _unpickle(stream: io.BytesIO) -> Any:
    """What one pickle builds, leaving the stream behind it."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        if count > MAX_STEPS:
            raise _Malformed(f"a pickle takes more than {MAX_STEPS} steps")
        if opcode.name == "STOP":
            return stack.pop()
        _step(opcode.name, arg, stack, memo)
    raise _Malformed("a pickle is cut short")


def _step(name: str, arg: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    match name:
        case "PROTO":
            pass
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
            stack.append(arg)
        case "NONE" | "NEWTRUE" | "NEWFALSE" | "MARK" | "EMPTY_TUPLE":
            stack.append(_CONSTANTS[name])
        case "EMPTY_DICT" | "EMPTY_LIST":
            stack.append({} if name == "EMPTY_DICT" else [])
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(_pop(stack, int(name[-1]))))
        case "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        case "BINPUT" | "LONG_BINPUT":
            memo[arg] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[arg])
        case "APPEND":
            _extend(stack, _pop(stack, 1))
        case "APPENDS":
            _extend(stack, _pop_to_mark(stack))
        case "SETITEM":
            _update(stack, _pop(stack, 2))
        case "SETITEMS":
            _update(stack, _pop_to_mark(stack))
        case "GLOBAL":
            stack.append(_allowed(arg))
        case "BINPERSID":
            stack.append(_storage(stack.pop()))
        case "REDUCE":
            stack.append(_reduce(*_pop(stack, 2)))
        case "BUILD":
            # The state dict's `_metadata`: versions of torch's modules, no concern of the tensors.
            stack.pop()
        case _:
            raise _Malformed(f"its pickle has the step {name}, which tensors by name do not need")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK, "EMPTY_TUPLE": ()}


def _pop(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise _Malformed("a pickle takes more than it put down")
    taken = stack[-count:]
    del stack[-count:]
    return taken


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    taken = []
    while (value := stack.pop()) is not _MARK:
        taken.append(value)
    return taken[::-1]


def _extend(stack: list[Any], values: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise _Malformed("a pickle appends to something that is no list")
    stack[-1].extend(values)


def _update(stack: list[Any], pairs: list[Any]) -> None:
    keys = pairs[::2]
    # Only text as keys: to hash anything else could walk a structure nested without end.
    if not isinstance(stack[-1], dict) or not all(isinstance(key, str) for key in keys):
        raise _Malformed("a pickle names something other than by text")
    stack[-1].update(zip(keys, pairs[1::2], strict=True))


def _allowed(name: str) -> _Global:
    if name not in DTYPES and name not in (ORDERED_DICT, REBUILD):
        raise _Malformed(f"its pickle asks for {name.replace(' ', '.')!r}, which is no part of tensors")
    return _Global(name)


def _storage(persistent: Any) -> _Storage:
    match persistent:
        case ("storage", _Global(name), str(key), str(), int(elements), None) if name in DTYPES and elements >= 0:
            return _Storage(key, DTYPES[name], elements)
    raise _Malformed("a storage is not described as torch does")


def _reduce(function: Any, arguments: Any) -> Mapping[str, Any] | _Tensor:
    match function, arguments:
        case _Global(name), () if name == ORDERED_DICT:
            return {}
        case _Global(name), (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if name == REBUILD:
            numbers = (offset, *shape, *strides)
            if len(shape) == len(strides) <= 16 and all(isinstance(n, int) and n >= 0 for n in numbers):
                return _Tensor(storage, offset, shape, strides)
    raise _Malformed("a tensor is not described as torch does")
