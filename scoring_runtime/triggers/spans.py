"""The spans of a blob or a message: scored, and its document written; wrappers, there or not.

What follows continues the trace by what it is given anyhow: the properties of a reply, the metadata
of a document.
Attributes: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ and …/faas/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ..messages import ScoringRequest
from ..settings.settings import Settings
from ..telemetry.logs import note_trace
from ..telemetry.metrics import FAILED

if TYPE_CHECKING:
    from ..telemetry.spans import Spans

Try = Callable[[ScoringRequest], Awaitable[Any]]
"""One try of an input, whose outcome has ``kind``, ``reason``, ``status`` and ``trace``."""
Put = Callable[[Any, Any], Awaitable[None]]
"""Writes a document, which has ``name`` and ``metadata``, by a claim."""


def with_spans(score: Try, spans: Spans, trigger: str, settings: Settings) -> Try:
    """``score`` with a span for each input; its outcome says what continues the trace."""
    of_trigger = _of_message if trigger == "service_bus" else _of_blob

    async def scored(request: ScoringRequest) -> Any:
        begin = spans.begin_of(request.headers)
        if begin is None:
            return await score(request)
        assert request.progress is not None
        attributes = {**of_trigger(request, settings), "scoring.request_id": request.request_id}
        name = f"process {attributes[_DESTINATION[trigger]]}"
        trace = begin(name, "consumer", request.progress.received, lambda: attributes)
        request.progress.trace = trace
        note_trace(request.request_id, trace.trace_id)
        try:
            outcome = await score(request)
        except BaseException as error:
            trace.end({}, type(error).__qualname__)
            raise
        failure = outcome.reason if outcome.kind >= FAILED else ""
        trace.end({"scoring.status": outcome.status}, failure)
        return outcome._replace(trace=trace.carrier)

    return scored


def with_write_span(put: Put, spans: Spans) -> Put:
    """``put`` with a span for each document whose metadata name a trace that is sampled."""

    async def written(claim: Any, document: Any) -> None:
        container, _, name = document.name.partition("/")
        attributes = {"az.namespace": "Microsoft.Storage", "scoring.document": name}
        with spans.write(document.metadata, f"write {container}", attributes) as carrier:
            await put(claim, document._replace(metadata={**document.metadata, **carrier}))

    return written


_DESTINATION = {"service_bus": "messaging.destination.name", "blob": "faas.document.collection"}


def _of_message(request: ScoringRequest, settings: Settings) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "messaging.system": "servicebus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": settings.servicebus_input_queue,
        "messaging.message.id": request.request_id,
        "messaging.message.body.size": len(request.body),
    }
    if settings.servicebus_input_subscription:
        name = "messaging.destination.subscription.name"
        found[name] = settings.servicebus_input_subscription
    return found


def _of_blob(request: ScoringRequest, settings: Settings) -> dict[str, str | int]:
    path = unquote(request.header(b"x-blob-name").decode("latin-1"))
    container, _, name = path.partition("/")
    return {
        "faas.trigger": "datasource",
        "faas.document.collection": container,
        "faas.document.operation": "insert",
        "faas.document.name": name,
        "scoring.body.size": len(request.body),
    }
