"""What the SDK receives, as plain data.

Where azure-servicebus meets a value that it cannot decode it ends the connection, for every other
message too; and it does not tell the types of properties. Both are read here from the encoded
message (AMQP 1.0, part 1 and section 3.2).
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

from ..queue_messages import QueueMessage

_PROPERTIES = 0x74
_SECTIONS = {0x70: "header", 0x72: "annotations", 0x73: "properties", _PROPERTIES: "properties"}
# Of the types that Python does not tell apart: the SDK's names, by their codes.
_TYPES = {
    code: name
    for name, codes in {
        "UBYTE": b"\x50",
        "BYTE": b"\x51",
        "USHORT": b"\x60",
        "SHORT": b"\x61",
        "UINT": b"\x43\x52\x70",
        "ULONG": b"\x44\x53\x80",
        "LONG": b"\x55\x81",
        "FLOAT": b"\x72",
        "TIMESTAMP": b"\x83",
        "BINARY": b"\xa0\xb0",
        "SYMBOL": b"\xa3\xb3",
    }.items()
    for code in codes
}
_WIDTHS = {4: 0, 5: 1, 6: 2, 7: 4, 8: 8, 9: 16}


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
    properties = message.application_properties or {}
    return QueueMessage(
        _body(message),
        _text(message.message_id),
        _text(message.correlation_id),
        _text(message.content_type),
        _text(message.reply_to),
        _text(message.reply_to_session_id),
        {
            _text(name): _text(value)
            if isinstance(value, bytes) and types.get(_text(name)) != "BINARY"
            else value
            for name, value in properties.items()
        },
        message.delivery_count or 0,
        message.sequence_number or 0,
        _text(given and given.content_encoding),
        types,
        getattr(said, "fault", ""),
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
    """A value as JSON has it; the SDK gives texts as bytes."""
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
        if any(isinstance(name, bytes) and name[:2].lower() == b"x-" for name in names):
            message = _Received(*message)
            message.types = _types(payload)
        return message
    except Exception:  # whatever a decoder does on bytes that it does not know
        return _left_of(payload)


def _left_of(payload: memoryview) -> Message:
    """The sections that can be read, which say what message it is and where to reply."""
    found, unread = _Received(), []
    with contextlib.suppress(Exception):
        for code, start, end in _sections(payload):
            try:
                part = _decode.decode_payload(payload[start - 3 : end])._asdict()
                found = found._replace(**{n: each for n, each in part.items() if each is not None})
            except Exception:
                unread.append(_SECTIONS.get(code, "body"))
    found.fault = (
        f"The message's {unread[0] if unread else 'encoding'} cannot be read: malformed, or of a "
        "type that azure-servicebus does not know, such as char or decimal."
    )
    return found


def _types(payload: memoryview) -> dict[str, str]:
    found = {}
    for code, at, end in _sections(payload):
        if code != _PROPERTIES:
            continue
        at += 3 if payload[at] == 0xC1 else 9
        while at < end:
            value = _end(payload, at)
            name = bytes(payload[at + (2 if payload[at] == 0xA1 else 5) : value])
            if payload[value] in _TYPES:
                found[_text(name)] = _TYPES[payload[value]]
            at = _end(payload, value)
    return found


def _sections(payload: memoryview) -> Iterator[tuple[int, int, int]]:
    """The code of each section, where its value starts, and where that ends."""
    at = 0
    while at < len(payload):
        end = _end(payload, at)
        yield payload[at + 2], at + 3, end
        at = end


def _end(data: memoryview, at: int) -> int:
    """Where the value at a position ends."""
    code = data[at]
    if code == 0:
        return _end(data, _end(data, at + 1))
    if code < 0xA0:
        return at + 1 + _WIDTHS[code >> 4]
    width = 4 if code & 0x10 else 1
    return at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "big")
