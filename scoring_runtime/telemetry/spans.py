"""The spans of one input: receive, cache, queue, run, write; made with OpenTelemetry's SDK.

Whether an input is sampled is decided here, as the SDK's own samplers do, before anything is made
for it: to make a span that is left out takes the SDK longer than all else that happens to a request
of a quick model.

Trace context: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from random import getrandbits
from time import perf_counter, time_ns
from typing import Any, TypeAlias

from opentelemetry import context as contexts
from opentelemetry import trace as api
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)

from ..errors import InputError, NotServing
from ..messages import Headers, Progress, ScoringRequest
from ..release import VERSION
from ..settings.settings import Settings

Attributes: TypeAlias = Mapping[str, str | int | float | bool]
_PARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_Found: TypeAlias = "re.Match[bytes] | None"
_CLOSE_SECONDS = 5.0
_KINDS = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER, "producer": SpanKind.PRODUCER}
host_parent: ContextVar[tuple[bytes, bytes]] = ContextVar("scoring_trace", default=(b"", b""))
"""``traceparent`` and ``tracestate`` of the invocation, where the host of Azure Functions has given
them."""
_drawn: ContextVar[int] = ContextVar("scoring_drawn_trace_id", default=0)


class _Ids(RandomIdGenerator):
    """Gives a trace the id by which it was chosen."""

    def generate_trace_id(self) -> int:
        return _drawn.get() or super().generate_trace_id()


class _LeftOutSpan(NonRecordingSpan):
    """The current span in a run() that is left out: so are the spans of the script."""

    def __init__(self, found: _Found = None) -> None:
        self._found = found

    def get_span_context(self) -> SpanContext:
        """That of the trace that came in, or of one by itself, each time that it is asked for."""
        trace_id = int(self._found[1], 16) if self._found else getrandbits(128)
        return SpanContext(trace_id, getrandbits(64), is_remote=False)


class LeftOut:
    """An input of a trace that is not sampled: what it causes is of that trace too."""

    recorded = False

    def __init__(self, found: re.Match[bytes], state: bytes) -> None:
        self._found, self._state = found, state
        self.trace_id = found[1].decode()

    @property
    def carrier(self) -> dict[str, str]:
        """``traceparent`` for what follows, and ``tracestate`` if there is one."""
        parent = f"00-{self.trace_id}-{getrandbits(64):016x}-00"
        return _carrier(parent, self._state.decode("latin-1"))

    def in_run(self, progress: Progress) -> contexts.Context:
        """The context for run()."""
        return api.set_span_in_context(_LeftOutSpan(self._found), contexts.Context())

    def end(self, attributes: Attributes, error: str = "") -> None:
        """There is nothing to end."""


class Trace:
    """The spans of one input; times are those of ``time.perf_counter()``."""

    recorded = True

    def __init__(self, tracer: api.Tracer, span: Span, zero: int) -> None:
        self._tracer, self._span, self._zero = tracer, span, zero
        self._context = api.set_span_in_context(span, contexts.Context())
        self._run: Span | None = None
        self._running = self._context
        self._asked = 0.0
        self.trace_id = api.format_trace_id(span.get_span_context().trace_id)

    @property
    def carrier(self) -> dict[str, str]:
        """``traceparent`` for what follows, and ``tracestate`` if there is one."""
        return carrier_of(self._span)

    def in_run(self, progress: Progress) -> contexts.Context:
        """The context for run(), in the scoring thread: there the wait in the queue ends."""
        if self._run is None:
            begun = progress.begun or perf_counter()
            self._child("queue", self._asked or progress.received).end(self._ns(begun))
            self._run = self._child("run", begun)
            self._running = api.set_span_in_context(self._run, self._context)
        return self._running

    def asks(self) -> None:
        """The runtime is about to be asked."""
        self._asked = perf_counter()

    def ran(self, attributes: Attributes) -> None:
        """The runtime has answered."""
        self._span.set_attributes(attributes)
        if self._run is not None:
            self._run.set_attributes(attributes)
            self._run.end()

    def failed(self, error: BaseException) -> None:
        """The runtime has given no answer."""
        span = self._run or self._child("queue", self._asked)
        span.set_attribute("error.type", type(error.__cause__ or error).__qualname__)
        if isinstance(error, Exception) and not isinstance(error, InputError):
            span.set_status(StatusCode.ERROR, str(error))
            if not isinstance(error, NotServing):
                span.record_exception(error.__cause__ or error)
        span.end()

    def looked_up(self, began: float, result: str) -> None:
        """The cache was asked: until it had the answer, or the runtime was asked."""
        span = self._child("cache", began)
        span.set_attribute("scoring.cache.result", result)
        span.end(self._ns(self._asked) if self._asked >= began else None)

    def end(self, attributes: Attributes, error: str = "") -> None:
        """The input is answered; ``error`` says what kind of failure it is, if it is one."""
        self._span.set_attributes(attributes)
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _child(self, name: str, began: float) -> Span:
        return self._tracer.start_span(name, self._context, start_time=self._ns(began))

    def _ns(self, moment: float) -> int:
        return self._zero + int(moment * 1e9)


Begin: TypeAlias = Callable[[str, str, float, Callable[[], Attributes]], LeftOut | Trace]
"""Begins a trace: name and kind of its first span, when it was received, what gives attributes."""


class Spans:
    """What makes spans, and sends them in threads of its own.

    Args:
        settings: where spans go, the names of the service.
        share: of the traces that begin here, how many are sampled, 0 to 1.
        follows: whether others are sampled where they began.
        otlp: whether they are sent by OTLP.
        app_insights: the connection string of Application Insights, if they are sent there.
    """

    def __init__(
        self, settings: Settings, share: float, follows: bool, *, otlp: bool, app_insights: str
    ) -> None:
        self._follows = follows
        root = TraceIdRatioBased(share)
        self._bound = root.bound
        resource = _resource(settings)
        sampler = ParentBased(root) if self._follows else root
        self._provider = TracerProvider(sampler, resource, id_generator=_Ids())
        self.details: Callable[[dict[bytes, bytes], Any], Attributes] | None = None
        """What Application Insights are told of an answer besides: of its headers and body."""
        self._closing: list[Callable[[], object]] = [self._provider.shutdown]
        if otlp:
            self._provider.add_span_processor(BatchSpanProcessor(_otlp_exporter(settings)))
        if app_insights:
            from . import app_insights as azure

            exporter = azure.exporter(app_insights)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._closing.append(azure.send_lines(app_insights, resource))
            self.details = partial(azure.details, settings)
        api.set_tracer_provider(self._provider)  # for the spans of scripts
        self._tracer = self._provider.get_tracer("scoring_runtime", VERSION)
        self._left_out = api.set_span_in_context(_LeftOutSpan(), contexts.Context())

    def begin_of(self, headers: Headers) -> Begin | None:
        """What begins the trace of an input; None when it is left out and no trace came with it."""
        said = dict(headers)
        parent = said.get(b"traceparent") or said.get(b"diagnostic-id", b"")
        state = said.get(b"tracestate", b"")
        of_host = host_parent.get()
        if of_host[0] and (not parent or parent[3:35] == of_host[0][3:35]):
            parent, state = of_host
        found = _PARENT.fullmatch(parent) if parent else None
        drawn = getrandbits(64)
        if not self._leaves_out(found, drawn):
            return partial(self._begun, found, state, drawn)
        return None if found is None else lambda *_: LeftOut(found, state)

    def entering(self, began: Callable[[ScoringRequest], Any]) -> Callable[[ScoringRequest], None]:
        """``began`` of a runtime; then the spans that run() makes are those of its request."""

        def entered(request: ScoringRequest) -> None:
            began(request)
            progress = request.progress
            trace = None if progress is None else progress.trace
            context = self._left_out if trace is None else trace.in_run(progress)
            contexts.attach(context)  # until the next one in this thread, or the end of its task

        return entered

    @contextmanager
    def write(
        self, carrier: Mapping[str, Any], name: str, attributes: Attributes
    ) -> Iterator[dict[str, str]]:
        """A span of what is written for an input, whose trace ``carrier`` has; what goes with it.

        There is no span where that trace is not sampled, or ``carrier`` has none.
        """
        parent = _PARENT.fullmatch(str(carrier.get("traceparent", "")).encode())
        if parent is None or not int(parent[3], 16) & 1:
            yield {}
            return
        context = _remote(parent, str(carrier.get("tracestate", "")))
        span = self._tracer.start_span(name, context, SpanKind.PRODUCER, attributes)
        try:
            yield carrier_of(span)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR, str(error))
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what waits, for some seconds at most."""
        threads = [threading.Thread(target=each, daemon=True) for each in self._closing]
        for each in threads:
            each.start()
        until = perf_counter() + _CLOSE_SECONDS
        for each in threads:
            each.join(max(0.0, until - perf_counter()))

    def _leaves_out(self, found: _Found, drawn: int) -> bool:
        if found is None:
            return drawn >= self._bound
        if self._follows:
            return not int(found[3], 16) & 1
        return int(found[1][16:], 16) >= self._bound

    def _begun(
        self,
        found: _Found,
        state: bytes,
        drawn: int,
        name: str,
        kind: str,
        received: float,
        attributes: Callable[[], Attributes],
    ) -> Trace:
        zero = time_ns() - int(perf_counter() * 1e9)
        token = _drawn.set(getrandbits(64) << 64 | drawn)
        try:
            span = self._tracer.start_span(
                name,
                _remote(found, state.decode("latin-1")),
                _KINDS[kind],
                attributes(),
                start_time=zero + int(received * 1e9),
            )
        finally:
            _drawn.reset(token)
        return Trace(self._tracer, span, zero)


def _remote(found: _Found, state: str) -> contexts.Context:
    if found is None:
        return contexts.Context()
    flags = TraceFlags(int(found[3], 16))
    states = api.TraceState.from_header([state])
    parent = SpanContext(int(found[1], 16), int(found[2], 16), True, flags, states)
    return api.set_span_in_context(NonRecordingSpan(parent), contexts.Context())


def carrier_of(span: Span) -> dict[str, str]:
    """``traceparent`` for what a span causes, and ``tracestate`` if there is one."""
    of = span.get_span_context()
    ids = f"{api.format_trace_id(of.trace_id)}-{api.format_span_id(of.span_id)}"
    return _carrier(f"00-{ids}-{of.trace_flags:02x}", of.trace_state.to_header())


def _carrier(parent: str, state: str) -> dict[str, str]:
    return {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}


def _resource(settings: Settings) -> Resource:
    """OTEL_RESOURCE_ATTRIBUTES, and the name of the service."""
    found = Resource.create({SERVICE_VERSION: VERSION})
    name = settings.otel_service_name
    if not name and str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        is_said = "service_name" in settings.sources
        name = settings.service_name if is_said else "scoring-runtime"
    return found.merge(Resource({SERVICE_NAME: name})) if name else found


def _otlp_exporter(settings: Settings) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = settings.otlp_endpoint.rstrip("/")
    endpoint = settings.otlp_traces_endpoint or (f"{base}/v1/traces" if base else None)
    return OTLPSpanExporter(endpoint=endpoint)
