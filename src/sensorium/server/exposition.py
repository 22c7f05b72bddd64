"""Numbers as the text that Prometheus reads, version 0.0.4.

Our own forty lines, held to the parser of prometheus_client by the tests: the package itself would bring a second registry,
second instruments (some microseconds a call) and second files between processes, none of which would be used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sensorium.telemetry import Family, Histograms, Labels, Snapshot

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition(families: Mapping[str, Family[Any]], snapshot: Snapshot) -> bytes:
    """The whole page; families without series are left out."""
    lines = (line for name, told in snapshot.items() if told for line in _family(families[name], told))
    return "".join(f"{line}\n" for line in lines).encode()


def _family(family: Family[Any], told: Mapping[Labels, list[float]]) -> Iterator[str]:
    yield f"# HELP {family.name} {family.meaning}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, numbers in told.items():
        named = [*zip(family.labels, labels, strict=True)]
        if isinstance(family, Histograms):
            yield from _histogram(family, named, numbers)
        else:
            yield _sample(family.name, named, numbers[0])


def _histogram(family: Histograms, named: list[tuple[str, str]], numbers: list[float]) -> Iterator[str]:
    *upto, total = numbers
    for bound, count in zip([*(f"{bound:g}" for bound in family.bounds), "+Inf"], upto, strict=True):
        yield _sample(f"{family.name}_bucket", [*named, ("le", bound)], count)
    yield _sample(f"{family.name}_sum", named, total)
    yield _sample(f"{family.name}_count", named, upto[-1])


def _sample(name: str, named: list[tuple[str, str]], value: float) -> str:
    labels = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in named)
    return f"{name}{{{labels}}} {value!r}" if labels else f"{name} {value!r}"
