"""OpenTelemetry, the only door to it: spans are handed to its exporter, which sends them in a thread of its own."""

import logging
import time
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from rollout.traces.spans import Span

SAID_EVERY_S = 300.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Exporter:
    """Takes spans without waiting: its queue is bounded, and what is too much is dropped.

    Where they go, and how, the OTEL_... variables of the environment say.
    """

    def __init__(self) -> None:
        _silence()
        said = Resource.create({})  # by OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
        unnamed = str(said.attributes.get(SERVICE_NAME)).startswith("unknown_service")
        name = {SERVICE_NAME: "envoy-rollout"} if unnamed else {}
        self._resource = Resource({SERVICE_VERSION: _version()}).merge(said).merge(Resource(name))
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        self._scope = InstrumentationScope("rollout", _version())

    def export(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._processor.on_end(self._made(span))

    def close(self) -> None:
        """Send what there is, and end; it may hang."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # it has no types

    def _made(self, span: Span) -> ReadableSpan:
        parent = None if span.parent is None else _context(span.trace, span.parent)
        return ReadableSpan(
            span.name,
            _context(span.trace, span.id),
            parent,
            self._resource,
            span.attributes,
            [Event(each.name, each.attributes, _nanoseconds(each.at)) for each in span.moments],
            kind=SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.fault) if span.fault else Status(StatusCode.OK),
            start_time=_nanoseconds(span.began),
            end_time=_nanoseconds(span.ended),
            instrumentation_scope=self._scope,
        )


class _Teller(logging.Handler):
    """Tells our log what is wrong with the collector: one that is away is no news at each try."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told_s: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        now_s = time.monotonic()
        if self._told_s is None or now_s - self._told_s >= SAID_EVERY_S:
            self._told_s = now_s
            structlog.get_logger().warning("traces are not delivered", reason=record.getMessage()[:300])


def _silence() -> None:
    """Have the library write nothing to stderr by itself."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_Teller()]


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=_SAMPLED)


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000


def _version() -> str:
    try:
        return metadata.version("envoy-rollout")
    except metadata.PackageNotFoundError:
        return "unknown"
