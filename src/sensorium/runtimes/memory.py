"""Gives memory that nothing uses any more back to the system: without, a server has what its largest work took for ever."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""As glibc's malloc.h has them."""

LARGE = 4 * 2**20
"""Bytes of a block that goes back at once. Left alone, glibc raises this to 32 MiB as it sees large blocks freed."""

MOST_KEPT = 8 * 2**20
"""Bytes that a heap keeps at its end."""

HEAPS = 4
"""Left alone, glibc makes eight for each core, one for each thread; and each keeps what its largest work took."""


def keep_little() -> None:
    """Have the allocator give large blocks back when they are freed; does nothing where it is not glibc.

    To be called before threads start. Finding text in seven sizes on two threads came to 100 MB at the end and 260 in the
    middle with this and with what `GIVES_BACK_EVERY` of `onnx.py` says; to 220 and 330 without this, at the same speed.
    """
    options = _function("mallopt")
    if options is not None:
        for option, value in ((M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, MOST_KEPT), (M_ARENA_MAX, HEAPS)):
            options(option, value)


def give_back() -> None:
    """Have the allocator let go of what it keeps for later; does nothing where it cannot be asked.

    glibc keeps what a closed session leaves: a process of 210 MiB had 313 after ten changes of a model, 159 with this.
    """
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def _function(name: str) -> Callable[..., int] | None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has none
            return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    return None
