"""Locks of messages, which only the broker knows the end of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusConnectionError

from scoring_runtime.standalone.locks import Lock, Locks

pytestmark = pytest.mark.anyio
SHORTEST = 5.0


class Receiver:
    """Renews no lock, for this reason."""

    def __init__(self, reason: Exception) -> None:
        self._reason = reason

    async def renew_message_lock(self, message: Any, *, timeout: float) -> None:
        raise self._reason


def lock_that_has_left(seconds: float) -> Lock:
    """Of a message that was sent a minute ago, with a lock of five seconds."""
    now = datetime.now(UTC)
    until, sent = now + timedelta(seconds=seconds), now - timedelta(seconds=60)
    return Locks().of(SimpleNamespace(locked_until_utc=until, enqueued_time_utc=sent))


def test_a_lock_is_renewed_after_a_third_of_what_is_left_of_it():
    """The broker locks a message when it sends it, which may be long before it is received."""
    assert not lock_that_has_left(SHORTEST).is_due
    almost = lock_that_has_left(0.2)
    sleep(0.1)
    assert almost.is_due
    assert lock_that_has_left(-1).is_due, "or the clock is ahead: the broker knows"


@pytest.mark.parametrize(
    "reason",
    [
        ServiceBusConnectionError(message="cut"),
        AttributeError("'NoneType' object has no attribute 'end'"),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_what_cannot_be_renewed_is_tried_again(reason: Exception):
    """The AMQP layer raises what it happens to, when its connection is cut meanwhile."""
    lock = lock_that_has_left(0)
    await lock.renew(Receiver(reason))  # type: ignore[arg-type]
    assert not (lock.is_due or lock.is_lost)
    sleep(1.1)
    assert lock.is_due


async def test_a_message_that_is_being_settled_loses_no_lock():
    """Its renewal may reach the broker after its settlement has."""
    gone = Receiver(MessageLockLostError())
    lock, settled = lock_that_has_left(0), lock_that_has_left(0)
    settled.leave_to_broker()
    for each in (lock, settled):
        await each.renew(gone)  # type: ignore[arg-type]
        assert not each.is_due
    assert lock.is_lost
    assert not settled.is_lost
