"""Tensors as JSON values, flat or nested, as the Open Inference Protocol, V2, has them.

https://github.com/kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``,
"Tensor Data".
"""

from __future__ import annotations

import math
import reprlib
from array import array
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SchemaMismatch
from ..values.content import NUMPY_TYPES, Spec

# Datatype → typecode of array.array, which packs and checks numbers faster than numpy does.
_PACKED: Mapping[str, str] = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "d",
    "FP32": "f",
    "FP64": "d",
    "BF16": "f",
}
_EXACT = 2**53


def from_json(data: Any, spec: Spec) -> NDArray[Any]:
    """The tensor that JSON values give, flat in row-major order or nested as the shape says.

    A float without a fraction is an integer where those are expected, null is NaN where floats
    are, and None where text is. A single value is the data of the shape ``()``. BF16 becomes
    float32.

    Raises:
        SchemaMismatch: it names the input, the place and what is allowed.
    """
    if not spec.shape and type(data) is not list:
        data = [data]
    flat = _flat(data, spec)
    if spec.datatype == "BYTES":
        made: NDArray[Any] | None = _texts(flat)
    elif spec.datatype == "BOOL":
        made = np.array(flat, dtype=bool) if set(map(type, flat)) <= {bool} else None
    else:
        made = _numbers(flat, spec.datatype)
    if made is None:
        made = _numbers(_fitting(flat, data, spec), spec.datatype)
        assert made is not None
    return made.reshape(spec.shape)


def shown(value: Any) -> str:
    """A JSON value for a message, cut to a few words."""
    if value is None or type(value) is bool:
        return {None: "null", True: "true", False: "false"}[value]
    kinds: dict[type[Any], str] = {str: "text", list: "the list", dict: "the object"}
    kind = kinds.get(type(value), "the number")
    return f"{kind} {reprlib.repr(value)}"


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- lists ----------------------------------------------------------------------------------------


def _flat(data: Any, spec: Spec) -> list[Any]:
    """The values in row-major order, as many as the shape has."""
    if type(data) is not list:
        raise SchemaMismatch(
            f"The input {spec.name!r}: data is {shown(data)}; expected is a list of values."
        )
    if _is_nested(data):
        return _unnested(data, spec)
    count = math.prod(spec.shape)
    if len(data) != count:
        raise SchemaMismatch(
            f"The input {spec.name!r} has {len(data)} values in data; its shape "
            f"{list(spec.shape)} has {count}."
        )
    return data


def _is_nested(data: list[Any]) -> bool:
    return len(data) > 0 and type(data[0]) is list


def _unnested(data: list[Any], spec: Spec) -> list[Any]:
    level: list[Any] = [data]
    for depth, length in enumerate(spec.shape):
        for index, each in enumerate(level):
            if type(each) is not list or len(each) != length:
                got = f"has {len(each)} values" if type(each) is list else f"is {shown(each)}"
                raise SchemaMismatch(
                    f"The input {spec.name!r}: data{_indices(index, spec.shape[:depth])} {got}; "
                    f"its shape {list(spec.shape)} wants a list of {length} there."
                )
        level = list(chain.from_iterable(level))
    return level


def _indices(at: int, shape: tuple[int, ...]) -> str:
    """``[2][0]``: the place of the element ``at``, counted row-major."""
    places = []
    for length in reversed(shape):
        at, place = divmod(at, length)
        places.append(f"[{place}]")
    return "".join(reversed(places))


# --- values ---------------------------------------------------------------------------------------


def _texts(flat: list[Any]) -> NDArray[np.object_] | None:
    try:
        "".join([each for each in flat if each is not None]).encode()
    except (TypeError, UnicodeEncodeError):
        return None
    made = np.empty(len(flat), dtype=object)
    made[:] = flat
    return made


def _numbers(flat: list[Any], datatype: str) -> NDArray[Any] | None:
    """Integers and floats as an array; None if any is neither, or does not fit."""
    try:
        packed = array(_PACKED[datatype], flat)
    except (TypeError, OverflowError):
        return None
    made: NDArray[Any] = np.frombuffer(packed, packed.typecode)
    # Booleans are packed as 0 and 1: looking for those first is a hundred times as fast.
    if ((made == 0) | (made == 1)).any() and bool in map(type, flat):
        return None
    if datatype == "FP16":
        with np.errstate(over="ignore"):
            made = made.astype(np.float16)
    if made.dtype.kind == "f" and np.isinf(made).any():
        given = np.array(flat, dtype=np.float64)
        return made if np.array_equal(np.isinf(made), np.isinf(given)) else None
    return made


def _fitting(flat: list[Any], data: list[Any], spec: Spec) -> list[int | float]:
    """The values as numbers that fit, or the error that names the first that does not."""
    for at, value in enumerate(flat):
        if not _fits(value, spec.datatype):
            place = _indices(at, spec.shape) if _is_nested(data) else f"[{at}]"
            raise SchemaMismatch(
                f"The input {spec.name!r}: data{place} is {shown(value)}; {spec.datatype} takes "
                f"{_allowed(spec.datatype)}."
            )
    if isinstance(_range(spec.datatype), np.iinfo):
        return [int(value) for value in flat]
    return [math.nan if value is None else value for value in flat]


def _fits(value: Any, datatype: str) -> bool:
    if datatype == "BYTES":
        return value is None or (type(value) is str and is_utf8(value))
    if datatype == "BOOL":
        return type(value) is bool
    limits = _range(datatype)
    if isinstance(limits, np.iinfo):
        return _is_integer(value) and int(limits.min) <= value <= int(limits.max)
    if type(value) is int or type(value) is float:
        return _is_kept(value, limits.dtype)
    return value is None


def _is_integer(value: Any) -> bool:
    if type(value) is float:
        return value.is_integer() and abs(value) < _EXACT
    return type(value) is int


def _is_kept(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether a number is still finite as ``dtype``, or never was."""
    try:
        given = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
    with np.errstate(over="ignore"):
        return not math.isfinite(given) or bool(np.isfinite(np.float64(given).astype(dtype)))


def _allowed(datatype: str) -> str:
    if datatype == "BYTES":
        return "text, and null for a missing one"
    if datatype == "BOOL":
        return "true or false"
    limits = _range(datatype)
    if isinstance(limits, np.iinfo):
        return f"whole numbers from {limits.min} to {limits.max}"
    most = float(limits.max)
    return f"numbers from {-most:.9g} to {most:.9g}, and null for NaN"


def _range(datatype: str) -> Any:
    dtype = np.dtype("float32" if datatype == "BF16" else NUMPY_TYPES[datatype])
    return np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
