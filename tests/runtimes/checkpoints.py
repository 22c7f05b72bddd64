"""Checkpoints in torch's first file format, written step by step, so that tests can write wrong ones too."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence

import numpy as np

from sensorium.runtimes.torch_checkpoint import MAGIC, PROTOCOL

ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key: str, elements: int, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> bytes:
    """The steps that rebuild a float32 tensor."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(elements) + b"NtQ"
    what = storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + ORDERED_DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + what + b"tR"


def state(tensors: dict[str, bytes]) -> bytes:
    """The steps that build a state dict."""
    pairs = b"".join(text(name) + steps for name, steps in tensors.items())
    return b"\x80\x02" + ORDERED_DICT + b"(" + pairs + b"u."


def checkpoint(built: bytes, storages: dict[str, Sequence[float]], *, little_endian: bool = True) -> bytes:
    """A whole file: the pickle of its object, and its storages."""
    system = {"protocol_version": PROTOCOL, "little_endian": little_endian, "type_sizes": {"int": 4}}
    head = [pickle.dumps(value, protocol=2) for value in (MAGIC, PROTOCOL, system)]
    runs = [struct.pack("<q", len(values)) + np.asarray(values, "<f4").tobytes() for values in storages.values()]
    return b"".join([*head, built, pickle.dumps(list(storages), protocol=2), *runs])
