"""What the process has done, in numbers, spans and trace ids: kept here, told to the outside by the server.

    telemetry.requests["classify", "ok"].add()
    runs = telemetry.session_run_seconds["efficientnet_lite0@1"]
    runs.observe(0.005)

A call costs a tenth of a microsecond, since it only puts a number aside: they are added up by the hundred, or when
somebody looks. Every label has few values, none of them a client's own words.
"""

from __future__ import annotations

import os
import random
import threading
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, ClassVar, Generic, Protocol, TypeVar

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of times: the customary ones of Prometheus, with two below and two above."""
LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 86400.0)
"""Upper bounds of the buckets of times that people do not wait for."""
SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Upper bounds of the buckets of batch sizes."""

RATIOS = (0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)
"""Upper bounds of the buckets of ratios, close around 1."""

MOST_FRESH = 256
"""Numbers of one series that are put aside before they are added up."""
MOST_SERIES = 1000
"""Of one family. Models may come and go for ever: those above it share one series, labelled `other`."""

Labels = tuple[str, ...]
Snapshot = dict[str, dict[Labels, list[float]]]
"""By family and labels, in the order of the family's label names: what a series' `numbers` are. JSON-ready but for the keys."""

Watched = TypeVar("Watched")


class Series:
    """One family's numbers for one set of labels. Safe from any thread, and from code that interrupts another."""

    __slots__ = ("_fresh", "_lock")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start from nothing."""
        self._fresh: deque[float] = deque()
        self._lock = threading.Lock()

    def numbers(self) -> list[float]:
        """All that was put in, in a form in which those of several processes can be added, number by number."""
        with self._lock:
            self._fold()
            return self._told()

    def _put(self, number: float = 1) -> None:
        # Appending is atomic, and so needs no lock, which costs three times as much (measured).
        self._fresh.append(number)
        if len(self._fresh) >= MOST_FRESH and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def _drained(self) -> list[float]:
        """Only who holds the lock takes out: as many as were there can be taken."""
        return [self._fresh.popleft() for _ in range(len(self._fresh))]

    def _fold(self) -> None:
        raise NotImplementedError

    def _told(self) -> list[float]:
        raise NotImplementedError


class Sum(Series):
    """What was added, and what others say when they are asked."""

    __slots__ = ("_total", "_watched")

    def __init__(self) -> None:
        super().__init__()
        self._watched: weakref.WeakKeyDictionary[Any, Callable[[Any], float]] = weakref.WeakKeyDictionary()

    def forget(self) -> None:
        super().forget()
        self._total: float = 0

    def watch(self, owner: Watched, read: Callable[[Watched], float]) -> None:
        """From now on add what `read(owner)` says, for as long as the owner lives. Costs nothing until somebody looks."""
        with self._lock:
            self._watched[owner] = read

    @property
    def value(self) -> float:
        return self.numbers()[0]

    def _fold(self) -> None:
        self._total += sum(self._drained())

    def _told(self) -> list[float]:
        return [self._total + sum(read(owner) for owner, read in self._watched.items())]


class Counter(Sum):
    """How often something happened, or how much of it; never goes back."""

    __slots__ = ()

    add = Series._put  # itself: one more call would cost as much again


class Gauge(Sum):
    """How much there is now."""

    __slots__ = ()


class Histogram(Series):
    """How often values came, by size."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        super().__init__()

    def forget(self) -> None:
        super().forget()
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    observe = Series._put

    @property
    def count(self) -> float:
        return self.numbers()[-2]

    def _fold(self) -> None:
        values = sorted(self._drained())  # once, so that a search a bound tells how many there are up to it
        upto = [*(bisect_right(values, bound) for bound in self._bounds), len(values)]
        self._counts = [before + new for before, new in zip(self._counts, upto, strict=True)]
        self._total += sum(values)

    def _told(self) -> list[float]:
        """How many values there are up to each bound; how many in all; their sum."""
        return [*self._counts, self._total]


S = TypeVar("S", bound=Series)


class Family(dict[str | Labels, S], Generic[S]):
    """The series of one name, by their labels: one text where there is one label, `()` where there is none."""

    kind: ClassVar[str]

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        super().__init__()
        self.name, self.meaning, self.labels = name, meaning, labels

    def __missing__(self, key: str | Labels) -> S:
        if len(_labels(key)) != len(self.labels):
            raise TypeError(f"{self.name} has the labels {self.labels}; got {key!r}")
        if len(self) >= MOST_SERIES:
            key = ("other",) * len(self.labels)
        return self.setdefault(key, self._new())

    def numbers(self) -> dict[Labels, list[float]]:
        """Those of every series, by labels."""
        return {_labels(key): series.numbers() for key, series in self.copy().items()}

    def combined(self, numbers: Iterable[list[float]]) -> list[float]:
        """What several processes tell of one series, as one."""
        return [sum(column) for column in zip(*numbers, strict=True)]

    @property
    def width(self) -> int:
        """How many numbers a series has."""
        return 1

    def _new(self) -> S:
        raise NotImplementedError


class Counters(Family[Counter]):
    kind = "counter"

    def _new(self) -> Counter:
        return Counter()

    def sum(self, **labels: str) -> float:
        """That of all series which carry these labels."""
        wanted = [(self.labels.index(name), value) for name, value in labels.items()]
        return sum(told[0] for key, told in self.numbers().items() if all(key[at] == value for at, value in wanted))


class Gauges(Family[Gauge]):
    kind = "gauge"

    def __init__(self, name: str, meaning: str, *labels: str, of_all: Callable[[Iterable[float]], float] = sum) -> None:
        super().__init__(name, meaning, *labels)
        self._of_all = of_all

    def _new(self) -> Gauge:
        return Gauge()

    def combined(self, numbers: Iterable[list[float]]) -> list[float]:
        return [self._of_all(column) for column in zip(*numbers, strict=True)]


class Histograms(Family[Histogram]):
    kind = "histogram"

    def __init__(self, name: str, meaning: str, *labels: str, bounds: tuple[float, ...] = SECONDS) -> None:
        super().__init__(name, meaning, *labels)
        self.bounds = bounds

    @property
    def width(self) -> int:
        return len(self.bounds) + 2

    def _new(self) -> Histogram:
        return Histogram(self.bounds)


class Tracer(Protocol):
    """What makes spans, where tracing is configured."""

    def span(self, name: str, parent: str | None, attributes: dict[str, Any]) -> Any:
        """A context manager that gives an OpenTelemetry span; `parent` is a `traceparent` header."""


class Telemetry:
    """Every family there is. docs/operations.md lists them, in this order."""

    def __init__(self) -> None:
        self.requests = Counters(
            "sensorium_requests_total",
            "Requests by task and outcome: `ok`, `cancelled`, or an error's code. Parts of composed tasks count too.",
            *("task", "code"),
        )
        self.request_seconds = Histograms(
            "sensorium_request_seconds", "From a request's arrival to its outcome, waiting included.", "task"
        )
        self.requests_in_progress = Gauges("sensorium_requests_in_progress", "Requests being worked on.")
        self.admission_waiting = Gauges(
            "sensorium_admission_waiting_requests", "Requests in line until they may be worked on."
        )
        self.admission_wait_seconds = Histograms(
            "sensorium_admission_wait_seconds", "How long requests stood in line; 0 for those let in at once."
        )
        self.cache_lookups = Counters(
            "sensorium_cache_lookups_total", "Answers looked for in the cache: `hit` or `miss`.", "task", "outcome"
        )
        self.cache_errors = Counters(
            "sensorium_cache_errors_total", "Failures to read or write the cache; the answer is worked out.", "task"
        )
        self.decode_seconds = Histograms("sensorium_decode_seconds", "How long pictures took to decode.")
        self.pixels = Gauges("sensorium_pixels_used", "Decoded pixels alive, of those that `pixel_budget` allows.")
        self.session_queue_seconds = Histograms(
            "sensorium_session_queue_seconds", "How long prepared inputs waited for their model to be free.", "model"
        )
        self.session_run_seconds = Histograms(
            "sensorium_session_run_seconds", "How long a model ran on a batch.", "model"
        )
        self.session_batch_size = Histograms(
            "sensorium_session_batch_size", "Inputs that shared a run of a model.", "model", bounds=SIZES
        )
        self.session_waiting = Gauges(
            "sensorium_session_waiting_requests", "Prepared inputs that wait for their model to be free.", "model"
        )
        self.session_out_of_memory = Counters(
            "sensorium_session_out_of_memory_total",
            "How often a graphics card's memory did not suffice: batches were halved, or the model went to the processor.",
            *("model", "device"),
        )
        self.model_loaded = Gauges(
            "sensorium_model_loaded", "In how many processes the model is in memory; 0 when it is known only.", "model"
        )
        self.model_load_seconds = Histograms("sensorium_model_load_seconds", "How long a model took to load.", "model")
        self.model_changes = Counters(
            "sensorium_model_changes_total",
            "Changes of models while the server ran: `taken`, or `refused` because what lay in the folder would not do.",
            *("model", "outcome"),
        )
        self.provider_attempts = Counters(
            "sensorium_provider_attempts_total",
            "Times that a remote model was asked, by outcome: `ok`, `cancelled`, or an error's code.",
            *("model", "code"),
        )
        self.provider_retries = Counters(
            "sensorium_provider_retries_total", "Those of them that followed a failure, by its code.", "model", "code"
        )
        self.provider_estimate = Histograms(
            "sensorium_provider_estimate_ratio",
            "Input tokens as estimated before the request, by those billed: 1 is exact.",
            "model",
            bounds=RATIOS,
        )
        self.circuit_state = Gauges(
            "sensorium_circuit_state",
            "Whether a provider is asked: 0 closed, as usual; 1 half open, on trial; 2 open, left alone.",
            "domain",
            of_all=max,
        )
        self.circuit_openings = Counters(
            "sensorium_circuit_openings_total", "How often a provider was left alone because it failed.", "domain"
        )
        self.quota_waiting = Gauges(
            "sensorium_quota_waiting_requests", "Requests in line until their provider's limits allow them.", "domain"
        )
        self.quota_wait_seconds = Histograms(
            "sensorium_quota_wait_seconds",
            "How long requests stood in that line; 0 for those let through at once.",
            "domain",
        )
        self.quota_refusals = Counters(
            "sensorium_quota_refusals_total",
            "Requests that would have waited too long (`ours`), or that the provider itself refused with 429 (`theirs`).",
            *("domain", "whose"),
        )
        self.quota_errors = Counters(
            "sensorium_quota_errors_total",
            "Failures to reach the shared ledger of limits; they are then kept without it.",
            "ledger",
        )
        self.http_requests = Counters(
            "sensorium_http_requests_total",
            "HTTP requests by route and status; 499: the client left before the answer.",
            *("route", "status"),
        )
        self.http_request_seconds = Histograms(
            "sensorium_http_request_seconds", "From an HTTP request's head to the end of its answer.", "route"
        )
        self.upload_bytes = Counters("sensorium_http_upload_bytes_total", "Bytes of bodies received.")
        self.workers = Gauges("sensorium_workers", "Processes that serve.")
        self.build = Gauges(
            "sensorium_build_info", "Always 1; what runs is in the labels.", "version", "python", of_all=max
        )
        self.process_cpu = Counters("process_cpu_seconds_total", "Processor time, user and system, in seconds.")
        self.process_memory = Gauges(
            "process_resident_memory_bytes", "Resident memory in bytes; what processes share counts in each."
        )
        self.process_open_fds = Gauges("process_open_fds", "Open file descriptors.")
        self.process_max_fds = Gauges(
            "process_max_fds", "The most file descriptors that one process may open.", of_all=min
        )
        self.process_start = Gauges(
            "process_start_time_seconds", "When the oldest process started, in seconds since 1970.", of_all=min
        )
        self.tokens = Counters(
            "sensorium_tokens_total",
            "Tokens that models took: `input`, and how many of those were `cached` by the provider; and `output`.",
            *("model", "direction"),
        )
        self.cost = Counters(
            "sensorium_cost_usd_total", "What answers cost in US dollars, as far as prices are known.", "model"
        )
        self.unpriced_answers = Counters(
            "sensorium_unpriced_answers_total", "Answers that took tokens whose price is not known.", "model"
        )
        self.budget_refusals = Counters(
            "sensorium_budget_refusals_total", "Requests refused because a key's budget had no room for them."
        )
        self.usage_errors = Counters(
            "sensorium_usage_errors_total", "Failures to write what callers used; it is written later."
        )
        self.stream_bytes = Gauges(
            "sensorium_stream_kept_bytes", "Bytes of streamed answers in memory, kept for readers that come back."
        )
        self.stream_errors = Counters(
            "sensorium_stream_errors_total", "Failures to write streamed answers to the file that workers share."
        )
        self.jobs = Gauges(
            "sensorium_jobs", "Jobs that wait (`waiting`) or are worked on (`running`).", "state", of_all=max
        )
        self.job_items = Gauges("sensorium_job_items", "Items of jobs that have no outcome yet.", of_all=max)
        self.jobs_finished = Counters(
            "sensorium_jobs_finished_total", "Jobs that ended: `done`, `failed` or `cancelled`.", "task", "state"
        )
        self.job_seconds = Histograms(
            "sensorium_job_seconds", "From a job's submission to its end.", "task", bounds=LONG_SECONDS
        )
        self.webhook_calls = Counters(
            "sensorium_webhook_calls_total",
            "Calls that tell of a job's end: `delivered`, `failed`, or `given_up` when it was the last.",
            "outcome",
        )
        self.job_worker_deaths = Counters(
            "sensorium_job_worker_deaths_total", "Processes that worked on jobs and died."
        )
        self.tracer: Tracer | None = None

    def families(self) -> dict[str, Family[Any]]:
        """By name."""
        return {one.name: one for one in vars(self).values() if isinstance(one, Family)}

    def snapshot(self) -> Snapshot:
        """All numbers now."""
        return {name: family.numbers() for name, family in self.families().items()}

    def span(self, name: str, parent: str | None = None, **attributes: str) -> Any:
        """A context manager: the block shows up in traces under this name. It gives the span, or None when there are none."""
        return _NO_SPAN if self.tracer is None else self.tracer.span(name, parent, attributes)

    def forget(self) -> None:
        """Start from nothing, as a forked child must: what its parent counted is the parent's."""
        for family in self.families().values():
            for series in family.copy().values():
                series.forget()


class _NoSpan:
    """Half as dear as `contextlib.nullcontext`."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


_NO_SPAN = _NoSpan()

TELEMETRY = Telemetry()
"""The process's own; every part of sensorium reports here."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TELEMETRY.forget)

TRACE: ContextVar[str] = ContextVar("trace", default="")
"""The id of the HTTP request that is being answered; empty outside of one."""


def new_trace() -> str:
    """A fresh trace id: 32 hex digits, as W3C Trace Context writes them. Not secret: from no call to the system."""
    return f"{random.getrandbits(128):032x}"


def _labels(key: str | Labels) -> Labels:
    return key if isinstance(key, tuple) else (key,)
