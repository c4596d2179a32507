"""The broker double keeps what Service Bus promises, as seen by the real SDK.

Only what tests of the triggers would not notice if it were not so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusSubQueue,
    aio,
)
from azure.servicebus.exceptions import (
    MessageLockLostError,
)

from tests.hosts.broker import Counts, ServiceBusBroker

OPTIONS: dict[str, Any] = {"retry_total": 5, "retry_backoff_factor": 0.1, "retry_mode": "fixed"}
EVERY_BYTE = bytes(range(256))


@pytest.fixture
def broker() -> Iterator[ServiceBusBroker]:
    """A broker with one queue, `input`."""
    with ServiceBusBroker() as running:
        running.add_queue("input")
        yield running


def sync_client(broker: ServiceBusBroker, **options: Any) -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(broker.connection_string, **OPTIONS | options)


def aio_client(broker: ServiceBusBroker, **options: Any) -> aio.ServiceBusClient:
    return aio.ServiceBusClient.from_connection_string(
        broker.connection_string, **OPTIONS | options
    )


Scenario = Callable[[aio.ServiceBusClient], Awaitable[Any]]


def with_client(broker: ServiceBusBroker, scenario: Scenario, **options: Any) -> Any:
    """The result of a scenario with an asyncio client of the broker."""

    async def run() -> Any:
        async with aio_client(broker, **options) as client:
            return await scenario(client)

    return asyncio.run(run())


def body_of(message: Any) -> bytes:
    return b"".join(message.body)


def test_a_dead_lettered_message_keeps_its_content_and_says_why(broker: ServiceBusBroker) -> None:
    broker.send("input", b"poison", message_id="p", properties={"x-trace": "t", "attempt": 3})

    async def scenario(client: aio.ServiceBusClient) -> Any:
        async with client.get_queue_receiver("input") as receiver:
            [message] = await receiver.receive_messages(max_wait_time=5)
            await receiver.dead_letter_message(
                message, reason="ValidationError", error_description="not JSON"
            )
        async with client.get_queue_receiver(
            "input", sub_queue=ServiceBusSubQueue.DEAD_LETTER
        ) as dead:
            [message] = await dead.receive_messages(max_wait_time=5)
            return message

    message = with_client(broker, scenario)
    assert message.dead_letter_reason == "ValidationError"
    assert message.dead_letter_error_description == "not JSON"
    assert message.dead_letter_source == "input"
    assert (body_of(message), message.message_id) == (b"poison", "p")
    [dead] = broker.dead_letters("input")
    assert dead.application_properties == {
        "x-trace": "t",
        "attempt": 3,
        "DeadLetterReason": "ValidationError",
        "DeadLetterErrorDescription": "not JSON",
    }


def test_an_expired_lock_redelivers_and_the_old_holder_cannot_settle(
    broker: ServiceBusBroker,
) -> None:
    broker.add_queue("short", lock_seconds=1)
    broker.send("short", b"late")
    with sync_client(broker) as client, client.get_queue_receiver("short") as receiver:
        [first] = receiver.receive_messages(max_wait_time=5)
        [second] = receiver.receive_messages(max_wait_time=5)
        assert (body_of(second), second.delivery_count) == (b"late", 1)
        with pytest.raises(MessageLockLostError):
            receiver.complete_message(first)
        receiver.complete_message(second)
    assert broker.statistics.locks_expired == 1
    assert broker.counts("short") == Counts(0, 0, 0)


@pytest.mark.parametrize("operation", ["complete_message", "abandon_message", "renew_message_lock"])
def test_the_broker_refuses_a_token_that_is_no_longer_a_lock(
    broker: ServiceBusBroker, operation: str
) -> None:
    """The SDK believes in its lock, so it is the broker that says no."""
    broker.send("input", b"gone")
    with sync_client(broker) as client, client.get_queue_receiver("input") as receiver:
        [message] = receiver.receive_messages(max_wait_time=5)
        broker.clear("input")
        with pytest.raises(MessageLockLostError):
            getattr(receiver, operation)(message)


def test_the_lock_renewer_keeps_a_message_beyond_its_lock(broker: ServiceBusBroker) -> None:
    broker.add_queue("renewed", lock_seconds=5)
    broker.send("renewed", b"slow")

    async def scenario(client: aio.ServiceBusClient) -> None:
        async with (
            aio.AutoLockRenewer(max_lock_renewal_duration=60) as renewer,
            client.get_queue_receiver("renewed") as receiver,
        ):
            [message] = await receiver.receive_messages(max_wait_time=5)
            renewer.register(receiver, message)
            await asyncio.sleep(6.5)
            await receiver.complete_message(message)

    with_client(broker, scenario)
    statistics = broker.statistics
    assert (statistics.completed, statistics.locks_expired) == (1, 0)
    assert statistics.lock_renewals >= 1


def test_duplicates_are_removed_where_that_is_asked_for(broker: ServiceBusBroker) -> None:
    broker.add_queue("unique", duplicate_detection=True)
    with sync_client(broker) as client:
        for queue in ("input", "unique"):
            with client.get_queue_sender(queue) as sender:
                for body, message_id in ((b"1", "a"), (b"2", "a"), (b"3", "b")):
                    sender.send_messages(ServiceBusMessage(body, message_id=message_id))
    assert [message.body for message in broker.messages("unique")] == [b"1", b"3"]
    assert [message.body for message in broker.messages("input")] == [b"1", b"2", b"3"]
    assert broker.statistics.duplicates_removed == 1


def test_too_many_deliveries_end_in_the_dead_letter_queue(broker: ServiceBusBroker) -> None:
    broker.add_queue("tries", max_delivery_count=2)
    broker.send("tries", b"never")
    with sync_client(broker) as client, client.get_queue_receiver("tries") as receiver:
        for _ in range(2):
            [message] = receiver.receive_messages(max_wait_time=5)
            receiver.abandon_message(message)
    assert broker.counts("tries") == Counts(active=0, locked=0, dead=1)
    [dead] = broker.dead_letters("tries")
    assert dead.application_properties == {
        "DeadLetterReason": "MaxDeliveryCountExceeded",
        "DeadLetterErrorDescription": "Message could not be consumed after 2 delivery attempts.",
    }


@pytest.mark.parametrize(
    ("status", "counts"),
    [
        ("completed", Counts(active=0, locked=0, dead=0)),
        ("abandoned", Counts(active=1, locked=0, dead=0)),
        ("suspended", Counts(active=0, locked=0, dead=1)),
    ],
)
def test_another_client_settles_by_lock_token(
    broker: ServiceBusBroker, status: str, counts: Counts
) -> None:
    """One client holds the message; a second one, which has its token only, decides."""
    broker.send("input", b"theirs")
    details = {"deadletter-reason": "Bad", "deadletter-description": "Really"}

    async def scenario(holder: aio.ServiceBusClient) -> None:
        async with (
            holder.get_queue_receiver("input") as theirs,
            aio_client(broker) as other,
            other.get_queue_receiver("input") as ours,
        ):
            [message] = await theirs.receive_messages(max_wait_time=5)
            settle: Callable[..., Awaitable[Any]] = ours._settle_message_via_mgmt_link
            extra = details if status == "suspended" else None
            await settle(status, [message.lock_token], dead_letter_details=extra)
            with pytest.raises(MessageLockLostError):
                await settle(status, [message.lock_token], dead_letter_details=extra)

    with_client(broker, scenario)
    assert broker.counts("input") == counts
    for dead in broker.dead_letters("input"):
        assert dead.application_properties == {
            "DeadLetterReason": "Bad",
            "DeadLetterErrorDescription": "Really",
        }


def test_closing_gives_prefetched_messages_back_and_keeps_received_ones_locked(
    broker: ServiceBusBroker,
) -> None:
    for number in range(10):
        broker.send("input", b"%d" % number)
    with sync_client(broker) as client:
        with client.get_queue_receiver("input", prefetch_count=5) as receiver:
            assert len(receiver.receive_messages(max_message_count=1, max_wait_time=5)) == 1
            broker.wait_for(lambda: broker.counts("input").locked > 1)
        broker.wait_for(lambda: broker.counts("input") == Counts(active=9, locked=1, dead=0))
    assert {message.delivery_count for message in broker.messages("input")} == {0}
