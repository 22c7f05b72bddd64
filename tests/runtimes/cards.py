"""A graphics card for tests: onnxruntime as it behaves with one, computing on the processor."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
Bare = onnxruntime.InferenceSession

FULL = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Name:'_conv_stem' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, "
    "onnxruntime::WaitNotificationFn) Failed to allocate memory for requested buffer of size 2830172160"
)
"""What onnxruntime said of a full card, word for word: microsoft/onnxruntime, issues 20038 and 22702."""


class Card:
    """A card with room for batches of `room`; `works` says whether CUDA starts on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, room: int = 1000, works: bool = True) -> None:
        self.room, self.works = room, works
        self.batches: list[int] = []
        """The sizes of all that was tried on the card."""
        self.options: list[dict[str, str]] = []
        """The options of each session on it."""
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", self._session)

    def _session(self, model: str | bytes, options: Any, providers: list[Any]) -> Any:
        bare = Bare(model, options, providers=[CPU])
        if providers[0] == CPU or not self.works:
            return bare
        self.options.append(providers[0][1])
        return _Session(bare, self, providers[0][1])


class _Session:
    """A session on the card."""

    def __init__(self, bare: Any, card: Card, options: dict[str, str]) -> None:
        self._bare, self._card, self._options = bare, card, options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bare, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CUDA: self._options, CPU: {}}

    def run(self, names: None, feed: dict[str, Any], options: Any) -> Any:
        size = len(next(iter(feed.values())))
        self._card.batches.append(size)
        if size > self._card.room:
            raise RuntimeException(FULL)
        return self._bare.run(names, feed, options)
