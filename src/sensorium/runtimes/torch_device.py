"""Where PyTorch computes, and in which numbers."""

from __future__ import annotations

from typing import Any

from sensorium.errors import DeviceUnavailable


def chosen(torch: Any, device: str) -> str:
    """`cpu`, or `cuda:` and a number. `device` is `auto`, the first graphics card if there is one, `cpu`, `cuda` or `cuda:N`.

    Raises DeviceUnavailable for a graphics card that is not there.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise _unavailable(device, "PyTorch finds no graphics card, or is the one for processors")
    number, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        raise _unavailable(device, f"there are {count}, and the first is cuda:0")
    return f"cuda:{number}"


def numbers(torch: Any, device: str, wanted: str = "auto") -> Any:
    """The dtype to compute in: as `wanted`, else what is quick on the device without losing the range of the weights."""
    if wanted != "auto":
        return getattr(torch, wanted)
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def is_out_of_memory(torch: Any, error: BaseException) -> bool:
    """Whether a graphics card's memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError)


def _unavailable(device: str, why: str) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"Cannot compute on {device}",
        why=why,
        fix="Install PyTorch for CUDA as docs/local-models.md says, or set `device` to cpu or auto",
    )
