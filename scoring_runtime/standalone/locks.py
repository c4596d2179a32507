"""Messages' locks, kept by a clock that nobody sets.

azure-servicebus compares the end of a lock, which is the broker's time, with the time of day here,
and waits by the time of day. With a clock that is wrong, or is set meanwhile, it takes locks that
hold for lost, renews others too late, and stands still when the clock is set back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError

# https://learn.microsoft.com/azure/service-bus-messaging/message-transfers-locks-settlement
_LONGEST, _SHORTEST = 300.0, 5.0
_AGAIN_SECONDS = 1.0
_NEVER = datetime.max.replace(tzinfo=UTC)


class Lock:
    """That of one message, whose end only the broker knows.

    Args:
        message: as received.
        seconds: how long a renewal makes it last.
        left: how long it seems to last yet.
    """

    def __init__(self, message: Any, seconds: float, left: float) -> None:
        self.message = message
        self._seconds = seconds
        self._renew_at = monotonic() + left / 3
        self._is_left = False
        self.is_lost = False

    @property
    def is_due(self) -> bool:
        """Whether it is to be renewed now."""
        return not self.is_lost and monotonic() >= self._renew_at

    async def renew(self, receiver: ServiceBusReceiver) -> None:
        """Once, or again soon if it cannot be; ``is_lost`` if the broker says so."""
        began, patience = monotonic(), self._seconds / 4
        self._renew_at = math.inf  # not a second time while this one waits
        try:
            await receiver.renew_message_lock(self.message, timeout=patience)
        except MessageAlreadySettled:
            return
        except MessageLockLostError:
            # One that is being settled is gone: the settlement says whether it was lost before.
            self.is_lost = not self._is_left
        except Exception:  # of a connection that is cut, errors of the AMQP layer come too
            self._renew_at = monotonic() + min(_AGAIN_SECONDS, patience / 2)
        else:
            self._renew_at = began + self._seconds / 3

    def leave_to_broker(self) -> None:
        """Have the SDK settle the message, whatever the time is here."""
        self._is_left = True
        self.message._expiry = _NEVER


class Locks:
    """Makes them, and knows how long those of its queue last."""

    def __init__(self) -> None:
        self._longest = _LONGEST

    def of(self, message: Any) -> Lock:
        """The lock of a message that has just been received.

        No lock is longer than the time from when its message was sent to its end: both are the
        broker's. That bounds it where the clock here is behind; where it is ahead, the shortest
        that there is must do. It is renewed all the sooner, since one of a message that had to
        wait to be received may have almost ended.
        """
        until = message.locked_until_utc
        if until is None:
            return Lock(message, _SHORTEST, _SHORTEST)
        if sent := message.enqueued_time_utc:
            self._longest = max(_SHORTEST, min(self._longest, (until - sent).total_seconds()))
        left = (until - datetime.now(UTC)).total_seconds()
        seconds = max(_SHORTEST, min(self._longest, left))
        return Lock(message, seconds, max(0.0, min(seconds, left)))


def wait_by_monotonic(receiver: ServiceBusReceiver) -> None:
    """Have it wait for messages by a clock that is never set back."""
    now: Callable[[Any], float] = lambda handler: monotonic()  # noqa: E731
    transport: Any = receiver._amqp_transport
    steady = type(transport.__name__, (transport,), {"get_current_time": staticmethod(now)})
    receiver._amqp_transport = steady  # type: ignore[assignment]
