"""Service Bus messages as plain data: what a message asks for, and how it is answered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from .errors import UndecodableInput
from .messages import ScoringRequest
from .outcomes import Outcome, Verdict, content_type_of, directed, directions
from .settings import Settings

# https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas
_LONGEST_ID = 128
_LONGEST_REASON = 4096
_HEADER = re.compile(r"x-[a-z0-9_.-]{1,100}")
_ID = re.compile(r"[\x21-\x7e]{1,100}")


class QueueMessage(NamedTuple):
    """One message as it was received; ``deliveries`` counts those before this one."""

    body: bytes
    message_id: str = ""
    correlation_id: str = ""
    content_type: str = ""
    reply_to: str = ""
    reply_to_session_id: str = ""
    properties: Mapping[str, object] = {}
    deliveries: int = 0


class QueueReply(NamedTuple):
    """One reply. ``properties``: those of the request that start with ``x-``, and ``status``."""

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
    DEAD_LETTER = "dead-letter"


class Answer(NamedTuple):
    """A reply to send first, then the settlement."""

    reply: QueueReply | None
    settlement: Settlement
    reason: str = ""
    description: str = ""


def request_of(
    message: QueueMessage, new_id: Callable[[], bytes], enter: Callable[[], object] | None = None
) -> ScoringRequest:
    """A message as a request: its ``x-`` properties are headers, its id is the request id.

    The properties ``model``, ``method`` and ``accept`` say how it is scored.
    """
    known = _ID.fullmatch(message.message_id) is not None
    request_id = message.message_id if known else new_id().decode()
    lines = {"content-type": content_type_of(message.content_type), "x-request-id": request_id}
    for name, value in message.properties.items():
        if _HEADER.fullmatch(name.lower()) and name.lower() not in lines:
            lines[name.lower()] = " ".join(str(value).split())
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

    Its id is made of the message's id, so that duplicate detection removes the repeat that a
    redelivery makes.

    Raises:
        UndecodableInput: ``reply_to`` is the queue that the messages come from, or none at all.
    """
    target = _entity(message.reply_to) or settings.servicebus_output_queue
    if not target:
        return None
    if "$" in target:
        raise UndecodableInput(f"reply_to is {message.reply_to!r}, which is no queue or topic.")
    if target.lower() == settings.servicebus_input_queue.lower():
        raise UndecodableInput(
            f"reply_to is {message.reply_to!r}, the queue that is scored: the reply would be an "
            "input again."
        )
    kept = {name: value for name, value in message.properties.items() if name[:2].lower() == "x-"}
    return QueueReply(
        target,
        outcome.body,
        outcome.content_type,
        reply_id(message.message_id),
        message.correlation_id or message.message_id,
        message.reply_to_session_id,
        {**kept, **outcome.properties, "status": outcome.status},
    )


def reply_id(message_id: str) -> str:
    """``<id>:reply``; of an id too long for that its digest; "" (a new one) without an id."""
    if not message_id:
        return ""
    if len(message_id) + len(":reply") > _LONGEST_ID:
        message_id = hashlib.sha256(message_id.encode("utf-8", "replace")).hexdigest()
    return f"{message_id}:reply"


def _entity(reply_to: str) -> str:
    """The queue's name; some clients write the whole address, ``sb://namespace/queue``."""
    name = reply_to.strip()
    if "://" in name:
        name = name.partition("://")[2].partition("/")[2]
    return name.strip("/")
