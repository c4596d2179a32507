"""Tensors as bytes: Triton's binary tensor data extension of the Open Inference Protocol, V2.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md:
little-endian, row-major, nothing between the elements; BOOL is a byte of 0 or 1, BYTES a length in
4 bytes and then the text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SchemaMismatch, UndecodableInput
from ..values.content import NUMPY_TYPES, Spec

_BF16 = "BF16"
_WIRE: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(numpy).newbyteorder("<")
    for name, numpy in {**NUMPY_TYPES, _BF16: "uint16"}.items()
    if name != "BYTES"
}
_TEXT_LENGTH = struct.Struct("<I")


def from_bytes(body: bytes, start: int, size: int, spec: Spec) -> NDArray[Any]:
    """The tensor in the ``size`` bytes of ``body`` from ``start``; read-only unless it is text.

    It shares the memory of ``body``, except where its elements would not be aligned. BF16, which
    numpy lacks, becomes float32; BYTES become ``str``, or ``bytes`` where they are not UTF-8.

    Raises:
        SchemaMismatch: the size is not that of the shape, or a BOOL is neither 0 nor 1.
        UndecodableInput: the lengths of BYTES do not add up to ``size``.
    """
    count = math.prod(spec.shape)
    if spec.datatype == "BYTES":
        return _texts(body, start, size, spec, count)
    wire = _WIRE[spec.datatype]
    if size != count * wire.itemsize:
        raise SchemaMismatch(
            f"The input {spec.name!r} has binary_data_size {size}; {list(spec.shape)} of "
            f"{spec.datatype} are {count * wire.itemsize} bytes."
        )
    flat: NDArray[Any] = np.frombuffer(body, wire, count, start)
    if spec.datatype == "BOOL":
        _check_booleans(flat.view(np.uint8), spec)
    elif spec.datatype == _BF16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    elif not flat.flags.aligned:
        flat = flat.copy()  # Cython refuses what is not aligned
    flat.flags.writeable = False
    return flat.reshape(spec.shape)


def to_bytes(values: NDArray[Any]) -> bytes | NDArray[Any]:
    """A tensor as the bytes, or as an array that lies in memory like them.

    Args:
        values: numbers, booleans, or objects that are ``str``, ``bytes``, or None, which is empty.
    """
    if values.dtype.kind != "O":
        return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    parts: list[bytes] = []
    for value in values.reshape(-1).tolist():
        text = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value or b""
        parts += (_TEXT_LENGTH.pack(len(text)), text)
    return b"".join(parts)


def _check_booleans(raw: NDArray[Any], spec: Spec) -> None:
    if raw.size and raw.max() > 1:
        at = int(np.argmax(raw > 1))
        raise SchemaMismatch(
            f"The input {spec.name!r}: its byte {at} is {raw[at]}; BOOL is a byte of 0 or 1."
        )


def _texts(body: bytes, start: int, size: int, spec: Spec, count: int) -> NDArray[np.object_]:
    if count * _TEXT_LENGTH.size > size:
        raise SchemaMismatch(
            f"The input {spec.name!r} has binary_data_size {size}; {list(spec.shape)} of BYTES "
            f"are at least {count * _TEXT_LENGTH.size} bytes, as each has a length of 4 bytes."
        )
    end = start + size
    made = np.empty(count, dtype=object)
    for index in range(count):
        text = start + _TEXT_LENGTH.size
        start = text + _TEXT_LENGTH.unpack_from(body, start)[0] if text <= end else end + 1
        if start > end:
            raise UndecodableInput(
                f"The input {spec.name!r}: element {index} of BYTES goes beyond the {size} bytes "
                "of its binary_data_size. Each is a little-endian length in 4 bytes and its text."
            )
        made[index] = _text(body[text:start])
    if start != end:
        raise UndecodableInput(
            f"The input {spec.name!r} has {end - start} bytes left after the {count} elements "
            f"that its shape {list(spec.shape)} has."
        )
    return made.reshape(spec.shape)


def _text(encoded: bytes) -> str | bytes:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded
