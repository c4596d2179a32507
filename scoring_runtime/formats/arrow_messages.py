"""What an Arrow IPC stream claims to hold, read from its metadata before anything is allocated.

The layout is that of https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
and of the flatbuffers in https://github.com/apache/arrow/tree/main/format (Message.fbs,
Schema.fbs). The numbers in the calls below are the places of the fields in those schemas.

A flatbuffer may point to the same bytes as often as it likes, so a small one can stand for
gigabytes once it is read; here, what is pointed to is counted each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from ..errors import InputTooLarge, SchemaMismatch, UndecodableInput
from ..values.content import Limits
from .arrow_flatbuffers import Table, broken, unpacked

_CONTINUES = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_LITTLE_ENDIAN = 0
_MOST_COLUMNS = _MOST_MESSAGES = 100_000
_MOST_PAIRS = 1_000
_LARGEST_KEPT = 64 * 1024
# Of a Field and a KeyValue table without their texts; they are at least so long.
_BYTES_A_FIELD, _BYTES_A_PAIR = 32, 16
_EXTENSION = b"ARROW:extension:name"
_FIXED_SIZE_LIST = 16
_NUMBERS = (2, 3, 6)
_READ = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 19, 20))
_REFUSED = {
    9: "time",
    11: "interval",
    12: "list",
    13: "struct",
    14: "union",
    15: "fixed_size_binary",
    17: "map",
    18: "duration",
    21: "large_list",
    22: "run_end_encoded",
    23: "binary_view",
    24: "string_view",
    25: "list_view",
    26: "large_list_view",
}
ALLOWED = (
    "bool, integers, floats, utf8, binary, date, timestamp, decimal, dictionaries of these, "
    "fixed_size_list of numbers, null"
)
"""The types that are read, for messages."""


class Claims(NamedTuple):
    """What the metadata say there is: rows of all batches, entries of all dictionaries."""

    rows: int
    entries: int


def check(body: bytes, limits: Limits) -> Claims:
    """Walk through the messages of a stream; nothing but their metadata is read.

    Raises:
        UndecodableInput: not a stream, cut off, or with buffers that are not there.
        SchemaMismatch: a column of a type that is not read; the message names both.
        InputTooLarge: more rows, values, columns or batches than allowed, or compressed buffers
            that would take more than ``limits.bytes``.
    """
    if not body:
        raise UndecodableInput("The Arrow body is empty.")
    messages = _messages(body)
    kind, schema, _ = next(messages, (0, None, None))
    if kind != _SCHEMA or schema is None:
        raise broken("the schema is not its first message")
    metadata = _metadata(body, 0)
    small = len(metadata) <= _LARGEST_KEPT
    columns = _columns_of(metadata) if small else _check_schema(schema)
    claims, uncompressed = Claims(0, 0), 0
    for count, (kind, header, data) in enumerate(messages, 2):
        if kind not in (_DICTIONARY, _BATCH):
            raise broken(f"message {count} is neither a record batch nor a dictionary")
        batch = _dictionary(header) if kind == _DICTIONARY else header
        claims = _added(claims, kind, batch.number(0, "<q"))
        uncompressed += _check_buffers(batch, data)
        _check_amounts(claims, max(claims.rows, count) * columns, uncompressed, limits)
    return claims


def _added(claims: Claims, kind: int, length: int) -> Claims:
    if length < 0:
        raise broken(f"a message has {length} rows")
    if kind == _DICTIONARY:
        return claims._replace(entries=claims.entries + length)
    return claims._replace(rows=claims.rows + length)


def _messages(body: bytes) -> Iterator[tuple[int, Table, memoryview]]:
    """Kind, header and data of each message."""
    view, at = memoryview(body), 0
    for _ in range(_MOST_MESSAGES):
        if at == len(body):
            return
        metadata = _metadata(body, at)
        at += 8 + len(metadata)
        if not metadata:
            if at < len(body):
                raise broken(f"{len(body) - at} bytes follow the end of the stream")
            return
        message = Table.root(metadata)
        size, header = message.number(3, "<q"), message.table(2)
        if size < 0 or size > len(body) - at:
            raise broken(f"a message claims {size} bytes of data, and {len(body) - at} are there")
        if header is None:
            raise broken("a message has no header")
        _check_texts(_texts(message, 4), message)
        yield message.number(1, "<B"), header, view[at : at + size]
        at += size
    raise InputTooLarge(
        f"The Arrow stream has more than {_MOST_MESSAGES} messages, which is the most that is "
        "taken."
    )


def _metadata(body: bytes, at: int) -> bytes:
    """The metadata of the message there; empty at the end of the stream."""
    if body[at : at + 4] != _CONTINUES:
        hint = " (a file of Arrow is no stream)" if body.startswith(b"ARROW1") else ""
        raise broken(f"a message does not begin with 0xFFFFFFFF{hint}")
    length = unpacked(body, "<i", at + 4)
    if length < 0 or length > len(body) - at - 8:
        raise broken(f"a message claims {length} bytes of metadata")
    return body[at + 8 : at + 8 + length]


@lru_cache(maxsize=32)
def _columns_of(metadata: bytes) -> int:
    """The same for the metadata of a schema, which a client sends again and again."""
    schema = Table.root(metadata).table(2)
    assert schema is not None
    return _check_schema(schema)


def _check_schema(schema: Table) -> int:
    """How many columns there are."""
    if schema.number(0, "<h") != _LITTLE_ENDIAN:
        raise SchemaMismatch("The Arrow stream is big-endian; little-endian ones are read.")
    texts, columns = _texts(schema, 2), 0
    for columns, field in enumerate(schema.tables(1), 1):
        if columns > _MOST_COLUMNS:
            raise InputTooLarge(
                f"The Arrow stream has more than {_MOST_COLUMNS} columns, which is the most that "
                "is taken."
            )
        texts += _check_field(field)
        _check_texts(texts, schema)
    return columns


def _check_field(field: Table) -> int:
    """How many bytes of metadata a column takes at least."""
    kind = field.number(2, "<B")
    if kind not in _READ:
        raise _not_read(field, _REFUSED.get(kind, f"number {kind}"))
    texts = _BYTES_A_FIELD + field.vector(0, 1)[1] + _texts(field, 6)
    if any(pair.text(0) == _EXTENSION for pair in field.tables(6)):
        raise _not_read(field, "extension")
    children = list(islice(field.tables(5), 2))
    if kind != _FIXED_SIZE_LIST:
        if children:
            raise broken("a column of plain values has columns inside")
        return texts
    if len(children) != 1 or children[0].number(2, "<B") not in _NUMBERS:
        raise _not_read(field, "fixed_size_list of something else than numbers")
    if children[0].vector(5, 4)[1] or children[0].table(4) or field.table(4):
        raise _not_read(field, "fixed_size_list of dictionaries or lists")
    return texts + _check_field(children[0])


def _texts(table: Table, field: int) -> int:
    """How many bytes a vector of KeyValue tables takes at least, if none lie on others."""
    if table.vector(field, 4)[1] > _MOST_PAIRS:
        raise InputTooLarge(
            f"The Arrow metadata have more than {_MOST_PAIRS} entries in one place."
        )
    return sum(
        _BYTES_A_PAIR + pair.vector(0, 1)[1] + pair.vector(1, 1)[1] for pair in table.tables(field)
    )


def _check_texts(length: int, within: Table) -> None:
    if length > within.size:
        raise broken("its metadata hold the same bytes many times")


def _dictionary(header: Table) -> Table:
    if header.number(2, "<B"):
        raise SchemaMismatch(
            "The Arrow stream has delta dictionaries, which are not read; send each dictionary "
            "whole."
        )
    batch = header.table(1)
    if batch is None:
        raise broken("a dictionary has no values")
    return batch


def _check_buffers(batch: Table, data: memoryview) -> int:
    """Whether all buffers are there, each for itself; how long they are once decompressed."""
    buffers = batch.pairs(2)
    if not len(buffers):
        return 0
    if buffers.min() < 0 or buffers.max() > len(data) or buffers.sum(axis=1).max() > len(data):
        raise broken(f"a buffer goes beyond the {len(data)} bytes of its message")
    if buffers[:, 1].sum() > len(data):
        raise broken("several buffers are the same bytes")
    if batch.table(3) is None:
        return 0
    return sum(_decompressed(data[at : at + length]) for at, length in buffers.tolist() if length)


def _decompressed(buffer: memoryview) -> int:
    """Each compressed buffer begins with its length, -1 when it is not compressed after all."""
    length = unpacked(bytes(buffer[:8]), "<q", 0)
    if length < -1:
        raise broken(f"a compressed buffer claims {length} bytes")
    return len(buffer) - 8 if length < 0 else length


def _check_amounts(claims: Claims, values: int, uncompressed: int, limits: Limits) -> None:
    values = max(values, claims.entries)
    for there, what, limit, setting in (
        (claims.rows, "rows", limits.rows, "SCORING_MAX_ROWS"),
        (values, "values", limits.values, "SCORING_MAX_VALUES"),
        (uncompressed, "bytes once decompressed", limits.bytes, "SCORING_MAX_BODY_BYTES"),
    ):
        if there > limit:
            raise InputTooLarge(
                f"The Arrow stream has {there} {what}; at most {limit} are taken at once "
                f"({setting})."
            )


def _not_read(field: Table, kind: str) -> SchemaMismatch:
    name = str(field.text(0)[:100], "utf-8", "replace")
    return SchemaMismatch(
        f"The column {name!r} of the Arrow stream is of the type {kind}, which is not read. "
        f"Allowed: {ALLOWED}."
    )
