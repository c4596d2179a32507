"""What an Arrow IPC stream claims to hold, read from its metadata before anything is allocated.

The layout is that of https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
and of the flatbuffers in https://github.com/apache/arrow/tree/main/format (Message.fbs,
Schema.fbs); tables, vectors and strings lie as in
https://flatbuffers.dev/internals/. The numbers in the calls below are the places of the fields in
those schemas.

A flatbuffer may point to the same bytes as often as it likes, so a small one can stand for
gigabytes once it is read; here, what is pointed to is counted each time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..errors import InputTooLarge, SchemaMismatch, UndecodableInput
from ..payloads import Limits

_CONTINUES = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_LITTLE_ENDIAN = 0
_MOST_COLUMNS = _MOST_MESSAGES = 100_000
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


class Table:
    """One table of a flatbuffer: each read is checked to lie within the bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        self._vtable = at - self._number("<i", at)
        self._size = self._number("<H", self._vtable)

    @classmethod
    def root(cls, data: bytes) -> Table:
        """The table that a flatbuffer starts with."""
        return cls(data, _unpacked(data, "<I", 0))

    def number(self, field: int, form: str, default: int = 0) -> int:
        """A scalar; ``form`` as in :mod:`struct`."""
        at = self._place(field)
        return self._number(form, at) if at else default

    def table(self, field: int) -> Table | None:
        """A table, or the value of a union."""
        at = self._target(field)
        return Table(self._data, at) if at else None

    def tables(self, field: int) -> Iterator[Table]:
        """The tables in a vector."""
        start, length = self.vector(field, 4)
        for at in range(start, start + 4 * length, 4):
            yield Table(self._data, at + self._number("<I", at))

    def text(self, field: int) -> bytes:
        """A string."""
        start, length = self.vector(field, 1)
        return self._data[start : start + length]

    def vector(self, field: int, size: int) -> tuple[int, int]:
        """Where the elements of a vector start, and how many of ``size`` bytes there are."""
        at = self._target(field)
        if not at:
            return 0, 0
        length = self._number("<I", at)
        if length * size > len(self._data) - at - 4:
            raise _broken("a vector goes beyond its end")
        return at + 4, length

    def pairs(self, field: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """A vector of structs of two 64-bit integers, ``[n, 2]``."""
        start, length = self.vector(field, 16)
        return np.frombuffer(self._data, "<i8", 2 * length, start).reshape(-1, 2)

    def _place(self, field: int) -> int:
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return 0
        offset = self._number("<H", self._vtable + entry)
        return self._at + offset if offset else 0

    def _target(self, field: int) -> int:
        at = self._place(field)
        return at + self._number("<I", at) if at else 0

    def _number(self, form: str, at: int) -> int:
        return _unpacked(self._data, form, at)


def check(body: bytes, limits: Limits) -> Claims:
    """Walk through the messages of a stream; nothing but their metadata is read.

    Raises:
        UndecodableInput: not a stream, cut off, or with buffers that are not there.
        SchemaMismatch: a column of a type that is not read; the message names both.
        InputTooLarge: more rows, values, columns or batches than allowed, or compressed buffers
            that would take more than ``limits.bytes``.
    """
    rows = entries = columns = uncompressed = count = 0
    for count, (kind, header, data) in enumerate(_messages(body), 1):
        if (kind == _SCHEMA) != (count == 1):
            raise _broken("the schema is not its first message, and only that")
        if kind == _SCHEMA:
            columns = _check_schema(header)
            continue
        if kind not in (_DICTIONARY, _BATCH):
            raise _broken(f"message {count} is neither a record batch nor a dictionary")
        batch = _dictionary(header) if kind == _DICTIONARY else header
        length = batch.number(0, "<q")
        if length < 0:
            raise _broken(f"message {count} has {length} rows")
        uncompressed += _check_buffers(batch, data)
        rows, entries = (rows, entries + length) if kind == _DICTIONARY else (rows + length, entries)
        _check_amounts(rows, max(entries, rows * columns, count * columns), limits)
        if uncompressed > limits.bytes:
            raise _too_many(f"{uncompressed} bytes once decompressed", limits.bytes, "MAX_BODY_BYTES")
    if not count:
        raise UndecodableInput("The Arrow body is empty.")
    return Claims(rows, entries)


def _messages(body: bytes) -> Iterator[tuple[int, Table, memoryview]]:
    """Kind, header and data of each message."""
    view, at, count = memoryview(body), 0, 0
    while at < len(body):
        if body[at : at + 4] != _CONTINUES:
            raise _broken(
                "a message does not begin with 0xFFFFFFFF"
                + (" (a file of Arrow is no stream)" if body.startswith(b"ARROW1") else "")
            )
        length = _unpacked(body, "<i", at + 4)
        at += 8
        if length == 0:
            if at < len(body):
                raise _broken(f"{len(body) - at} bytes follow the end of the stream")
            return
        if length < 8 or length > len(body) - at:
            raise _broken(f"a message claims {length} bytes of metadata")
        metadata = body[at : at + length]
        at += length
        message = Table.root(metadata)
        size = message.number(3, "<q")
        if size < 0 or size > len(body) - at:
            raise _broken(f"a message claims {size} bytes of data, and {len(body) - at} are there")
        header = message.table(2)
        if header is None:
            raise _broken("a message has no header")
        _count_texts(message, 4, len(metadata))
        count += 1
        if count > _MOST_MESSAGES:
            raise InputTooLarge(f"The Arrow stream has more than {_MOST_MESSAGES} messages.")
        yield message.number(1, "<B"), header, view[at : at + size]
        at += size


def _check_schema(schema: Table) -> int:
    """How many columns there are."""
    if schema.number(0, "<h") != _LITTLE_ENDIAN:
        raise SchemaMismatch("The Arrow stream is big-endian; little-endian ones are read.")
    size = schema.size
    left = size - _count_texts(schema, 2, size)
    columns = 0
    for columns, field in enumerate(schema.tables(1), 1):
        if columns > _MOST_COLUMNS:
            raise InputTooLarge(f"The Arrow stream has more than {_MOST_COLUMNS} columns.")
        left -= _check_field(field, left)
    return columns
