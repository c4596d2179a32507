"""Service Bus messages as plain data: what a message asks for, and how it is answered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from ..connections.named import service_bus_name
from ..errors import ScoringRuntimeError, UndecodableInput
from ..http.later import CONTENT_TYPE
from ..messages import ScoringRequest
from ..settings.settings import Settings
from .outcomes import Outcome, Verdict, content_type_of, directed, directions

# https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas
_LONGEST_ID = 128
_LONGEST_REASON = 4096
_HEADER = re.compile(r"x-[a-z0-9_.-]{1,100}|content-encoding")
_REPLY = ":reply"
_HOPS = "x-scoring-hops"
MOST_HOPS = 10
"""A message that comes from so many scoring hosts goes round in a circle of them."""
_ID = re.compile(r"[\x21-\x7e]{1,100}")


class ReplyRefused(ScoringRuntimeError):
    """This reply can never be sent: too large, or a property that cannot be."""


class QueueMessage(NamedTuple):
    """One message as it was received; ``deliveries`` counts those before this one.

    ``sequence_number`` is what the broker calls the message by, once it is enqueued. ``types``:
    the AMQP types of properties whose values do not tell them. ``fault``: why it cannot be read.
    ``enqueued``: when the broker took it, in seconds since 1970.
    """

    body: bytes
    message_id: str = ""
    correlation_id: str = ""
    content_type: str = ""
    reply_to: str = ""
    reply_to_session_id: str = ""
    properties: Mapping[str, object] = {}
    deliveries: int = 0
    sequence_number: int = 0
    content_encoding: str = ""
    types: Mapping[str, str] = {}
    fault: str = ""
    enqueued: float = 0.0

    @property
    def hops(self) -> int:
        """How many scoring hosts it comes from, one after the other."""
        said = str(self.properties.get(_HOPS, ""))
        if said.isdecimal():
            return int(said[:9])
        # The first host does not say it: most replies are for a client.
        return int(self.message_id.endswith(_REPLY) and "status" in self.properties)


class QueueReply(NamedTuple):
    """One reply. ``properties``: those of the request that start with ``x-``, ``status``, and the
    name and version of the model that answered."""

    target: str
    body: bytes
    content_type: str
    message_id: str
    correlation_id: str
    session_id: str
    properties: Mapping[str, object]


class Settlement(Enum):
    """What the broker is told about a message."""

    COMPLETE = "complete"
    ABANDON = "abandon"
    """It is delivered again, which the broker counts."""
    RELEASE = "release"
    """The same, but not counted where that can be told."""
    DEAD_LETTER = "dead-letter"


class Answer(NamedTuple):
    """A reply to send first, then the settlement."""

    reply: QueueReply | None
    settlement: Settlement
    reason: str = ""
    description: str = ""
    enqueued: float = 0.0
    """When the message was, as the broker says."""
    request_id: str = ""


def request_of(
    message: QueueMessage, new_id: Callable[[], bytes], enter: Callable[[], object] | None = None
) -> ScoringRequest:
    """A message as a request: its ``x-`` properties are headers, its id is the request id.

    The properties ``model``, ``method`` and ``accept`` say how it is scored, ``content-encoding``
    (of AMQP, else of the application) how it is encoded.
    """
    known = _ID.fullmatch(message.message_id) is not None
    request_id = message.message_id if known else new_id().decode()
    lines = {"content-type": content_type_of(message.content_type), "x-request-id": request_id}
    for name, value in message.properties.items():
        if _HEADER.fullmatch(name.lower()) and name.lower() not in lines:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            lines[name.lower()] = " ".join(text.split())
    if message.content_encoding:
        lines["content-encoding"] = message.content_encoding
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in lines.items()]
    request = ScoringRequest(message.body, headers, request_id=request_id, enter=enter)
    return directed(request, directions(message.properties))


def answer(message: QueueMessage, outcome: Outcome, settings: Settings) -> Answer:
    """How a message is answered and settled.

    An input that can never be scored gets its error as a reply and ends in the dead-letter queue;
    so does one on which ``run()`` has failed ``SERVICEBUS_MAX_ATTEMPTS`` times. Before that it is
    abandoned, to be delivered again.
    """
    if outcome.verdict is Verdict.SCORED:
        return Answer(reply_of(message, outcome, settings), Settlement.COMPLETE)
    reason, description = outcome.reason[:_LONGEST_REASON], outcome.description
    last = message.deliveries + 1 >= settings.servicebus_max_attempts
    if outcome.verdict is Verdict.FAILED and not last:
        return Answer(None, Settlement.ABANDON, reason, description)
    reply = reply_of(message, outcome, settings)
    return Answer(reply, Settlement.DEAD_LETTER, reason, description)


def reply_of(message: QueueMessage, outcome: Outcome, settings: Settings) -> QueueReply | None:
    """The reply to ``reply_to``, else to the output queue; None when there is neither.

    Its id is the same for each delivery of the message, so that duplicate detection removes the
    repeat that a redelivery makes.

    Raises:
        UndecodableInput: ``reply_to`` is the queue that the messages come from, or none at all.
    """
    if message.content_type.encode() == CONTENT_TYPE:  # its answer goes where its client asks
        return None
    target = _target(message.reply_to) or settings.servicebus_output_queue
    if not target:
        return None
    if "$" in target:
        raise UndecodableInput(f"reply_to is {message.reply_to!r}, which is no queue or topic.")
    if target.lower() == settings.servicebus_input_queue.lower():
        raise UndecodableInput(
            f"reply_to is {message.reply_to!r}, the queue that is scored: the reply would be an "
            "input again."
        )
    kept = {
        name: {"TYPE": message.types[name], "VALUE": value} if name in message.types else value
        for name, value in message.properties.items()
        if name[:2].lower() == "x-"
    }
    if message.hops:
        kept[_HOPS] = message.hops + 1
    own_id = reply_id(message, settings)
    return QueueReply(
        target,
        outcome.body,
        outcome.content_type,
        own_id,
        message.correlation_id or message.message_id or own_id,
        message.reply_to_session_id,
        {**kept, **outcome.named("x-model-"), **outcome.properties, "status": outcome.status},
    )


def reply_id(message: QueueMessage, settings: Settings) -> str:
    """``<entity>:<message id>:<sequence number>:reply``; a digest where that is no short ASCII.

    A message that is enqueued again, or elsewhere, has another sequence number or entity: its
    reply is no repeat.
    """
    source = entity(settings).lower()  # names do not distinguish case
    made = f"{source}:{message.message_id}:{message.sequence_number}"
    if len(made) + len(_REPLY) > _LONGEST_ID or not (made.isascii() and made.isprintable()):
        made = hashlib.sha256(made.encode("utf-8", "surrogatepass")).hexdigest()
    return made + _REPLY


def entity(settings: Settings) -> str:
    """What is scored: ``queue``, or ``topic/subscription``."""
    name, subscription = settings.servicebus_input_queue, settings.servicebus_input_subscription
    return f"{name}/{subscription}" if subscription else name


def listens_to(settings: Settings) -> dict[str, str]:
    """What is received and where replies go, for people."""
    return {
        "input": entity(settings),
        "output": settings.servicebus_output_queue,
        "connection": service_bus_name(settings),
    }


def _target(reply_to: str) -> str:
    """The queue's name; some clients write the whole address, ``sb://namespace/queue``."""
    name = reply_to.strip()
    if "://" in name:
        name = name.partition("://")[2].partition("/")[2]
    return name.strip("/")
