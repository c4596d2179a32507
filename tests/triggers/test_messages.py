"""Messages as plain data: what a message asks for, and how each outcome answers it."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest

from scoring_runtime.errors import UndecodableInput
from scoring_runtime.settings.settings import Settings
from scoring_runtime.triggers.messages import (
    Answer,
    QueueMessage,
    QueueReply,
    Settlement,
    answer,
    reply_id,
    reply_of,
    request_of,
)
from scoring_runtime.triggers.outcomes import Outcome, Verdict

SCORED = Outcome(Verdict.SCORED, 200, b"result", "application/x-own")
REFUSED = Outcome(Verdict.REFUSED, 422, b"why", "text/plain", "Status422", "why not")
FAILED = Outcome(Verdict.FAILED, 500, b"error", "application/json", "RunFailed", "it raised")


def settings(**environ: str) -> Settings:
    return Settings.from_environ(environ)


def headers_of(message: QueueMessage) -> dict[bytes, bytes]:
    request = request_of(message, lambda: b"a-new-id")
    assert len(dict(request.headers)) == len(request.headers)
    return dict(request.headers)


# --- requests -------------------------------------------------------------------------------------


def test_a_message_is_a_request_with_its_body_and_its_id():
    """And what is to be called in the scoring thread."""
    entered: list[int] = []
    message = QueueMessage(b"\x00\xff", "an-id")
    request = request_of(message, lambda: b"a-new-id", enter=lambda: entered.append(1))
    assert (request.body, request.request_id) == (b"\x00\xff", "an-id")
    assert request.enter is not None
    request.enter()
    assert entered == [1]
    assert dict(request.headers) == {
        b"content-type": b"application/json",
        b"x-request-id": b"an-id",
    }


@pytest.mark.parametrize(
    ("message_id", "request_id"),
    [
        ("", b"a-new-id"),
        ("x" * 100, b"x" * 100),
        ("x" * 101, b"a-new-id"),
        ("with space", b"a-new-id"),
        ("grüße", b"a-new-id"),
    ],
)
def test_a_message_id_that_cannot_be_a_request_id_gets_a_new_one(
    message_id: str, request_id: bytes
):
    message = QueueMessage(b"", message_id)
    assert headers_of(message)[b"x-request-id"] == request_id
    assert request_of(message, lambda: b"a-new-id").request_id == request_id.decode()


def test_a_content_type_that_says_nothing_is_json():
    for said, known in (("text/plain", b"application/json"), ("text/csv", b"text/csv")):
        assert headers_of(QueueMessage(b"", "i", content_type=said))[b"content-type"] == known


@pytest.mark.parametrize(
    ("name", "value", "header"),
    [
        ("x-tenant", "t", (b"x-tenant", b"t")),
        ("x-number", 7, (b"x-number", b"7")),
        ("x-lines", "a\r\nb: c", (b"x-lines", b"a b: c")),
        ("x-latin", "grüße", (b"x-latin", "grüße".encode("latin-1"))),
        ("x-other", "日本", (b"x-other", b"??")),
        ("x-a.b_c-d", "v", (b"x-a.b_c-d", b"v")),
        ("x-" + "n" * 100, "v", (b"x-" + b"n" * 100, b"v")),
    ],
)
def test_properties_that_start_with_x_are_headers(name: str, value: object, header: Any):
    assert headers_of(QueueMessage(b"", "i", properties={name: value})).items() >= {header}


@pytest.mark.parametrize(
    "name",
    ["tenant", "content-type", "x", "x-", "x-a b", "x-a:b", "x-grüße", "x-a\n", "x-" + "n" * 101],
)
def test_other_properties_are_no_headers(name: str):
    assert len(headers_of(QueueMessage(b"", "i", properties={name: "v"}))) == 2


def test_a_property_cannot_take_the_place_of_the_request_id_or_of_another():
    given = {"x-request-id": "forged", "X-A": "first", "x-a": "second"}
    headers = headers_of(QueueMessage(b"", "own", properties=given))
    assert (headers[b"x-request-id"], headers[b"x-a"]) == (b"own", b"first")


@pytest.mark.parametrize(
    "message",
    [
        QueueMessage(b"", "i", content_encoding="gzip"),
        QueueMessage(b"", "i", properties={"Content-Encoding": "gzip"}),
        QueueMessage(b"", "i", content_encoding="gzip", properties={"content-encoding": "br"}),
    ],
)
def test_the_encoding_is_that_of_amqp_or_of_the_application(message: QueueMessage):
    """Azure Functions gives the properties of the application only."""
    assert headers_of(message)[b"content-encoding"] == b"gzip"


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "rest"),
    [
        (SCORED, (Settlement.COMPLETE,)),
        (REFUSED, (Settlement.DEAD_LETTER, "Status422", "why not")),
    ],
)
def test_a_result_completes_and_the_clients_fault_is_dead_lettered_at_once(
    outcome: Outcome, rest: Any
):
    """Both with a reply."""
    said = (outcome.body, outcome.content_type, "input:m:0:reply", "m", "")
    reply = QueueReply("output", *said, {"status": outcome.status})
    assert answer(QueueMessage(b"", "m"), outcome, settings()) == Answer(reply, *rest)


@pytest.mark.parametrize(
    ("attempts", "deliveries", "is_last"),
    [("5", 0, False), ("5", 3, False), ("5", 4, True), ("5", 9, True), ("1", 0, True)],
)
def test_a_failed_run_is_abandoned_until_the_last_attempt(
    attempts: str, deliveries: int, is_last: bool
):
    message = QueueMessage(b"", "m", deliveries=deliveries)
    given = answer(message, FAILED, settings(SERVICEBUS_MAX_ATTEMPTS=attempts))
    if is_last:
        reply = QueueReply(
            "output", b"error", FAILED.content_type, "input:m:0:reply", "m", "", {"status": 500}
        )
        assert given == Answer(reply, Settlement.DEAD_LETTER, "RunFailed", "it raised")
    else:
        assert given == Answer(None, Settlement.ABANDON, "RunFailed", "it raised")


def test_a_reason_is_cut_to_what_a_dead_letter_can_hold():
    long = REFUSED._replace(reason="r" * 5000)
    assert answer(QueueMessage(b""), long, settings()).reason == "r" * 4096


# --- replies --------------------------------------------------------------------------------------


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() + ":reply"


@pytest.mark.parametrize(
    ("message_id", "expected"),
    [
        ("", "jobs::7:reply"),
        ("a", "jobs:a:7:reply"),
        ("x" * 115, "jobs:" + "x" * 115 + ":7:reply"),
        ("x" * 116, digest("jobs:" + "x" * 116 + ":7")),
        ("grüße", digest("jobs:grüße:7")),
        ("\ud800", digest("jobs:\ud800:7")),
        ("a\nb", digest("jobs:a\nb:7")),
    ],
    ids=["none", "short", "115", "116", "umlaut", "surrogate", "line end"],
)
def test_a_reply_id_is_made_of_queue_message_and_number_and_fits(message_id: str, expected: str):
    """At most 128 characters, as the broker takes them; without an id it correlates too."""
    message = QueueMessage(b"", message_id, sequence_number=7)
    assert reply_id(message, settings(SERVICEBUS_INPUT_QUEUE="Jobs")) == expected
    assert len(expected) <= 128
    reply = reply_of(message, SCORED, settings(SERVICEBUS_INPUT_QUEUE="Jobs"))
    assert reply is not None
    assert (reply.message_id, reply.correlation_id) == (expected, message_id or expected)


def test_reply_ids_differ_for_whatever_is_enqueued_apart():
    """By queue, subscription, id and number; a dead letter that is sent again has another."""
    queues = [
        settings(SERVICEBUS_INPUT_QUEUE="q"),
        settings(SERVICEBUS_INPUT_QUEUE="r"),
        settings(SERVICEBUS_INPUT_QUEUE="q", SERVICEBUS_INPUT_SUBSCRIPTION="s"),
    ]
    ids = ["", "a", "b", "x" * 128, "x" * 127 + "y", "\ud800", "\ud801"]
    messages = [QueueMessage(b"", each, sequence_number=n) for each in ids for n in (1, 2**60)]
    made = [reply_id(message, each) for each in queues for message in messages]
    assert len(set(made)) == len(made) == 42
    again = [message._replace(deliveries=3, body=b"other") for message in messages]
    assert made == [reply_id(message, each) for each in queues for message in again]


@pytest.mark.parametrize(
    ("reply_to", "output", "target"),
    [
        ("", "output", "output"),
        ("answers", "output", "answers"),
        (" answers ", "output", "answers"),
        ("sb://bus.servicebus.windows.net/answers", "output", "answers"),
        ("sb://bus.servicebus.windows.net/folder/answers/", "output", "folder/answers"),
        ("amqps://bus.servicebus.windows.net:5671/answers", "output", "answers"),
        ("sb://bus.servicebus.windows.net/", "output", "output"),
        ("  ", "output", "output"),
    ],
)
def test_reply_to_goes_before_the_output_queue(reply_to: str, output: str, target: str):
    message = QueueMessage(b"", "m", reply_to=reply_to)
    reply = reply_of(message, SCORED, settings(SERVICEBUS_OUTPUT_QUEUE=output))
    assert reply is not None
    assert reply.target == target


def test_with_neither_there_is_no_reply():
    without = settings(SERVICEBUS_OUTPUT_QUEUE="")
    message = QueueMessage(b"", "m")
    assert reply_of(message, SCORED, without) is None
    assert answer(message, SCORED, without) == Answer(None, Settlement.COMPLETE)
    assert answer(message, REFUSED, without).settlement is Settlement.DEAD_LETTER


@pytest.mark.parametrize("reply_to", ["$cbs", "q/$management", "q/$deadletterqueue"])
def test_a_reply_to_a_node_of_the_broker_is_refused(reply_to: str):
    """Whoever sends messages could otherwise speak to those with our rights."""
    with pytest.raises(UndecodableInput, match="no queue or topic"):
        reply_of(QueueMessage(b"", "m", reply_to=reply_to), SCORED, settings())


@pytest.mark.parametrize("reply_to", ["input", "INPUT", "sb://bus/Input", "/input/"])
def test_a_reply_to_the_queue_that_is_scored_is_refused(reply_to: str):
    """It would be an input again, for ever."""
    with pytest.raises(UndecodableInput, match="the queue that is scored") as refused:
        reply_of(QueueMessage(b"", "m", reply_to=reply_to), SCORED, settings())
    assert repr(reply_to) in str(refused.value)


@pytest.mark.parametrize(
    ("message_id", "properties", "hops"),
    [
        ("m", {}, 0),
        ("m", {"status": 200}, 0),
        ("input:m:1:reply", {}, 0),
        ("input:m:1:reply", {"status": 200}, 1),
        ("m", {"x-scoring-hops": 3}, 3),
        ("m", {"x-scoring-hops": "3"}, 3),
        ("m", {"x-scoring-hops": "many"}, 0),
        ("m", {"x-scoring-hops": "9" * 400}, 999_999_999),
    ],
)
def test_hops_are_counted_from_the_second_host_on(
    message_id: str, properties: dict[str, object], hops: int
):
    """So that a client's reply has nothing that it did not ask for."""
    message = QueueMessage(b"", message_id, properties=properties)
    assert message.hops == hops
    reply = reply_of(message, SCORED, settings(SERVICEBUS_OUTPUT_QUEUE="next"))
    assert reply is not None
    said = {"x-scoring-hops": hops + 1} if hops else {}
    assert reply.properties == {**properties, **said, "status": 200} or not said


def test_a_reply_keeps_what_belongs_to_the_request():
    """Its properties that start with x-, with their types; the others stay behind."""
    identity = uuid.uuid4()
    own = {"x-i": 2**40, "X-F": 1.5, "x-b": True, "x-u": identity, "x-s": "7"}
    message = QueueMessage(
        b"",
        "m",
        correlation_id="talk",
        reply_to_session_id="session",
        properties={**own, "other": 1, "status": 999},
    )
    reply = reply_of(message, SCORED, settings())
    assert reply is not None
    assert reply.properties == {**own, "status": 200}
    assert type(reply.properties["x-b"]) is bool
    assert (reply.correlation_id, reply.session_id) == ("talk", "session")
    without = reply_of(message._replace(message_id=""), SCORED, settings())
    assert without is not None and without.correlation_id == "talk"
