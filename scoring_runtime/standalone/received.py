"""What the SDK receives, as plain data.

Where azure-servicebus meets a value that it cannot decode it ends the connection, for every other
message too; and it tells no types of properties. Both are mended where it decodes (AMQP 1.0, 3.2).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from azure.servicebus._pyamqp import _decode
from azure.servicebus._pyamqp.aio import _receiver_async
from azure.servicebus._pyamqp.message import Message
from azure.servicebus.amqp import AmqpMessageBodyType

from ..triggers.messages import QueueMessage

_PROPERTIES = 0x74
# Types that Python does not tell apart, by their codes, as the SDK calls them.
_TYPES = {
    0x50: "UBYTE", 0x51: "BYTE", 0x60: "USHORT", 0x61: "SHORT", 0x43: "UINT", 0x52: "UINT",
    0x70: "UINT", 0x44: "ULONG", 0x53: "ULONG", 0x80: "ULONG", 0x55: "LONG", 0x81: "LONG",
    0x72: "FLOAT", 0x83: "TIMESTAMP", 0xA0: "BINARY", 0xB0: "BINARY", 0xA3: "SYMBOL",
    0xB3: "SYMBOL",
}  # fmt: skip


class _Received(Message):
    """A message, the types of its properties, and why it could not be read to its end."""

    types: Mapping[str, str] = MappingProxyType({})
    fault = ""


def isolate_faults() -> None:
    """From now on a message that the SDK cannot decode is received, with its ``fault``."""
    link: Any = _receiver_async
    link.decode_payload = _decoded_payload


def decoded(message: Any) -> QueueMessage:
    """A received message as plain data; the SDK gives names and texts of properties as bytes."""
    said, given = message._message, message.raw_amqp_message.properties
    types = getattr(said, "types", _Received.types)
    properties: dict[str, Any] = {}
    for key, value in (message.application_properties or {}).items():
        is_text = isinstance(value, bytes) and types.get(_text(key)) != "BINARY"
        properties[_text(key)] = _text(value) if is_text else value
    return QueueMessage(
        _body(message),
        _text(message.message_id),
        _text(message.correlation_id),
        _text(message.content_type),
        _text(message.reply_to),
        _text(message.reply_to_session_id),
        properties,
        message.delivery_count or 0,
        message.sequence_number or 0,
        _text(given and given.content_encoding),
        types,
        getattr(said, "fault", ""),
        message.enqueued_time_utc.timestamp() if message.enqueued_time_utc else 0.0,
    )


def _body(message: Any) -> bytes:
    """Its bytes; a text as UTF-8; any other value, or a sequence of them, as JSON."""
    value = message.body
    if message.body_type is AmqpMessageBodyType.DATA:
        return b"".join(value)
    if message.body_type is AmqpMessageBodyType.SEQUENCE:
        value = [each for section in value for each in section]
    if isinstance(value, bytes):
        return value
    plain = _plain(value)
    return plain.encode() if isinstance(plain, str) else json.dumps(plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_text(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if isinstance(value, int | float | None) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "" if value is None else str(value)


def _decoded_payload(payload: memoryview) -> Message:
    try:
        message = _decode.decode_payload(payload)
        names = message.application_properties or ()
        if any(name[:2] in (b"x-", b"X-") for name in names):
            message = _Received(*message)
            message.types = _types(payload)
        return message
    except Exception:  # whatever a decoder does on bytes that it does not know
        return _begun(payload)


def _begun(payload: memoryview) -> Message:
    """What comes before that value: it says which message it is and where to reply."""
    found = _Received()
    with contextlib.suppress(Exception):
        for section in _sections(payload):
            part = _decode.decode_payload(section)._asdict()
            found = found._replace(**{name: each for name, each in part.items() if each})
    found.fault = (
        "The message cannot be read: a property or its body is malformed, or of a type that "
        "azure-servicebus does not know, such as char or decimal."
    )
    return found


def _types(payload: memoryview) -> dict[str, str]:
    found = {}
    for section in _sections(payload):
        left = section[3 + (3 if section[3] == 0xC1 else 9) :]
        while left and section[2] == _PROPERTIES:
            value, name = _value(left)
            if value[0] in _TYPES:
                found[_text(name)] = _TYPES[value[0]]
            left, _ = _value(value)
    return found


def _sections(left: memoryview) -> Iterator[memoryview]:
    while left:
        after, _ = _value(left[3:])
        yield left[: len(left) - len(after)]
        left = after


def _value(data: memoryview) -> tuple[memoryview, Any]:
    """What comes after the value that data begins with, and that value."""
    found: tuple[memoryview, Any] = _decode._DECODE_BY_CONSTRUCTOR[data[0]](data[1:])
    return found
