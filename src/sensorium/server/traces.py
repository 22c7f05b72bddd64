"""Spans for OpenTelemetry, where an address for them is set."""

from __future__ import annotations

from typing import Any

import sensorium
from sensorium.dependencies import need
from sensorium.telemetry import TRACE, Telemetry, new_trace

HEX = frozenset("0123456789abcdef")


class Traces:
    """Makes spans and sends them off in a thread of its own, until it is closed."""

    def __init__(self, endpoint: str) -> None:
        """Raises MissingDependency without the extra `otel`."""
        exporters = need("opentelemetry.exporter.otlp.proto.http.trace_exporter", for_what="send traces")
        processors = need("opentelemetry.sdk.trace.export", for_what="send traces")
        self.provider = _provider()
        self.provider.add_span_processor(processors.BatchSpanProcessor(exporters.OTLPSpanExporter(endpoint)))
        self._telemetry: Telemetry | None = None

    def open(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        telemetry.tracer = _Tracer(self.provider)

    def close(self) -> None:
        """Send what is left; blocks."""
        if self._telemetry:
            self._telemetry.tracer = None
        self.provider.shutdown()


def _provider() -> Any:
    sdk = need("opentelemetry.sdk.trace", for_what="trace requests")
    resources = need("opentelemetry.sdk.resources", for_what="trace requests")
    named = {"service.name": "sensorium", "service.version": sensorium.__version__}
    return sdk.TracerProvider(resource=resources.Resource.create(named), id_generator=_Ids())


class _Ids:
    """As the SDK's generators; but a trace has the id that answers and logs carry."""

    def generate_span_id(self) -> int:
        return int(new_trace()[16:], 16) or 1

    def generate_trace_id(self) -> int:
        return int(_hexadecimal(TRACE.get()), 16)

    def is_trace_id_random(self) -> bool:
        return False


def _hexadecimal(trace: str) -> str:
    """A client's own id need not be 32 hex digits, which OpenTelemetry's are."""
    return trace if len(trace) == 32 and HEX.issuperset(trace) and trace.strip("0") else new_trace()


class _Tracer:
    """As `telemetry.Tracer`."""

    def __init__(self, provider: Any) -> None:
        propagation = need("opentelemetry.trace.propagation.tracecontext", for_what="trace requests")
        self._parents = propagation.TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("sensorium", sensorium.__version__)

    def span(self, name: str, parent: str | None, attributes: dict[str, Any]) -> Any:
        context = self._parents.extract({"traceparent": parent}) if parent else None
        named = {f"sensorium.{key}": value for key, value in attributes.items()}
        return self._tracer.start_as_current_span(name, context=context, attributes=named)
