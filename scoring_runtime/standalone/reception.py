"""The messages of one Service Bus receiver: taken, scored, settled, their locks renewed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import MessageLockLostError, MessagingEntityNotFoundError

from ..errors import NotServing, TriggerTrouble
from ..settings.settings import Settings
from ..telemetry.logs import log
from ..triggers.messages import Answer, Settlement
from ..triggers.queue import QueueScoring
from .locks import Lock, Locks, wait_by_monotonic
from .received import decoded

_RECEIVE_SECONDS = 0.2
_AT_ONCE_SECONDS = 0.02
_QUICK = 3
_LOOK_AT_LOCKS_SECONDS = 0.5
_OPEN_SECONDS = 30.0
_SETTLE_SECONDS = 5.0
_MOST_ELSEWHERE = 500
_FEW = 4
_AGAIN = Answer(None, Settlement.RELEASE)
_FAILED = Answer(None, Settlement.ABANDON)
_TROUBLE = (AzureError, OSError, ValueError)


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
        wait_by_monotonic(receiver)
        self._locks = Locks()
        self._slots = asyncio.Semaphore(settings.servicebus_max_concurrent)
        self._pace = _Pace(settings)
        self._opening = asyncio.Lock()
        self._is_opened_again = False
        self._in_flight: dict[asyncio.Task[None], _Held] = {}
        self._answered: list[_Held] = []
        self._some_answered = asyncio.Event()
        self._ask, self._quick, self._got_all = 1, 0, False
        self._broken: BaseException | None = None

    async def open(self) -> None:
        """Connect, or connect again."""
        async with self._opening, asyncio.timeout(_OPEN_SECONDS):  # it may never be answered
            await self._receiver.__aenter__()

    async def run(self) -> None:
        """Receive until the connection breaks or the host stops; then end what is in flight."""
        keeping = asyncio.create_task(self._keep_locks())
        try:
            while not self._stopping.is_set() and self._broken is None:
                await self._settle_answered()
                await self._receive_or_wait()
            if self._broken is not None:
                raise self._broken
            await self._drain(self._settings.shutdown_seconds)
        finally:
            await self._drain(_SETTLE_SECONDS)
            keeping.cancel()
            with contextlib.suppress(*_TROUBLE):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await self._receiver.close()

    @property
    def _room(self) -> int:
        busy = len(self._in_flight) + len(self._answered)
        if self._score.output_is_away:
            return 1 - busy  # one, whose reply shows whether it is back
        return self._pace.most - busy + min(self._score.elsewhere, _MOST_ELSEWHERE)

    async def _receive_or_wait(self) -> None:
        room = self._room
        if room <= 0:
            await wait_for(self._some_answered, _RECEIVE_SECONDS)
            return
        asked, began = min(room, self._ask), monotonic()
        received = await self._received(asked)
        self._got_all = len(received) == asked
        # To ask for more than there is delays what there is by 0.2 s: one at a time, unless they
        # come at once.
        more = self._got_all and monotonic() - began < _AT_ONCE_SECONDS
        self._quick = self._quick + 1 if more else 0
        self._ask = min(self._ask * 4, self._pace.most) if self._quick >= _QUICK else 1
        for message in received:
            held = _Held(message, self._locks.of(message))
            task = asyncio.create_task(self._handled(held))
            self._in_flight[task] = held
            task.add_done_callback(self._in_flight.pop)

    async def _received(self, most: int) -> list[Any]:
        try:
            received: list[Any] = await self._receiver.receive_messages(most, _RECEIVE_SECONDS)
        except MessagingEntityNotFoundError:
            raise
        except _TROUBLE:
            # The broker closes links that are idle, and moves its queues: what is in flight holds
            # its locks meanwhile.
            if self._is_opened_again:
                raise
            self._is_opened_again = True
            await self.open()
            return []
        self._is_opened_again = False
        return received

    async def _keep_locks(self) -> None:
        """Renew those of messages that take long, until it is cancelled."""
        async with asyncio.TaskGroup() as renewing:
            while True:
                for held in (*self._in_flight.values(), *self._answered):
                    if held.lock.is_due:
                        renewing.create_task(self._renewed(held))
                await asyncio.sleep(_LOOK_AT_LOCKS_SECONDS)

    async def _renewed(self, held: _Held) -> None:
        await held.lock.renew(self._receiver)
        if held.lock.is_lost:
            _say_lost(held.message)

    async def _handled(self, held: _Held) -> None:
        held.answer = await self._answer(held)
        self._answered.append(held)
        self._some_answered.set()

    async def _answer(self, held: _Held) -> Answer:
        def goes_on() -> bool:
            return not (held.lock.is_lost or self._stopping.is_set() or self._broken)

        try:
            async with self._slots:
                if not goes_on():
                    return _AGAIN
                with self._pace.measured():
                    given = await self._score.decided(decoded(held.message), goes_on=goes_on)
            return await self._score.replied(
                given, is_ours=lambda: not held.lock.is_lost, goes_on=goes_on
            )
        except (NotServing, TriggerTrouble):
            return _AGAIN
        except Exception:
            log.exception("Encountered Exception while scoring %s", held.message.message_id)
            return _FAILED

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
        held.lock.leave_to_broker()
        try:
            if answer.settlement is Settlement.COMPLETE:
                await self._receiver.complete_message(message)
            elif answer.settlement is Settlement.ABANDON:
                await self._receiver.abandon_message(message)
            elif answer.settlement is Settlement.RELEASE:
                await self._release(message)
            else:
                await self._receiver.dead_letter_message(
                    message, reason=answer.reason, error_description=answer.description
                )
        except MessageLockLostError:
            if not held.lock.is_lost:
                _say_lost(message)
        except _TROUBLE as error:
            await self._settle_again(held, error)

    async def _settle_again(self, held: _Held, error: BaseException) -> None:
        """By its token, over a new link; a second failure is the connection's."""
        if not held.again:
            held.again = True
            try:
                await self.open()
                return await self._settle(held)
            except _TROUBLE:
                pass
        self._score.keep(held.answer)
        self._broken = self._broken or error

    async def _release(self, message: Any) -> None:
        try:
            # The SDK offers no settlement that the broker does not count as a delivery.
            await self._receiver._handler.settle_messages_async(
                message._delivery_id, message._delivery_tag, "released"
            )
        except Exception:  # its AMQP layer has errors of its own
            await self._receiver.abandon_message(message)

    async def _drain(self, seconds: float) -> None:
        until = monotonic() + seconds
        while self._in_flight and monotonic() < until:
            await asyncio.wait(list(self._in_flight), timeout=0.5)
            await self._settle_answered()
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
    lock: Lock
    again: bool = False
    answer: Answer = _AGAIN


def _say_lost(message: Any) -> None:
    log.warning("The lock of message %s is lost; it is delivered again.", message.message_id)


class _Pace:
    """How many messages to hold: those that can begin within half the deadline.

    What one takes is measured, with all that it waits for.
    """

    def __init__(self, settings: Settings) -> None:
        self._largest = settings.servicebus_max_concurrent + settings.servicebus_prefetch
        self._least = settings.concurrency + 1
        self._window = settings.timeout_seconds / 2 or float("inf")
        self._each = 0.0
        self._at_once = 0
        self.most = min(self._largest, max(self._least, _FEW))

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Around one message."""
        self._at_once += 1
        began, beside = monotonic(), self._at_once
        try:
            yield
        finally:
            self._at_once -= 1
            each = max((monotonic() - began) / beside, 1e-6)
            self._each += (each - self._each) * (0.3 if self._each else 1)
            fitting = min(self._window / self._each, self._largest)
            self.most = min(self._largest, max(self._least, int(fitting)))


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not for ever."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
