"""One array of a declared datatype and shape, or a message that says what does not fit.

Numbers written as text are read, ``null`` and an empty CSV field are NaN where floats are
expected, and integers become floats. Nothing loses its value silently: a fraction is not cut to
an integer, and what is too large for the datatype is refused.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputTooLarge, SchemaMismatch
from .payloads import NUMPY_TYPES, Limits, Spec

_SHOWN = 10
_TRUE, _FALSE = ("true", "1"), ("false", "0")


def array(values: Any, spec: Spec, limits: Limits, *, typed: bool = True) -> NDArray[Any]:
    """``values`` (an array, or lists) with the datatype of ``spec`` and a shape that fits it."""
    if isinstance(values, np.ndarray):
        made = _cast(values, spec)
    elif typed and spec.datatype in ("FP32", "FP64"):
        made = _floats(values, spec)
    else:
        made = _listed_values(values, spec, typed)
    return checked(made, spec, limits)


def _floats(values: Any, spec: Spec) -> NDArray[Any]:
    try:
        with np.errstate(over="ignore"):
            made = np.array(values, dtype=NUMPY_TYPES[spec.datatype])
    except (ValueError, TypeError, OverflowError):
        raise _explained(values, spec) from None
    if made.dtype.itemsize < 8 and np.isinf(made).any():
        return _cast(np.array(values, dtype=np.float64), spec)
    return made


def _listed_values(values: Any, spec: Spec, typed: bool) -> NDArray[Any]:
    """Lists whose values are not simply floats, one by one."""
    made = np.array(values, dtype=object)
    if made.ndim < len(spec.shape):
        raise _explained(values, spec)
    flat = made.reshape(-1)
    convert = _conversion(spec)
    target = NUMPY_TYPES[spec.datatype]
    try:
        converted = [convert(value, typed) for value in flat]
        if spec.datatype == "BYTES":
            out = np.empty(len(flat), dtype=object)
            out[:] = converted
            return out.reshape(made.shape)
        return np.array(converted, dtype=target).reshape(made.shape)
    except (ValueError, TypeError, OverflowError):
        raise _explained(values, spec, typed) from None


def _boolean(value: Any, typed: bool) -> bool:
    if value is True or value is False:
        return bool(value)
    if isinstance(value, str) and not typed and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    raise ValueError


def _integer(value: Any, typed: bool) -> int:
    if isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
        raise ValueError
    if isinstance(value, str):
        return int(value)
    if int(value) != value:
        raise ValueError
    return int(value)


def _float(value: Any, typed: bool) -> float:
    if value is None or (isinstance(value, str) and not typed and not value.strip()):
        return float("nan")
    return float(value)


def _string(value: Any, typed: bool) -> Any:
    if value is None or isinstance(value, str | bytes):
        return value
    if isinstance(value, bool | int | float):
        raise TypeError
    raise ValueError


_CONVERSIONS = {"BO": _boolean, "IN": _integer, "UI": _integer, "FP": _float, "BY": _string}


def _conversion(spec: Spec) -> Callable[[Any, bool], Any]:
    return _CONVERSIONS[spec.datatype[:2]]


def _cast(values: NDArray[Any], spec: Spec) -> NDArray[Any]:
    """An array as the datatype of ``spec``, if every value of its kind can have one."""
    target = np.dtype(NUMPY_TYPES[spec.datatype])
    if values.dtype == target and target.kind != "O":
        return values
    if target.kind == "O":
        if values.dtype.kind not in "OUS":
            raise _wrong_type(str(values.dtype), spec)
        return values.astype(object)
    if values.dtype.kind in "OUS":
        return _listed_values(values.tolist(), spec, typed=False)
    to_integer = target.kind in "iu" and values.dtype.kind in "iuf"
    if not to_integer and not np.can_cast(values.dtype, target, "same_kind"):
        raise _wrong_type(str(values.dtype), spec)
    with np.errstate(over="ignore", invalid="ignore"):
        made = values.astype(target)
    _check_kept(values, made, spec)
    return made


def _check_kept(values: NDArray[Any], made: NDArray[Any], spec: Spec) -> None:
    if made.dtype.kind in "iu" and not np.array_equal(values, made):
        raise SchemaMismatch(
            f"{_named(spec)} holds values that are no {spec.datatype}: they go from {values.min()} "
            f"to {values.max()}, the first being {values.reshape(-1)[0]}."
        )
    if made.dtype.kind == "f" and values.dtype.itemsize > made.dtype.itemsize:
        lost = np.isinf(made) & ~np.isinf(values)
        if lost.any():
            raise SchemaMismatch(
                f"{_named(spec)} holds {values[lost].reshape(-1)[0].item()!r}, which is too large "
                f"for {spec.datatype}."
            )


def checked(made: NDArray[Any], spec: Spec, limits: Limits) -> NDArray[Any]:
    """The array, if it has rows, not too many, and the shape of ``spec``."""
    fits = made.ndim == len(spec.shape) and all(
        expected in (-1, actual) for expected, actual in zip(spec.shape, made.shape, strict=True)
    )
    if made.ndim and made.shape[0] == 0 and (not spec.shape or spec.shape[0] != 0):
        raise empty_batch(spec.name)
    if not fits:
        raise SchemaMismatch(
            f"{_named(spec)} has the shape {list(made.shape)}; expected is {shape_text(spec)}."
        )
    if made.ndim and made.shape[0] > limits.rows:
        raise InputTooLarge(
            f"{_named(spec)} has {made.shape[0]} rows; at most {limits.rows} are scored at once "
            "(SCORING_MAX_ROWS)."
        )
    return made


# --- messages -------------------------------------------------------------------------------------


def shape_text(spec: Spec) -> str:
    """A shape for people: ``[any, 64] of FP32``."""
    lengths = ", ".join("any" if length < 0 else str(length) for length in spec.shape)
    return f"[{lengths}] of {spec.datatype}"


def _explained(values: Any, spec: Spec, typed: bool = True) -> SchemaMismatch:
    """The first thing in nested lists that does not fit, by its place."""
    problem = _problem(values, spec, len(spec.shape), "", typed)
    expected = f"expected is {shape_text(spec)}"
    return SchemaMismatch(f"{_named(spec)}: {problem or 'its values do not fit'}; {expected}.")


def _problem(values: Any, spec: Spec, depth: int, at: str, typed: bool) -> str | None:
    where = f"at {at}" if at else "it"
    if depth == 0:
        return None if _converts(values, spec, typed) else f"{where} is {short(values)}"
    if not isinstance(values, list):
        return f"{where} is {short(values)}, which is no list"
    wanted = spec.shape[len(spec.shape) - depth]
    if wanted >= 0 and len(values) != wanted:
        return f"{where} has {len(values)} values, not {wanted}"
    first = len(values[0]) if values and isinstance(values[0], list) else None
    for index, each in enumerate(values):
        place = f"{at}[{index}]"
        if first is not None and isinstance(each, list) and len(each) != first:
            return f"at {place} are {len(each)} values, where [0] has {first}: rows differ"
        found = _problem(each, spec, depth - 1, place, typed)
        if found is not None:
            return found
    return None


def _converts(value: Any, spec: Spec, typed: bool) -> bool:
    convert = _conversion(spec)
    try:
        np.array([convert(value, typed)], dtype=NUMPY_TYPES[spec.datatype])
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _wrong_type(got: str, spec: Spec) -> SchemaMismatch:
    return SchemaMismatch(f"{_named(spec)} is of the type {got}; expected is {shape_text(spec)}.")


def empty_batch(name: str) -> SchemaMismatch:
    """The error of a batch without rows."""
    return SchemaMismatch(f"The batch is empty ({name}): at least one row is expected.")


def _named(spec: Spec) -> str:
    return f"The input {spec.name!r}" if spec.name else "The input"


def listed(names: Any, limit: int = _SHOWN) -> str:
    """Names in quotes, at most ``limit`` of them, and how many more there are."""
    shown = [repr(name) for name in list(names)[:limit]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def short(value: Any) -> str:
    """A value and its type, cut to a few words."""
    return f"{type(value).__name__} {reprlib.repr(value)}"
