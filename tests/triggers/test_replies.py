"""Replies as the broker gets them, sent with the real SDK."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from azure.servicebus.aio import ServiceBusClient

from scoring_runtime.connections.named import service_bus
from scoring_runtime.connections.service_bus import client_of
from scoring_runtime.errors import TriggerTrouble
from scoring_runtime.settings.settings import Settings
from scoring_runtime.triggers.messages import QueueReply
from scoring_runtime.triggers.replies import Replies, ReplyRefused
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


def test_what_a_reply_has_not_is_not_there(broker: ServiceBusBroker):
    """Without an id of the message there is none to make one of: each is a new one."""
    given = REPLY._replace(message_id="", correlation_id="")
    assert send(broker, given, given) == [None, None]
    first, second = broker.take_all("output")
    assert (first.correlation_id, first.session_id) == (None, None)
    assert len({first.message_id, second.message_id, None, "", ":reply"}) == 5


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


def test_all_connections_are_closed_in_the_end(broker: ServiceBusBroker):
    assert send(broker, REPLY, REPLY._replace(target="nowhere")) != [None, None]
    broker.wait_for(lambda: broker.open_connections == 0)


# --- refused --------------------------------------------------------------------------------------


def test_one_reply_that_is_too_large_leaves_the_others_of_its_batch_alone(broker: ServiceBusBroker):
    given = numbered(5)
    given[2] = given[2]._replace(body=b"-" * 20_000)
    results = send(broker, *given)
    assert results[:2] + results[3:] == [None] * 4
    assert isinstance(results[2], ReplyRefused)
    assert "larger than 'output' takes" in str(results[2])
    assert [each.body for each in broker.take_all("output")] == [b"0", b"1", b"3", b"4"]


def test_small_replies_that_are_too_many_for_one_batch_all_arrive(broker: ServiceBusBroker):
    """Fifty of 1 kB where one message may have 10 kB."""
    given = [each._replace(body=each.body.ljust(1000)) for each in numbered(50)]
    assert send(broker, *given) == [None] * 50
    assert [each.body for each in broker.take_all("output")] == [each.body for each in given]


def test_one_reply_that_the_sdk_cannot_make_leaves_the_others_alone(broker: ServiceBusBroker):
    """A session id may have 128 characters."""
    given = [REPLY, REPLY._replace(session_id="s" * 129), REPLY]
    results = send(broker, *given)
    assert (results[0], results[2]) == (None, None)
    assert isinstance(results[1], ReplyRefused)
    assert "session_id" in str(results[1])
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


def test_a_property_that_amqp_cannot_hold_refuses_its_own_reply_alone(broker: ServiceBusBroker):
    given = [REPLY, REPLY._replace(properties={"x-a": object()}), REPLY]
    assert [type(each) for each in send(broker, *given)] == [type(None), ReplyRefused, type(None)]
    [alone] = send(broker, given[1])
    assert isinstance(alone, ReplyRefused)
    assert len(broker.take_all("output")) == 2


def test_queues_that_do_not_exist_leave_no_connection_behind(broker: ServiceBusBroker):
    async def scenario(replies: Replies, client: ServiceBusClient) -> list[int]:
        before = broker.open_connections
        nowhere = [REPLY._replace(target=f"nowhere-{n}") for n in range(5)]
        await asyncio.gather(*map(replies.send, nowhere), return_exceptions=True)
        await asyncio.sleep(0.5)
        return [broker.open_connections - before]

    assert with_replies(broker, scenario) == [0]


# --- the broker is away ---------------------------------------------------------------------------


def goes_away() -> tuple[str, int]:
    """What is said while it is away, and the replies that are there in the end."""

    async def scenario(replies: Replies, client: ServiceBusClient) -> str:
        await replies.send(REPLY)
        away.stop_listening()
        with pytest.raises(TriggerTrouble) as failed:
            await replies.send(REPLY)
        away.start_listening()
        await replies.send(REPLY)
        return str(failed.value)

    with ServiceBusBroker() as away:
        away.add_queue("output")
        return with_replies(away, scenario), len(away.messages("output"))


def is_cut() -> list[bytes]:
    """The replies that are there in the end."""

    async def scenario(replies: Replies, client: ServiceBusClient) -> None:
        await replies.send(REPLY)
        away.cut_connections()
        await replies.send(REPLY._replace(body=b"after"))

    with ServiceBusBroker() as away:
        away.add_queue("output")
        with_replies(away, scenario)
        return [each.body for each in away.messages("output")]


def refuses_the_token() -> str:
    """What is said."""

    async def scenario(replies: Replies, client: ServiceBusClient) -> str:
        with pytest.raises(TriggerTrouble) as failed:
            await replies.open("output")
        return str(failed.value)

    with ServiceBusBroker() as away:
        away.add_queue("output")
        away.refuse_tokens = True
        return str(with_replies(away, scenario))


@pytest.fixture(scope="module", autouse=True)
def troubles() -> Iterator[dict[Callable[[], Any], Future[Any]]]:
    """Scenarios that wait for the SDK's retries, started before the first test."""
    with ThreadPoolExecutor() as pool:
        yield {each: pool.submit(each) for each in (goes_away, is_cut, refuses_the_token)}


def test_a_broker_that_is_away_is_trouble_and_then_replies_go_on(troubles):
    message, replies = troubles[goes_away].result()
    assert "TriggerConnectionString (SERVICEBUS_CONNECTION), 'output'" in message
    assert KEY not in message
    assert replies == 2


def test_a_connection_that_was_cut_is_made_again(troubles):
    assert troubles[is_cut].result() == [b"body", b"after"]


def test_a_token_that_is_refused_is_trouble_that_names_the_setting_and_the_roles(troubles):
    message = troubles[refuses_the_token].result()
    assert "refuses TriggerConnectionString (SERVICEBUS_CONNECTION) for 'output'" in message
    assert "Azure Service Bus Data Receiver" in message
    assert KEY not in message
