"""One array as NumPy stores it, ``application/x-npy``, without ever unpickling anything.

The layout is that of NEP 1 (https://numpy.org/neps/nep-0001-npy-format.html), versions 1.0 and 2.0.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ..errors import NotAcceptable, SchemaMismatch, UndecodableInput
from ..values.content import Limits, Rows
from ..values.wording import check_rows, check_values

_LONGEST_HEADER = 2_000  # one type and at most 32 lengths need no more
_LONGEST_CACHED = 512
_MOST_DIMENSIONS = 32
_MOST_UNICODE = 0x10FFFF
_READERS: Mapping[bytes, Callable[..., Any]] = {
    b"\1\0": npy_format.read_array_header_1_0,
    b"\2\0": npy_format.read_array_header_2_0,
}
_WIDEST = {"f": 8, "c": 16}
_TYPES = "booleans, integers, floats, complex numbers, text (U), bytes (S) and dates (M, m)"


class _Layout(NamedTuple):
    """What a header says, and how many values and bytes that is.

    ``plain``: the values can be used as they lie in the body.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Any
    plain: bool
    claimed: int
    values: int
    size: int


def decode(body: bytes, limits: Limits) -> Rows:
    """The array in a body.

    The values are read where they are, without a copy, unless they are of another byte order.
    The array cannot be written to.

    Raises:
        UndecodableInput: not npy, cut off or too long, or values no array can have (a boolean
            of 2, text beyond Unicode).
        SchemaMismatch: of a type that is not read (objects are pickled, and never are; structured
            arrays), or a single value without rows.
        InputTooLarge: more rows or values than the limits allow.
    """
    start = _header_end(body)
    layout = (_remembered if start <= _LONGEST_CACHED else _layout)(body[:start])
    shape, dtype = layout.shape, layout.dtype
    check_rows(shape[0], limits, "The npy array")
    check_values(layout.claimed, limits, "The npy array")
    if len(body) - start != layout.size:
        raise UndecodableInput(
            f"The npy header says shape {list(shape)} of {dtype}, which is {layout.size} bytes; "
            f"the body has {len(body) - start} bytes after the header."
        )
    count = layout.values
    values: NDArray[Any] = np.frombuffer(body, dtype, count, start) if count else np.empty(0, dtype)
    values = values.reshape(shape, order=layout.order)
    return Rows(values if layout.plain and values.flags.aligned else _sound(values))


def encode(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """The only output as npy, version 1.0; text as fixed-width Unicode (dtype U).

    Raises:
        NotAcceptable: several outputs, or values that only pickle could write.
    """
    if len(outputs) != 1:
        raise NotAcceptable(
            f"application/x-npy holds one array; the result has {len(outputs)} outputs: "
            f"{', '.join(outputs)}. Ask for another format."
        )
    ((name, given),) = outputs.items()
    values = np.ascontiguousarray(_writable(given, name)).reshape(given.shape)
    return _header(values.dtype.str, values.shape) + values.tobytes()


# --- reading --------------------------------------------------------------------------------------


def _header_end(body: bytes) -> int:
    if body[:6] != npy_format.MAGIC_PREFIX:
        raise UndecodableInput(
            "The body is not npy: it does not start with \\x93NUMPY. numpy.save writes it."
            if body
            else "The npy body is empty."
        )
    version = body[6:8]
    if version not in _READERS:
        shown = ".".join(map(str, version)) or "missing"
        raise UndecodableInput(f"The npy version is {shown}; 1.0 and 2.0 are read.")
    start = 10 if version == b"\1\0" else 12
    length = int.from_bytes(body[8:start], "little")
    if length > _LONGEST_HEADER:
        raise UndecodableInput(
            f"The npy header claims {length} bytes; at most {_LONGEST_HEADER} are read."
        )
    if len(body) < start + length:
        raise UndecodableInput(
            f"The npy body ends in its header: it has {len(body)} bytes of {start + length}."
        )
    return start + length


def _layout(header: bytes) -> _Layout:
    read, lines = _READERS[header[6:8]], io.BytesIO(header[8:])
    try:
        shape, fortran, dtype = read(lines, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # numpy lets through what Python's parser raises
        text = " ".join(str(error).split())[:200]
        raise UndecodableInput(f"The npy header cannot be read: {text}.") from None
    _check_shape(shape)
    _check_type(dtype)
    plain = dtype.isnative and dtype.kind not in "bU"
    # A length of 0 must not hide the others: they still are claims that numpy multiplies.
    claimed, count = prod(length or 1 for length in shape), prod(shape)
    order = "F" if fortran else "C"
    return _Layout(dtype, shape, order, plain, claimed, count, count * dtype.itemsize)


_remembered = lru_cache(maxsize=256)(_layout)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) > _MOST_DIMENSIONS:
        raise SchemaMismatch(
            f"The npy array has {len(shape)} dimensions; at most {_MOST_DIMENSIONS} are read."
        )
    if not shape:
        raise SchemaMismatch("The npy array is a single value; rows are expected, as in [n, k].")
    is_bool = bool in map(type, shape)  # which numpy takes for a whole number
    if is_bool or not 0 <= min(shape) <= max(shape) <= np.iinfo(np.int64).max:
        raise UndecodableInput("The shape in the npy header has a length that no array has.")


def _check_type(dtype: np.dtype[Any]) -> None:
    kind, size = dtype.kind, dtype.itemsize
    bare = kind in "mM" and np.datetime_data(dtype)[0] == "generic"
    if kind not in "biufcSUmM" or not 0 < size <= _WIDEST.get(kind, size) or bare:
        why = " Objects are pickled, and pickles are never read." if dtype.hasobject else ""
        raise SchemaMismatch(
            f"The npy array is of the type {dtype.str!r}, which is not read.{why} "
            f"Allowed: {_TYPES}."
        )


def _sound(values: NDArray[Any]) -> NDArray[Any]:
    """The values in this machine's byte order and alignment, and possible for their type."""
    if not values.dtype.isnative or not values.flags.aligned:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "b":
        if (values.view(np.uint8) > 1).any():
            raise UndecodableInput("The npy array has booleans that are neither 0 nor 1.")
    elif values.dtype.kind == "U":
        points = np.ascontiguousarray(values).view(np.uint32)
        if ((points > _MOST_UNICODE) | ((points >= 0xD800) & (points <= 0xDFFF))).any():
            raise UndecodableInput("The npy array has text that is not Unicode.")
    return values


# --- writing --------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(out, fields)
    return out.getvalue()


def _writable(values: NDArray[Any], name: str) -> NDArray[Any]:
    if values.dtype.kind == "O":
        return _texts(values, name)
    if values.dtype.kind == "V":
        raise NotAcceptable(
            f"The output {name!r} is a structured array, which application/x-npy cannot hold here."
        )
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values


def _texts(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Objects as fixed-width text, or as bytes when all of them are."""
    flat = ["" if value is None else value for value in values.reshape(-1).tolist()]
    kinds = {type(value) for value in flat}
    if not kinds <= {str} and kinds != {bytes}:
        raise NotAcceptable(
            f"The output {name!r} holds objects of the types "
            f"{', '.join(sorted(kind.__name__ for kind in kinds))}, which only pickle could write "
            "as application/x-npy."
        )
    return np.array(flat, dtype="S" if kinds == {bytes} else "U").reshape(values.shape)
