"""Where a session computes: on the processor, or on a graphics card by onnxruntime's CUDA provider.

onnxruntime goes on without CUDA, saying nothing to its caller, where CUDA's libraries or a driver are missing: what it
offers is not what works, so a session is asked afterwards what it uses.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from typing import Any

from sensorium.errors import DeviceUnavailable

log = logging.getLogger("sensorium.device")

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

OUT_OF_MEMORY = re.compile(
    "failed to allocate memory for requested buffer|is smaller than requested bytes|out of memory|_ALLOC_FAILED",
    re.IGNORECASE,
)
"""onnxruntime has no error of its own for it. In order: its arena without more to get, its arena at its limit
(core/framework/bfc_arena.cc), CUDA itself, and cuBLAS and cuDNN."""


def open_session(onnxruntime: Any, model: str | bytes, options: Any, device: str, *, many_shapes: bool) -> Any:
    """An InferenceSession on the device; `auto` is the first graphics card if it works, else the processor.

    Raises DeviceUnavailable for `cuda` where it does not work, and whatever onnxruntime raises for the model.
    """
    if device == "cpu" or (device == "auto" and CUDA not in onnxruntime.get_available_providers()):
        return onnxruntime.InferenceSession(model, options, providers=[CPU])
    if CUDA not in onnxruntime.get_available_providers():
        raise _unavailable(device, "the onnxruntime that is installed is the one for processors")
    said = _load_libraries(onnxruntime)
    number = device.partition(":")[2] or "0"
    session = onnxruntime.InferenceSession(model, options, providers=[(CUDA, _choices(number, many_shapes)), CPU])
    if CUDA not in session.get_providers():
        why = said or "onnxruntime could not start CUDA; a driver, a library or the card is missing"
        if device != "auto":
            raise _unavailable(device, why)
        log.warning("Computing on the processor instead of the graphics card: %s", why)
    return session


def used_by(session: Any) -> str:
    """What the session computes on: `cpu`, or `cuda:` and a number."""
    if CUDA not in session.get_providers():
        return "cpu"
    return f"cuda:{session.get_provider_options().get(CUDA, {}).get('device_id', '0')}"


def is_out_of_memory(error: BaseException) -> bool:
    return OUT_OF_MEMORY.search(str(error)) is not None


def _choices(number: str, many_shapes: bool) -> dict[str, str]:
    return {
        "device_id": number,
        # Doubling takes up to twice the memory that is needed, from others who share the card.
        "arena_extend_strategy": "kSameAsRequested",
        # Trying all algorithms pays once for each shape.
        "cudnn_conv_algo_search": "HEURISTIC" if many_shapes else "EXHAUSTIVE",
    }


def _load_libraries(onnxruntime: Any) -> str:
    """Have CUDA's libraries found that came as Python packages; what onnxruntime prints of the first that is missing."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        onnxruntime.preload_dlls()
    return next(iter(said.getvalue().strip().splitlines()), "")


def _unavailable(device: str, why: str) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"Cannot compute on {device}",
        why=why,
        fix="Install the extra `sensorium[gpu]` as docs/devices.md says, or set `device` to cpu or auto",
    )
