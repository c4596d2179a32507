"""Tables of a flatbuffer, as the metadata of Arrow are, with every access checked
(https://flatbuffers.dev/internals/).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from ..errors import UndecodableInput


class Table:
    """One table of a flatbuffer: each read is checked to lie within the bytes.

    ``place`` is where it lies, ``vtable`` where the places of its fields are.
    """

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.place = at
        self.vtable = at - self._number("<i", at)
        self._entries = self._number("<H", self.vtable)

    @property
    def size(self) -> int:
        """How long the whole flatbuffer is, in bytes."""
        return len(self._data)

    @classmethod
    def root(cls, data: bytes) -> Table:
        """The table that a flatbuffer starts with."""
        return cls(data, unpacked(data, "<I", 0))

    def number(self, field: int, form: str, default: int = 0) -> int:
        """A scalar; ``form`` as in :mod:`struct`."""
        at = self.location(field)
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
            raise broken("a vector goes beyond its end")
        return at + 4, length

    def pairs(self, field: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """A vector of structs of two 64-bit integers, ``[n, 2]``."""
        start, length = self.vector(field, 16)
        return np.frombuffer(self._data, "<i8", 2 * length, start).reshape(-1, 2)

    def location(self, field: int) -> int:
        """Where a field is; 0 when it has its default."""
        entry = 4 + 2 * field
        if entry + 2 > self._entries:
            return 0
        offset = self._number("<H", self.vtable + entry)
        return self.place + offset if offset else 0

    def _target(self, field: int) -> int:
        at = self.location(field)
        return at + self._number("<I", at) if at else 0

    def _number(self, form: str, at: int) -> int:
        return unpacked(self._data, form, at)


def unpacked(data: bytes, form: str, at: int) -> int:
    """One number, ``form`` as in :mod:`struct`; UndecodableInput when it is not all there."""
    if at < 0 or at + struct.calcsize(form) > len(data):
        raise broken("its metadata point beyond their end")
    (value,) = struct.unpack_from(form, data, at)
    return int(value)


def broken(why: str) -> UndecodableInput:
    """The error of a body that is no stream."""
    return UndecodableInput(f"The body is not an Arrow IPC stream that can be read: {why}.")
