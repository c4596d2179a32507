"""Replies sent with azure-servicebus.

The output binding of Azure Functions carries a body only; a reply has ids and properties too.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeAlias

from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageSizeExceededError

from ..connections.service_bus import trouble
from ..errors import TriggerTrouble
from .messages import QueueReply, ReplyRefused

if TYPE_CHECKING:
    from ..telemetry.spans import Spans

_MOST_SENDERS = 50
_MOST_AT_ONCE = 100
_LONGEST_SECONDS = 15.0
# What the broker says of one message, not of its queue.
_REFUSALS = ("amqp:invalid-field", "amqp:decode-error", "com.microsoft:argument-")
# What the SDK's encoder raises.
_IMPOSSIBLE = (TypeError, OverflowError, UnicodeError, struct.error)
_Batch: TypeAlias = list[tuple[ServiceBusMessage, asyncio.Future[None]]]


class Replies:
    """Sends replies: one sender for each queue, opened once; what waits goes together.

    Args:
        client: stays the caller's to close.
        connection_name: for messages.
    """

    def __init__(self, client: ServiceBusClient, connection_name: str) -> None:
        self._client = client
        self._connection_name = connection_name
        self._senders: dict[str, _Sender] = {}

    async def send(self, reply: QueueReply) -> None:
        """Send one reply; when it returns the broker has it.

        Raises:
            ReplyRefused: this reply can never be sent.
            TriggerTrouble: the broker or the queue is away, or refuses.
        """
        await self._sender(reply.target).send(reply)

    async def open(self, target: str) -> None:
        """Connect to a queue now.

        Raises:
            TriggerTrouble: the broker or the queue is away, or refuses.
        """
        await self._sender(target).open()

    async def close(self) -> None:
        """Close the senders."""
        senders, self._senders = list(self._senders.values()), {}
        await asyncio.gather(*(each.close() for each in senders))

    def _sender(self, target: str) -> _Sender:
        sender = self._senders.pop(target, None)
        if sender is None:
            sender = _Sender(self._client, target, self._connection_name)
        self._senders[target] = sender  # the last one used is the last
        idle = [name for name, each in self._senders.items() if each.is_idle][:-1]
        if len(self._senders) > _MOST_SENDERS and idle:
            oldest = self._senders.pop(idle[0])
            oldest.closing = asyncio.create_task(oldest.close())
        return sender


class TracedReplies(Replies):
    """The same, with a span for each reply to what is of a trace that is sampled."""

    def __init__(self, client: ServiceBusClient, connection_name: str, spans: Spans) -> None:
        super().__init__(client, connection_name)
        self._spans = spans

    async def send(self, reply: QueueReply) -> None:
        """Send one reply, whose properties then name the span of its sending."""
        attributes: dict[str, str | int] = {
            "messaging.system": "servicebus",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": reply.target,
            "messaging.message.id": reply.message_id,
            "messaging.message.conversation_id": reply.correlation_id,
            "messaging.message.body.size": len(reply.body),
        }
        with self._spans.write(reply.properties, f"send {reply.target}", attributes) as carrier:
            await super().send(reply._replace(properties={**reply.properties, **carrier}))


def replies_of(client: ServiceBusClient, connection_name: str, spans: Spans | None) -> Replies:
    """What sends replies; with spans if there are any."""
    if spans is None:
        return Replies(client, connection_name)
    return TracedReplies(client, connection_name, spans)


class _Sender:
    """One queue's sender. The replies that come while one batch is under way are the next."""

    def __init__(self, client: ServiceBusClient, target: str, connection_name: str) -> None:
        self._client = client
        self._target = target
        self._connection_name = connection_name
        self._sender: Any = None
        self._waiting: _Batch = []
        self._sending: asyncio.Task[None] | None = None
        self.closing: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being sent."""
        return self._sending is None

    async def send(self, reply: QueueReply) -> None:
        """Send one reply, together with others that wait."""
        sent = asyncio.get_running_loop().create_future()
        self._waiting.append((_message(reply), sent))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_waiting())
        await sent

    async def open(self) -> None:
        """Connect."""
        async with self._translated():
            await self._opened()

    async def close(self) -> None:
        """Disconnect, after what is under way."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
        await self._disconnect()

    async def _disconnect(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            with contextlib.suppress(AzureError, OSError):  # a time-out is an OSError
                async with asyncio.timeout(_LONGEST_SECONDS):
                    await sender.close()

    async def _opened(self) -> Any:
        if self._sender is None:
            sender = self._client.get_queue_sender(self._target)
            await sender.__aenter__()
            self._sender = sender
        return self._sender

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch = self._taken()
                await self._send_batch(batch)
        finally:
            self._sending = None

    def _taken(self) -> _Batch:
        # A batch may not mix sessions.
        first = self._waiting[0][0].session_id
        most = 1 if first else _MOST_AT_ONCE
        taken: _Batch = []
        while self._waiting and len(taken) < most and self._waiting[0][0].session_id == first:
            taken.append(self._waiting.pop(0))
        return taken

    async def _send_batch(self, batch: _Batch) -> None:
        messages = [message for message, _ in batch]
        try:
            async with self._translated():
                sender = await self._opened()
                await sender.send_messages(messages if len(messages) > 1 else messages[0])
        except ReplyRefused as error:
            if len(batch) == 1:
                _settle(batch, error)
                return
            for each in batch:  # to find the one that is too large
                await self._send_batch([each])
        except BaseException as error:
            _settle(batch, error)
            await self._disconnect()
            if not isinstance(error, Exception):
                raise
        else:
            _settle(batch, None)

    @contextlib.asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):  # an attach may never be answered
                yield
        except (AzureError, OSError, ValueError, *_IMPOSSIBLE) as error:
            raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> ReplyRefused | TriggerTrouble:
        if isinstance(error, MessageSizeExceededError):
            return ReplyRefused(
                f"The reply is larger than {self._target!r} takes (256 kB on the Standard tier)."
            )
        cause = getattr(error, "inner_exception", None) or error
        if isinstance(cause, _IMPOSSIBLE):
            return ReplyRefused(f"There can be no such reply: {cause}")
        condition = getattr(error, "_condition", None) or ""
        if condition.startswith(_REFUSALS):
            return ReplyRefused(f"{self._target!r} refuses the reply: {condition}")
        named = "reply_to, or SERVICEBUS_OUTPUT_QUEUE"
        return trouble(error, self._connection_name, self._target, named)


def _message(reply: QueueReply) -> ServiceBusMessage:
    properties: Any = {name: _typed(value) for name, value in reply.properties.items()}
    try:
        return ServiceBusMessage(
            reply.body,
            content_type=reply.content_type,
            message_id=reply.message_id or None,
            correlation_id=reply.correlation_id or None,
            session_id=reply.session_id or None,
            application_properties=properties,
        )
    except ValueError as error:
        raise ReplyRefused(f"There can be no such reply: {error}") from error


def _typed(value: Any) -> Any:
    # The SDK writes a whole number with 32 bits unless it is told otherwise, or fails.
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        return {"TYPE": "LONG" if value < 2**63 else "ULONG", "VALUE": value}
    return value


def _settle(batch: _Batch, error: BaseException | None) -> None:
    for _, sent in batch:
        if sent.done():
            continue
        if error is None:
            sent.set_result(None)
        elif isinstance(error, Exception):
            sent.set_exception(error)
        else:
            sent.cancel()
