"""The spans of what is scored: cache, queue and run; wrappers of the same shape as ``score``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from ..messages import Score, ScoringRequest, ScoringResponse
from ..telemetry.logs import note_trace
from .runtime import Runtime

_Spanned = Callable[[ScoringRequest, Any], Awaitable[ScoringResponse]]


def with_run_spans(runtime: Runtime) -> Score:
    """The runtime's ``score``, with spans for the wait in the queue and for run()."""

    async def spanned(request: ScoringRequest, trace: Any) -> ScoringResponse:
        trace.asks()
        try:
            response = await runtime.score(request)
        except BaseException as error:
            trace.failed(error)
            raise
        trace.ran(_about(response, runtime, request.model))
        return response

    return _where_traced(runtime.score, spanned)


def with_cache_spans(score: Score) -> Score:
    """``score``, which asks a cache first, with a span for that."""

    async def spanned(request: ScoringRequest, trace: Any) -> ScoringResponse:
        began, result = perf_counter(), "none"
        try:
            response = await score(request)
            said = (value for name, value in response.headers if name == b"x-cache")
            result = next(said, b"none").decode("latin-1")
            return response
        finally:
            trace.looked_up(began, result)

    return _where_traced(score, spanned)


def _where_traced(score: Score, spanned: _Spanned) -> Score:
    # Not a coroutine of its own: this is on the way of every request.
    def scored(request: ScoringRequest) -> Awaitable[ScoringResponse]:
        trace = None if request.progress is None else request.progress.trace
        if trace is None:
            return score(request)
        note_trace(request.request_id, trace.trace_id)
        return spanned(request, trace) if trace.recorded else score(request)

    return scored


def _about(response: ScoringResponse, runtime: Runtime, wanted: str) -> dict[str, str | int]:
    model = runtime.model("" if runtime.has_script else wanted)
    found: dict[str, str | int] = {
        "scoring.model.name": model.name,
        "scoring.model.version": model.version,
    }
    for name, value in response.headers:
        if name == b"x-batch-size":
            found["scoring.batch.size"] = int(value)
    return found
