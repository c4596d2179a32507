"""One array of a declared datatype and shape, or a message that says what does not fit.

Numbers written as text are read, ``null`` and an empty CSV field are NaN where floats are
expected, integers become floats, and true and false are the numbers 1 and 0. Nothing loses its
value silently: a fraction is not cut to an integer, and what is too large for the datatype is
refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SchemaMismatch
from .content import NUMPY_TYPES, Limits, Spec
from .wording import HALF_A_CHARACTER, check_rows, short

_SHOWN = 10
_MANY_ROWS = 16
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_CANNOT = (ValueError, TypeError, OverflowError)
_CANNOT_PACK = (struct.error, TypeError, OverflowError)
_ROWS = " Send a list of rows, each a list of values: [[…], […]]."
_WIDEST = {"I": "int64", "U": "uint64", "F": "float64", "B": "bool"}
_MEANINGS = {"BOOL": "true or false", "BYTES": "text"}


def array(values: Any, spec: Spec, limits: Limits, *, typed: bool = True) -> NDArray[Any]:
    """``values`` (an array, or lists) with the datatype of ``spec`` and a shape that fits it.

    Raises:
        SchemaMismatch: names the first value that does not fit, or both shapes.
        InputTooLarge: more rows than the limits allow.
    """
    if isinstance(values, np.ndarray):
        made = _cast(values, spec)
    else:
        try:
            made = _converted(values, spec, typed)
        except _CANNOT:
            raise _explained(values, spec, typed) from None
    return checked(made, spec, limits)


def of_plain_rows(
    spec: Spec, limits: Limits, function: Callable[[NDArray[Any]], Any]
) -> Callable[[list[Any]], Any]:
    """``function`` of rows of numbers, as the array ``(rows, values)`` of FP32 or FP64 that
    ``spec`` asks for; None of rows that have to be looked at more closely, by :func:`array`, which
    says what is wrong with them."""
    dtype = np.dtype(NUMPY_TYPES[spec.datatype])
    count, width = spec.shape

    def called(rows: list[Any]) -> Any:
        try:
            found = _packed(rows, dtype)
        except _CANNOT_PACK:
            return None
        shape = found.shape
        if (
            (shape[1] != width and width != -1)
            or (shape[0] != count and count != -1)
            or not 0 < shape[0] <= limits.rows
            or found.size > limits.values
        ):
            return None
        return function(found)

    return called


def _packed(rows: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows of numbers, in less than half of the time that NumPy takes to look for their shape.

    Raises:
        struct.error, TypeError, OverflowError: they are no lists of numbers of one length above 0,
            or a number does not fit ``dtype``.
    """
    width = len(rows[0]) if rows else 0
    if not width:
        raise TypeError("no values")
    # Of "=f" a number that is too large is refused; "f" makes it infinite, in two thirds of the
    # time.
    looks = dtype.char == "f" and len(rows) >= _MANY_ROWS
    order = "=" if dtype.char == "f" and not looks else ""
    pack = struct.Struct(f"{order}{width}{dtype.char}").pack
    packed = bytearray().join([pack(*row) for row in rows])
    found = np.frombuffer(packed, dtype).reshape(len(rows), width)
    if looks and np.isinf(found).any():
        raise OverflowError("too large")
    return found


# --- lists ----------------------------------------------------------------------------------------


def _converted(values: Any, spec: Spec, typed: bool) -> NDArray[Any]:
    """Lists as an array; ValueError, TypeError or OverflowError if a value does not fit."""
    convert = _floats if spec.datatype.startswith("FP") else _one_by_one
    return convert(values, spec, typed)


def _floats(values: Any, spec: Spec, typed: bool) -> NDArray[Any]:
    try:
        with np.errstate(over="ignore"):
            made = _as_floats(values, spec)
    except ValueError:
        if typed:
            raise
        return _one_by_one(values, spec, typed)  # an empty field is no number
    if made.dtype.itemsize < 8 and np.isinf(made).any():
        return _cast(np.array(values, dtype=np.float64), spec)
    return made


def _as_floats(values: Any, spec: Spec) -> NDArray[Any]:
    dtype = np.dtype(NUMPY_TYPES[spec.datatype])
    if len(spec.shape) in (1, 2) and isinstance(values, list):
        is_flat = len(spec.shape) == 1
        try:
            made = _packed([values] if is_flat else values, dtype)
        except _CANNOT_PACK:
            pass
        else:
            return made[0] if is_flat else made
    return np.array(values, dtype=dtype)


def _one_by_one(values: Any, spec: Spec, typed: bool) -> NDArray[Any]:
    if len(spec.shape) == 1 and spec.datatype[0] in "IU" and isinstance(values, list):
        try:
            return _packed([values], np.dtype(NUMPY_TYPES[spec.datatype])).reshape(-1)
        except _CANNOT_PACK:
            pass
    made = np.array(values, dtype=object)
    flat = made.reshape(-1).tolist()
    if spec.datatype[0] not in "IU" or not {*map(type, flat)} <= {int}:
        convert = _CONVERSIONS[spec.datatype[:2]]
        flat = [convert(value, typed) for value in flat]
    if spec.datatype != "BYTES":
        return _cast(np.array(flat, dtype=_WIDEST[spec.datatype[0]]).reshape(made.shape), spec)
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(made.shape)


def _boolean(value: Any, typed: bool) -> bool:
    if isinstance(value, str) and not typed and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    if isinstance(value, str) or value not in (0, 1):
        raise ValueError
    return bool(value)


def _integer(value: Any, typed: bool) -> int:
    if isinstance(value, str):
        if "_" in value:
            raise ValueError
        try:
            return int(value)
        except ValueError:
            value = float(value)
    if int(value) != value:
        raise ValueError
    return int(value)


def _float(value: Any, typed: bool) -> float:
    if value is None or (isinstance(value, str) and not typed and not value.strip()):
        return float("nan")
    return float(value)


def _text(value: Any, typed: bool) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise TypeError
    if not value.isascii() and HALF_A_CHARACTER.search(value):
        raise ValueError
    return value


_CONVERSIONS = {"BO": _boolean, "IN": _integer, "UI": _integer, "FP": _float, "BY": _text}


# --- arrays ---------------------------------------------------------------------------------------


def _cast(values: NDArray[Any], spec: Spec) -> NDArray[Any]:
    """An array as the datatype of ``spec``, if every value of its kind can have one."""
    target = np.dtype(NUMPY_TYPES[spec.datatype])
    if values.dtype == target and target.kind != "O":
        return values
    if values.dtype.kind in "OUS":
        return _of_objects(values, spec)
    to_integer = target.kind in "biu" and values.dtype.kind in "biuf"
    if not to_integer and not np.can_cast(values.dtype, target, "same_kind"):
        raise SchemaMismatch(
            f"{_named(spec)} is of the type {values.dtype}; expected is {shape_text(spec)}."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        made = values.astype(target)
    _check_kept(values, made, spec)
    return made


def _of_objects(values: NDArray[Any], spec: Spec) -> NDArray[Any]:
    if spec.datatype == "BYTES" and values.dtype.kind == "U":
        return values.astype(object)
    try:
        return _one_by_one(values.tolist(), spec, typed=False)
    except _CANNOT:
        raise _explained(values.tolist(), spec, typed=False) from None


def _check_kept(values: NDArray[Any], made: NDArray[Any], spec: Spec) -> None:
    if made.dtype.kind in "biu":
        lost = made != values
        if values.dtype.kind == "f" and made.dtype.kind != "b":
            # Not every machine makes another value of what is just beyond the largest.
            lost |= values >= np.float64(np.iinfo(made.dtype).max) + 1.0
    elif values.dtype.itemsize > made.dtype.itemsize:
        lost = np.isinf(made) & ~np.isinf(values)
    else:
        return
    if lost.any():
        place = np.unravel_index(int(np.argmax(lost)), lost.shape)
        at = "".join(f"[{int(index)}]" for index in place)
        raise _does_not_fit(spec, f"{f'at {at}' if at else 'it'} is {values[place].item()!r}")


def checked(made: NDArray[Any], spec: Spec, limits: Limits) -> NDArray[Any]:
    """The array, if it has rows, not too many, and the shape of ``spec``."""
    if made.ndim and made.shape[0] == 0 and (not spec.shape or spec.shape[0] != 0):
        raise empty_batch(spec.name)
    if made.ndim != len(spec.shape) or not all(
        expected in (-1, actual) for expected, actual in zip(spec.shape, made.shape, strict=True)
    ):
        hint = _ROWS if made.ndim == 1 and len(spec.shape) == 2 else ""
        raise SchemaMismatch(
            f"{_named(spec)} {_shape_of(made)}; expected is {shape_text(spec)}.{hint}"
        )
    check_rows(made.shape[0] if made.ndim else 0, limits, _named(spec))
    return made


# --- messages -------------------------------------------------------------------------------------


def shape_text(spec: Spec) -> str:
    """A shape for people: ``[any, 64] of FP32``."""
    lengths = ", ".join("any" if length < 0 else str(length) for length in spec.shape)
    return f"[{lengths}] of {spec.datatype}" if spec.shape else f"one value of {spec.datatype}"


def _shape_of(made: NDArray[Any]) -> str:
    shape = f"the shape {list(made.shape)}" if made.ndim <= _SHOWN else f"{made.ndim} dimensions"
    return f"has {shape}" if made.ndim else "is a single value"


def _explained(values: Any, spec: Spec, typed: bool) -> SchemaMismatch:
    """The first thing in nested lists that does not fit, by its place."""
    problem = _problem(values, spec, len(spec.shape), "", typed)
    return _does_not_fit(spec, problem or "its values do not fit")


def _does_not_fit(spec: Spec, problem: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"{_named(spec)}: {problem}; expected is {shape_text(spec)}, {_meaning(spec)}."
    )


def _meaning(spec: Spec) -> str:
    if spec.datatype in _MEANINGS:
        return _MEANINGS[spec.datatype]
    dtype = np.dtype(NUMPY_TYPES[spec.datatype])
    if dtype.kind in "iu":
        return f"whole numbers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max}"
    return f"numbers up to {float(np.finfo(dtype).max):.3g}"


def _problem(values: Any, spec: Spec, depth: int, at: str, typed: bool) -> str | None:
    where = f"at {at}" if at else "it"
    if depth == 0:
        return f"{where} is {short(values)}"
    if not isinstance(values, list):
        return f"{where} is {short(values)}, not a list"
    wanted = spec.shape[len(spec.shape) - depth]
    if at and wanted >= 0 and len(values) != wanted:
        return f"{where} are {len(values)} values, not {wanted}"
    uneven = _uneven(values, at) if depth > 1 else None
    if uneven is not None or not values:
        return uneven
    bad = _first_bad(values, spec, depth, typed)
    return _problem(values[bad], spec, depth - 1, f"{at}[{bad}]", typed)


def _uneven(values: Sequence[Any], at: str) -> str | None:
    """The first row that is no list, or not as long as the first row."""
    for index, each in enumerate(values):
        if not isinstance(each, list):
            return f"at {at}[{index}] is {short(each)}, not a list"
        if len(each) != len(values[0]):
            return (
                f"at {at}[{index}] are {len(each)} values, where {at}[0] has {len(values[0])}: "
                "rows must be equally long"
            )
    return None


def _first_bad(values: Sequence[Any], spec: Spec, depth: int, typed: bool) -> int:
    """The index of the first value that is wrong, found by halving: there may be millions."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        good = _converts(values[low:middle], spec, depth, typed)
        low, high = (middle, high) if good else (low, middle)
    return low


def _converts(values: Any, spec: Spec, depth: int, typed: bool) -> bool:
    try:
        return _converted(values, spec, typed).ndim == depth
    except (*_CANNOT, SchemaMismatch):
        return False


def empty_batch(name: str) -> SchemaMismatch:
    """The error of a batch without rows."""
    return SchemaMismatch(f"The batch is empty ({name}): at least one row is expected.")


def _named(spec: Spec) -> str:
    return f"The input {spec.name!r}" if spec.name else "The input"
