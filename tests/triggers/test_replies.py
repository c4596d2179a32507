"""Replies as the broker gets them, sent with the real SDK."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from azure.servicebus.aio import ServiceBusClient

from scoring_runtime.connections.named import service_bus
from scoring_runtime.connections.service_bus import client_of
from scoring_runtime.errors import TriggerTrouble
from scoring_runtime.settings.settings import Settings
from scoring_runtime.triggers.messages import QueueReply, ReplyRefused
from scoring_runtime.triggers.replies import Replies
from tests.hosts.broker import BrokerMessage, ServiceBusBroker

KEY = "SAS_KEY_VALUE"
REPLY = QueueReply("output", b"body", "text/csv", "m:reply", "c", "", {"status": 200})
Scenario = Callable[[Replies, ServiceBusClient], Awaitable[Any]]


@pytest.fixture(scope="module")
def namespace() -> Iterator[ServiceBusBroker]:
    with ServiceBusBroker(max_message_size=10_000) as running:
        for name in ("output", "answers"):
            running.add_queue(name)
        running.add_topic("news")
        running.add_subscription("news", "one")
        yield running


@pytest.fixture
def broker(namespace: ServiceBusBroker) -> ServiceBusBroker:
    """Its queues are empty."""
    for name in ("output", "answers"):
        namespace.clear(name)
    return namespace


def with_replies(broker: ServiceBusBroker, scenario: Scenario) -> Any:
    """The result of a scenario; everything is closed after it."""
    settings = Settings.from_environ({"TriggerConnectionString": broker.connection_string})

    async def run() -> Any:
        client, credential = client_of(settings, service_bus(settings))
        assert credential is None
        async with client:
            replies = Replies(client, "TriggerConnectionString")
            try:
                return await scenario(replies, client)
            finally:
                await replies.close()

    return asyncio.run(run())


def send(broker: ServiceBusBroker, *given: QueueReply) -> list[BaseException | None]:
    """What came of each, sent at once."""

    async def scenario(replies: Replies, client: ServiceBusClient) -> list[BaseException | None]:
        return await asyncio.gather(*map(replies.send, given), return_exceptions=True)

    results: list[BaseException | None] = with_replies(broker, scenario)
    return results


def sent(broker: ServiceBusBroker, reply: QueueReply, queue: str = "output") -> BrokerMessage:
    assert send(broker, reply) == [None]
    [found] = broker.take_all(queue)
    return found


def numbered(count: int, **changed: Any) -> list[QueueReply]:
    return [
        REPLY._replace(body=b"%d" % n, message_id=f"{n}:reply", **changed) for n in range(count)
    ]


# --- what a reply carries -------------------------------------------------------------------------


def test_a_reply_arrives_with_all_it_carries(broker: ServiceBusBroker):
    found = sent(broker, REPLY._replace(body=bytes(range(256)), session_id="s"))
    assert found.body == bytes(range(256))
    assert (found.message_id, found.correlation_id) == ("m:reply", "c")
    assert (found.content_type, found.session_id) == ("text/csv", "s")
    assert found.application_properties == {"status": 200}


def test_properties_arrive_with_their_types(broker: ServiceBusBroker):
    """Whole numbers of 64 bits too, such as a time in milliseconds."""
    whole = [7, -1, 2**31, -(2**31) - 1, 1_700_000_000_000, 2**63 - 1, -(2**63), 2**64 - 1]
    values = [*whole, 1.5, True, False, "grüße", "", uuid.UUID(int=2**128 - 1), None]
    given = {f"x-{number}": value for number, value in enumerate(values)}
    found = sent(broker, REPLY._replace(properties=given)).application_properties
    assert list(found.values()) == values
    assert list(map(type, found.values())) == list(map(type, values))


def test_a_topic_takes_replies_too(broker: ServiceBusBroker):
    assert sent(broker, REPLY._replace(target="news"), "news/Subscriptions/one").body == b"body"


# --- many at once ---------------------------------------------------------------------------------


def test_500_replies_at_once_go_together_over_one_connection(broker: ServiceBusBroker):
    opened = broker.statistics.connections_opened
    assert send(broker, *numbered(500)) == [None] * 500
    assert [each.body for each in broker.take_all("output")] == [b"%d" % n for n in range(500)]
    assert broker.statistics.connections_opened == opened + 1


def test_replies_to_different_queues_and_sessions_go_where_they_belong(broker: ServiceBusBroker):
    first, second = numbered(20), numbered(20, target="answers")
    in_sessions = [each._replace(session_id=f"s{n % 3}") for n, each in enumerate(second)]
    both = [each for pair in zip(first, in_sessions, strict=True) for each in pair]
    assert send(broker, *both) == [None] * 40
    assert {each.message_id for each in broker.take_all("output")} == {r.message_id for r in first}
    found = {each.message_id: each.session_id for each in broker.take_all("answers")}
    assert found == {each.message_id: each.session_id for each in in_sessions}


def test_more_queues_than_senders_are_kept_are_all_answered(broker: ServiceBusBroker):
    """Those not used for longest are closed."""
    for number in range(55):
        broker.add_queue(f"many-{number}")

    async def scenario(replies: Replies, client: ServiceBusClient) -> int:
        before = broker.open_connections
        targets = [REPLY._replace(target=f"many-{number}") for number in range(55)]
        await asyncio.gather(*map(replies.send, targets))
        for _ in range(10):
            await replies.send(targets[0])
        await asyncio.sleep(0.5)
        return broker.open_connections - before

    assert with_replies(broker, scenario) == 50
    found = [len(broker.take_all(f"many-{number}")) for number in range(55)]
    assert found == [11] + [1] * 54


# --- refused --------------------------------------------------------------------------------------


def test_one_reply_that_is_too_large_leaves_the_others_of_its_batch_alone(broker: ServiceBusBroker):
    """Those are more than fit into one: fifty of 1 kB where one message may have 10 kB."""
    given = [each._replace(body=each.body.ljust(1000)) for each in numbered(50)]
    bodies = [each.body for each in given]
    given[2] = given[2]._replace(body=b"-" * 20_000)
    results = send(broker, *given)
    assert results[:2] + results[3:] == [None] * 49
    assert isinstance(results[2], ReplyRefused)
    assert "larger than 'output' takes" in str(results[2])
    assert [each.body for each in broker.take_all("output")] == bodies[:2] + bodies[3:]


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"session_id": "s" * 129}, "session_id"), ({"properties": {"x-a": object()}}, "")],
)
def test_one_reply_that_the_sdk_or_amqp_cannot_hold_leaves_the_others_alone(
    broker: ServiceBusBroker, changed: dict[str, Any], said: str
):
    """A session id may have 128 characters."""
    given = [REPLY, REPLY._replace(**changed), REPLY]
    results = send(broker, *given)
    assert (results[0], results[2]) == (None, None)
    assert isinstance(results[1], ReplyRefused)
    assert said in str(results[1])
    [alone] = send(broker, given[1])
    assert isinstance(alone, ReplyRefused)
    assert len(broker.take_all("output")) == 2


def test_a_queue_that_does_not_exist_refuses_without_much_delay(broker: ServiceBusBroker):
    started = time.monotonic()
    missing, fine = send(broker, REPLY._replace(target="nowhere"), REPLY)
    assert isinstance(missing, TriggerTrouble)
    assert "The queue 'nowhere' does not exist" in str(missing)
    assert "SERVICEBUS_OUTPUT_QUEUE" in str(missing)
    assert fine is None
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("condition", "kind", "said"),
    [
        ("amqp:resource-limit-exceeded", TriggerTrouble, "'output' is full (reply_to, or SERV"),
        ("amqp:unauthorized-access", TriggerTrouble, "Service Bus refuses TriggerConnection"),
        ("com.microsoft:entity-disabled", TriggerTrouble, "'output' is disabled (reply_to, or"),
        ("com.microsoft:server-busy", TriggerTrouble, "cannot be reached or does not answer"),
        ("amqp:not-allowed", TriggerTrouble, "'output' (reply_to, or SERVICEBUS_OUTPUT_QUEUE)"),
        ("com.microsoft:argument-error", ReplyRefused, "'output' refuses the reply: com.micro"),
        ("amqp:invalid-field", ReplyRefused, "'output' refuses the reply: amqp:invalid-field"),
    ],
)
def test_what_a_queue_refuses_is_its_trouble_or_that_of_one_reply(
    condition: str, kind: type[Exception], said: str, broker: ServiceBusBroker
):
    broker.refuse("output", condition)
    try:
        [refused] = send(broker, REPLY)
    finally:
        broker.refuse("output")
    assert type(refused) is kind
    assert said in str(refused)


def test_an_attach_that_is_never_answered_ends_and_delays_no_other(
    broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("scoring_runtime.triggers.replies._LONGEST_SECONDS", 5.0)
    broker.be_silent("quiet")
    took: dict[str, float] = {}

    async def scenario(replies: Replies, client: ServiceBusClient) -> Any:
        async def sent(target: str) -> None:
            try:
                await replies.send(REPLY._replace(target=target))
            finally:
                took[target] = time.monotonic() - started

        started = time.monotonic()
        return await asyncio.gather(sent("quiet"), sent("output"), return_exceptions=True)

    [silent, fine] = with_replies(broker, scenario)
    assert isinstance(silent, TriggerTrouble)
    assert "'quiet'" in str(silent)
    assert fine is None
    assert took["output"] < 5 <= took["quiet"]


def test_queues_that_do_not_exist_leave_no_connection_behind(broker: ServiceBusBroker):
    async def scenario(replies: Replies, client: ServiceBusClient) -> list[int]:
        before = broker.open_connections
        nowhere = [REPLY._replace(target=f"nowhere-{n}") for n in range(5)]
        await asyncio.gather(*map(replies.send, nowhere), return_exceptions=True)
        await asyncio.sleep(0.5)
        return [broker.open_connections - before]

    assert with_replies(broker, scenario) == [0]
    broker.wait_for(lambda: broker.open_connections == 0)


def test_a_token_that_is_refused_is_trouble_that_names_the_setting_and_the_roles():
    async def scenario(replies: Replies, client: ServiceBusClient) -> str:
        with pytest.raises(TriggerTrouble) as failed:
            await replies.open("output")
        return str(failed.value)

    with ServiceBusBroker() as refusing:
        refusing.add_queue("output")
        refusing.refuse_tokens = True
        said = with_replies(refusing, scenario)
    assert "refuses TriggerConnectionString (SERVICEBUS_CONNECTION) for 'output'" in said
    assert "Azure Service Bus Data Receiver" in said
    assert KEY not in said
