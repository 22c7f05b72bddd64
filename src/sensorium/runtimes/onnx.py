"""ONNX models that run: sessions that many requests share, each with a queue, threads of its own and gathering.

One session of N runner threads with one intra-op thread each is as fast as N processes, at two thirds of their memory.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium.dependencies import need
from sensorium.errors import (
    DeviceUnavailable,
    EngineFailed,
    InvalidModel,
    OutOfDeviceMemory,
    Overloaded,
    SensoriumError,
    ServiceClosed,
)
from sensorium.runtimes import device as devices
from sensorium.runtimes import onnx_file
from sensorium.schemas.base import Skipped
from sensorium.telemetry import TELEMETRY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.generic]]

log = logging.getLogger("sensorium.device")

GPU_RUNNERS = 2
"""Runner threads of a session on a graphics card: while one waits for the card, the other hands out and gathers."""

GIVES_BACK_EVERY = 4
"""Runs after which a session whose inputs come in many sizes lets go of memory that it does not use, which else is kept for
ever: text detection in seven sizes on two threads came to 490 MB, and to 100 with this and `memory.keep_little`, at a cost
below what one run can show. The allocator has to play along, or more is kept than before."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model."""

    name: str
    shape: tuple[int | str | None, ...]
    """A name, or None, for an axis of any size."""
    dtype: str
    """NumPy's name of the element type, or ONNX's own where NumPy has none."""


@dataclass(slots=True, eq=False)
class _Item:
    """One request for a run, and who waits for it."""

    inputs: Mapping[str, NDArray[np.generic]]
    loop: asyncio.AbstractEventLoop
    waiter: asyncio.Future[Arrays]
    arrived: float = field(default_factory=time.perf_counter)
    alike: tuple[object, ...] = ()
    """Equal for requests that can share a batch."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return self.waiter.cancelled() or self.loop.is_closed()


class Session:
    """A model ready to run, for any number of waiters in any event loops.

    Requests wait in one queue for one of `threads` runner threads. A runner takes the first, with up to `max_batch`
    requests of equal shapes, and a request that finds the session busy may wait `window_seconds` from its arrival for
    others to join; after a pause longer than that, one runs at once. A batch that fails is run again one by one.

    On a graphics card, a batch that does not fit into its memory is halved, and so are later ones; when one request
    alone does not fit, the session goes on on the processor, and `skipped` says so.

    Closed by `close`; until then its threads keep it alive.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        name: str,
        threads: int = 1,
        queue: int = 256,
        max_batch: int = 1,
        window_seconds: float = 0.0,
        many_shapes: bool = False,
        device: str = "cpu",
        max_batch_on_gpu: int | None = None,
    ) -> None:
        """Load the model; blocks. `many_shapes`: inputs come in many sizes, as pictures and lines of text do.

        `device` is `auto`, `cpu`, `cuda` or `cuda:N`. `max_batch_on_gpu` is `max_batch` where that turns out to be a
        graphics card, for gathering pays there.
        Raises InvalidModel, DeviceUnavailable, or MissingDependency without onnxruntime.
        """
        self.name = name
        self._open = partial(_open, model, name, many_shapes)
        self._session = self._open(device)
        self._turns = itertools.cycle([*[None] * (GIVES_BACK_EVERY - 1), _giving_back()] if many_shapes else [None])
        self.device = devices.used_by(self._session)
        """What it computes on: `cpu`, or `cuda:` and a number."""
        self.skipped: tuple[Skipped, ...] = ()
        """The graphics card that it had to leave, and why."""
        if self.device != "cpu":
            max_batch, runners = max_batch_on_gpu or max_batch, min(threads, GPU_RUNNERS)
        else:
            runners = threads
        self.inputs = _ports(self._session.get_inputs())
        self.outputs = _ports(self._session.get_outputs())
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._names = [port.name for port in self.outputs]
        self._queue, self._window = queue, window_seconds
        self._max_batch = max_batch if all(_batches(port) for port in (*self.inputs, *self.outputs)) else 1
        self._waiting: deque[_Item] = deque()
        self._most_callers = threads
        self._queued = TELEMETRY.session_queue_seconds[name]
        self._ran = TELEMETRY.session_run_seconds[name]
        self._batch_size = TELEMETRY.session_batch_size[name]
        TELEMETRY.session_waiting[name].watch(self, lambda session: len(session._waiting))
        self._places = threading.BoundedSemaphore(threads)
        self._change = threading.Condition()
        self._moving = threading.Lock()
        self._closed = False
        self._closing = threading.Lock()
        self._run_seconds = 0.0
        self._last_run = -math.inf
        self._runners = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(runners)
        ]
        self._running = False
        # Runtimes end badly when the interpreter goes away under a thread that is inside of them.
        atexit.register(self.close)

    @property
    def gathers(self) -> bool:
        """Whether requests may share a run: then `run` serves better than `run_here`."""
        return self._max_batch > 1

    async def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """What the model makes of the inputs, by output name. Inputs that have a batch axis have one of size 1.

        Cancelling drops the request if it has not begun to run. Raises Overloaded when the queue is full, EngineFailed
        when the model cannot run on these inputs, and ServiceClosed.
        """
        loop = asyncio.get_running_loop()
        item = _Item(inputs, loop, loop.create_future())
        if self._max_batch > 1:
            item.alike = tuple((name, array.dtype, array.shape) for name, array in inputs.items())
        self._enter(item)
        with TELEMETRY.span("run", model=self.name):
            return await item.waiter

    def run_here(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """As `run`, in this thread: for one that has just prepared the inputs, when nothing is to be gathered.

        Blocks while `threads` others run here. Handing a picture from thread to thread costs two changes of thread and
        the warmth of a core's caches: 4 % of a classifier's time (measured). Raises EngineFailed or ServiceClosed.
        """
        arrived = time.perf_counter()
        with self._places:
            session = self._session
            if self._closed or session is None:
                raise self._closed_error()
            start = time.perf_counter()
            try:
                with TELEMETRY.span("run", model=self.name):
                    outputs = self._outputs(inputs)
            except Exception as error:
                raise self._failed(error) from error
            self._ran.observe(time.perf_counter() - start)
        self._batch_size.observe(1)
        self._queued.observe(start - arrived)
        return outputs

    def close(self) -> None:
        """Fail what waits, let what runs finish, and give threads and memory back. May be called again."""
        with self._change:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._change.notify_all()
        for item in waiting:
            _fail(item, self._closed_error())
        for thread in self._runners if self._running else ():
            thread.join()
        with self._closing:
            for _ in range(self._most_callers):  # those who run in threads of their own
                self._places.acquire()
            self._session = None
            self._places.release(self._most_callers)
        atexit.unregister(self.close)

    def _enter(self, item: _Item) -> None:
        with self._change:
            if self._closed:
                raise self._closed_error()
            if len(self._waiting) >= self._queue:
                self._drop_gone()
            if len(self._waiting) >= self._queue:
                raise self._overloaded()
            self._waiting.append(item)
            if not self._running:
                self._start_runners()
            self._change.notify()

    def _start_runners(self) -> None:
        """At the first request: a session that only runs in its callers' threads needs none."""
        self._running = True
        for thread in self._runners:
            thread.start()

    def _drop_gone(self) -> None:
        here = [item for item in self._waiting if not item.gone]
        self._waiting.clear()
        self._waiting.extend(here)

    def _overloaded(self) -> Overloaded:
        seconds = len(self._waiting) * self._run_seconds / len(self._runners)
        return Overloaded(
            f"Model {self.name} has no room for another request",
            why=f"{len(self._waiting)} are waiting already",
            fix="Try again later, or raise `queue`",
            retry_after_seconds=max(round(seconds, 1), 0.1),
        )

    def _closed_error(self) -> ServiceClosed:
        return ServiceClosed(f"Model {self.name} was closed")

    def _serve(self) -> None:
        """What each runner thread does until the session is closed."""
        while batch := self._next():
            start = time.perf_counter()
            self._answer(batch)
            end = time.perf_counter()
            with self._change:
                self._last_run = end
                # A moving mean over about ten runs.
                each = (end - start) / len(batch)
                self._run_seconds += (each - self._run_seconds) * (0.1 if self._run_seconds else 1.0)
            self._report(batch, start, end)

    def _next(self) -> list[_Item]:
        """The next requests that share a run; empty when the session is closed."""
        with self._change:
            while not self._closed:
                self._skip_gone()
                if not self._waiting:
                    self._change.wait()
                elif (seconds := self._may_wait()) > 0:
                    self._change.wait(seconds)
                elif batch := self._take():
                    return batch
            return []

    def _skip_gone(self) -> None:
        while self._waiting and self._waiting[0].gone:
            self._waiting.popleft()

    def _may_wait(self) -> float:
        """Seconds that the first request may still wait for others to join it."""
        first = self._waiting[0]
        after_pause = first.arrived - self._last_run > self._window
        if self._max_batch == 1 or len(self._waiting) >= self._max_batch or after_pause:
            return 0.0
        return first.arrived + self._window - time.perf_counter()

    def _take(self) -> list[_Item]:
        first = self._waiting.popleft()
        if self._max_batch == 1:
            return [first]
        batch, others = [first], list[_Item]()
        for item in self._waiting:
            fits = len(batch) < self._max_batch and item.alike == first.alike and not item.gone
            (batch if fits else others).append(item)
        self._waiting.clear()
        self._waiting.extend(others)
        return batch

    def _answer(self, batch: list[_Item]) -> None:
        """Run, and hand out answers; a batch that fails is run again one by one, so that one cannot spoil others."""
        try:
            answers = self._run(batch)
        except SensoriumError as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            size = len(batch) // 2 if isinstance(error, OutOfDeviceMemory) else 1
            for start in range(0, len(batch), size):
                self._answer(batch[start : start + size])
            return
        for item, answer in zip(batch, answers, strict=True):
            _settle(item, answer)

    def _run(self, batch: list[_Item]) -> list[Arrays]:
        try:
            return self._gathered(batch) if len(batch) > 1 else [self._outputs(batch[0].inputs)]
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> SensoriumError:
        if isinstance(error, SensoriumError):
            return error
        # Whatever onnxruntime says, these inputs cannot run; its messages begin with tags in brackets.
        why = str(error).rpartition("] : ")[2].strip().splitlines() or [type(error).__name__]
        return EngineFailed(f"Model {self.name} failed", why=why[0])

    def _gathered(self, batch: list[_Item]) -> list[Arrays]:
        import numpy as np

        feed = {name: np.concatenate([item.inputs[name] for item in batch]) for name in batch[0].inputs}
        outputs = self._outputs(feed, len(batch))
        if any(len(array) != len(batch) for array in outputs.values()):
            raise ValueError("it does not give one answer for each input of a batch")
        # Copies: a view would keep its whole batch in memory.
        return [
            {name: array[place : place + 1].copy() for name, array in outputs.items()} for place in range(len(batch))
        ]

    def _outputs(self, feed: Mapping[str, NDArray[np.generic]], size: int = 1) -> Arrays:
        session = self._session
        if session is None:
            raise self._closed_error()
        try:
            return dict(zip(self._names, session.run(None, feed, next(self._turns)), strict=True))
        except Exception as error:
            if self.device == "cpu" or not devices.is_out_of_memory(error):
                raise
            if size > 1:
                raise self._halved(size) from error
            self._leave_the_gpu(session)
        return self._outputs(feed)

    def _halved(self, size: int) -> OutOfDeviceMemory:
        """Gather less from now on; what to raise for the batch that was too large."""
        with self._change:
            self._max_batch = max(1, min(self._max_batch, size // 2))
        TELEMETRY.session_out_of_memory[self.name, self.device].add()
        log.warning("%s: %d at once do not fit into the memory of %s; halved", self.name, size, self.device)
        return OutOfDeviceMemory(f"Model {self.name} ran out of memory on {self.device}", why=f"{size} ran at once")

    def _leave_the_gpu(self, full: Any) -> None:
        """Go on on the processor, unless another thread has seen to it."""
        with self._moving:
            if self._session is not full:
                return
            left = self.device
            error = OutOfDeviceMemory(
                f"Model {self.name} ran out of memory on {left}", fix="It goes on on the processor"
            )
            self._session, self.device = self._open("cpu"), "cpu"
            self._max_batch = 1
            self.skipped = (Skipped(engine=f"{self.name} on {left}", code=error.code, message=str(error)),)
        TELEMETRY.session_out_of_memory[self.name, left].add()
        log.warning("%s", error)

    def _report(self, batch: list[_Item], start: float, end: float) -> None:
        self._batch_size.observe(len(batch))
        self._ran.observe(end - start)
        for item in batch:
            self._queued.observe(start - item.arrived)


def _open(model: Path | bytes, name: str, many_shapes: bool, device: str) -> Any:
    onnxruntime = need("onnxruntime", for_what=f"run model {name}")
    if isinstance(model, Path):
        onnx_file.check(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # An arena is smaller than malloc's leavings (EfficientNet-Lite0 on two threads: 77 MB for 123) and spares its page
    # faults. A memory plan for each size is kept for ever: without, text detection in 34 sizes took 0.32 GB for 0.78.
    options.enable_cpu_mem_arena, options.enable_mem_pattern = True, not many_shapes
    options.log_severity_level = 4  # only what is fatal: errors arrive as exceptions, and become ours
    source = str(model) if isinstance(model, Path) else model
    try:
        return devices.open_session(onnxruntime, source, options, device, many_shapes=many_shapes)
    except DeviceUnavailable:
        raise
    except Exception as error:
        raise InvalidModel(
            f"Model {name} cannot be loaded", why=str(error), fix="Install or export it again"
        ) from error


def _giving_back() -> Any:
    """How to run so that memory which no run uses is let go of afterwards."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def ports(model: Path) -> tuple[Port, ...]:
    """What the model takes. Raises InvalidModel."""
    return _ports(_open(model, model.name, many_shapes=False, device="cpu").get_inputs())


def _ports(nodes: Sequence[Any]) -> tuple[Port, ...]:
    return tuple(Port(node.name, tuple(node.shape), _dtype(node.type)) for node in nodes)


def _dtype(said: str) -> str:
    """NumPy's name for onnxruntime's "tensor(float)" and its like."""
    inside = said.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inside, inside)


def _batches(port: Port) -> bool:
    """Whether the first axis is open, so that it may be a batch's."""
    return bool(port.shape) and not isinstance(port.shape[0], int)


def _settle(item: _Item, answer: Arrays) -> None:
    _tell(item, item.waiter.set_result, answer)


def _fail(item: _Item, error: SensoriumError) -> None:
    _tell(item, item.waiter.set_exception, error)


def _tell(item: _Item, tell: Callable[[Any], None], said: Any) -> None:
    """Have the waiter told in its own loop, unless it has left; a loop that has closed has no waiter left."""
    with suppress(RuntimeError):
        item.loop.call_soon_threadsafe(lambda: None if item.waiter.done() else tell(said))
