"""The Service Bus trigger on Azure Functions; replies and dead letters go through the SDK."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import azure.functions as func

from ..connections.named import service_bus, service_bus_name
from ..scoring.runtime import Runtime
from ..telemetry.logs import log
from ..triggers.messages import Answer, QueueMessage, Settlement, listens_to
from ..triggers.outcomes import Health, Scoring
from ..triggers.queue import QueueScoring
from .invocations import TryAgain, in_trace, name_invocation
from .links import Links, NotMoved

# The host renews the lock meanwhile; its own time-out is 5 minutes on the Consumption plan.
_PATIENCE = 240.0


def register(app: func.FunctionApp, runtime: Runtime, scoring: Scoring) -> None:
    """Add the function ``score_message``.

    Raises:
        ConfigurationError: the connection is not set, or is not one.
    """
    settings = runtime.settings
    links = Links(settings, service_bus(settings), runtime.spans)
    runtime.listens["service_bus"] = listens_to(settings)
    health = Health(runtime.troubles, "service_bus")
    handler = _handler(QueueScoring(scoring, links.replies, settings, health, _PATIENCE), links)
    handler = in_trace(handler, runtime)
    common: dict[str, Any] = {
        "arg_name": "message",
        "connection": service_bus_name(settings),
        "data_type": func.DataType.BINARY,  # else the host sends text
    }
    if settings.servicebus_input_subscription:
        decorated = app.service_bus_topic_trigger(
            topic_name=settings.servicebus_input_queue,
            subscription_name=settings.servicebus_input_subscription,
            **common,
        )(handler)
    else:
        decorated = app.service_bus_queue_trigger(
            queue_name=settings.servicebus_input_queue, **common
        )(handler)
    app.function_name("score_message")(decorated)


def _handler(score: QueueScoring, links: Links) -> Callable[..., Any]:
    async def invoke(message: func.ServiceBusMessage, context: func.Context) -> None:
        answer = await score(decoded(message), enter=partial(name_invocation, context))
        if answer.settlement is Settlement.ABANDON:
            raise TryAgain(f"{answer.reason}: {answer.description}")
        if answer.settlement is Settlement.DEAD_LETTER:
            await _dead_letter(links, message, answer)

    return invoke


async def _dead_letter(links: Links, message: func.ServiceBusMessage, answer: Answer) -> None:
    """Move the message with its reason; the host's own completion then finds it gone."""
    said = f"{answer.reason}: {answer.description}"
    try:
        await links.dead_letter(message.lock_token or "", answer.reason, answer.description)
    except NotMoved as error:
        log.warning("%s", error)
        raise TryAgain(said) from error


def decoded(message: func.ServiceBusMessage) -> QueueMessage:
    """The host's message as plain data; its delivery count begins at 1."""
    return QueueMessage(
        message.get_body(),
        message.message_id or "",
        message.correlation_id or "",
        message.content_type or "",
        message.reply_to or "",
        message.reply_to_session_id or "",
        dict(message.application_properties or {}),
        max((message.delivery_count or 1) - 1, 0),
        message.sequence_number or 0,
        enqueued=_seconds(message.enqueued_time_utc),
    )


def _seconds(moment: datetime | None) -> float:
    """Since 1970; the host's moments are of UTC, whether they say so or not."""
    if moment is None:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
