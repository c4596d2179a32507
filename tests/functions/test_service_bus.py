"""The Service Bus trigger on Azure Functions: Microsoft's worker library and SDK, real AMQP."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusReceivedMessage, ServiceBusReceiver

from scoring_runtime.settings.settings import Settings
from tests.conftest import WriteScript
from tests.hosts.broker import BrokerMessage, Counts, ServiceBusBroker
from tests.hosts.functions import Delivery, FunctionsHost, host_of, message_event

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
BUS = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey=s3cr3t"
PLAIN = "def init(): ...\ndef run(data): return data"
RAW = """
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse
def init(): ...
@rawhttp
def run(request):
    if request.get_data() == b"see":
        return {name: value for name, value in request.headers.items()}
    return AMLResponse(request.get_data(), 200, {"Content-Type": "application/x-own"})
"""

MODEL = {"x-model-name": "model", "x-model-version": "1"}


class Listener:
    """What the Functions host does with a queue: lock messages, call the function, settle them.

    A message that is gone by then is no failure: the host logs it.
    """

    def __init__(
        self,
        broker: ServiceBusBroker,
        host: FunctionsHost,
        client: ServiceBusClient,
        receiver: ServiceBusReceiver,
    ) -> None:
        self.broker, self.host = broker, host
        self._client, self._receiver = client, receiver

    def hang_up(self) -> None:
        """Close the listener's own connection: it keeps its locks."""
        self._receiver.close()
        self._client.close()

    def send(self, body: bytes, **named: Any) -> ServiceBusReceivedMessage:
        """Put a message into the queue and lock it."""
        self.broker.send("input", body, **named)
        return self.receive()

    def receive(self) -> ServiceBusReceivedMessage:
        [message] = self._receiver.receive_messages(1, max_wait_time=10)
        return message

    def deliver(self, message: ServiceBusReceivedMessage) -> Delivery:
        """Call the function; the message stays locked."""
        return self.host.deliver("score_message", message_event(message))

    def settle(self, message: ServiceBusReceivedMessage, done: Delivery) -> None:
        """As ``autoCompleteMessages`` has it."""
        if done.failure:
            self._receiver.abandon_message(message)
        else:
            self._receiver.complete_message(message)

    def __call__(self, body: bytes, **named: Any) -> Delivery:
        """One message from the queue to its end, when it is not dead-lettered."""
        message = self.send(body, **named)
        done = self.deliver(message)
        self.settle(message, done)
        return done

    def reply(self, queue: str = "output") -> BrokerMessage:
        """The only message of a queue, which is empty then."""
        [reply] = self.broker.take_all(queue)
        return reply

    def dead_letter(self) -> BrokerMessage:
        """The only dead letter, which is removed."""
        [letter] = self.broker.take_all("input/$deadletterqueue")
        return letter


@contextmanager
def listening(
    script: Path, *, lock_seconds: float = 30, maximum: int = 10, **settings: str
) -> Iterator[Listener]:
    """A host with a broker of its own, and queues input, output and answers."""
    with ServiceBusBroker() as broker, ExitStack() as stack:
        broker.add_queue("input", lock_seconds=lock_seconds, max_delivery_count=maximum)
        for name in ("output", "answers"):
            broker.add_queue(name)
        bus = broker.connection_string
        host = stack.enter_context(host_of(script, ServiceBusConnectionString=bus, **settings))
        client = ServiceBusClient.from_connection_string(bus)
        receiver = stack.enter_context(stack.enter_context(client).get_queue_receiver("input"))
        yield Listener(broker, host, client, receiver)


@pytest.fixture(scope="module")
def started() -> Iterator[Listener]:
    """Text in; see the script for what it does."""
    with listening(SCRIPTS / "trigger_text.py", SERVICEBUS_MAX_ATTEMPTS="3") as listener:
        yield listener


@pytest.fixture(scope="module")
def started_raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """The bytes back."""
    script = tmp_path_factory.mktemp("raw") / "score.py"
    script.write_text(RAW)
    with listening(script) as listener:
        yield listener


def emptied(listener: Listener) -> Listener:
    for name in ("input", "output", "answers"):
        listener.broker.clear(name)
    return listener


@pytest.fixture
def queue(started: Listener) -> Listener:
    return emptied(started)


@pytest.fixture
def raw(started_raw: Listener) -> Listener:
    return emptied(started_raw)


# --- bindings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "binding"),
    [
        ({}, {"connection": "ServiceBusConnectionString", "queueName": "input"}),
        (
            {
                "SERVICEBUS_CONNECTION": "Own",
                "Own__fullyQualifiedNamespace": "a.servicebus.windows.net",
                "SERVICEBUS_INPUT_QUEUE": "jobs",
            },
            {"connection": "Own", "queueName": "jobs"},
        ),
        (
            {"SERVICEBUS_INPUT_QUEUE": "news", "SERVICEBUS_INPUT_SUBSCRIPTION": "scoring"},
            {
                "connection": "ServiceBusConnectionString",
                "topicName": "news",
                "subscriptionName": "scoring",
            },
        ),
    ],
    ids=["queue", "own connection", "subscription"],
)
def test_the_binding_is_one_binary_trigger(
    settings: dict[str, str], binding: dict[str, str], write_script: WriteScript
):
    """Without `binary` the host sends text; replies need ids, so there is no output binding."""
    with host_of(write_script(PLAIN), ServiceBusConnectionString=BUS, **settings) as started:
        [function] = [each for each in started.functions if each["name"] == "score_message"]
    assert function["bindings"] == [
        {
            "name": "message",
            "type": "serviceBusTrigger",
            "direction": "IN",
            "dataType": "BINARY",
            **binding,
        }
    ]


# --- replies --------------------------------------------------------------------------------------


def test_a_reply_carries_what_the_request_asked_for(queue: Listener):
    done = queue(
        "grüße".encode(),
        message_id="one",
        correlation_id="talk",
        reply_to="answers",
        reply_to_session_id="session",
        session_id="own",
        content_type="text/plain",
        properties={"x-tenant": "t", "X-Number": 7, "other": "not sent", "x-request-id": "r"},
    )
    assert (done.failure, done.outputs) == ("", {})
    reply = queue.reply("answers")
    assert reply.body == '{"got":"grüße"}'.encode()
    assert reply.answers == "one"
    assert reply.correlation_id == "talk"
    assert reply.session_id == "session"
    assert reply.content_type == "application/json"
    assert reply.application_properties == {
        "x-tenant": "t",
        "X-Number": 7,
        "x-request-id": "r",
        **MODEL,
        "status": 200,
    }
    assert queue.broker.counts("input") == Counts(0, 0, 0)
    assert queue.broker.counts("output") == Counts(0, 0, 0)


def test_run_sees_the_message_as_a_request(raw: Listener):
    """Its x- properties are headers, and its id is the request id."""
    named = {"message_id": "an-id", "content_type": "text/csv"}
    assert raw(b"see", properties={"x-Tenant": "t", "other": "o"}, **named).failure == ""
    seen = json.loads(raw.reply().body)
    assert seen["X-Tenant"] == "t"
    assert seen["X-Request-Id"] == "an-id"
    assert seen["Content-Type"] == "text/csv"
    assert "Other" not in seen


def test_50_replies_share_one_connection(queue: Listener):
    assert queue(b"opens it").failure == ""
    opened = queue.broker.statistics.connections_opened
    for number in range(50):
        assert queue(b"%d" % number, message_id=str(number)).failure == ""
    assert queue.broker.statistics.connections_opened == opened
    ids = [each.answers for each in queue.broker.messages("output")]
    assert sorted(ids[1:], key=int) == [str(number) for number in range(50)]


def test_16_messages_at_once_each_get_their_own_reply_and_reason(queue: Listener):
    """As many as maxConcurrentCalls in host.json allows."""
    for number in range(16):
        queue.broker.send("input", b"status %d" % (392 + number), message_id=str(number))
    messages = [queue.receive() for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(queue.deliver, messages))
    assert [each.failure for each in done] == [""] * 16
    replies = {
        each.correlation_id: each.application_properties["status"]
        for each in queue.broker.take_all("output")
    }
    assert replies == {str(n): 392 + n for n in range(16)}
    reasons = {
        each.message_id: each.application_properties["DeadLetterReason"]
        for each in queue.broker.dead_letters("input")
    }
    assert reasons == {str(n): f"Status{392 + n}" for n in range(8, 16)}


@pytest.mark.long
def test_a_full_output_keeps_the_function_waiting_and_its_answer():
    """Nothing is scored again, and readiness names the setting."""
    with listening(SCRIPTS / "trigger_text.py") as queue:
        assert queue(b"first").failure == ""
        queue.broker.refuse("output", "amqp:resource-limit-exceeded")
        message = queue.send(b"second")
        with ThreadPoolExecutor(1) as pool:
            delivery = pool.submit(queue.deliver, message)

            def is_unready() -> bool:
                answer = httpx.get(f"{queue.host.url}/health/ready")
                return answer.status_code == 503 and "SERVICEBUS_OUTPUT_QUEUE" in answer.text

            queue.broker.wait_for(is_unready, 40)
            assert not delivery.done()
            queue.broker.refuse("output")
            assert delivery.result().failure == ""
        calls = httpx.post(f"{queue.host.url}/score", content=b"calls").json()
        assert calls == 3  # with this one
        assert httpx.get(f"{queue.host.url}/health/ready").status_code == 200
        assert [each.body for each in queue.broker.messages("output")][1:] == [b'{"got":"second"}']


def test_lines_that_a_script_logs_belong_to_its_invocation(queue: Listener):
    found = [(queue(b"invocation").invocation_id, queue.reply().body) for _ in range(3)]
    assert all(json.loads(body) == own for own, body in found)
    assert len({own for own, _ in found}) == 3


def test_messages_of_a_subscription_are_answered_and_dead_lettered_there():
    """The lock token is settled on the subscription that it belongs to."""
    with ServiceBusBroker() as broker, ExitStack() as stack:
        broker.add_topic("news")
        path = broker.add_subscription("news", "scoring")
        broker.add_queue("output")
        settings = {"SERVICEBUS_INPUT_QUEUE": "news", "SERVICEBUS_INPUT_SUBSCRIPTION": "scoring"}
        script, bus = SCRIPTS / "trigger_text.py", broker.connection_string
        host = stack.enter_context(host_of(script, ServiceBusConnectionString=bus, **settings))
        client = stack.enter_context(ServiceBusClient.from_connection_string(bus))
        receiver = stack.enter_context(client.get_subscription_receiver("news", "scoring"))
        listener = Listener(broker, host, client, receiver)
        for body in (b"a", b"refuse"):
            broker.send("news", body)
            message = listener.receive()
            assert listener.deliver(message).failure == ""
            [reply] = broker.take_all("output")
            assert reply.application_properties["status"] == (200 if body == b"a" else 400)
        assert broker.counts(path) == Counts(active=0, locked=1, dead=1)


# --- the client's fault ---------------------------------------------------------------------------


def test_a_reply_that_no_queue_takes_is_not_tried_again(queue: Listener):
    """To a queue that is not there, or too large for it: then the error is the reply."""
    assert queue.deliver(queue.send(b"a", reply_to="nowhere")).failure == ""
    assert "'nowhere'" in queue.dead_letter().application_properties["DeadLetterErrorDescription"]
    assert queue.deliver(queue.send(b"large", message_id="big")).failure == ""
    reply = queue.reply()
    assert (reply.answers, reply.application_properties["request_id"]) == ("big", "big")
    assert reply.application_properties["status"] == 500
    assert list(json.loads(reply.body)) == ["message"]
    letter = queue.dead_letter().application_properties
    assert letter["DeadLetterReason"] == "ReplyRefused"
    assert "larger than 'output' takes" in letter["DeadLetterErrorDescription"]
    assert queue.broker.counts("input") == Counts(0, 0, 0)


@pytest.mark.parametrize("token", ["unknown", "no token"])
def test_a_lock_that_is_lost_fails_the_function_with_the_reason_why(token: str, queue: Listener):
    """The message is delivered again, and its reply has the same id then."""
    message = queue.send(b"refuse", message_id="late")
    event = message_event(message)
    if token == "unknown":
        event["metadata"]["LockToken"] = {"type": "string", "value": str(uuid.uuid4())}
    else:
        del event["metadata"]["LockToken"]
    failed = queue.host.deliver("score_message", event)
    assert "TryAgain: InputError: not this one" in failed.failure
    assert "could not be dead-lettered with its reason" in failed.failure
    assert queue.reply().answers == "late"
    queue.settle(message, failed)
    assert queue.broker.counts("input") == Counts(active=1, locked=0, dead=0)
    assert queue.deliver(queue.receive()).failure == ""
    assert queue.reply().answers == "late"
    assert queue.broker.counts("input") == Counts(active=0, locked=0, dead=1)


# --- run() fails ----------------------------------------------------------------------------------


def test_a_failed_run_is_tried_again_and_then_answered_and_dead_lettered(queue: Listener):
    """At the third try, as SERVICEBUS_MAX_ATTEMPTS says here; no reply before that."""
    body, reason = b"fail", "RunFailed: An unexpected error occurred in scoring script."
    queue.broker.send("input", body, message_id="m")
    for _ in range(2):
        message = queue.receive()
        failed = queue.deliver(message)
        assert f"TryAgain: {reason}" in failed.failure
        assert queue.broker.messages("output") == []
        queue.settle(message, failed)
        assert queue.broker.counts("input") == Counts(active=1, locked=0, dead=0)
    assert queue.deliver(queue.receive()).failure == ""
    reply = queue.reply()
    answer = httpx.post(f"{queue.host.url}/score", content=body)
    assert (reply.answers, reply.body) == ("m", answer.content)
    told = {**MODEL, "status": answer.status_code, "request_id": "m"}
    assert reply.application_properties == told
    assert queue.broker.counts("input") == Counts(active=0, locked=0, dead=1)
    letter = queue.dead_letter().application_properties
    said = f"{letter['DeadLetterReason']}: {letter['DeadLetterErrorDescription']}"
    assert said.startswith(reason)
    assert said.endswith(" [m]")  # by which the log has it


# --- the broker is away ---------------------------------------------------------------------------


@pytest.mark.long
def test_without_a_broker_the_function_fails_and_it_works_again_when_it_is_back():
    """No reply, no success: the host delivers the message again; the key is in no message."""
    with listening(SCRIPTS / "trigger_text.py") as queue:
        assert queue(b"first").failure == ""
        good, bad = queue.send(b"second"), queue.send(b"refuse")
        queue.hang_up()
        queue.broker.stop_listening()
        failed = queue.deliver(good).failure
        assert "TriggerTrouble: Service Bus cannot be reached or does not answer" in failed
        assert "ServiceBusConnectionString (SERVICEBUS_CONNECTION), 'output'" in failed
        assert "SAS_KEY_VALUE" not in failed
        queue.broker.start_listening()
        queue.broker.clear("output")
        assert [queue.deliver(each).failure for each in (good, bad)] == ["", ""]
        replies = queue.broker.messages("output")
        assert [each.application_properties["status"] for each in replies] == [200, 400]
        assert queue.broker.counts("input") == Counts(active=0, locked=1, dead=1)
        assert "SAS_KEY_VALUE" not in queue.host.log


def test_connections_that_are_cut_lose_no_reply():
    """The SDK's own, for replies and for dead letters; one failure is allowed, to find it out."""
    with listening(SCRIPTS / "trigger_text.py") as queue:
        for number, body in enumerate((b"a", b"refuse")):
            assert queue.deliver(queue.send(body, message_id=f"before {number}")).failure == ""
        sent = [queue.send(body, message_id=body.decode()) for body in (b"b", b"status 422")]
        queue.hang_up()
        queue.broker.cut_connections()
        for message in sent:
            failures = [queue.deliver(message).failure for _ in range(2)]
            assert "" in failures
        replies = {each.answers for each in queue.broker.messages("output")}
        assert replies == {"before 0", "before 1", "b", "status 422"}
        assert queue.broker.counts("input").dead == 2


# --- the host's settings --------------------------------------------------------------------------


def test_host_json_has_the_settings_of_service_bus_where_the_host_reads_them():
    """https://learn.microsoft.com/azure/azure-functions/functions-bindings-service-bus

    The lock is renewed for longer than the default deadline, so that a message that is being
    scored is not delivered to another instance.
    """
    settings = json.loads((ROOT / "host.json").read_text())
    assert "serviceBus" not in settings
    bus = settings["extensions"]["serviceBus"]
    assert set(bus) == {
        "autoCompleteMessages",
        "maxAutoLockRenewalDuration",
        "maxConcurrentCalls",
        "prefetchCount",
    }
    hours, minutes, seconds = map(int, bus["maxAutoLockRenewalDuration"].split(":"))
    assert hours * 3600 + minutes * 60 + seconds >= Settings().timeout_seconds == 3600
    assert bus["autoCompleteMessages"] is True
    assert (bus["maxConcurrentCalls"], bus["prefetchCount"]) == (16, 0)
