"""The Service Bus trigger of the standalone host: the real SDK, a real process, real AMQP."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from azure.servicebus import ServiceBusClient, TransportType
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageProperties

from scoring_runtime.connections import named as connections
from scoring_runtime.connections.service_bus import client_of
from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone import triggers
from tests.hosts.broker import BrokerMessage, Counts, ServiceBusBroker
from tests.hosts.standalone import StandaloneHost

KEY = "SAS_KEY_VALUE"
EVERY_BYTE = bytes(range(256))
BUS = f"Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey={KEY}"
ATTEMPTS = 3
PATIENCE = 60.0

# What comes out depends on the text; run() notes its calls in a file beside the script.
TEXT = """
import os, pathlib, time
from azureml.contrib.services.aml_response import AMLResponse
from scoring_runtime import InputError

calls = pathlib.Path(__file__).with_name("calls")

def init():
    pass

def run(data):
    with calls.open("a") as file:
        file.write(data + "\\n")
    word, _, value = data.partition(" ")
    if word == "refuse":
        raise InputError("not this one")
    if word == "raise":
        raise ValueError("the details are for the log")
    if word == "status":
        return AMLResponse(f"answer {value}", int(value))
    if word == "sleep":
        time.sleep(float(value))
    if word == "pid":
        time.sleep(0.02)
        return os.getpid()
    return {"got": data}
"""
RAW = """
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse

def init():
    pass

@rawhttp
def run(request):
    return AMLResponse(request.get_data(), 200, {"Content-Type": "application/x-own"})
"""


class Outcome(NamedTuple):
    """What became of one message."""

    replies: list[BrokerMessage]
    letters: list[BrokerMessage]


class Listening:
    """A host with an input and an output queue of its own."""

    def __init__(self, broker: ServiceBusBroker, host: StandaloneHost, name: str) -> None:
        self.broker, self.host, self.name = broker, host, name

    def send(self, body: bytes, **named: Any) -> None:
        self.broker.send(self.name, body, **named)

    def settled(self, timeout: float = PATIENCE) -> None:
        """Wait until no message waits and none is locked."""
        self.broker.wait_for(lambda: self.broker.counts(self.name)[:2] == (0, 0), timeout)

    def outcome(self, replies: str = "") -> Outcome:
        """What is there after all messages have been settled; it is removed."""
        self.settled()
        found = self.broker.take_all(replies or f"{self.name}-out")
        return Outcome(found, self.broker.take_all(f"{self.name}/$deadletterqueue"))

    def ask(self, body: bytes, *, replies: str = "", **named: Any) -> Outcome:
        """One message, from the queue to its end."""
        self.send(body, **named)
        return self.outcome(replies)

    def reply(self, body: bytes, *, replies: str = "", **named: Any) -> BrokerMessage:
        """The reply to a message that is scored."""
        [found], letters = self.ask(body, replies=replies, **named)
        assert letters == []
        return found

    def over_http(self, body: bytes) -> httpx.Response:
        return httpx.post(f"{self.host.url}/score", content=body)

    @property
    def calls(self) -> list[str]:
        return calls_of(self.host)


def calls_of(host: StandaloneHost) -> list[str]:
    """What run() was called with."""
    path = Path(host._cwd) / "calls"
    return path.read_text().splitlines() if path.exists() else []


def written(folder: Path, source: str) -> Path:
    folder.mkdir(exist_ok=True)
    script = folder / "score.py"
    script.write_text(source)
    return script


def is_ready(host: StandaloneHost) -> bool:
    return httpx.get(f"{host.url}/health/ready").status_code == 200


def is_not_ready(host: StandaloneHost) -> bool:
    return httpx.get(f"{host.url}/health/ready").status_code == 503


def is_not_ready_because(host: StandaloneHost, trouble: str) -> bool:
    answer = httpx.get(f"{host.url}/health/ready")
    assert answer.status_code == 503
    return trouble in answer.json()["troubles"]["service_bus"]


def until(broker: ServiceBusBroker, predicate: Callable[[], object], timeout: float = PATIENCE):
    broker.wait_for(predicate, timeout)


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Listening]]:
    """Two hosts on one broker, by the kind of their script."""
    folder = tmp_path_factory.mktemp("hosts")
    with ServiceBusBroker() as broker, ExitStack() as stack:
        broker.add_queue("answers")
        found = {}
        for kind, source in {"text": TEXT, "raw": RAW}.items():
            broker.add_queue(kind)
            broker.add_queue(f"{kind}-out")
            environ = {
                "TriggerConnectionString": broker.connection_string,
                "SERVICEBUS_INPUT_QUEUE": kind,
                "SERVICEBUS_OUTPUT_QUEUE": f"{kind}-out",
                "SERVICEBUS_MAX_ATTEMPTS": str(ATTEMPTS),
            }
            host = StandaloneHost(written(folder / kind, source), environ=environ)
            host.start()
            stack.callback(host.stop)
            found[kind] = Listening(broker, host, kind)
        for each in found.values():
            each.host.wait_ready()
        yield found
        for each in found.values():
            each.host.process.terminate()


@pytest.fixture
def text(listening: dict[str, Listening]) -> Listening:
    return listening["text"]


@pytest.fixture
def raw(listening: dict[str, Listening]) -> Listening:
    return listening["raw"]


# --- scenarios that wait, all started before the first test ---------------------------------------


class Own:
    """A broker with the queues input and output, and folders for scripts, of one scenario."""

    def __init__(self, folder: Path, broker: ServiceBusBroker) -> None:
        self.broker, self._folder, self._stack = broker, folder, ExitStack()

    def host(self, *options: str, name: str = "", **environ: str) -> StandaloneHost:
        """A host that has been started; it is ended with the scenario."""
        script = written(self._folder / f"scripts{name}", TEXT)
        given = {"TriggerConnectionString": self.broker.connection_string, **environ}
        host = StandaloneHost(script, *options, environ=given)
        host.start()
        self._stack.callback(host.stop)
        host.wait_ready()
        return host

    def close(self) -> None:
        self._stack.close()


def in_its_own(scenario: Callable[[Own], Any], folder: Path, lock_seconds: float) -> Any:
    with ServiceBusBroker() as broker:
        broker.add_queue("input", lock_seconds=lock_seconds)
        broker.add_queue("output")
        own = Own(folder, broker)
        try:
            return scenario(own)
        finally:
            own.close()


def longer_than_the_lock(own: Own) -> None:
    """The longest one first; two wait for it as prefetched ones, one in the scoring queue."""
    bodies = ["sleep 12", "sleep 2.0", "sleep 2.00", "sleep 2.000"]
    for body in bodies:
        own.broker.send("input", body.encode(), message_id=body)
    host = own.host(SERVICEBUS_MAX_CONCURRENT="2", SERVICEBUS_PREFETCH="2")
    until(own.broker, lambda: own.broker.counts("input").locked == 4)
    until(own.broker, lambda: own.broker.counts("input")[:2] == (0, 0))
    assert calls_of(host) == bodies
    assert [each.answers for each in own.broker.messages("output")] == bodies
    figures = own.broker.statistics
    assert (figures.delivered, figures.completed, figures.abandoned) == (4, 4, 0)
    assert (figures.locks_expired, figures.locks_lost) == (0, 0)


def told_to_stop(own: Own) -> None:
    """While run() works on one of forty messages."""
    for number in range(40):
        own.broker.send("input", b"sleep 0.5", message_id=str(number))
    host = own.host(SERVICEBUS_MAX_CONCURRENT="4", SERVICEBUS_PREFETCH="10")
    until(own.broker, lambda: len(calls_of(host)) == 2)
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(20) == 0
    counts = own.broker.counts("input")
    replies = own.broker.messages("output")
    assert (counts.locked, counts.dead) == (0, 0)
    assert 2 <= len(replies) == len(calls_of(host)) <= 8
    assert counts.active == 40 - len(replies)
    given_back = own.broker.messages("input")
    assert {each.delivery_count for each in given_back} == {0}, "its end used deliveries up"
    left = {each.message_id for each in given_back}
    assert left | {str(each.correlation_id) for each in replies} == {str(n) for n in range(40)}


def told_to_stop_with_two_workers(own: Own) -> None:
    """Both work; both give back what they hold."""
    host = own.host(WORKER_COUNT="2", SERVICEBUS_MAX_CONCURRENT="4")
    for number in range(300):
        own.broker.send("input", b"pid", message_id=str(number))
    until(own.broker, lambda: len({each.body for each in own.broker.messages("output")}) == 2)
    assert host.stop() == 0
    counts = own.broker.counts("input")
    replies = own.broker.messages("output")
    assert (counts.locked, counts.dead) == (0, 0)
    assert counts.active == 300 - len(replies) > 0
    assert len({each.message_id for each in replies}) == len(replies)


def told_to_stop_for_too_long(own: Own) -> None:
    """run() takes longer than SCORING_SHUTDOWN_SECONDS: its message goes back too."""
    own.broker.send("input", b"sleep 60", message_id="long")
    own.broker.send("input", b"next", message_id="next")
    host = own.host(SCORING_SHUTDOWN_SECONDS="1")
    until(own.broker, lambda: calls_of(host))
    host.process.send_signal(signal.SIGTERM)
    host.process.wait(15)
    assert own.broker.counts("input") == Counts(active=2, locked=0, dead=0)
    assert own.broker.messages("output") == []


def http_meanwhile(own: Own) -> None:
    """Requests are answered while two hundred messages are scored."""
    for number in range(200):
        own.broker.send("input", b"sleep 0.02", message_id=str(number))
    host = own.host(SERVICEBUS_MAX_CONCURRENT="4")
    answered = 0
    until(own.broker, lambda: own.broker.messages("output"))
    while own.broker.counts("input").active > 10:
        answer = httpx.post(f"{host.url}/score", content=b"a")
        assert (answer.status_code, answer.json()) == (200, {"got": "a"})
        assert is_ready(host)
        answered += 1
    assert answered >= 5
    until(own.broker, lambda: len(own.broker.messages("output")) == 200)


def trouble_at_the_start(own: Own) -> None:
    """Four hosts, each without something that it needs, and with it later."""
    with ServiceBusBroker() as away, ServiceBusBroker() as refusing:
        brokers = {"queue": own.broker, "output": own.broker, "away": away, "refused": refusing}
        for each in (away, refusing):
            each.add_queue("input")
            each.add_queue("output")
        own.broker.add_queue("jobs")
        away.stop_listening()
        refusing.refuse_tokens = True
        hosts = {
            "queue": own.host(name="q", SERVICEBUS_INPUT_QUEUE="missing"),
            "output": own.host(
                name="o", SERVICEBUS_INPUT_QUEUE="jobs", SERVICEBUS_OUTPUT_QUEUE="later"
            ),
            "away": own.host(name="a", TriggerConnectionString=away.connection_string),
            "refused": own.host(name="r", TriggerConnectionString=refusing.connection_string),
        }
        assert is_not_ready(hosts["refused"])  # from its first moment
        expected = {
            "queue": "queue 'missing' does not exist (SERVICEBUS_INPUT_QUEUE",
            "output": "queue 'later' does not exist (reply_to, or SERVICEBUS_OUTPUT_QUEUE",
            "away": "cannot be reached or does not answer: TriggerConnectionString (SERVICEBUS_C",
            "refused": "Service Bus refuses TriggerConnectionString (SERVICEBUS_CONNECTION)",
        }
        for name, host in hosts.items():
            until(own.broker, partial(is_not_ready_because, host, expected[name]))
            assert httpx.get(f"{host.url}/health/live").status_code == 200
            assert httpx.post(f"{host.url}/score", content=b"a").json() == {"got": "a"}
        own.broker.add_queue("missing")
        own.broker.add_queue("later")
        away.start_listening()
        refusing.refuse_tokens = False
        queues = {"queue": ("missing", "output"), "output": ("jobs", "later")}
        for name, host in hosts.items():
            source, target = queues.get(name, ("input", "output"))
            brokers[name].send(source, b"healed", message_id=name)
            until(own.broker, partial(is_ready, host))
            until(own.broker, partial(brokers[name].messages, target))
            [reply] = brokers[name].take_all(target)
            assert reply.answers == name
            assert host.process.poll() is None
            assert "The Service Bus trigger works again." in host.log
            assert KEY not in host.log


Started = Mapping[Callable[[Own], None], Future[None]]


@pytest.fixture(scope="module", autouse=True)
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """The scenarios by themselves."""
    scenarios: dict[Callable[[Own], None], float] = {
        longer_than_the_lock: 5,
        trouble_at_the_start: 30,
        told_to_stop: 120,
        told_to_stop_with_two_workers: 120,
        told_to_stop_for_too_long: 120,
        http_meanwhile: 30,
    }
    with ThreadPoolExecutor(3) as pool:
        yield {
            each: pool.submit(in_its_own, each, tmp_path_factory.mktemp("own"), seconds)
            for each, seconds in scenarios.items()
        }


# --- outcomes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"raise", 500, "RunFailed"),
        (b"status 500", 500, "Status500"),
    ],
)
def test_a_failed_run_is_delivered_again_and_answered_at_the_last_attempt(
    body: bytes, status: int, reason: str, text: Listening
):
    answer = text.over_http(body)
    assert answer.status_code == status
    before = text.calls.count(body.decode())
    [reply], [letter] = text.ask(body, message_id="f")
    assert text.calls.count(body.decode()) == before + ATTEMPTS
    assert (reply.answers, reply.body) == ("f", answer.content)
    assert reply.application_properties == {"status": status}
    assert letter.application_properties["DeadLetterReason"] == reason
    assert letter.application_properties["DeadLetterErrorDescription"]


# --- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "reason", "described"),
    [
        ({"reply_to": "nowhere"}, "ReplyRefused", "'nowhere'"),
        ({"reply_to": "TEXT"}, "UndecodableInput", "reply_to is 'TEXT'"),
        ({"reply_to_session_id": "s" * 129}, "ReplyRefused", "session_id"),
    ],
    ids=["no such queue", "the input queue", "session id too long"],
)
def test_a_reply_that_can_never_be_sent_is_a_dead_letter_and_holds_nothing_up(
    named: dict[str, str], reason: str, described: str, text: Listening
):
    text.send(b"lost", message_id="lost", **named)
    text.send(b"next", message_id="next")
    [reply], [letter] = text.outcome()
    assert reply.answers == "next"
    assert letter.message_id == "lost"
    assert letter.application_properties["DeadLetterReason"] == reason
    assert described in letter.application_properties["DeadLetterErrorDescription"]


# --- what run() sees ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"value_body": "grüße"}, "grüße".encode()),
        ({"value_body": EVERY_BYTE}, EVERY_BYTE),
        ({"data_body": [b"two ", b"parts"]}, b"two parts"),
        ({"data_body": b"one"}, b"one"),
    ],
    ids=["text value", "binary value", "data in parts", "data"],
)
def test_bodies_of_each_amqp_kind_are_read(body: dict[str, Any], expected: bytes, raw: Listening):
    """As other clients send them; without any id of the message too."""
    message = AmqpAnnotatedMessage(
        **body, properties=AmqpMessageProperties(content_type="application/x-in")
    )
    with (
        ServiceBusClient.from_connection_string(raw.broker.connection_string) as client,
        client.get_queue_sender("raw") as sender,
    ):
        sender.send_messages(message)
    raw.broker.wait_for(lambda: raw.broker.messages("raw-out"))
    [reply], letters = raw.outcome()
    assert (reply.body, letters) == (expected, [])
    assert reply.message_id not in (None, "", ":reply")


# --- other settings -------------------------------------------------------------------------------


def test_a_subscription_is_scored_by_a_host_of_its_own_connection_name(tmp_path: Path):
    """Messages only: /score is not there, health is. No output queue: only reply_to is answered."""
    with ServiceBusBroker() as broker:
        broker.add_topic("news")
        path = broker.add_subscription("news", "scoring")
        broker.add_queue("answers")
        environ = {
            "SERVICEBUS_CONNECTION": "Own",
            "AzureWebJobsOwn": broker.connection_string,
            "SERVICEBUS_INPUT_QUEUE": "news",
            "SERVICEBUS_INPUT_SUBSCRIPTION": "scoring",
            "SERVICEBUS_OUTPUT_QUEUE": "",
            "SCORING_TRIGGERS": "service_bus",
        }
        with StandaloneHost(written(tmp_path, TEXT), environ=environ) as host:
            for body, target in ((b"silent", None), (b"a", "answers"), (b"refuse", "answers")):
                broker.send("news", body, message_id=body.decode(), reply_to=target)
            broker.wait_for(lambda: broker.counts(path) == Counts(0, 0, 1), PATIENCE)
            found = {each.answers: each.body for each in broker.messages("answers")}
            [letter] = broker.dead_letters(path)
            assert sorted(found) == ["a", "refuse"]
            assert found["a"] == b'{"got":"a"}'
            assert letter.application_properties["DeadLetterReason"] == "InputError"
            assert sorted(calls_of(host)) == ["a", "refuse", "silent"]
            assert httpx.post(f"{host.url}/score", content=b"a").status_code == 404
            assert is_ready(host)
            assert "subscription news/scoring; replies go to reply_to" in host.log
        assert KEY not in host.log


@pytest.mark.parametrize(
    ("transport", "expected"),
    [("amqp", TransportType.Amqp), ("websockets", TransportType.AmqpOverWebsocket)],
)
def test_the_transport_is_the_sdks(transport: str, expected: TransportType):
    """To the port of TLS, which a broker of tests cannot have."""
    environ = {"TriggerConnectionString": BUS, "SERVICEBUS_TRANSPORT": transport}
    settings = Settings.from_environ(environ)
    client, _ = client_of(settings, connections.service_bus(settings))
    assert client._config.transport_type == expected


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"TriggerConnectionString": f"nonsense {KEY}"}, "TriggerConnectionString"),
        ({"SERVICEBUS_INPUT_QUEUE": "q", "SERVICEBUS_OUTPUT_QUEUE": "Q"}, "which is SERVICEBUS_I"),
        ({"SERVICEBUS_INPUT_QUEUE": ""}, "SERVICEBUS_INPUT_QUEUE"),
    ],
    ids=["malformed", "same queue", "no queue"],
)
def test_a_bad_setting_is_named_without_the_key(environ: dict[str, str], named: str):
    given = {"SCORING_TRIGGERS": "service_bus", "TriggerConnectionString": BUS, **environ}
    with pytest.raises(ConfigurationError) as refused:
        triggers.check(Settings.from_environ(given))
    assert named in str(refused.value)
    assert KEY not in str(refused.value)


def test_a_missing_package_says_what_to_install(tmp_path: Path):
    """A module that hides it, as where it is not installed."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['azure.servicebus'] = None")
    environ = {"TriggerConnectionString": BUS, "PYTHONPATH": str(tmp_path)}
    host = StandaloneHost(written(tmp_path, TEXT), environ=environ)
    host.start()
    try:
        assert host.process.wait(30) == 3
        assert "pip install" in host.log
        assert "scoring-runtime[servicebus]" in host.log
    finally:
        host.stop()


# --- scenarios ------------------------------------------------------------------------------------


def test_requests_are_answered_while_messages_are_scored(started: Started):
    started[http_meanwhile].result(PATIENCE)


def test_sigterm_finishes_what_is_in_flight_and_leaves_no_message_locked(started: Started):
    started[told_to_stop].result(PATIENCE)


def test_sigterm_to_two_workers_leaves_no_message_locked(started: Started):
    started[told_to_stop_with_two_workers].result(PATIENCE)


def test_sigterm_during_an_endless_run_leaves_no_message_locked(started: Started):
    started[told_to_stop_for_too_long].result(PATIENCE)


def test_what_is_missing_at_the_start_is_named_and_its_return_heals(started: Started):
    started[trouble_at_the_start].result(PATIENCE)


def test_a_run_longer_than_the_lock_is_called_once(started: Started):
    """And the locks of those that wait behind it hold as well."""
    started[longer_than_the_lock].result(PATIENCE)


def test_the_key_is_in_no_log(listening: dict[str, Listening]):
    for each in listening.values():
        assert "Receiving from Service Bus queue" in each.host.log
        assert KEY not in each.host.log
        assert each.host.process.poll() is None
