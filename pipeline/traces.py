"""The one door to OpenTelemetry: spans, and the trace context that records carry in their headers.

Off, which is the default, nothing of OpenTelemetry is imported, no span is made, and a trace context
that a record carries already is passed on untouched. With `PIPELINE_OTEL_ENDPOINT` the ingest takes the
context of the HTTP request (W3C `traceparent`, `tracestate`) or begins a trace, the record of
`media.uploads` carries it, and every record that the worker makes of that upload carries the same trace.
Sampling, resource attributes, batching and the exporter's headers follow the standard `OTEL_*` variables,
which OpenTelemetry reads itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Protocol

from pipeline.settings import SettingError, Settings

Headers = tuple[tuple[str, bytes], ...]

NAMES: Final = ("traceparent", "tracestate")
LONGEST_BYTES: Final = 1024
"""A longer header is no trace context (W3C: 55 and 512 bytes)."""
PATH: Final = "/v1/traces"
FLUSH_S: Final = 5.0
"""How long a process that ends waits for its last spans to be taken."""


class Stored(Protocol):
    """What a trace needs to know of a stored record."""

    @property
    def topic(self) -> str:
        """Its topic."""

    @property
    def partition(self) -> int:
        """Its partition."""

    @property
    def offset(self) -> int:
        """Its offset."""

    @property
    def headers(self) -> Headers:
        """Its headers."""


def passed_on(stored: Stored) -> Headers:
    """Return the trace context of a record, for the records that are made of it."""
    if not stored.headers:
        return ()
    return tuple(h for h in stored.headers if h[0] in NAMES and len(h[1]) <= LONGEST_BYTES)


class RequestSpan:
    """The span of one HTTP request; this one, of tracing that is off, does nothing."""

    headers: Headers = ()
    """What the request's uploads carry."""

    def answered(self, status: int) -> None:
        """Note the status of the answer."""

    def __enter__(self) -> RequestSpan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the span."""


class BatchSpan:
    """The spans of one batch of one partition; this one, of tracing that is off, does nothing."""

    def headers_of(self, stored: Stored) -> Headers:
        """Return what the records made of this upload carry."""
        return passed_on(stored)

    def step(self, _name: str) -> AbstractContextManager[object]:
        """Return the span of one step of the batch."""
        return _NOTHING

    def __enter__(self) -> BatchSpan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all spans."""


_NOTHING: Final = contextlib.nullcontext()
_NO_REQUEST: Final = RequestSpan()
_NO_BATCH: Final = BatchSpan()


class Traces:
    """Tracing that is off."""

    def request(self, _path: str, _sent: Mapping[str, str]) -> RequestSpan:
        """Return the span of a request with these HTTP headers; it ends with its `with` block."""
        return _NO_REQUEST

    def batch(self, _records: Sequence[Stored]) -> BatchSpan:
        """Return the spans of a batch of uploads; they end with their `with` block."""
        return _NO_BATCH

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""


OFF: Final = Traces()


def open_traces(settings: Settings, service: str) -> Traces:
    """Return the tracing that the settings ask for, or raise `SettingError` when it is not installed."""
    if not settings.otel_endpoint:
        return OFF
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingError(
            f"PIPELINE_OTEL_ENDPOINT is set, but OpenTelemetry is not installed ({error}): install the extra "
            "`otel` (pip install --require-hashes -r requirements/otel.txt), or unset it"
        ) from None
    url = settings.otel_endpoint.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise SettingError(
            f"PIPELINE_OTEL_ENDPOINT must be an http:// or https:// address, not {settings.otel_endpoint!r}"
        )
    exporter = OTLPSpanExporter(endpoint=url if url.endswith(PATH) else url + PATH)
    return OtelTraces(service, BatchSpanProcessor(exporter))


class OtelTraces(Traces):
    """Tracing with OpenTelemetry; `processor` is what takes ended spans."""

    def __init__(self, service: str, processor: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: service}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("pipeline")
        self._propagator = TraceContextTextMapPropagator()

    def request(self, path: str, sent: Mapping[str, str]) -> RequestSpan:
        """Return a span that goes on with the sender's trace, or begins one."""
        span = self._tracer.start_span(
            f"POST {path}",
            self._extracted({name: sent[name] for name in NAMES if name in sent}),
            kind=self._api.SpanKind.SERVER,
            attributes={"http.request.method": "POST", "http.route": path},
        )
        return _OtelRequest(span, self._headers(span))

    def batch(self, records: Sequence[Stored]) -> BatchSpan:
        """Return one span for each upload in its own trace, and one of the batch with links to them."""
        spans = {record.offset: self._upload_span(record) for record in records}
        links = [self._api.Link(span.get_span_context()) for span in spans.values()]
        about: dict[str, Any] = {
            "messaging.batch.message_count": len(records),
            "messaging.destination.partition.id": str(records[0].partition) if records else "",
        }
        whole = self._tracer.start_span("carry batch", links=links, attributes=about)
        headers = {offset: self._headers(span) for offset, span in spans.items()}
        return _OtelBatch(self._api, self._tracer, whole, spans, headers)

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        # Neither keeps to a time of its own: a collector that says nothing would hold the process for long.
        closing = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        closing.start()
        closing.join(FLUSH_S)

    def _upload_span(self, record: Stored) -> Any:
        sent = {name: value.decode("ascii", "replace") for name, value in passed_on(record)}
        about: dict[str, Any] = {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
        }
        return self._tracer.start_span(
            "carry upload", self._extracted(sent), kind=self._api.SpanKind.CONSUMER, attributes=about
        )

    def _extracted(self, sent: Mapping[str, str]) -> Any:
        from opentelemetry.context import Context

        return self._propagator.extract(sent, Context())

    def _headers(self, span: Any) -> Headers:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._api.set_span_in_context(span))
        return tuple((name, carrier[name].encode()) for name in NAMES if name in carrier)


class _OtelRequest(RequestSpan):
    """The span of one HTTP request."""

    def __init__(self, span: Any, headers: Headers) -> None:
        self._span = span
        self.headers = headers

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._span, error)


class _OtelBatch(BatchSpan):
    """The spans of one batch."""

    def __init__(
        self, api: Any, tracer: Any, whole: Any, spans: Mapping[int, Any], headers: Mapping[int, Headers]
    ) -> None:
        self._api = api
        self._tracer = tracer
        self._whole = whole
        self._spans = spans
        self._headers = headers

    def headers_of(self, stored: Stored) -> Headers:
        return self._headers[stored.offset]

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[object]:
        span = self._tracer.start_span(name, self._api.set_span_in_context(self._whole))
        try:
            yield span
        except BaseException as error:
            _end(span, error)
            raise
        _end(span, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for span in (*self._spans.values(), self._whole):
            _end(span, error)


def _end(span: Any, error: BaseException | None) -> None:
    """End a span; of an error only its type is told, since its text may hold what a device sent."""
    if error is not None:
        span.set_attribute("error.type", type(error).__name__)
    span.end()
