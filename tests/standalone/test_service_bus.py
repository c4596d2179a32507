"""The Service Bus trigger of the standalone host: the real SDK, a real process, real AMQP.

Each scenario has a broker and hosts of its own; all are started before the first test, as they
wait most of the time.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.servicebus import TransportType

from scoring_runtime.connections import named as connections
from scoring_runtime.connections.service_bus import client_of
from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone import triggers
from tests.conftest import WriteScript
from tests.hosts.broker import Counts, Raw, ServiceBusBroker, encode
from tests.hosts.clock import Clock
from tests.hosts.standalone import StandaloneHost

KEY = "SAS_KEY_VALUE"
BUS = f"Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey={KEY}"
ATTEMPTS = 3
PATIENCE = 90.0

# What comes out depends on the text; run() notes its calls in a file beside the script.
SCRIPT = """
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
        time.sleep(float(value.partition(" ")[0]))
    if word == "pid":
        time.sleep(0.02)
        return os.getpid()
    return {"got": data}
"""


class Place:
    """A broker with the queues input and output, and hosts."""

    def __init__(self, folder: Path, stack: ExitStack, lock_seconds: float = 5) -> None:
        self.broker = stack.enter_context(ServiceBusBroker())
        self.broker.add_queue("input", lock_seconds=lock_seconds)
        self.broker.add_queue("output", duplicate_detection=True)
        self.folder, self._stack = folder, stack

    def host(self, name: str = "one", **settings: str) -> StandaloneHost:
        folder = self.folder / name
        folder.mkdir()
        (folder / "score.py").write_text(SCRIPT)
        environ = {"TriggerConnectionString": self.broker.connection_string, **settings}
        host = StandaloneHost(folder / "score.py", environ=environ)
        return self._stack.enter_context(host)

    def calls(self, name: str = "one") -> list[str]:
        path = self.folder / name / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def send(self, *bodies: str, **named: Any) -> None:
        for body in bodies:
            self.broker.send("input", body.encode(), message_id=body, **named)

    def until(self, predicate: Callable[[], object]) -> None:
        self.broker.wait_for(predicate, PATIENCE)

    def is_empty(self) -> bool:
        return self.broker.counts("input")[:2] == (0, 0)

    def all_are_answered_once(self, *bodies: str, cut_off: int = 0) -> None:
        """Each was scored once and answered once, without a failure, and delivered once, but for
        so many at most whose delivery was cut off."""
        self.until(self.is_empty)
        replies = self.broker.messages("output")
        assert sorted(each.answers for each in replies) == sorted(bodies)
        assert {each.application_properties["status"] for each in replies} <= {200}
        assert sorted(self.calls()) == sorted(bodies)
        assert self.broker.counts("input") == Counts(0, 0, 0)
        figures = self.broker.statistics
        assert (figures.abandoned, figures.locks_expired) == (0, 0)
        assert 0 <= figures.delivered - len(bodies) <= cut_off


def ready(host: StandaloneHost) -> httpx.Response:
    return httpx.get(f"{host.url}/health/ready", timeout=30)


def is_ready(host: StandaloneHost) -> bool:
    return ready(host).status_code == 200


def is_unready(host: StandaloneHost, trouble: str) -> bool:
    answer = ready(host)
    return answer.status_code == 503 and trouble in str(answer.json()["troubles"])


# --- scenarios ------------------------------------------------------------------------------------


def more_work_than_the_deadline(place: Place) -> None:
    """Twelve times 0.4 s with a deadline of 1 s, while HTTP fills the scoring queue."""
    bodies = [f"sleep 0.4 {number}" for number in range(12)]
    place.send(*bodies)
    host = place.host(SCORING_TIMEOUT_MS="1000", SCORING_QUEUE_SIZE="1")
    ended, statuses, most_locked = threading.Event(), set(), 0

    def ask() -> None:
        while not ended.is_set():
            statuses.add(httpx.post(f"{host.url}/health", content=b"x", timeout=60).status_code)
            statuses.add(httpx.post(f"{host.url}/score", content=b"http", timeout=60).status_code)

    def is_done() -> bool:
        nonlocal most_locked
        most_locked = max(most_locked, place.broker.counts("input").locked)
        return place.is_empty()

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            place.until(is_done)
        finally:
            ended.set()
    assert [each.result() for each in asking] == [None] * 3
    assert 503 in statuses, "the scoring queue was never full"
    assert most_locked <= 4, "it holds more than it can begin in time"
    replies = place.broker.messages("output")
    assert {each.application_properties["status"] for each in replies} == {200}
    assert sorted(each.answers for each in replies) == sorted(bodies)
    assert sorted(each for each in place.calls() if each != "http") == sorted(bodies)
    assert place.broker.counts("input") == Counts(0, 0, 0)
    assert place.broker.statistics.delivered == 12


def output_takes_none(
    place: Place, spoil: Callable[[], object], heal: Callable[[], object]
) -> None:
    host = place.host()
    place.send("first")
    place.until(lambda: place.broker.messages("output"))
    spoil()
    before = [f"before {number}" for number in range(3)]
    place.send(*before)
    place.until(lambda: "(reply_to, or SERVICEBUS_OUTPUT_QUEUE)" in host.log)
    after = [f"after {number}" for number in range(20)]
    place.send(*after)
    place.until(lambda: is_unready(host, "SERVICEBUS_OUTPUT_QUEUE"))
    assert httpx.get(f"{host.url}/health/live").status_code == 200
    assert httpx.post(f"{host.url}/score", content=b"http").json() == {"got": "http"}
    time.sleep(6)  # longer than a lock lasts
    assert place.broker.counts("input").active >= 12, "more is taken"
    heal()
    place.until(lambda: ready(host).status_code == 200)
    place.until(place.is_empty)
    assert sorted(place.calls()) == sorted(["first", *before, "http", *after])
    replies = {each.answers for each in place.broker.messages("output")} | {"first"}
    assert replies == {"first", *before, *after}
    assert {each.application_properties["status"] for each in place.broker.messages("output")} == {
        200
    }
    figures = place.broker.statistics
    assert (figures.abandoned, figures.locks_expired, figures.dead_lettered) == (0, 0, 0)
    assert "The Service Bus trigger works again." in host.log


def a_full_output(place: Place) -> None:
    def spoil() -> None:
        place.broker.refuse("output", "amqp:resource-limit-exceeded")

    output_takes_none(place, spoil, lambda: place.broker.refuse("output"))


def a_deleted_output(place: Place) -> None:
    def spoil() -> None:
        place.broker.remove_queue("output")

    output_takes_none(place, spoil, lambda: place.broker.add_queue("output"))


def reply_to_that_never_answers(place: Place) -> None:
    """More of them than may be in flight; the others do not wait for the SDK to give up."""
    place.broker.add_queue("quiet")
    place.broker.be_silent("quiet")
    host = place.host(SERVICEBUS_MAX_CONCURRENT="4", SERVICEBUS_MAX_ATTEMPTS="2")
    lost = [f"lost {number}" for number in range(12)]
    place.send(*lost, reply_to="quiet")
    place.send("fine")
    place.until(lambda: place.broker.messages("output"))
    assert place.broker.counts("input").dead == 0, "it waited for the others"
    place.until(place.is_empty)
    letters = place.broker.dead_letters("input")
    assert sorted(each.message_id for each in letters) == sorted(lost)
    said = letters[0].application_properties
    assert said["DeadLetterReason"] == "ReplyRefused"
    assert "'quiet' (reply_to" in said["DeadLetterErrorDescription"]
    assert sorted(place.calls()) == sorted(["fine", *lost])
    assert ready(host).status_code == 200


def messages_that_cannot_be_decoded(place: Place) -> None:
    """Each kind that the SDK has no decoder for, and one that it refuses."""
    too_deep = b"\x45"
    for _ in range(70):
        too_deep = b"\xd0" + (len(too_deep) + 4).to_bytes(4, "big") + b"\0\0\0\1" + too_deep
    bad = {
        "char": b"\x73\x00\x00\x00A",
        "decimal32": b"\x74" + bytes(4),
        "decimal64": b"\x84" + bytes(8),
        "too deep": too_deep,
    }
    host = place.host()
    place.until(lambda: ready(host).status_code == 200)
    opened = place.broker.statistics.connections_opened
    for name, encoded in bad.items():
        place.send(name, properties={"x-bad": Raw(encoded)})
        place.send(f"beside {name}")
    value = b"\x00\x53\x77\x73\x00\x00\x00A"
    place.broker.send("input", Raw(value), message_id="body", reply_to="output")
    place.until(place.is_empty)
    letters = {each.message_id: each for each in place.broker.dead_letters("input")}
    assert set(letters) == {*bad, "body"}
    for letter in letters.values():
        said = letter.application_properties
        assert said["DeadLetterReason"] == "UndecodableInput"
        assert "The message cannot be read" in said["DeadLetterErrorDescription"]
    replies = {each.answers: each for each in place.broker.messages("output")}
    assert set(replies) == {*bad, "body", *(f"beside {name}" for name in bad)}
    assert replies["char"].application_properties["status"] == 400
    assert sorted(place.calls()) == sorted(f"beside {name}" for name in bad)
    assert place.broker.statistics.connections_opened <= opened + 1  # for replies
    assert "Message char cannot be scored" in host.log


def hosts_that_answer_each_other(place: Place) -> None:
    """The reply of each is an input of the other; a client's message starts it."""
    place.host("one", SERVICEBUS_MAX_ATTEMPTS="1")
    settings = {"SERVICEBUS_INPUT_QUEUE": "output", "SERVICEBUS_OUTPUT_QUEUE": "input"}
    place.host("two", **settings)
    place.send("start")
    dead: list[Any] = []

    def has_ended() -> bool:
        dead[:] = [*place.broker.dead_letters("input"), *place.broker.dead_letters("output")]
        return bool(dead) and place.is_empty() and place.broker.counts("output")[:2] == (0, 0)

    place.until(has_ended)
    [letter] = dead
    assert letter.application_properties["DeadLetterReason"] == "TooManyHops"
    assert letter.application_properties["x-scoring-hops"] == 10
    assert len(place.calls("one")) + len(place.calls("two")) == 10


def links_that_are_closed(place: Place) -> None:
    """For idleness, as by Azure after 10 minutes; while run() works on a message too."""
    host = place.host()
    place.send("first")
    place.until(lambda: place.broker.messages("output"))
    place.until(lambda: ready(host).status_code == 200)
    idle = "The link is force detached. Details: AmqpMessageConsumer.IdleTimerExpired: 00:10:00."
    inactive = "The connection was inactive for more than the allowed 300000 milliseconds."
    bodies = []
    closings = (
        lambda: place.broker.detach("input", "amqp:link:detach-forced", idle),
        lambda: place.broker.detach("output", "amqp:link:detach-forced", idle),
        lambda: place.broker.close_connections("amqp:connection:forced", inactive),
        place.broker.cut_connections,
    )
    for number, close in enumerate(closings):
        bodies += [f"sleep 2 {number}", f"next {number}"]
        place.send(bodies[-2])
        place.until(lambda: place.calls()[-1:] == [f"sleep 2 {number}"])  # noqa: B023
        assert close() > 0
        place.send(bodies[-1])

        def is_answered() -> bool:
            assert ready(host).status_code == 200
            return place.is_empty()

        place.until(is_answered)
    assert "ERROR" not in host.log, host.log
    assert "Traceback" not in host.log, host.log
    assert place.broker.statistics.abandoned == 0
    place.all_are_answered_once("first", *bodies, cut_off=len(closings))


def a_broker_that_is_away_for_long(place: Place) -> None:
    """Readiness changes when the trouble lasts, and the host goes on by itself."""
    host = place.host()
    place.until(lambda: ready(host).status_code == 200)
    place.broker.stop_listening()
    gone = time.monotonic()
    place.until(lambda: is_unready(host, "cannot be reached"))
    assert time.monotonic() - gone > 5
    assert httpx.post(f"{host.url}/score", content=b"http").json() == {"got": "http"}
    place.broker.start_listening()
    place.until(lambda: ready(host).status_code == 200)
    place.send("healed")
    place.until(lambda: place.broker.messages("output"))


def a_queue_that_requires_sessions(place: Place) -> None:
    """Readiness says so; HTTP goes on."""
    place.broker.add_queue("by-session", requires_session=True)
    host = place.host(SERVICEBUS_INPUT_QUEUE="by-session")
    place.until(lambda: is_unready(host, "'by-session' requires sessions"))
    assert is_unready(host, "SERVICEBUS_INPUT_QUEUE")
    assert httpx.post(f"{host.url}/score", content=b"http").json() == {"got": "http"}
    assert "'by-session' requires sessions" in host.log


def longer_than_the_lock(place: Place) -> None:
    """The longest one first; two wait for it as prefetched ones, one in the scoring queue."""
    bodies = ["sleep 12", "sleep 2.0", "sleep 2.00", "sleep 2.000"]
    place.send(*bodies)
    place.host(SERVICEBUS_MAX_CONCURRENT="2", SERVICEBUS_PREFETCH="2")
    place.until(lambda: place.broker.counts("input").locked == 4)
    place.until(place.is_empty)
    assert place.calls() == bodies
    assert [each.answers for each in place.broker.messages("output")] == bodies
    figures = place.broker.statistics
    assert (figures.delivered, figures.completed, figures.abandoned) == (4, 4, 0)
    assert (figures.locks_expired, figures.locks_lost) == (0, 0)


def a_clock_that_is_set(place: Place) -> None:
    """An hour ahead, behind while a run() goes on for longer than a lock lasts, and while nothing
    is there to wait for."""
    clock = Clock(place.folder)
    clock.set(3600)
    host = place.host(SERVICEBUS_MAX_CONCURRENT="2", **clock.environ)
    place.send("sleep 6", "first")
    place.all_are_answered_once("sleep 6", "first")
    place.send("sleep 6.0", "second")
    place.until(lambda: "sleep 6.0" in place.calls())
    clock.set(-3600)
    place.all_are_answered_once("sleep 6", "first", "sleep 6.0", "second")
    clock.set(-7200)
    assert host.stop(timeout=20) == 0
    assert place.broker.statistics.locks_lost == 0


def told_to_stop(place: Place) -> None:
    """While run() works on one of forty messages."""
    for number in range(40):
        place.broker.send("input", b"sleep 0.5", message_id=str(number))
    host = place.host(SERVICEBUS_MAX_CONCURRENT="4", SERVICEBUS_PREFETCH="10")
    place.until(lambda: len(place.calls()) == 2)
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(20) == 0
    counts = place.broker.counts("input")
    replies = place.broker.messages("output")
    assert (counts.locked, counts.dead) == (0, 0)
    assert 2 <= len(replies) == len(place.calls()) <= 8
    assert counts.active == 40 - len(replies)
    given_back = place.broker.messages("input")
    assert {each.delivery_count for each in given_back} == {0}, "its end used deliveries up"
    left = {each.message_id for each in given_back}
    assert left | {str(each.correlation_id) for each in replies} == {str(n) for n in range(40)}


def told_to_stop_with_two_workers(place: Place) -> None:
    """Both work; both give back what they hold."""
    host = place.host(WORKER_COUNT="2", SERVICEBUS_MAX_CONCURRENT="4")
    for number in range(300):
        place.broker.send("input", b"pid", message_id=str(number))
    place.until(lambda: len({each.body for each in place.broker.messages("output")}) == 2)
    assert host.stop() == 0
    counts = place.broker.counts("input")
    replies = place.broker.messages("output")
    assert (counts.locked, counts.dead) == (0, 0)
    assert counts.active == 300 - len(replies) > 0
    assert place.broker.statistics.duplicates_removed == 0


def told_to_stop_for_too_long(place: Place) -> None:
    """run() takes longer than SCORING_SHUTDOWN_SECONDS: its message goes back too."""
    place.broker.send("input", b"sleep 60", message_id="long")
    place.broker.send("input", b"next", message_id="next")
    host = place.host(SCORING_SHUTDOWN_SECONDS="1")
    place.until(lambda: place.calls())
    host.process.send_signal(signal.SIGTERM)
    host.process.wait(15)
    assert place.broker.counts("input") == Counts(active=2, locked=0, dead=0)
    assert place.broker.messages("output") == []


def trouble_at_the_start(place: Place) -> None:
    """Four hosts, each without something that it needs, and with it later."""
    with ServiceBusBroker() as away, ServiceBusBroker() as refusing:
        brokers = {"queue": place.broker, "output": place.broker, "away": away, "refused": refusing}
        for each in (away, refusing):
            each.add_queue("input")
            each.add_queue("output")
        place.broker.add_queue("jobs")
        away.stop_listening()
        refusing.refuse_tokens = True
        hosts = {
            "queue": place.host(name="q", SERVICEBUS_INPUT_QUEUE="missing"),
            "output": place.host(
                name="o", SERVICEBUS_INPUT_QUEUE="jobs", SERVICEBUS_OUTPUT_QUEUE="later"
            ),
            "away": place.host(name="a", TriggerConnectionString=away.connection_string),
            "refused": place.host(name="r", TriggerConnectionString=refusing.connection_string),
        }
        assert not is_ready(hosts["refused"])  # from its first moment
        expected = {
            "queue": "queue 'missing' does not exist (SERVICEBUS_INPUT_QUEUE",
            "output": "queue 'later' does not exist (reply_to, or SERVICEBUS_OUTPUT_QUEUE",
            "away": "cannot be reached or does not answer: TriggerConnectionString (SERVICEBUS_C",
            "refused": "Service Bus refuses TriggerConnectionString (SERVICEBUS_CONNECTION)",
        }
        for name, host in hosts.items():
            place.until(partial(is_unready, host, expected[name]))
            assert httpx.get(f"{host.url}/health/live").status_code == 200
            assert httpx.post(f"{host.url}/score", content=b"a").json() == {"got": "a"}
        place.broker.add_queue("missing")
        place.broker.add_queue("later")
        away.start_listening()
        refusing.refuse_tokens = False
        queues = {"queue": ("missing", "output"), "output": ("jobs", "later")}
        for name, host in hosts.items():
            source, target = queues.get(name, ("input", "output"))
            brokers[name].send(source, b"healed", message_id=name)
            place.until(partial(is_ready, host))
            place.until(partial(brokers[name].messages, target))
            [reply] = brokers[name].take_all(target)
            assert reply.answers == name
            assert host.process.poll() is None
            assert "The Service Bus trigger works again." in host.log
            assert KEY not in host.log


SCENARIOS: dict[Callable[[Place], None], float] = {
    longer_than_the_lock: 5,
    a_clock_that_is_set: 5,
    trouble_at_the_start: 30,
    told_to_stop: 120,
    told_to_stop_with_two_workers: 120,
    told_to_stop_for_too_long: 120,
    a_full_output: 5,
    links_that_are_closed: 20,
    more_work_than_the_deadline: 5,
    messages_that_cannot_be_decoded: 5,
    hosts_that_answer_each_other: 5,
    a_queue_that_requires_sessions: 5,
    reply_to_that_never_answers: 5,
    a_deleted_output: 5,
    a_broker_that_is_away_for_long: 5,
}
"""With the seconds that a lock lasts; the last three are long."""


@pytest.fixture(scope="module", autouse=True)
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[Any, Future[None]]]:
    """All that this run has chosen, at once."""
    calls = (getattr(each, "callspec", None) for each in request.session.items)
    chosen = [call.params["scenario"] for call in calls if call and "scenario" in call.params]

    def in_its_place(scenario: Callable[[Place], None], folder: Path) -> None:
        with ExitStack() as stack:
            scenario(Place(folder, stack, SCENARIOS[scenario]))

    with ThreadPoolExecutor(3) as pool:
        yield {
            each: pool.submit(in_its_place, each, tmp_path_factory.mktemp("place"))
            for each in chosen
        }


*QUICK, _, _, _ = SCENARIOS
LONG = [pytest.param(each, marks=pytest.mark.long) for each in SCENARIOS if each not in QUICK]


@pytest.mark.parametrize(
    "scenario", [*LONG, *QUICK], ids=lambda each: each.__name__.replace("_", " ")
)
def test_messages_are_scored_and_answered_once(
    scenario: Callable[[Place], None], started: Mapping[Any, Future[None]]
):
    started[scenario].result(5 * PATIENCE)


# --- what a message may hold ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with one host that takes bodies of up to 1,000 bytes, and three tries."""
    with ExitStack() as stack:
        place = Place(tmp_path_factory.mktemp("plain"), stack)
        host = place.host(SCORING_MAX_BODY_BYTES="1000", SERVICEBUS_MAX_ATTEMPTS=str(ATTEMPTS))
        yield place
        assert "Receiving from Service Bus queue" in host.log
        assert KEY not in host.log


def value(encoded: bytes, section: int = 0x77) -> Raw:
    return Raw(bytes((0, 0x53, section)) + encoded)


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (value(encode({"a": [1, 2.5], "b": None})), '{"a": [1, 2.5], "b": null}'),
        (value(encode([1, [True, False], {"a": "b"}])), '[1, [true, false], {"a": "b"}]'),
        (value(encode(None)), "null"),
        (value(encode(5)), "5"),
        (value(encode(True)), "true"),
        (value(encode("grüße")), "grüße"),
        (value(encode([1, "a"]), 0x76), '[1, "a"]'),
        (Raw(value(encode([1]), 0x76) + value(encode([2]), 0x76)), "[1, 2]"),
        (value(encode("grüße".encode())), "grüße"),
        (Raw(value(encode(b"two "), 0x75) + value(encode(b"parts"), 0x75)), "two parts"),
    ],
    ids=["map", "list", "null", "number", "boolean", "text", "sequence", "two sequences",
         "binary value", "data in parts"],
)  # fmt: skip
def test_a_body_of_any_amqp_kind_is_read_and_a_value_is_json(body: Raw, seen: str, plain: Place):
    plain.broker.send("input", body, message_id="v")
    plain.until(lambda: plain.broker.messages("output"))
    [reply] = plain.broker.take_all("output")
    model = {"x-model-name": "model", "x-model-version": "1"}
    assert reply.application_properties == {**model, "status": 200}
    assert plain.calls()[-1] == seen


def test_properties_come_back_with_their_amqp_types(plain: Place):
    """As the client encoded them: a long of 7 stays a long."""
    given = {
        "x-byte": b"\x51\xfb", "x-ubyte": b"\x50\x07", "x-short": b"\x61\x00\x07",
        "x-ushort": b"\x60\x00\x07", "x-int": b"\x71\x00\x00\x00\x07",
        "x-uint": b"\x70\x00\x00\x01\x07", "x-long": b"\x81" + bytes(7) + b"\x07",
        "x-ulong": b"\x80" + bytes(6) + b"\x01\x07", "x-float": b"\x72\x3f\xc0\x00\x00",
        "x-double": b"\x82\x3f\xf8" + bytes(6), "x-true": b"\x41",
        "x-time": b"\x83\x00\x00\x01\x8b\xcf\xe5\x68\x00", "x-bytes": b"\xa0\x02\xff\x00",
        "x-uuid": b"\x98" + bytes(range(16)), "x-text": b"\xa1\x01a", "x-null": b"\x40",
        "x-symbol": b"\xa3\x01s",
    }  # fmt: skip
    plain.send("typed", properties={name: Raw(each) for name, each in given.items()})
    plain.until(lambda: plain.broker.messages("output"))
    [reply] = plain.broker.take_all("output")
    short = {"x-int": b"\x54\x07", "x-long": b"\x55\x07", "x-true": b"\x56\x01"}
    found = reply.encoded_properties
    assert {
        name: each for name, each in given.items() if found[name] not in (each, short.get(name))
    } == {}


def test_ids_that_are_no_text_are_told_apart(plain: Place):
    """The output queue removes what it takes for a repeat."""
    for number in (0xFE, 0xFF):
        plain.broker.send("input", b"binary", message_id=Raw(bytes((0xA0, 1, number))))
    plain.until(lambda: len(plain.broker.messages("output")) == 2)
    replies = plain.broker.take_all("output")
    assert {each.correlation_id for each in replies} == {"\\xfe", "\\xff"}


def test_a_dead_letter_that_is_sent_again_gets_its_reply(plain: Place):
    """The output queue removes what has an id that was there before."""
    bodies = (b"x" * 1001, b"repaired")
    for body in bodies:
        plain.broker.send("input", body, message_id="again", properties={"content-encoding": ""})
        plain.until(plain.is_empty)
    replies = plain.broker.take_all("output")
    plain.broker.clear("input")
    assert [each.application_properties["status"] for each in replies] == [413, 200]
    assert len({each.message_id for each in replies}) == 2


# --- outcomes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "reason"), [("raise", 500, "RunFailed"), ("status 500", 500, "Status500")]
)
def test_a_failed_run_is_delivered_again_and_answered_at_the_last_attempt(
    body: str, status: int, reason: str, plain: Place
):
    before = plain.calls().count(body)
    plain.send(body)
    plain.until(lambda: plain.broker.messages("output"))
    plain.until(plain.is_empty)
    [reply] = plain.broker.take_all("output")
    [letter] = plain.broker.take_all("input/$deadletterqueue")
    assert plain.calls().count(body) == before + ATTEMPTS
    assert reply.answers == body
    assert reply.application_properties["status"] == status
    request_id = reply.application_properties["request_id"]
    assert letter.application_properties["DeadLetterReason"] == reason
    assert letter.application_properties["DeadLetterErrorDescription"].endswith(f"[{request_id}]")


@pytest.mark.parametrize(
    ("named", "reason", "described"),
    [
        ({"reply_to": "nowhere"}, "ReplyRefused", "'nowhere'"),
        ({"reply_to": "INPUT"}, "UndecodableInput", "reply_to is 'INPUT'"),
        ({"reply_to": "$" + "q" * 5000}, "UndecodableInput", "qqqq [lost]"),
        ({"reply_to": "r" * 5000}, "ReplyRefused", "rrrr [lost]"),
        ({"reply_to_session_id": "s" * 129}, "ReplyRefused", "session_id"),
    ],
    ids=["no such queue", "the input queue", "no queue, and long", "too long", "session id"],
)
def test_a_reply_that_can_never_be_sent_is_a_dead_letter_and_holds_nothing_up(
    named: dict[str, str], reason: str, described: str, plain: Place
):
    plain.send("lost", **named)
    plain.send(f"next to {described}")
    plain.until(lambda: plain.broker.messages("output"))
    plain.until(plain.is_empty)
    [reply] = plain.broker.take_all("output")
    [letter] = plain.broker.take_all("input/$deadletterqueue")
    assert reply.answers == f"next to {described}"
    assert letter.message_id == "lost"
    assert letter.application_properties["DeadLetterReason"] == reason
    said = letter.application_properties["DeadLetterErrorDescription"]
    assert described in said
    assert len(said) <= 4096  # which is all that the broker takes


# --- other settings -------------------------------------------------------------------------------


def test_a_subscription_is_scored_by_a_host_of_its_own_connection_name(
    tmp_path: Path, write_script: WriteScript
):
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
        with StandaloneHost(write_script(SCRIPT), environ=environ) as host:
            for body, target in ((b"silent", None), (b"a", "answers"), (b"refuse", "answers")):
                broker.send("news", body, message_id=body.decode(), reply_to=target)
            broker.wait_for(lambda: broker.counts(path) == Counts(0, 0, 1), PATIENCE)
            found = {each.answers: each.body for each in broker.messages("answers")}
            [letter] = broker.dead_letters(path)
            assert sorted(found) == ["a", "refuse"]
            assert found["a"] == b'{"got":"a"}'
            assert letter.application_properties["DeadLetterReason"] == "InputError"
            assert sorted((tmp_path / "calls").read_text().split()) == ["a", "refuse", "silent"]
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


def test_a_missing_package_says_what_to_install(tmp_path: Path, write_script: WriteScript):
    """A module that hides it, as where it is not installed."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['azure.servicebus'] = None")
    environ = {"TriggerConnectionString": BUS, "PYTHONPATH": str(tmp_path)}
    host = StandaloneHost(write_script(SCRIPT), environ=environ)
    host.start()
    try:
        assert host.process.wait(30) == 3
        assert "pip install" in host.log
        assert "scoring-runtime[servicebus]" in host.log
    finally:
        host.stop()
