"""A Service Bus namespace for tests: an AMQP 1.0 broker on 127.0.0.1 for the real SDK.

`with ServiceBusBroker() as broker:` runs it on a thread of its own; every control may be called
from any thread. It does what the triggers and their tests need: no deferring, no peeking and no
WebSockets.

From bottom to top: codec, messages, queues, links, sessions and connections, management, controls.
Messages are kept as the bytes the sender encoded, so types of properties come out as they went in.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import os
import socket
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

# --- codec ------------------------------------------------------------------------------------


class Symbol(str):
    """A string that goes out as an AMQP symbol."""


class Raw(bytes):
    """A value that is encoded already."""


class Described(NamedTuple):
    """A value with its descriptor: a performative, an outcome, an error, a section."""

    descriptor: Any
    value: Any


def ubyte(value: int) -> Raw:
    return Raw(struct.pack(">BB", 0x50, value))


def ushort(value: int) -> Raw:
    return Raw(struct.pack(">BH", 0x60, value))


def uint(value: int) -> Raw:
    return Raw(struct.pack(">BI", 0x70, value))


def ulong(value: int) -> Raw:
    return Raw(struct.pack(">BQ", 0x80, value))


def timestamp(milliseconds: int) -> Raw:
    return Raw(struct.pack(">Bq", 0x83, milliseconds))


def array(items: list[Raw]) -> Raw:
    """An array of fixed-width values, or of short symbols, of one type."""
    body = b"".join(item[1:] for item in items)
    return Raw(struct.pack(">BIIB", 0xF0, len(body) + 5, len(items), items[0][0]) + body)


def _sized(short: int, value: bytes) -> bytes:
    """A variable-width value: its short form takes up to 255 bytes, the long one 4 GB."""
    if len(value) < 256:
        return bytes((short, len(value))) + value
    return struct.pack(">BI", short + 0x10, len(value)) + value


def _encode_int(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return struct.pack(">Bi", 0x71, value)
    return struct.pack(">Bq", 0x81, value)


def _encode_list(values: Iterable[Any]) -> bytes:
    items = [encode(value) for value in values]
    if not items:
        return b"\x45"
    body = b"".join(items)
    return struct.pack(">BII", 0xD0, len(body) + 4, len(items)) + body


def _encode_map(values: Mapping[Any, Any]) -> bytes:
    return RawMap.of(values).encoded()


def _encode_described(value: Described) -> bytes:
    return bytes((0, 0x53, value.descriptor)) + encode(value.value)


ENCODERS: dict[type, Callable[[Any], bytes]] = {
    Raw: bytes,
    Symbol: lambda value: _sized(0xA3, value.encode()),
    str: lambda value: _sized(0xA1, value.encode()),
    bytes: lambda value: _sized(0xA0, value),
    bool: lambda value: b"\x41" if value else b"\x42",
    int: _encode_int,
    float: lambda value: struct.pack(">Bd", 0x82, value),
    uuid.UUID: lambda value: b"\x98" + value.bytes,
    type(None): lambda value: b"\x40",
    list: _encode_list,
    dict: _encode_map,
    Described: _encode_described,
}


def encode(value: Any) -> bytes:
    """The AMQP encoding of a Python value, by its exact type."""
    return ENCODERS[type(value)](value)


FIXED: dict[int, struct.Struct] = {
    0x50: struct.Struct(">B"), 0x51: struct.Struct(">b"), 0x52: struct.Struct(">B"),
    0x53: struct.Struct(">B"), 0x54: struct.Struct(">b"), 0x55: struct.Struct(">b"),
    0x56: struct.Struct(">?"), 0x60: struct.Struct(">H"), 0x61: struct.Struct(">h"),
    0x70: struct.Struct(">I"), 0x71: struct.Struct(">i"), 0x72: struct.Struct(">f"),
    0x80: struct.Struct(">Q"), 0x81: struct.Struct(">q"), 0x82: struct.Struct(">d"),
    0x83: struct.Struct(">q"), 0x73: struct.Struct(">I"), 0x74: struct.Struct(">4s"),
    0x84: struct.Struct(">8s"), 0x94: struct.Struct(">16s"),
}  # fmt: skip
CONSTANTS: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}


def decode(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The value at a position and where the next one starts; symbols and strings are str."""
    return _decode_as(data[at], data, at + 1)


def _decode_as(code: int, data: bytes, at: int) -> tuple[Any, int]:
    if code in CONSTANTS:
        return CONSTANTS[code], at
    if code in FIXED:
        layout = FIXED[code]
        return layout.unpack_from(data, at)[0], at + layout.size
    if code == 0:
        descriptor, at = decode(data, at)
        value, at = decode(data, at)
        return Described(descriptor, value), at
    if code == 0x45:
        return [], at
    if code == 0x98:
        return uuid.UUID(bytes=data[at : at + 16]), at + 16
    return _decode_sized(code, data, at)


def _decode_sized(code: int, data: bytes, at: int) -> tuple[Any, int]:
    family = code >> 4
    width = 4 if family & 1 else 1
    start = at + width
    end = start + int.from_bytes(data[at:start], "big")
    if family in (0xA, 0xB):
        value = data[start:end]
        return (bytes(value) if code & 0xF == 0 else str(value, "utf-8")), end
    count = int.from_bytes(data[start : start + width], "big")
    start += width
    if family in (0xE, 0xF):
        return _decode_array(data, start, count), end
    items = []
    for _ in range(count):
        item, start = decode(data, start)
        items.append(item)
    if code & 0xF == 1:
        return dict(zip(items[::2], items[1::2], strict=True)), end
    return items, end


def _decode_array(data: bytes, at: int, count: int) -> list[Any]:
    code, at, items = data[at], at + 1, []
    for _ in range(count):
        item, at = _decode_as(code, data, at)
        items.append(item)
    return items


WIDTHS = {4: 0, 5: 1, 6: 2, 7: 4, 8: 8, 9: 16}


def skip(data: bytes, at: int) -> int:
    """Where the value at a position ends, without decoding it."""
    code = data[at]
    if code == 0:
        return skip(data, skip(data, at + 1))
    family = code >> 4
    if family in WIDTHS:
        return at + 1 + WIDTHS[family]
    width = 1 if family in (0xA, 0xC, 0xE) else 4
    return at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "big")


def raw_fields(data: bytes) -> list[Raw]:
    """The fields of a performative as the peer encoded them."""
    wide = data[3] == 0xD0
    count = int.from_bytes(data[8:12], "big") if wide else data[5]
    at, fields = 12 if wide else 6, []
    for _ in range(count):
        end = skip(data, at)
        fields.append(Raw(data[at:end]))
        at = end
    return fields


class RawMap(NamedTuple):
    """A map whose entries stay encoded: others can be appended without losing types."""

    size: int = 0
    entries: bytes = b""

    @classmethod
    def of(cls, values: Mapping[Any, Any]) -> RawMap:
        items = [encode(item) for pair in values.items() for item in pair]
        return cls(len(items), b"".join(items))

    @classmethod
    def parse(cls, data: bytes, at: int) -> RawMap:
        """The map at a position; a null in its place is an empty one."""
        code, end = data[at], skip(data, at)
        if code == 0xC1:
            return cls(data[at + 2], data[at + 3 : end])
        if code == 0xD1:
            return cls(int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : end])
        return cls()

    def plus(self, other: RawMap) -> RawMap:
        return RawMap(self.size + other.size, self.entries + other.entries)

    def encoded(self) -> bytes:
        return struct.pack(">BII", 0xD1, len(self.entries) + 4, self.size) + self.entries

    def each(self) -> dict[str, bytes]:
        """The values by name, encoded."""
        found, at = {}, 0
        while at < len(self.entries):
            name, value = decode(self.entries, at)
            at = skip(self.entries, value)
            found[name] = self.entries[value:at]
        return found

    def decoded(self) -> dict[str, Any]:
        value: dict[str, Any] = decode(self.encoded())[0]
        return value


# --- messages ---------------------------------------------------------------------------------

ANNOTATIONS, PROPERTIES, APPLICATION, DATA, VALUE = 0x72, 0x73, 0x74, 0x75, 0x77
BATCH_FORMAT = 0x80013700
PROPERTY_NAMES = (
    "message_id", "user_id", "to", "subject", "reply_to", "correlation_id", "content_type",
    "content_encoding", "absolute_expiry_time", "creation_time", "session_id", "group_sequence",
    "reply_to_session_id",
)  # fmt: skip


def section(code: int, encoded: bytes) -> bytes:
    return bytes((0, 0x53, code)) + encoded


def sections(payload: bytes) -> Iterator[tuple[int, int, int]]:
    """Code, start of the value and end of every section of a message."""
    at = 0
    while at < len(payload):
        end = skip(payload, at)
        yield payload[at + 2], at + 3, end
        at = end


class Message:
    """A message in a queue. Its content never changes; its place in the queue does."""

    __slots__ = (
        "annotations", "application", "body", "deadline", "delivery_count", "enqueued",
        "locked_until", "properties", "sequence", "tag",
    )  # fmt: skip

    def __init__(self, payload: bytes = b"") -> None:
        self.annotations = self.application = RawMap()
        self.properties = self.body = b""
        self.delivery_count = self.sequence = self.enqueued = self.locked_until = 0
        self.deadline = 0.0
        self.tag = b""
        for code, start, end in sections(payload):
            if code == ANNOTATIONS:
                self.annotations = RawMap.parse(payload, start)
            elif code == PROPERTIES:
                self.properties = payload[start - 3 : end]
            elif code == APPLICATION:
                self.application = RawMap.parse(payload, start)
            elif code > APPLICATION:
                self.body += payload[start - 3 : end]

    def copy(self) -> Message:
        """The same content for another queue."""
        other = Message()
        other.annotations, other.application = self.annotations, self.application
        other.properties, other.body = self.properties, self.body
        other.delivery_count, other.enqueued = self.delivery_count, self.enqueued
        return other

    def named_properties(self) -> dict[str, Any]:
        if not self.properties:
            return {}
        values = decode(self.properties, 3)[0]
        return dict(zip(PROPERTY_NAMES, values, strict=False))

    def body_bytes(self) -> bytes:
        """The data sections joined; a body of another kind as it was encoded."""
        parts = [
            decode(self.body, start)[0] if code == DATA else self.body[start:end]
            for code, start, end in sections(self.body)
        ]
        return b"".join(parts)

    def encoded(self, *, locked: bool = True) -> bytes:
        """The message as a receiver gets it: header, broker annotations, then as it was sent."""
        entries = SEQUENCE_AND_TIME.pack(
            0xA3, 21, b"x-opt-sequence-number", 0x81, self.sequence,
            0xA3, 19, b"x-opt-enqueued-time", 0x83, self.enqueued,
        )  # fmt: skip
        notes = self.annotations.plus(RawMap(4, entries))
        if locked:
            lock = LOCKED_UNTIL.pack(0xA3, 18, b"x-opt-locked-until", 0x83, self.locked_until)
            notes = notes.plus(RawMap(2, lock))
        header = b"\x00\x53\x70\xc0\x0a\x05\x41\x40\x40\x42" + uint(self.delivery_count)
        application = b""
        if self.application.size:
            application = section(APPLICATION, self.application.encoded())
        return b"".join(
            (header, section(ANNOTATIONS, notes.encoded()), self.properties, application, self.body)
        )


SEQUENCE_AND_TIME = struct.Struct(">BB21sBqBB19sBq")
LOCKED_UNTIL = struct.Struct(">BB18sBq")


@dataclass(frozen=True)
class BrokerMessage:
    """What a test sees of a message."""

    body: bytes
    message_id: Any
    content_type: str | None
    correlation_id: Any
    session_id: str | None
    application_properties: dict[str, Any]
    encoded_properties: dict[str, bytes]
    delivery_count: int
    sequence_number: int
    locked: bool

    @property
    def answers(self) -> str:
        """The message that this one is a reply to: the id within its own id."""
        entity, found, number, end = self.message_id.split(":")
        assert entity
        assert number.isdecimal()
        assert end == "reply"
        return str(found)


def snapshot(message: Message) -> BrokerMessage:
    named = message.named_properties()
    return BrokerMessage(
        body=message.body_bytes(),
        message_id=named.get("message_id"),
        content_type=named.get("content_type"),
        correlation_id=named.get("correlation_id"),
        session_id=named.get("session_id"),
        application_properties=message.application.decoded(),
        encoded_properties=message.application.each(),
        delivery_count=message.delivery_count,
        sequence_number=message.sequence,
        locked=bool(message.tag),
    )


def encode_message(
    body: bytes, properties: Mapping[str, Any], application: Mapping[str, Any]
) -> bytes:
    """A message as a sender would encode it; a raw body is its sections, encoded already."""
    values = [properties.get(name) for name in PROPERTY_NAMES]
    if values[6] is not None:
        values[6] = Symbol(values[6])
    parts = [section(PROPERTIES, encode(values))]
    if application:
        parts.append(section(APPLICATION, encode(dict(application))))
    return b"".join((*parts, body if isinstance(body, Raw) else section(DATA, encode(body))))


# --- queues -----------------------------------------------------------------------------------


@dataclass
class Statistics:
    """What has happened since the start of the broker."""

    connections_opened: int = 0
    received: int = 0
    delivered: int = 0
    completed: int = 0
    abandoned: int = 0
    released: int = 0
    dead_lettered: int = 0
    locks_expired: int = 0
    locks_lost: int = 0
    lock_renewals: int = 0
    duplicates_removed: int = 0


class Counts(NamedTuple):
    active: int
    locked: int
    dead: int


class Settlement(NamedTuple):
    """What a receiver decided about a message."""

    kind: str
    reason: str | None = None
    description: str | None = None


class Queue:
    """A queue, a subscription or a dead-letter queue; used on the broker's thread only."""

    def __init__(
        self,
        name: str,
        statistics: Statistics,
        *,
        lock_seconds: float = 30,
        max_delivery_count: int = 10,
        duplicate_detection: bool = False,
        requires_session: bool = False,
        dead_letters: Queue | None = None,
    ) -> None:
        self.name = name
        self.lock_seconds = lock_seconds
        self.max_delivery_count = max_delivery_count
        self.requires_session = requires_session
        self.dead_letters = dead_letters
        self.active: list[tuple[int, Message]] = []
        self.locked: dict[bytes, Message] = {}
        self.consumers: deque[Consumer] = deque()
        self.refusal: Described | None = None
        self._statistics = statistics
        self._seen: set[Any] | None = set() if duplicate_detection else None
        self._sequence = itertools.count(1)
        self._deadlines: list[tuple[float, bytes]] = []
        self._timer: asyncio.TimerHandle | None = None

    def put(self, message: Message) -> None:
        """A new message at the end, unless its id was here before and duplicates are detected."""
        if self._is_duplicate(message):
            self._statistics.duplicates_removed += 1
            return
        message.sequence = next(self._sequence)
        message.enqueued = message.enqueued or int(time.time() * 1000)
        heapq.heappush(self.active, (message.sequence, message))
        self.dispatch()

    def _is_duplicate(self, message: Message) -> bool:
        if self._seen is None:
            return False
        message_id = message.named_properties().get("message_id")
        if message_id is None:
            return False
        known = message_id in self._seen
        self._seen.add(message_id)
        return known

    def dispatch(self) -> None:
        """Hand active messages to consumers with credit, in turn."""
        while self.active and (consumer := self._next_consumer()):
            message = heapq.heappop(self.active)[1]
            self._statistics.delivered += 1
            if consumer.removes:
                self._statistics.completed += 1
            else:
                self.lock(message)
            consumer.deliver(message)

    def _next_consumer(self) -> Consumer | None:
        for _ in range(len(self.consumers)):
            self.consumers.rotate(-1)
            if self.consumers[-1].credit > 0:
                return self.consumers[-1]
        return None

    def lock(self, message: Message) -> None:
        message.tag = os.urandom(16)
        self.locked[message.tag] = message
        self._extend(message)
        heapq.heappush(self._deadlines, (message.deadline, message.tag))
        self._watch_locks()

    def _extend(self, message: Message) -> None:
        message.deadline = time.monotonic() + self.lock_seconds
        message.locked_until = int((time.time() + self.lock_seconds) * 1000)

    def renew(self, tag: bytes) -> int | None:
        """The new end of a lock in milliseconds, None if the lock is lost."""
        if (message := self.locked.get(tag)) is None:
            return None
        self._extend(message)
        self._statistics.lock_renewals += 1
        return message.locked_until

    def _watch_locks(self) -> None:
        if self._timer is None and self._deadlines:
            delay = max(0.0, self._deadlines[0][0] - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire_locks)

    def _expire_locks(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            message = self.locked.get(heapq.heappop(self._deadlines)[1])
            if message and message.deadline > now:
                heapq.heappush(self._deadlines, (message.deadline, message.tag))
            elif message:
                self._statistics.locks_expired += 1
                self._unlock(message)
                self._give_back(message, failed=True)
        self._watch_locks()

    def _unlock(self, message: Message) -> None:
        del self.locked[message.tag]
        message.tag = b""

    def _give_back(self, message: Message, *, failed: bool) -> None:
        message.delivery_count += failed
        if self.dead_letters is not None and message.delivery_count >= self.max_delivery_count:
            count = message.delivery_count
            why = f"Message could not be consumed after {count} delivery attempts."
            self._bury(message, Settlement("dead-letter", "MaxDeliveryCountExceeded", why))
            return
        heapq.heappush(self.active, (message.sequence, message))
        self.dispatch()

    def _bury(self, message: Message, settlement: Settlement) -> None:
        if self.dead_letters is None:
            self._give_back(message, failed=True)
            return
        self._statistics.dead_lettered += 1
        why = {
            "DeadLetterReason": settlement.reason,
            "DeadLetterErrorDescription": settlement.description,
        }
        dead = message.copy()
        given = RawMap.of({name: text for name, text in why.items() if text is not None})
        dead.application = dead.application.plus(given)
        source = {Symbol("x-opt-deadletter-source"): self.name}
        dead.annotations = dead.annotations.plus(RawMap.of(source))
        self.dead_letters.put(dead)

    def settle(self, tag: bytes, settlement: Settlement) -> bool:
        """Apply a receiver's decision; False if it no longer holds the lock."""
        if (message := self.locked.get(tag)) is None:
            self._statistics.locks_lost += 1
            return False
        self._unlock(message)
        SETTLE[settlement.kind](self, message, settlement)
        return True

    def _complete(self, message: Message, settlement: Settlement) -> None:
        self._statistics.completed += 1

    def _abandon(self, message: Message, settlement: Settlement) -> None:
        self._statistics.abandoned += 1
        self._give_back(message, failed=True)

    def _release(self, message: Message, settlement: Settlement) -> None:
        self._statistics.released += 1
        self._give_back(message, failed=False)

    def held(self) -> list[Message]:
        """Active and locked messages in the order they came."""
        active = [message for _, message in self.active]
        return sorted([*active, *self.locked.values()], key=lambda message: message.sequence)

    def clear(self) -> None:
        for message in self.locked.values():
            message.tag = b""
        self.active.clear()
        self.locked.clear()


SETTLE: dict[str, Callable[[Queue, Message, Settlement], None]] = {
    "complete": Queue._complete,
    "abandon": Queue._abandon,
    "release": Queue._release,
    "dead-letter": Queue._bury,
}
DEAD_LETTER_SUFFIX = "/$deadletterqueue"
MANAGEMENT_SUFFIX = "/$management"


class Namespace:
    """The entities of the broker by their address, which does not distinguish case."""

    def __init__(self) -> None:
        self.statistics = Statistics()
        self.queues: dict[str, Queue] = {}
        self.topics: dict[str, list[Queue]] = {}
        self.refuse_tokens = False
        self.silent: set[str] = set()

    def add_queue(self, name: str, **options: Any) -> Queue:
        dead = Queue(
            name + DEAD_LETTER_SUFFIX,
            self.statistics,
            lock_seconds=options.get("lock_seconds", 30),
        )
        queue = Queue(name, self.statistics, dead_letters=dead, **options)
        self.queues[name.lower()] = queue
        self.queues[name.lower() + DEAD_LETTER_SUFFIX] = dead
        return queue

    def source(self, address: str) -> Queue | None:
        return self.queues.get(address.lower())

    def targets(self, address: str) -> list[Queue] | None:
        """The queues that a message sent to an address goes to."""
        key = address.lower()
        if key in self.topics:
            return self.topics[key]
        queue = self.queues.get(key)
        return [queue] if queue and queue.dead_letters else None

    def publish(self, queues: list[Queue], payload: bytes) -> None:
        message = Message(payload)
        self.statistics.received += 1
        for queue in queues:
            queue.put(message.copy())


# --- links ------------------------------------------------------------------------------------

ACCEPTED, REJECTED, RELEASED, MODIFIED, ERROR = 0x24, 0x25, 0x26, 0x27, 0x1D
ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH = 0x12, 0x13, 0x14, 0x15, 0x16
OPEN, BEGIN, END, CLOSE = 0x10, 0x11, 0x17, 0x18
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
MAX_FRAME = 65536
EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"
PRODUCER_CREDIT = 1000
IDLE_SECONDS = 240.0
TRANSFER_HEAD = struct.Struct(">IBBH5sBBIBIBB16sBBB")


def error(condition: str, description: str) -> Described:
    """With its empty info, which the SDK reads."""
    return Described(ERROR, [Symbol(condition), description, None])


NEEDS_SESSION = (
    "It is not possible for an entity that requires sessions to create a non-sessionful message"
    " receiver."
)


class LinkRefused(Exception):
    """The attach of a link is answered with this error."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.error = error(condition, description)


class OutgoingLink:
    """The broker's end of a link on which the client receives."""

    def __init__(self, session: Session, handle: int, *, removes: bool = False) -> None:
        self.session = session
        self.handle = handle
        self.removes = removes
        self.delivery_count = 0
        self.credit = 0

    def transfer(self, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send one delivery, in as many frames as it takes; the result is its id."""
        delivery_id = self.session.next_delivery_id()
        room = MAX_FRAME - TRANSFER_HEAD.size
        for start in range(0, len(payload), room):
            part = payload[start : start + room]
            more = start + room < len(payload)
            head = TRANSFER_HEAD.pack(
                TRANSFER_HEAD.size + len(part), 2, 0, self.session.channel,
                b"\x00\x53\x14\xc0\x20", 6, 0x70, self.handle, 0x70, delivery_id,
                0xA0, 16, tag, 0x43, 0x41 if settled else 0x42, 0x41 if more else 0x42,
            )  # fmt: skip
            self.session.connection.write(head + part)
        self.delivery_count = self.delivery_count + 1 & 0xFFFFFFFF
        self.credit -= 1
        return delivery_id

    def on_flow(self, fields: list[Any]) -> None:
        delivery_count, credit, drain, echo = fields[5], fields[6], fields[8], fields[9]
        self.credit = (delivery_count or 0) + (credit or 0) - self.delivery_count
        self.on_credit()
        if drain:
            self.delivery_count += max(0, self.credit)
            self.credit = 0
        if drain or echo:
            self.session.send_flow(self.handle, self.delivery_count, self.credit)

    def on_credit(self) -> None:
        """More deliveries may be possible."""

    def close(self) -> None:
        """The link is gone."""


class Consumer(OutgoingLink):
    """A receiver of a queue. What it has locked stays locked when it goes."""

    def __init__(self, session: Session, handle: int, queue: Queue, *, removes: bool) -> None:
        super().__init__(session, handle, removes=removes)
        self.queue = queue
        queue.consumers.append(self)

    def deliver(self, message: Message) -> None:
        tag = message.tag or bytes(16)
        payload = message.encoded(locked=not self.removes)
        delivery_id = self.transfer(tag, payload, settled=self.removes)
        if not self.removes:
            self.session.unsettled[delivery_id] = (self.queue, tag)

    def on_credit(self) -> None:
        self.queue.dispatch()

    def close(self) -> None:
        self.queue.consumers.remove(self)


class Replies(OutgoingLink):
    """Where the answers of `$cbs` or of an entity's `$management` go."""

    def __init__(self, session: Session, handle: int, address: str) -> None:
        super().__init__(session, handle)
        self.address = address
        self._waiting: deque[bytes] = deque()
        session.replies[address] = self

    def answer(self, payload: bytes) -> None:
        self._waiting.append(payload)
        self.on_credit()

    def on_credit(self) -> None:
        while self._waiting and self.credit > 0:
            self.transfer(os.urandom(16), self._waiting.popleft(), settled=True)

    def close(self) -> None:
        self.session.replies.pop(self.address, None)


class IncomingLink:
    """The broker's end of a link on which the client sends; `accept` takes each payload."""

    def __init__(
        self,
        session: Session,
        handle: int,
        accept: Callable[[bytes], None],
        queues: Iterable[Queue] = (),
    ) -> None:
        self.session = session
        self.handle = handle
        self.queues = list(queues)
        self._accept = accept
        self._partial: list[bytes] = []
        self._first: list[Any] = []
        self._count = 0
        self._credit = 0

    def grant(self) -> None:
        """Keep the sender's credit well above nothing."""
        if self._credit <= PRODUCER_CREDIT // 2:
            self._credit = PRODUCER_CREDIT
            self.session.send_flow(self.handle, self._count, self._credit)

    def on_transfer(self, fields: list[Any], part: bytes) -> None:
        if not self._partial:
            self._first = fields
        self._partial.append(part)
        if fields[5]:
            return
        payload, self._partial = b"".join(self._partial), []
        _, delivery_id, _, message_format, settled, *_ = self._first
        outcome = self._take(payload, batch=message_format == BATCH_FORMAT)
        if not settled:
            self.session.send_disposition(delivery_id, outcome)
        self._count += 1
        self._credit -= 1
        self.grant()

    def _take(self, payload: bytes, *, batch: bool) -> Described:
        limit = self.session.connection.max_message_size
        if len(payload) > limit:
            text = f"The message of {len(payload)} bytes exceeds the limit of {limit} bytes."
            return Described(REJECTED, [error("amqp:link:message-size-exceeded", text)])
        for queue in self.queues:
            if queue.refusal:
                return Described(REJECTED, [queue.refusal])
        for each in unpack_batch(payload) if batch else [payload]:
            self._accept(each)
        return Described(ACCEPTED, [])

    def on_flow(self, fields: list[Any]) -> None:
        if fields[9]:
            self.session.send_flow(self.handle, self._count, self._credit)

    def close(self) -> None:
        """Nothing is kept for a sender."""


def unpack_batch(payload: bytes) -> list[bytes]:
    """The messages of a batch: each is the content of one data section of the envelope."""
    found = sections(payload)
    return [decode(payload, start)[0] for code, start, _ in found if code == DATA]


def settlement_of(state: Described | None) -> Settlement:
    """The decision in a disposition; none at all means completion, as in the protocol."""
    if state is None or state.descriptor == ACCEPTED:
        return Settlement("complete")
    if state.descriptor == RELEASED:
        return Settlement("release")
    if state.descriptor == REJECTED:
        return _rejection(state.value[0] if state.value else None)
    given: list[Any] = state.value
    failed, *_ = [*given, None]
    return Settlement("abandon" if failed else "release")


def _rejection(why: Described | None) -> Settlement:
    given: list[Any] = why.value if why else []
    _, description, info = [*given, None, None, None][:3]
    info = info or {}
    return Settlement(
        "dead-letter",
        info.get("DeadLetterReason"),
        info.get("DeadLetterErrorDescription", description),
    )


# --- sessions and connections -----------------------------------------------------------------


def entity_of(address: Any) -> str:
    """`amqps://host:port/queue` or `queue` → `queue`."""
    text = address.decode() if isinstance(address, bytes) else str(address or "")
    return text.split("://", 1)[-1].split("/", 1)[-1] if "://" in text else text.strip("/")


class Session:
    """One AMQP session: the links of a client and its unsettled deliveries."""

    def __init__(self, connection: Connection, channel: int) -> None:
        self.connection = connection
        self.channel = channel
        self.links: dict[int, OutgoingLink | IncomingLink] = {}
        self.replies: dict[str, Replies] = {}
        self.unsettled: dict[int, tuple[Queue, bytes]] = {}
        self._delivery_ids = itertools.count()

    def next_delivery_id(self) -> int:
        return next(self._delivery_ids) & 0xFFFFFFFF

    def send(self, performative: int, fields: list[Any]) -> None:
        self.connection.send(self.channel, performative, fields)

    def send_flow(self, handle: int, delivery_count: int, credit: int) -> None:
        window = uint(2**31 - 1)
        fields = [uint(0), window, uint(0), window]
        self.send(FLOW, [*fields, uint(handle), uint(delivery_count), uint(max(0, credit))])

    def send_disposition(self, delivery_id: int, state: Described, *, sender: bool = False) -> None:
        role = not sender
        self.send(DISPOSITION, [role, uint(delivery_id), uint(delivery_id), True, state])

    def on_attach(self, fields: list[Any], body: bytes) -> None:
        name, handle, client_receives, send_mode, settle_mode, source, target, *_ = fields
        raw = raw_fields(body)
        common = [name, uint(handle), not client_receives]
        modes = [ubyte(2 if send_mode is None else send_mode), ubyte(settle_mode or 0)]
        sizes = [None, None, uint(0), ulong(self.connection.max_message_size)]
        terminus = source if client_receives else target
        address = entity_of(terminus.value[0] if terminus and terminus.value else None)
        if address.lower() in self.connection.namespace.silent:
            return
        try:
            link = self._open(address, handle, client_receives, removes=send_mode == 1)
        except LinkRefused as refusal:
            ends = [None, raw[6]] if client_receives else [raw[5], None]
            self.send(ATTACH, [*common, *modes, *ends, *sizes])
            self.send(DETACH, [uint(handle), True, refusal.error])
            return
        self.links[handle] = link
        self.send(ATTACH, [*common, *modes, raw[5], raw[6], *sizes])
        if isinstance(link, IncomingLink):
            link.grant()

    def _open(
        self, address: str, handle: int, client_receives: bool, *, removes: bool
    ) -> OutgoingLink | IncomingLink:
        if address == "$cbs":
            return self._open_node(address, handle, client_receives, self._on_token)
        if not self.connection.authorised:
            raise LinkRefused("amqp:unauthorized-access", f"No token was put for '{address}'.")
        if address.lower().endswith(MANAGEMENT_SUFFIX):
            queue = self._find(self.connection.namespace.source, address[: -len(MANAGEMENT_SUFFIX)])
            management = Management(queue)
            return self._open_node(address, handle, client_receives, management)
        if client_receives:
            queue = self._find(self.connection.namespace.source, address)
            if queue.requires_session:
                raise LinkRefused("amqp:not-allowed", NEEDS_SESSION)
            return Consumer(self, handle, queue, removes=removes)
        queues = self._find(self.connection.namespace.targets, address)
        publish = self.connection.namespace.publish
        return IncomingLink(self, handle, lambda payload: publish(queues, payload), queues)

    def _find(self, find: Callable[[str], T | None], address: str) -> T:
        if (found := find(address)) is None:
            text = f"The messaging entity '{address}' could not be found."
            raise LinkRefused("amqp:not-found", text)
        return found

    def _open_node(
        self, address: str, handle: int, client_receives: bool, serve: Callable[[Request], Response]
    ) -> OutgoingLink | IncomingLink:
        if client_receives:
            return Replies(self, handle, address)

        def accept(payload: bytes) -> None:
            request = Request(payload)
            response = serve(request)
            if address in self.replies:
                self.replies[address].answer(response.encoded(request.message_id))

        return IncomingLink(self, handle, accept)

    def _on_token(self, request: Request) -> Response:
        namespace = self.connection.namespace
        if namespace.refuse_tokens:
            text = "InvalidSignature: The token has an invalid signature."
            return Response(401, text, names=("status-code", "status-description"))
        self.connection.authorised = True
        return Response(200, "OK", names=("status-code", "status-description"))

    def on_flow(self, fields: list[Any]) -> None:
        if fields[4] in self.links:
            self.links[fields[4]].on_flow(fields)

    def on_transfer(self, fields: list[Any], payload: bytes) -> None:
        link = self.links.get(fields[0])
        if link is None:
            return  # it was on its way when the link was detached
        assert isinstance(link, IncomingLink), "a transfer on a link that receives"
        link.on_transfer(fields, payload)

    def on_disposition(self, fields: list[Any]) -> None:
        client_receives, first, last, settled, state, *_ = fields
        if not client_receives:
            return
        settlement = settlement_of(state)
        for delivery_id in range(first, (first if last is None else last) + 1):
            queue, tag = self.unsettled.pop(delivery_id, (None, b""))
            done = queue is not None and queue.settle(tag, settlement)
            if not settled:
                self.send_disposition(delivery_id, self._outcome(state, done), sender=True)

    def _outcome(self, state: Described | None, done: bool) -> Described:
        if not done:
            return Described(REJECTED, [error(LOCK_LOST, LOCK_LOST_TEXT)])
        if state is None or state.descriptor == REJECTED:
            return Described(ACCEPTED if state is None else REJECTED, [])
        return state

    def on_detach(self, fields: list[Any]) -> None:
        if link := self.links.pop(fields[0], None):
            link.close()
            self.send(DETACH, [uint(fields[0]), bool(fields[1])])

    def detach(self, link: OutgoingLink | IncomingLink, why: Described) -> None:
        """End a link from here, for the reason given."""
        del self.links[link.handle]
        link.close()
        self.send(DETACH, [uint(link.handle), True, why])

    def close(self) -> None:
        for link in self.links.values():
            link.close()
        self.links.clear()


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, namespace: Namespace, max_size: int, all_: set[Connection]) -> None:
        self.namespace = namespace
        self.max_message_size = max_size
        self.authorised = False
        self.sessions: dict[int, Session] = {}
        self._all = all_
        self._rest = b""
        self._out: list[bytes] = []
        self._last_heard = time.monotonic()
        self._beats = False
        self._tick: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._loop = asyncio.get_running_loop()
        self._all.add(self)
        self.namespace.statistics.connections_opened += 1
        self._beat(IDLE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        if self._tick:
            self._tick.cancel()
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()

    def _beat(self, period: float) -> None:
        """Empty frames for a client that wants them; an end for one that has gone silent."""
        if time.monotonic() - self._last_heard > IDLE_SECONDS:
            self.reset()
            return
        if self._beats:
            self.write(EMPTY_FRAME)
        self._tick = self._loop.call_later(period, self._beat, period)

    def reset(self) -> None:
        """End the connection as a broken network does, without a farewell."""
        peer: socket.socket = self.transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def write(self, data: bytes) -> None:
        """Send what is written in one turn of the loop in one piece."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def send(self, channel: int, performative: int, fields: list[Any], *, sasl: int = 0) -> None:
        while fields and fields[-1] is None:
            fields.pop()
        body = section(performative, encode(fields))
        self.write(struct.pack(">IBBH", len(body) + 8, 2, sasl, channel) + body)

    def data_received(self, data: bytes) -> None:
        self._last_heard = time.monotonic()
        try:
            self._feed(data)
        except Exception:
            logger.exception("A client broke the protocol, or the broker has a bug")
            self.transport.abort()

    def _feed(self, data: bytes) -> None:
        data, at = self._rest + data, 0
        while len(data) - at >= 8:
            if data.startswith(b"AMQP", at):
                self._on_header(data[at : at + 8])
                at += 8
                continue
            size = int.from_bytes(data[at : at + 4], "big")
            if len(data) - at < size:
                break
            self._on_frame(data[at : at + size])
            at += size
        self._rest = data[at:]

    def _on_header(self, header: bytes) -> None:
        self.write(header)
        if header[4] == 3:
            anonymous = Raw(encode(Symbol("ANONYMOUS")))
            self.send(0, SASL_MECHANISMS, [array([anonymous])], sasl=1)

    def _on_frame(self, frame: bytes) -> None:
        channel, body = int.from_bytes(frame[6:8], "big"), frame[frame[4] * 4 :]
        if not body:
            return
        performative, end = decode(body)
        fields = performative.value + [None] * (14 - len(performative.value))
        code = performative.descriptor
        if code in CONNECTION_FRAMES:
            CONNECTION_FRAMES[code](self, channel, fields)
        elif (session := self.sessions.get(channel)) is None:
            return
        elif code == TRANSFER:
            session.on_transfer(fields, body[end:])
        elif code == ATTACH:
            session.on_attach(fields, body)
        else:
            SESSION_FRAMES[code](session, fields)

    def _on_sasl_init(self, channel: int, fields: list[Any]) -> None:
        self.send(0, SASL_OUTCOME, [ubyte(0 if fields[0] == "ANONYMOUS" else 1)], sasl=1)

    def _on_open(self, channel: int, fields: list[Any]) -> None:
        idle = uint(int(IDLE_SECONDS * 1000))
        self.send(0, OPEN, ["service-bus-test", None, uint(MAX_FRAME), ushort(4999), idle])
        if fields[4] and self._tick:
            self._beats = True
            self._tick.cancel()
            self._beat(min(fields[4] / 2000, IDLE_SECONDS))

    def _on_begin(self, channel: int, fields: list[Any]) -> None:
        self.sessions[channel] = Session(self, channel)
        window = uint(2**31 - 1)
        self.send(channel, BEGIN, [ushort(channel), uint(0), window, window, uint(2**32 - 1)])

    def _on_end(self, channel: int, fields: list[Any]) -> None:
        if session := self.sessions.pop(channel, None):
            session.close()
            self.send(channel, END, [])

    def end(self, why: Described) -> None:
        """Close from here, for the reason given."""
        self.send(0, CLOSE, [why])
        self._flush()
        self.transport.close()

    def _on_close(self, channel: int, fields: list[Any]) -> None:
        self.send(0, CLOSE, [])
        self._flush()
        self.transport.close()


CONNECTION_FRAMES: dict[int, Callable[[Connection, int, list[Any]], None]] = {
    SASL_INIT: Connection._on_sasl_init,
    OPEN: Connection._on_open,
    BEGIN: Connection._on_begin,
    END: Connection._on_end,
    CLOSE: Connection._on_close,
}
SESSION_FRAMES: dict[int, Callable[[Session, list[Any]], None]] = {
    FLOW: Session.on_flow,
    DISPOSITION: Session.on_disposition,
    DETACH: Session.on_detach,
}


# --- management -------------------------------------------------------------------------------

LOCK_LOST = "com.microsoft:message-lock-lost"
LOCK_LOST_TEXT = (
    "The lock supplied is invalid. Either the lock expired, or the message has already been"
    " removed from the queue."
)
DISPOSITIONS = {
    "completed": "complete",
    "abandoned": "abandon",
    "suspended": "dead-letter",
}


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Request:
    """A request to `$cbs` or `$management`."""

    def __init__(self, payload: bytes) -> None:
        message = Message(payload)
        self.message_id = message.named_properties().get("message_id")
        self.operation = text(message.application.decoded().get("operation"))
        found = {code: start for code, start, _ in sections(message.body)}
        self.value: Any = decode(message.body, found[VALUE])[0] if VALUE in found else None

    def tags(self) -> list[bytes]:
        """The lock tokens as delivery tags."""
        return [uuid.UUID(text(token)).bytes_le for token in self.value["lock-tokens"]]


@dataclass(frozen=True)
class Response:
    """The answer to a request."""

    status: int
    description: str = "OK"
    condition: str | None = None
    value: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, str] = ("statusCode", "statusDescription")

    def encoded(self, correlation_id: Any) -> bytes:
        application = dict(zip(self.names, (self.status, self.description), strict=True))
        if self.condition:
            application["errorCondition"] = Symbol(self.condition)
        properties = [None, None, None, None, None, correlation_id]
        return (
            section(PROPERTIES, encode(properties))
            + section(APPLICATION, encode(application))
            + section(VALUE, encode(self.value))
        )


class Management:
    """The `$management` node of a queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._operations: dict[str, Callable[[Request], Response]] = {
            "com.microsoft:renew-lock": self._renew_lock,
            "com.microsoft:update-disposition": self._update_disposition,
        }

    def __call__(self, request: Request) -> Response:
        operation = self._operations.get(request.operation)
        if operation is None:
            return Response(501, f"'{request.operation}' is not known.", "amqp:not-implemented")
        return operation(request)

    def _renew_lock(self, request: Request) -> Response:
        ends = [self._queue.renew(tag) for tag in request.tags()]
        if None in ends:
            return Response(410, LOCK_LOST_TEXT, LOCK_LOST)
        return Response(200, value={"expirations": array([timestamp(end or 0) for end in ends])})

    def _update_disposition(self, request: Request) -> Response:
        kind = DISPOSITIONS.get(text(request.value["disposition-status"]))
        if kind is None:
            return Response(400, "The disposition is not known.", "amqp:invalid-field")
        reason = request.value.get("deadletter-reason")
        settlement = Settlement(kind, reason, request.value.get("deadletter-description"))
        done = [self._queue.settle(tag, settlement) for tag in request.tags()]
        return Response(200) if all(done) else Response(410, LOCK_LOST_TEXT, LOCK_LOST)


# --- controls ---------------------------------------------------------------------------------


class ServiceBusBroker:
    """A Service Bus namespace on 127.0.0.1, or where told, while its `with` block lasts."""

    def __init__(self, *, max_message_size: int = 262_144, address: str = "127.0.0.1") -> None:
        self.port, self._address = 0, address
        self._max_message_size = max_message_size
        self._namespace = Namespace()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="service-bus-broker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._listen()
        except OSError as failure:
            self._ready.set_exception(failure)
            return
        self._ready.set_result(None)
        await self._stopped.wait()
        self._stop_listening()
        await asyncio.sleep(0.01)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self._loop.create_server(
                lambda: Connection(self._namespace, self._max_message_size, self._connections),
                self._address,
                self.port,
                backlog=512,
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut()

    def _cut(self) -> int:
        cut = list(self._connections)
        for connection in cut:
            connection.reset()
        return len(cut)

    def _call(self, function: Callable[[], T]) -> T:
        """Run a function on the broker's thread and wait for its result."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def _queue(self, name: str) -> Queue:
        queue = self._namespace.source(name)
        if queue is None:
            raise KeyError(f"There is no queue or subscription '{name}'.")
        return queue

    @property
    def connection_string(self) -> str:
        return (
            f"Endpoint=sb://{self._address}:{self.port};"
            "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;"
            "UseDevelopmentEmulator=true"
        )

    def add_queue(self, name: str, **options: Any) -> None:
        """Options are those of :class:`Queue`: ``lock_seconds`` and so on."""
        self._call(lambda: self._namespace.add_queue(name, **options))

    def add_topic(self, name: str) -> None:
        self._call(lambda: self._namespace.topics.setdefault(name.lower(), []))

    def add_subscription(self, topic: str, name: str) -> str:
        """Add a subscription; the result is its name for the controls that take a queue."""
        path = f"{topic}/Subscriptions/{name}"

        def add() -> None:
            queue = self._namespace.add_queue(path)
            self._namespace.topics.setdefault(topic.lower(), []).append(queue)

        self._call(add)
        return path

    def send(
        self,
        queue: str,
        body: bytes,
        *,
        message_id: str | Raw | None = None,
        content_encoding: str | None = None,
        properties: Mapping[str, Any] | None = None,
        **named: str | None,
    ) -> None:
        """Put a message into a queue or topic; controls called later see it there.

        ``named`` are properties of AMQP by :data:`PROPERTY_NAMES`.
        """
        values: dict[str, Any] = {
            **named,
            "message_id": message_id or uuid.uuid4().hex,
            "content_encoding": content_encoding and Symbol(content_encoding),
        }
        assert values.keys() <= set(PROPERTY_NAMES)
        targets = self._namespace.targets(queue)
        if targets is None:
            raise KeyError(f"There is no queue or topic '{queue}'.")
        payload = encode_message(body, values, properties or {})
        self._loop.call_soon_threadsafe(self._namespace.publish, targets, payload)

    def messages(self, queue: str) -> list[BrokerMessage]:
        """The active and the locked messages, oldest first."""
        return self._call(lambda: [snapshot(each) for each in self._queue(queue).held()])

    def dead_letters(self, queue: str) -> list[BrokerMessage]:
        return self.messages(queue + DEAD_LETTER_SUFFIX)

    def take_all(self, queue: str) -> list[BrokerMessage]:
        """Remove the active and the locked messages and return them."""

        def take() -> list[BrokerMessage]:
            taken = [snapshot(each) for each in self._queue(queue).held()]
            self._queue(queue).clear()
            return taken

        return self._call(take)

    def clear(self, queue: str) -> None:
        """Remove every message of a queue, its dead letters too."""
        self._call(self._queue(queue).clear)
        self._call(self._queue(queue + DEAD_LETTER_SUFFIX).clear)

    def counts(self, queue: str) -> Counts:
        def count() -> Counts:
            found, dead = self._queue(queue), self._queue(queue + DEAD_LETTER_SUFFIX)
            waiting = len(dead.active) + len(dead.locked)
            return Counts(len(found.active), len(found.locked), waiting)

        return self._call(count)

    def wait_for(self, predicate: Callable[[], object], timeout: float = 10) -> None:
        """Wait until a predicate (that calls other controls) holds; TimeoutError if it does not."""
        until = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > until:
                raise TimeoutError(f"It did not come true in {timeout} s.")
            time.sleep(0.01)

    @property
    def statistics(self) -> Statistics:
        """A copy of the figures of now."""
        return self._call(lambda: replace(self._namespace.statistics))

    @property
    def open_connections(self) -> int:
        return self._call(lambda: len(self._connections))

    @property
    def refuse_tokens(self) -> bool:
        return self._namespace.refuse_tokens

    @refuse_tokens.setter
    def refuse_tokens(self, refuse: bool) -> None:
        """From now on `$cbs` answers 401, or 200 again."""
        self._namespace.refuse_tokens = refuse

    def refuse(self, queue: str, condition: str = "") -> None:
        """From now on a queue rejects what is sent to it; without a condition no more.

        A full one does so with ``amqp:resource-limit-exceeded``.
        """
        found, why = self._queue(queue), error(condition, f"'{queue}' refuses.")
        self._call(lambda: setattr(found, "refusal", why if condition else None))

    def be_silent(self, address: str) -> None:
        """From now on an attach to this address is never answered."""
        self._call(lambda: self._namespace.silent.add(address.lower()))

    def detach(self, queue: str, condition: str, description: str) -> int:
        """Detach all links of a queue, as after 10 minutes of idleness; how many there were."""
        found, why = self._queue(queue), error(condition, description)

        def detach() -> int:
            sessions = [each for one in self._connections for each in one.sessions.values()]
            links = [
                (session, link)
                for session in sessions
                for link in list(session.links.values())
                if getattr(link, "queue", None) is found or found in getattr(link, "queues", ())
            ]
            for session, link in links:
                session.detach(link, why)
            return len(links)

        return self._call(detach)

    def remove_queue(self, name: str) -> None:
        """Delete a queue, with what is in it; its links are detached."""
        self.detach(name, "amqp:resource-deleted", f"The messaging entity '{name}' is deleted.")
        for each in (name.lower(), name.lower() + DEAD_LETTER_SUFFIX):
            self._call(partial(self._namespace.queues.pop, each))

    def close_connections(self, condition: str, description: str) -> int:
        """Close every client's connection for a reason; the result is how many there were."""

        def close() -> int:
            closed = list(self._connections)
            for each in closed:
                each.end(error(condition, description))
            return len(closed)

        return self._call(close)

    def cut_connections(self) -> int:
        """Abort every client's connection; the result is how many there were."""
        return self._call(self._cut)

    def stop_listening(self) -> None:
        """The broker is away: connections are cut and refused; messages are kept."""
        self._call(self._stop_listening)

    def start_listening(self) -> None:
        """The broker is back on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
