"""One array as NumPy stores it, ``application/x-npy``, without ever unpickling anything.

The layout is that of NEP 1 (https://numpy.org/neps/nep-0001-npy-format.html), versions 1.0, 2.0
and 3.0: magic, version, the length of the header, a header that is a Python literal, the values.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputTooLarge, NotAcceptable, SchemaMismatch, UndecodableInput
from ..values.content import Columns, Limits, Rows

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000  # as numpy.load has it
_LONGEST_CACHED = 512
_MOST_DIMENSIONS = 32
_MOST_UNICODE = 0x10FFFF
# No operators, no escapes: what is left, ast.literal_eval reads without depth and without warnings.
# Nothing is tried twice (++): digits that could be cut anywhere would take exponential time.
_LITERAL = re.compile(
    r"""(?:'[^'\\\n]*+'|"[^"\\\n]*+"|True|False|(?<!\d)\d{1,19}+(?!\d)|[(){}\[\],:\s])++"""
)
_DTYPE = re.compile(
    r"[<>|=]?(?:b1|[iu][1248]|f[248]|c(?:8|16)|[SU][1-9]\d{0,8}"
    r"|[mM]8\[(?:[1-9]\d{0,8})?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])"
)
_TYPES = "booleans, integers, floats, complex numbers, text (U), bytes (S) and dates (M, m)"


class _Layout(NamedTuple):
    """What a header says: ``native`` is None when the values are in this machine's byte order."""

    dtype: np.dtype[Any]
    native: np.dtype[Any] | None
    shape: tuple[int, ...]
    order: Any
    length: int
    size: int
    values: int
    checked: bool


def decode(body: bytes, limits: Limits) -> Rows | Columns:
    """The array in a body; a structured one of one dimension gives its fields as columns.

    The values are read where they are, without a copy, unless they are of another byte order.
    The array cannot be written to.

    Raises:
        UndecodableInput: not npy, cut off or too long, or values no array can have (a boolean
            of 2, text beyond Unicode).
        SchemaMismatch: of a type that is not read (objects are pickled, and never are), or a
            single value without rows.
        InputTooLarge: more rows or values than the limits allow.
    """
    start = _header_end(body)
    layout = (_remembered if start <= _LONGEST_CACHED else _layout)(body[:start])
    if layout.shape[0] > limits.rows:
        raise _too_many(layout.shape[0], "rows", limits.rows, "SCORING_MAX_ROWS")
    if layout.values > limits.values:
        raise _too_many(layout.values, "values", limits.values, "SCORING_MAX_VALUES")
    if len(body) - start != layout.size:
        raise UndecodableInput(
            f"The npy header says shape {list(layout.shape)} of {layout.dtype}, which is "
            f"{layout.size} bytes; the body has {len(body) - start} bytes after the header."
        )
    if layout.length:
        values = np.frombuffer(body, layout.dtype, layout.length, start)
        values = values.reshape(layout.shape, order=layout.order)
    else:
        values = np.empty(layout.shape, layout.dtype)
    if layout.dtype.names is not None:
        return Columns({name: _sound(values[name]) for name in layout.dtype.names})
    if layout.native is not None or layout.checked or not values.flags.aligned:
        values = _sound(values)
    return Rows(values)


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
    if body[:6] != _MAGIC:
        raise UndecodableInput(
            "The body is not npy: it does not start with \\x93NUMPY. numpy.save writes it."
            if body
            else "The npy body is empty."
        )
    version = tuple(body[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        shown = ".".join(map(str, version)) or "missing"
        raise UndecodableInput(f"The npy version is {shown}; 1.0, 2.0 and 3.0 are read.")
    start = 10 if version[0] == 1 else 12
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
    fields = _literal(header)
    shape = _shape(fields["shape"])
    try:
        dtype = _dtype(fields["descr"])
    except (TypeError, ValueError, OverflowError) as error:  # such as items of 4 GB
        raise UndecodableInput(f"The npy header has no type that NumPy has: {error}.") from None
    if dtype.names is not None and len(shape) != 1:
        raise SchemaMismatch(
            f"The npy array is structured and has the shape {list(shape)}; structured arrays are "
            "read as the columns of a table, with one dimension."
        )
    # A length of 0 must not hide the others: they still are claims that numpy multiplies.
    width = len(dtype.names) if dtype.names is not None else 1
    values = prod(length or 1 for length in shape) * width
    count = prod(shape)
    native = None if dtype.isnative else dtype.newbyteorder("=")
    order = "F" if fields["fortran_order"] else "C"
    checked = dtype.kind in "bU"
    return _Layout(dtype, native, shape, order, count, count * dtype.itemsize, values, checked)


_remembered = lru_cache(maxsize=256)(_layout)


def _literal(header: bytes) -> dict[str, Any]:
    start, charset = (10, "latin-1") if header[6] == 1 else (12, "utf-8")
    if header[6] == 2:
        charset = "latin-1"
    try:
        text = str(header[start:], charset).strip()
        if _LITERAL.fullmatch(text) is None:
            raise ValueError("it has more in it than names, numbers, True and False")
        fields = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UndecodableInput(f"The npy header cannot be read: {error}.") from None
    expected = {"descr", "fortran_order", "shape"}
    if not isinstance(fields, dict) or set(fields) != expected:
        raise UndecodableInput(
            "The npy header must be a dict of exactly descr, fortran_order and shape."
        )
    if not isinstance(fields["fortran_order"], bool):
        raise UndecodableInput("fortran_order in the npy header must be True or False.")
    return fields


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(length) is int for length in shape):
        raise UndecodableInput("The shape in the npy header must be a tuple of whole numbers.")
    if len(shape) > _MOST_DIMENSIONS:
        raise SchemaMismatch(
            f"The npy array has {len(shape)} dimensions; at most {_MOST_DIMENSIONS} are read."
        )
    if not shape:
        raise SchemaMismatch("The npy array is a single value; rows are expected, as in [n, k].")
    return shape


def _dtype(descr: Any) -> np.dtype[Any]:
    if isinstance(descr, str):
        return np.dtype(_type_name(descr))
    if not isinstance(descr, list) or not descr:
        raise UndecodableInput("descr in the npy header must be a type or a list of fields.")
    for field in descr:
        if not isinstance(field, tuple) or not field or not isinstance(field[0], str):
            raise UndecodableInput("The fields in the npy header must be (name, type) pairs.")
        if len(field) != 2 or not isinstance(field[1], str) or not field[0]:
            raise SchemaMismatch(
                f"The field {field[0]!r} of the npy array is nested or has no name; columns of "
                "plain values are read."
            )
    names = [name for name, _ in descr]
    if len(set(names)) < len(names):
        raise SchemaMismatch("Two fields of the npy array have the same name.")
    return np.dtype([(name, _type_name(each)) for name, each in descr])


def _type_name(name: str) -> str:
    if _DTYPE.fullmatch(name) is None:
        why = " Objects are pickled, and pickles are never read." if "O" in name else ""
        raise SchemaMismatch(
            f"The npy array is of the type {name[:50]!r}, which is not read.{why} "
            f"Allowed: {_TYPES}."
        )
    return name


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


def _too_many(there: int, what: str, limit: int, setting: str) -> InputTooLarge:
    return InputTooLarge(
        f"The npy array has {there} {what}; at most {limit} are taken at once ({setting})."
    )


# --- writing --------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    # The values start at a multiple of 64 bytes, so that they can be mapped into memory.
    text += " " * (-(len(_MAGIC) + 4 + len(text) + 1) % 64) + "\n"
    return _MAGIC + b"\1\0" + len(text).to_bytes(2, "little") + text.encode("latin-1")


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
