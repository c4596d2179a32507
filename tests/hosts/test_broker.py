"""The broker double keeps what Service Bus promises, as seen by the real SDK."""

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
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusConnectionError,
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


def test_a_message_sent_with_the_sync_client_is_received_and_completed(
    broker: ServiceBusBroker,
) -> None:
    with sync_client(broker) as client:
        with client.get_queue_sender("input") as sender:
            sender.send_messages(ServiceBusMessage(b"hello", message_id="one"))
        with client.get_queue_receiver("input") as receiver:
            [message] = receiver.receive_messages(max_wait_time=5)
            assert (body_of(message), message.message_id) == (b"hello", "one")
            assert message.delivery_count == 0
            assert broker.counts("input") == Counts(active=0, locked=1, dead=0)
            receiver.complete_message(message)
    assert broker.counts("input") == Counts(0, 0, 0)
    assert broker.statistics.completed == 1


def test_a_message_sent_with_the_aio_client_is_received_and_completed(
    broker: ServiceBusBroker,
) -> None:
    async def scenario(client: aio.ServiceBusClient) -> list[bytes]:
        async with client.get_queue_sender("input") as sender:
            await sender.send_messages(ServiceBusMessage(b"hello"))
        async with client.get_queue_receiver("input") as receiver:
            messages = await receiver.receive_messages(max_wait_time=5)
            for message in messages:
                await receiver.complete_message(message)
        return [body_of(message) for message in messages]

    assert with_client(broker, scenario) == [b"hello"]
    assert broker.counts("input") == Counts(0, 0, 0)


def test_an_abandoned_message_is_delivered_again_with_a_higher_delivery_count(
    broker: ServiceBusBroker,
) -> None:
    broker.send("input", b"again")
    with sync_client(broker) as client, client.get_queue_receiver("input") as receiver:
        counts = []
        for _ in range(3):
            [message] = receiver.receive_messages(max_wait_time=5)
            counts.append(message.delivery_count)
            receiver.abandon_message(message)
    assert counts == [0, 1, 2]
    assert broker.counts("input") == Counts(active=1, locked=0, dead=0)


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


@pytest.mark.parametrize("open_link", ["get_queue_receiver", "get_queue_sender"])
def test_an_unknown_entity_is_not_found(broker: ServiceBusBroker, open_link: str) -> None:
    async def scenario(client: aio.ServiceBusClient) -> None:
        with pytest.raises(MessagingEntityNotFoundError, match="'absent' could not be found"):
            async with getattr(client, open_link)("absent"):
                pytest.fail("the link was opened")

    with_client(broker, scenario)
    with sync_client(broker) as client, pytest.raises(MessagingEntityNotFoundError):
        getattr(client, open_link)("absent").__enter__()


def test_the_sdk_comes_back_after_its_connection_is_cut(broker: ServiceBusBroker) -> None:
    async def scenario(client: aio.ServiceBusClient) -> list[bytes]:
        bodies = []
        async with client.get_queue_receiver("input") as receiver:
            for body in (b"before", b"after"):
                broker.send("input", body)
                [message] = await receiver.receive_messages(max_wait_time=10)
                await receiver.complete_message(message)
                bodies.append(body_of(message))
                assert broker.cut_connections() == 1
        return bodies

    assert with_client(broker, scenario) == [b"before", b"after"]
    assert broker.statistics.connections_opened == 2


def test_messages_outlive_a_broker_that_goes_away_and_comes_back(broker: ServiceBusBroker) -> None:
    broker.send("input", b"kept")
    broker.stop_listening()
    with (
        sync_client(broker, retry_total=0) as client,
        pytest.raises(ServiceBusConnectionError),
        client.get_queue_receiver("input"),
    ):
        pytest.fail("the broker was reached")
    broker.start_listening()
    with sync_client(broker) as client, client.get_queue_receiver("input") as receiver:
        [message] = receiver.receive_messages(max_wait_time=5)
        assert body_of(message) == b"kept"


def test_a_batch_of_100_arrives_as_100_messages_in_order(broker: ServiceBusBroker) -> None:
    with sync_client(broker) as client, client.get_queue_sender("input") as sender:
        batch = sender.create_message_batch()
        for number in range(100):
            batch.add_message(ServiceBusMessage(b"%d" % number, message_id=f"id-{number}"))
        sender.send_messages(batch)
    found = [(message.body, message.message_id) for message in broker.messages("input")]
    assert found == [(b"%d" % number, f"id-{number}") for number in range(100)]


def test_types_of_application_properties_survive_both_ways(broker: ServiceBusBroker) -> None:
    given: dict[Any, Any] = {"text": "é", "whole": -7, "yes": True, "no": False, "half": 2.5}
    wire = {name.encode(): value for name, value in given.items()} | {b"text": "é".encode()}
    with sync_client(broker) as client:
        with client.get_queue_sender("input") as sender:
            sender.send_messages(ServiceBusMessage(b"sdk", application_properties=dict(given)))
        broker.send("input", b"control", properties=given)
        with client.get_queue_receiver("input") as receiver:
            messages = receiver.receive_messages(max_message_count=2, max_wait_time=5)
    for seen in broker.messages("input"):
        assert seen.application_properties == given
        assert {type(value) for value in seen.application_properties.values()} == {
            str, int, bool, float,
        }  # fmt: skip
    assert [message.application_properties for message in messages] == [wire, wire]


@pytest.mark.parametrize(
    "body", [EVERY_BYTE, b"", EVERY_BYTE * 800], ids=["256 values", "empty", "200 kB"]
)
def test_a_body_arrives_byte_for_byte(broker: ServiceBusBroker, body: bytes) -> None:
    with sync_client(broker) as client:
        with client.get_queue_sender("input") as sender:
            sender.send_messages(ServiceBusMessage(body))
        assert [message.body for message in broker.messages("input")] == [body]
        with client.get_queue_receiver("input") as receiver:
            [message] = receiver.receive_messages(max_wait_time=5)
            assert body_of(message) == body


def test_a_message_over_the_limit_is_refused(broker: ServiceBusBroker) -> None:
    with sync_client(broker) as client, client.get_queue_sender("input") as sender:
        with pytest.raises(MessageSizeExceededError):
            sender.send_messages(ServiceBusMessage(bytes(300_000)))
        sender.send_messages(ServiceBusMessage(bytes(200_000)))
    assert broker.counts("input") == Counts(1, 0, 0)


PROPERTIES: dict[str, Any] = {
    "message_id": "m-1",
    "content_type": "application/json",
    "correlation_id": "c-1",
    "reply_to": "replies",
    "reply_to_session_id": "rs-1",
    "session_id": "s-1",
    "subject": "scoring",
}


def test_properties_round_trip_both_ways(broker: ServiceBusBroker) -> None:
    broker.send("input", b"control", **PROPERTIES)
    with sync_client(broker) as client:
        with client.get_queue_sender("input") as sender:
            sender.send_messages(ServiceBusMessage(b"sdk", **PROPERTIES))
        with client.get_queue_receiver("input") as receiver:
            messages = receiver.receive_messages(max_message_count=2, max_wait_time=5)
            assert [body_of(message) for message in messages] == [b"control", b"sdk"]
    for seen in [*messages, *broker.messages("input")]:
        assert {name: getattr(seen, name) for name in PROPERTIES} == PROPERTIES


def test_a_topic_copies_each_message_to_every_subscription(broker: ServiceBusBroker) -> None:
    broker.add_topic("events")
    paths = [broker.add_subscription("events", name) for name in ("first", "second")]
    with sync_client(broker) as client:
        with client.get_topic_sender("events") as sender:
            sender.send_messages(ServiceBusMessage(b"news"))
        with client.get_subscription_receiver("events", "first") as receiver:
            [message] = receiver.receive_messages(max_wait_time=5)
            receiver.dead_letter_message(message, reason="No")
    assert broker.counts(paths[0]) == Counts(active=0, locked=0, dead=1)
    assert [message.body for message in broker.messages(paths[1])] == [b"news"]


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


def test_refused_tokens_are_an_authentication_error(broker: ServiceBusBroker) -> None:
    broker.refuse_tokens = True
    with sync_client(broker, retry_total=0) as client:
        with (
            pytest.raises(ServiceBusAuthenticationError),
            client.get_queue_receiver("input"),
        ):
            pytest.fail("the token was taken")
        broker.refuse_tokens = False
        client.get_queue_receiver("input").__enter__()
    assert broker.statistics.tokens_refused == 1


def test_no_more_than_the_credit_is_delivered(broker: ServiceBusBroker) -> None:
    for number in range(10):
        broker.send("input", b"%d" % number)
    with sync_client(broker) as client, client.get_queue_receiver("input") as receiver:
        messages = receiver.receive_messages(max_message_count=3, max_wait_time=5)
        assert [body_of(message) for message in messages] == [b"0", b"1", b"2"]
        assert broker.counts("input") == Counts(active=7, locked=3, dead=0)


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
