"""The Service Bus trigger on Azure Functions, and links to Service Bus beside the host's own.

The host's Python binding can only complete or abandon a message; replies and dead letters go
through the SDK. The broker settles by lock token whoever asks for it on the entity's management
node, so a message that can never be scored is dead-lettered there, with its reason; the host's own
completion finds it gone and only logs that.
Source: https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-request-response#message-update-disposition
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import azure.functions as func
from azure.servicebus.exceptions import MessageLockLostError

from ..connections.named import service_bus, service_bus_name
from ..connections.service_bus import client_of, receiver_of
from ..scoring.runtime import Runtime
from ..telemetry.logs import log
from ..triggers.messages import Answer, QueueMessage, Settlement, listens_to
from ..triggers.outcomes import Health, Scoring
from ..triggers.queue import QueueScoring
from ..triggers.replies import replies_of
from .invocations import TryAgain, in_trace, name_invocation

# The host renews the lock meanwhile; its own time-out is 5 minutes on the Consumption plan.
_PATIENCE = 240.0
_DEAD_LETTER = "suspended"


def register(app: func.FunctionApp, runtime: Runtime, scoring: Scoring) -> None:
    """Add the function ``score_message``.

    Raises:
        ConfigurationError: the connection is not set, or is not one.
    """
    settings = runtime.settings
    links = Links(runtime)
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


class NotMoved(Exception):
    """The message could not be dead-lettered here; the text says why."""


class Links:
    """Made once, connected at first use on the worker's event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._settings = runtime.settings
        connection = service_bus(self._settings)
        self._client, _ = client_of(self._settings, connection)
        self._receiver: Any = None
        self._opening = asyncio.Lock()
        self.replies = replies_of(self._client, connection.name, runtime.spans)

    async def dead_letter(self, lock_token: str, reason: str, description: str) -> None:
        """Move a message that this function holds to the dead-letter queue.

        Raises:
            NotMoved: the broker is away, the lock is lost, or the SDK does not offer it.
        """
        details = {"deadletter-reason": reason, "deadletter-description": description}
        try:
            await self._settle(uuid.UUID(lock_token), details)
        except Exception as error:  # the SDK lets errors of its AMQP layer through here
            raise NotMoved(
                f"The message could not be dead-lettered with its reason ({type(error).__name__}); "
                "it is delivered again until the queue's maximum of deliveries."
            ) from error

    async def _settle(
        self, token: uuid.UUID, details: dict[str, str], *, again: bool = True
    ) -> None:
        again = again and self._receiver is not None
        receiver = await self._opened()
        try:
            # azure-servicebus settles by lock token only for messages that it received itself.
            await receiver._settle_message_via_mgmt_link(
                _DEAD_LETTER, [token], dead_letter_details=details
            )
        except MessageLockLostError:
            raise
        except Exception:
            await self._close(receiver)
            if not again:
                raise
            await self._settle(token, details, again=False)  # Azure closes links that are idle

    async def _opened(self) -> Any:
        async with self._opening:
            if self._receiver is None:
                receiver: Any = receiver_of(self._settings, self._client)
                await receiver.__aenter__()
                self._receiver = receiver
            return self._receiver

    async def _close(self, receiver: Any) -> None:
        if self._receiver is receiver:
            self._receiver = None
        with contextlib.suppress(Exception):
            await receiver.close()
