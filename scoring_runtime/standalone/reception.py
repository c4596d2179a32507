"""The messages of one Service Bus receiver: taken, scored, settled, their locks renewed."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from time import monotonic
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus.aio import AutoLockRenewer, ServiceBusReceiver
from azure.servicebus.amqp import AmqpMessageBodyType
from azure.servicebus.exceptions import MessageLockLostError

from ..errors import NotServing, TriggerTrouble
from ..queue_messages import Answer, QueueMessage, Settlement
from ..queue_scoring import QueueScoring
from ..settings import Settings
from ..telemetry import log

_RECEIVE_SECONDS = 0.2
_AT_ONCE_SECONDS = 0.02
_QUICK = 3
# Most messages are settled long before; the others get their lock renewed.
_RENEW_AFTER_SECONDS = 1.0
_SETTLE_SECONDS = 5.0
_AGAIN = Answer(None, Settlement.ABANDON)


class Reception:
    """The messages of one receiver.

    One task receives and settles by turns: the SDK's receiver waits 0.2 s for nothing when two
    tasks use it at once. Scoring and replies go on meanwhile, so that a settlement is all that
    waits for a receive.
    """

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
        self._in_flight: dict[asyncio.Task[None], _Held] = {}
        self._answered: list[_Held] = []
        self._some_answered = asyncio.Event()
        self._ask, self._quick, self._got_all = 1, 0, False
        self._broken: BaseException | None = None

    async def open(self) -> None:
        """Connect."""
        await self._receiver.__aenter__()

    async def run(self) -> None:
        """Receive until the connection breaks or the host stops; then end what is in flight."""
        try:
            while not self._stopping.is_set() and self._broken is None:
                await self._settle_answered()
                await self._receive_or_wait()
                self._renew_those_that_take_long()
            if self._broken is not None:
                raise self._broken
            await self._drain(self._settings.shutdown_seconds)
        finally:
            await self._drain(_SETTLE_SECONDS)
            await self._renewer.close()
            with contextlib.suppress(AzureError, OSError, ValueError):
                await self._receiver.close()

    async def _receive_or_wait(self) -> None:
        room = self._most - len(self._in_flight) - len(self._answered)
        if room <= 0:
            await wait_for(self._some_answered, _RECEIVE_SECONDS)
            return
        asked, began = min(room, self._ask), monotonic()
        received = await self._receiver.receive_messages(asked, _RECEIVE_SECONDS)
        self._got_all = len(received) == asked
        # To ask for more than there is delays what there is by 0.2 s: one at a time, unless they
        # come at once.
        more = self._got_all and monotonic() - began < _AT_ONCE_SECONDS
        self._quick = self._quick + 1 if more else 0
        self._ask = min(self._ask * 4, self._most) if self._quick >= _QUICK else 1
        for message in received:
            held = _Held(message, monotonic())
            task = asyncio.create_task(self._handled(held))
            self._in_flight[task] = held
            task.add_done_callback(self._in_flight.pop)

    def _renew_those_that_take_long(self) -> None:
        long_ago = monotonic() - _RENEW_AFTER_SECONDS
        # A little more than the deadline: the answer to a message that is late is due then.
        longest = (self._settings.timeout_seconds or 7 * 86400) + 60
        for held in self._in_flight.values():
            if held.since > long_ago:
                break  # they are in the order of their arrival
            if not held.renewed:
                held.renewed = True
                self._renewer.register(self._receiver, held.message, longest)

    async def _lock_is_lost(self, message: Any, error: Exception | None) -> None:
        for held in self._in_flight.values():
            if held.message is message and error is not None:
                held.lost = True
                _say_lost(message)

    async def _handled(self, held: _Held) -> None:
        async with self._slots:
            held.answer = await self._answer(held)
        self._answered.append(held)
        self._some_answered.set()

    async def _answer(self, held: _Held) -> Answer:
        if self._stopping.is_set() or self._broken is not None:
            return _AGAIN
        try:
            return await self._score(
                decoded(held.message),
                is_ours=lambda: not held.lost,
                goes_on=lambda: not (held.lost or self._stopping.is_set() or self._broken),
            )
        except NotServing:
            return _AGAIN
        except TriggerTrouble as error:
            self._broken = self._broken or error
            return _AGAIN
        except Exception:
            log.exception("Encountered Exception while scoring %s", held.message.message_id)
            return _AGAIN

    async def _settle_answered(self) -> None:
        answered, self._answered = self._answered, []
        self._some_answered.clear()
        if self._got_all:
            await asyncio.gather(*(self._settle(held) for held in answered))
        else:  # messages may come in between, which one task at a time has to read
            for held in answered:
                await self._settle(held)

    async def _settle(self, held: _Held) -> None:
        message, answer = held.message, held.answer
        try:
            if answer.settlement is Settlement.COMPLETE:
                await self._receiver.complete_message(message)
            elif answer.settlement is Settlement.ABANDON:
                await self._receiver.abandon_message(message)
            else:
                await self._receiver.dead_letter_message(
                    message, reason=answer.reason, error_description=answer.description
                )
        except MessageLockLostError:
            if not held.lost:
                _say_lost(message)
        except (AzureError, OSError, ValueError) as error:
            self._broken = self._broken or error

    async def _drain(self, seconds: float) -> None:
        until = monotonic() + seconds
        while self._in_flight and monotonic() < until:
            await asyncio.wait(list(self._in_flight), timeout=0.5)
            await self._settle_answered()
            self._renew_those_that_take_long()
        late = dict(self._in_flight)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self._answered += late.values()  # answered with: abandon
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settle_answered(), _SETTLE_SECONDS)


@dataclass(eq=False)
class _Held:
    """A message that this host holds, and how to settle it: abandon, until it is answered."""

    message: Any
    since: float
    renewed: bool = False
    lost: bool = False
    answer: Answer = _AGAIN


def _say_lost(message: Any) -> None:
    log.warning("The lock of message %s is lost; it is delivered again.", message.message_id)


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


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not for ever."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
