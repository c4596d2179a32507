"""The span of an HTTP request, around an endpoint; of health, metrics and pages there is none.

Attributes: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from ..messages import Progress, ScoringRequest, ScoringResponse
from ..settings.secrets import masked_query
from ..telemetry.logs import note_trace
from .messages import Handle, HttpRequest, Reply

if TYPE_CHECKING:
    from ..telemetry.spans import Begin, Spans

Answer: TypeAlias = Callable[[ScoringRequest], Awaitable[tuple[ScoringResponse, int]]]
"""Scores an input for which nobody waits: its answer, and as what it is counted."""
_ROUTES = {
    "/score/": "/score/{name}/{version}",
    "/v2/models/": "/v2/models/{path}",
    "/inputs/": "/inputs/{key}",
}


def with_spans(handle: Handle, spans: Spans) -> Handle:
    """``handle`` with a span for each request, which the answer's ``traceresponse`` names.

    That header is what the W3C drafts for answers, in the form of ``traceparent``: the latter is
    for requests alone. https://w3c.github.io/trace-context/#traceresponse-header
    """

    # Not a coroutine of its own: this is on the way of every request.
    def handled(request: HttpRequest) -> Awaitable[Reply]:
        route = request.path if request.path == "/score" else _route(request.path)
        begin = spans.begin_of(request.headers) if route else None
        return handle(request) if begin is None else spanned(request, route, begin)

    async def spanned(request: HttpRequest, route: str, begin: Begin) -> Reply:
        progress = request.progress
        if progress is None:
            progress = Progress()
            progress.received = perf_counter()
            request = request._replace(progress=progress)
        asked = partial(_asked, request, route)
        trace = begin(f"{request.method} {route}", "server", progress.received, asked)
        progress.trace = trace
        try:
            reply = await handle(request)
        except BaseException as error:
            trace.end({}, type(error).__qualname__)
            raise
        reply.headers.append((b"traceresponse", trace.carrier["traceparent"].encode()))
        return ended(reply, trace) if trace.recorded else reply

    def ended(reply: Reply, trace: Any) -> Reply:
        said = dict(reply.headers)
        request_id = said.get(b"x-request-id", b"").decode("latin-1")
        note_trace(request_id, trace.trace_id)  # of one that was not scored, too
        attributes: dict[str, Any] = {"http.response.status_code": reply.status}
        attributes["scoring.request_id"] = request_id
        if spans.details is not None:
            attributes |= spans.details(said, reply.body)
        failure = str(reply.status) if reply.status >= 500 else ""
        if isinstance(reply.body, bytes):
            trace.end(attributes, failure)
            return reply
        return reply._replace(body=_Stream(reply.body, lambda: trace.end(attributes, failure)))

    return handled


def with_later_spans(answer: Answer, spans: Spans) -> Answer:
    """``answer``, with a span for each input in the trace of the request that was accepted."""

    async def answered(request: ScoringRequest) -> tuple[ScoringResponse, int]:
        begin, progress = spans.begin_of(request.headers), request.progress
        if begin is None or progress is None:
            return await answer(request)
        about = {"scoring.request_id": request.request_id}
        name = f"later {_route(request.path) or request.path}"
        trace = begin(name, "consumer", progress.received, lambda: about)
        progress.trace = trace
        try:
            response, outcome = await answer(request)
        except BaseException as error:
            trace.end({}, type(error).__qualname__)
            raise
        failure = str(response.status) if response.status >= 500 else ""
        trace.end({"http.response.status_code": response.status}, failure)
        return response, outcome

    return answered


class _Stream(Iterator[bytes]):
    """A body, after whose last part ``end`` is called, once."""

    def __init__(self, body: Iterator[bytes], end: Callable[[], object]) -> None:
        self._body = body
        self._ends = [end]

    def __next__(self) -> bytes:
        try:
            return next(self._body)
        except BaseException:
            self._ended()
            raise

    def close(self) -> None:
        """End it, though not all of it was made."""
        try:
            close: Callable[[], object] = getattr(self._body, "close", int)
            close()
        finally:
            self._ended()

    def _ended(self) -> None:
        while self._ends:
            self._ends.pop()()


def _route(path: str) -> str:
    for start, route in _ROUTES.items():
        if path.startswith(start):
            return route
    return path if path in ("/swagger.json", "/v2") else ""


def _asked(request: HttpRequest, route: str) -> dict[str, Any]:
    headers = dict(request.headers)
    host, _, port = headers.get(b"host", b"").decode("latin-1").rpartition(":")
    found: dict[str, Any] = {
        "http.request.method": request.method,
        "http.route": route,
        "url.scheme": request.scheme,
        "url.path": request.path,
        "url.query": masked_query(request.query.decode("latin-1")) if request.query else "",
        "server.address": host or port,
        "client.address": request.client,
        "user_agent.original": headers.get(b"user-agent", b"").decode("latin-1"),
        "http.request.body.size": len(request.body or b""),
    }
    if host and port.isdecimal():
        found["server.port"] = int(port)
    return {name: value for name, value in found.items() if value != ""}
