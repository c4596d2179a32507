"""The Service Bus trigger of the standalone host: receive, score, reply, settle."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient, ServiceBusReceiver
from azure.servicebus.amqp import AmqpMessageBodyType
from azure.servicebus.exceptions import MessageLockLostError, MessagingEntityNotFoundError

from ..connections import service_bus
from ..errors import NotServing, TriggerTrouble
from ..outcomes import Scoring
from ..queue_messages import Answer, QueueMessage, Settlement
from ..queue_scoring import QueueScoring
from ..replies import Replies, ReplyRefused
from ..runtime import Runtime
from ..service_bus_client import client_of, trouble
from ..settings import Settings
from ..telemetry import log

_LONGEST_PAUSE = 30.0
_RECEIVE_SECONDS = 1.0
# Most messages are settled long before; the others get their lock renewed.
_RENEW_AFTER_SECONDS = 1.0
_SETTLE_SECONDS = 5.0


class ServiceBusTrigger:
    """Scores the messages of a queue or subscription.

    Raises:
        ConfigurationError: the connection is not set, or is not one.
    """

    def __init__(self, runtime: Runtime, scoring: Scoring) -> None:
        self._settings = runtime.settings
        self._troubles = runtime.troubles
        self._scoring = scoring
        self._connection = service_bus(self._settings)
        self.where = _where(self._settings)
        client_of(self._settings, self._connection)  # to refuse a bad connection string now

    async def run(self, stopping: asyncio.Event) -> None:
        """Receive until ``stopping``, then finish what is in flight; reconnects for ever."""
        pause = 0.5
        while not stopping.is_set():
            began = monotonic()
            try:
                await self._session(stopping)
            except TriggerTrouble as error:
                self._has_trouble(error)
                pause = 0.5 if monotonic() - began > _LONGEST_PAUSE else min(pause * 2, 30.0)
                await _wait(stopping, pause)
        self._scoring.flush_log()

    async def _session(self, stopping: asyncio.Event) -> None:
        """One connection, until it breaks or ``stopping``."""
        client, credential = client_of(self._settings, self._connection)
        replies = Replies(client, self._connection.name)
        try:
            if self._settings.servicebus_output_queue:
                await self._open_output(replies)
            reception = _Reception(
                self._settings,
                self._receiver(client),
                QueueScoring(self._scoring, replies, self._settings),
                stopping,
            )
            with self._translated():
                await reception.open()
            log.info("Receiving from %s", self.where)
            self._is_well()
            with self._translated():
                await reception.run()
        finally:
            await _closed(replies, client, credential)

    def _receiver(self, client: ServiceBusClient) -> ServiceBusReceiver:
        name, subscription = (
            self._settings.servicebus_input_queue,
            self._settings.servicebus_input_subscription,
        )
        if subscription:
            return client.get_subscription_receiver(name, subscription)
        return client.get_queue_receiver(name)

    async def _open_output(self, replies: Replies) -> None:
        try:
            await replies.open(self._settings.servicebus_output_queue)
        except ReplyRefused as error:
            raise TriggerTrouble(f"{error} Trying again.") from error

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except MessagingEntityNotFoundError as error:
            raise TriggerTrouble(
                f"The {_source(self._settings)} does not exist (SERVICEBUS_INPUT_QUEUE, "
                "SERVICEBUS_INPUT_SUBSCRIPTION). Trying again."
            ) from error
        except (AzureError, OSError, ValueError) as error:
            name = self._settings.servicebus_input_queue
            raise trouble(error, self._connection.name, name) from error

    def _is_well(self) -> None:
        if self._troubles.pop("service_bus", None):
            log.info("The Service Bus trigger works again.")

    def _has_trouble(self, error: TriggerTrouble) -> None:
        if self._troubles.get("service_bus") != str(error):
            log.error("%s", error)
        self._troubles["service_bus"] = str(error)


class _Reception:
    """The messages of one receiver."""

    def __init__(
        self,
        settings: Settings,
        receiver: ServiceBusReceiver,
        score: QueueScoring,
        stopping: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._receiver = receiver
        self._score = score
        self._stopping = stopping
        self._renewer = AutoLockRenewer(on_lock_renew_failure=self._lock_is_lost)
        self._slots = asyncio.Semaphore(settings.servicebus_max_concurrent)
        self._most = settings.servicebus_max_concurrent + settings.servicebus_prefetch
        self._in_flight: dict[asyncio.Task[None], tuple[Any, float]] = {}
        self._renewed: set[asyncio.Task[None]] = set()
        self._lost: set[int] = set()
        self._freed = asyncio.Event()
        self._broken: BaseException | None = None

    async def open(self) -> None:
        """Connect."""
        await self._receiver.__aenter__()

    async def run(self) -> None:
        """Receive until the connection breaks or the host stops; then end what is in flight."""
        try:
            while not self._stopping.is_set() and self._broken is None:
                await self._receive()
            if self._broken is not None:
                raise self._broken
            await self._drain(self._settings.shutdown_seconds)
        finally:
            await self._drain(_SETTLE_SECONDS)
            await self._renewer.close()
            with contextlib.suppress(AzureError, OSError, ValueError):
                await self._receiver.close()

    async def _receive(self) -> None:
        room = self._most - len(self._in_flight)
        if room <= 0:
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), _RECEIVE_SECONDS)
        else:
            received = await self._receiver.receive_messages(room, _RECEIVE_SECONDS)
            for message in received:
                task = asyncio.create_task(self._handled(message))
                self._in_flight[task] = (message, monotonic())
                task.add_done_callback(self._is_done)
        self._renew_those_that_take_long()

    def _is_done(self, task: asyncio.Task[None]) -> None:
        message, _ = self._in_flight.pop(task)
        self._renewed.discard(task)
        self._lost.discard(id(message))
        self._freed.set()

    def _renew_those_that_take_long(self) -> None:
        long_ago = monotonic() - _RENEW_AFTER_SECONDS
        # A little more than the deadline: the answer to a message that is late is due then.
        longest = (self._settings.timeout_seconds or 7 * 86400) + 60
        for task, (message, since) in self._in_flight.items():
            if since > long_ago:
                break  # they are in the order of their arrival
            if task not in self._renewed:
                self._renewed.add(task)
                self._renewer.register(self._receiver, message, longest)

    async def _lock_is_lost(self, message: Any, error: Exception | None) -> None:
        if error is not None:
            self._lost.add(id(message))
            log.warning(
                "The lock of message %s is lost; it is delivered again.", message.message_id
            )

    async def _handled(self, message: Any) -> None:
        async with self._slots:
            try:
                settlement = await self._answered(message)
                await self._settle(message, settlement)
            except MessageLockLostError:
                log.warning(
                    "The lock of message %s was lost; it is delivered again.", message.message_id
                )
            except (AzureError, OSError, ValueError) as error:
                self._broken = self._broken or error

    async def _answered(self, message: Any) -> Answer:
        again = Answer(None, Settlement.ABANDON)
        if self._stopping.is_set():
            return again
        try:
            return await self._score(
                decoded(message), is_ours=lambda: id(message) not in self._lost
            )
        except NotServing:
            return again
        except TriggerTrouble as error:
            self._broken = self._broken or error
            return again
        except Exception:
            log.exception("Encountered Exception while scoring message %s", message.message_id)
            return again

    async def _settle(self, message: Any, answer: Answer) -> None:
        if answer.settlement is Settlement.COMPLETE:
            await self._receiver.complete_message(message)
        elif answer.settlement is Settlement.ABANDON:
            await self._receiver.abandon_message(message)
        else:
            await self._receiver.dead_letter_message(
                message, reason=answer.reason, error_description=answer.description
            )

    async def _drain(self, seconds: float) -> None:
        until = monotonic() + seconds
        while self._in_flight and monotonic() < until:
            await asyncio.wait(list(self._in_flight), timeout=0.5)
            self._renew_those_that_take_long()
        late = dict(self._in_flight)
        for task in late:
            task.cancel()
        for message, _ in late.values():
            with contextlib.suppress(AzureError, OSError, ValueError):
                await asyncio.wait_for(self._receiver.abandon_message(message), 1)


def decoded(message: Any) -> QueueMessage:
    """A received message as plain data; the SDK gives names and texts of properties as bytes."""
    return QueueMessage(
        _body(message),
        _text(message.message_id),
        _text(message.correlation_id),
        _text(message.content_type),
        _text(message.reply_to),
        _text(message.reply_to_session_id),
        {
            _text(name): _text(value) if isinstance(value, bytes) else value
            for name, value in (message.application_properties or {}).items()
        },
        message.delivery_count or 0,
    )


def _body(message: Any) -> bytes:
    if message.body_type is AmqpMessageBodyType.DATA:
        return b"".join(message.body)
    value = message.body
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else str(message).encode()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _source(settings: Settings) -> str:
    name, subscription = settings.servicebus_input_queue, settings.servicebus_input_subscription
    return f"subscription {name}/{subscription}" if subscription else f"queue {name!r}"


def _where(settings: Settings) -> str:
    target = settings.servicebus_output_queue
    replies = f"reply_to or {target!r}" if target else "reply_to"
    return f"Service Bus {_source(settings)}; replies go to {replies}"


async def _closed(replies: Replies, client: Any, credential: Any) -> None:
    for each in (replies, client, credential):
        if each is not None:
            with contextlib.suppress(AzureError, OSError, ValueError):
                await each.close()


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
