"""The result of ``run()`` → JSON bytes."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson

from ..errors import ResultNotSerializable
from .wording import HALF_A_CHARACTER

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
_NUMBERS = "biuf"
_DEEPEST = 254

Encode = Callable[[Any], bytes]


class _Raw:
    """JSON text that goes out as it is."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class _TwiceNamedError(TypeError):
    """A table of which a part would be lost."""


def encoder(nan: str = "null", *, strict: bool = False, numbers: bool = False) -> Encode:
    """The function that turns a result of ``run()`` into JSON bytes; ``None`` gives ``{}``.

    numpy, pandas, datetime, Decimal (exact digits), UUID, bytes (base64), sets, dataclasses,
    named tuples, enums and anything with ``tolist()`` or ``model_dump()`` have a JSON form.

    By ``nan`` NaN and Infinity become ``null``, a ``string``, an ``error``, or stay ``raw``;
    ``strict`` writes spaces and ASCII escapes as ``json.dumps`` does; with ``numbers`` all arrays
    hold numbers or booleans, never moments. ResultNotSerializable names the type and its path;
    what a generator raises while it is read goes through.
    """
    if strict:
        return partial(_spaced, nan=nan)
    if nan != "null":
        return partial(_careful, nan=nan)
    return partial(_fast, options=_OPTIONS | orjson.OPT_SERIALIZE_NUMPY) if numbers else _fast


def _fast(result: Any, *, options: int = _OPTIONS) -> bytes:
    if result is None:
        return b"{}"
    try:
        return orjson.dumps(result, _fast_step, options)
    except (TypeError, RecursionError):
        pass  # left, so that what an iterator raises has no other error before it
    return _careful(result, nan="null")


def _careful(result: Any, *, nan: str) -> bytes:
    plain = _plain({} if result is None else result, "result", nan)
    try:
        return orjson.dumps(plain, _fast_step, _OPTIONS)
    except TypeError:  # a key that is not UTF-8
        return _written(plain).encode()


def _spaced(result: Any, *, nan: str) -> bytes:
    plain = _plain({} if result is None else result, "result", nan, fragments=False)
    return json.dumps(plain).encode()


def _fast_step(value: Any) -> Any:
    if isinstance(value, _Raw):
        return orjson.Fragment(value.text)
    if isinstance(value, Iterator):
        raise TypeError("read once only: left to the slow path, which cannot fail half-way")
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in _NUMBERS:
        # Only numbers: orjson would write NaT as a date.
        return orjson.Fragment(_numbers(value))
    return _one_step(value)


def _numbers(array: Any) -> bytes:
    def listed(value: Any) -> Any:
        return value.astype(float).tolist() if value.dtype.itemsize > 8 else value.tolist()

    return orjson.dumps(array, listed, orjson.OPT_SERIALIZE_NUMPY)


def _one_step(value: Any) -> Any:
    """One level nearer to JSON; TypeError when there is no way."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray):
        return _from_numpy(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dataclass_fields(value)
    for kind, convert in _CONVERSIONS:
        if isinstance(value, kind):
            return convert(value)
    return None if _is_missing(value) else _by_its_own_method(value)


def _by_its_own_method(value: Any) -> Any:
    for method in ("model_dump", "tolist", "to_pylist", "to_list"):
        convert = getattr(value, method, None)
        if callable(convert) and not isinstance(value, type):
            return convert()
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        if len({*value.columns}) < len(value.columns):
            raise _TwiceNamedError("has columns of the same name, of which JSON would keep one.")
        return value.to_dict("records")
    if isinstance(value, Collection | Iterator):
        return list(value)
    raise TypeError(f"no JSON form for {_type_name(value)}")


def _from_numpy(value: Any) -> Any:
    """Scalars and arrays as Python's own types; dates and durations to the microsecond."""
    if value.dtype.kind in "mM":
        value = value.astype(f"{value.dtype.kind}8[us]")
    elif value.dtype.kind == "f" and value.dtype.itemsize > 8:
        value = value.astype(float)
    elif value.dtype.kind == "c" and value.dtype.itemsize > 16:
        return list(value)  # a scalar of them raises here: tolist() would give it back
    return value.tolist()


def _dataclass_fields(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}


def _in_order(values: set[Any] | frozenset[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


def _is_missing(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NaT or value is pandas.NA)


def _moment(value: datetime.datetime) -> str | None:
    return None if _is_missing(value) else value.isoformat()


def _decimal(value: Decimal) -> Any:
    return _Raw(str(value)) if value.is_finite() else float(value)


def _encoded(value: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(value).decode()


_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (tuple, list),
    (Mapping, dict),
    ((set, frozenset), _in_order),
    ((bytes, bytearray, memoryview), _encoded),
    (Decimal, _decimal),
    (datetime.datetime, _moment),
    ((datetime.date, datetime.time), lambda value: value.isoformat()),
    (datetime.timedelta, datetime.timedelta.total_seconds),
    ((PurePath, UUID), str),
    (Enum, lambda value: value.value),
)


def _plain(value: Any, path: str, nan: str, depth: int = 0, *, fragments: bool = True) -> Any:
    """``value`` in types that every JSON writer knows; ResultNotSerializable names the path."""
    if depth > _DEEPEST:
        raise ResultNotSerializable(
            f"{_where(path)} is nested deeper than {_DEEPEST} levels, or contains itself."
        )

    def inside(child: Any, at: str) -> Any:
        return _plain(child, f"{path}[{at}]", nan, depth + 1, fragments=fragments)

    if value is None or value is True or value is False:
        return value
    if isinstance(value, str | int | float) and not isinstance(value, Enum):
        return _scalar(value, path, nan, fragments)
    if type(value) is dict:
        return {_key(key, path): inside(child, repr(key)) for key, child in value.items()}
    if isinstance(value, list):
        return [inside(child, str(index)) for index, child in enumerate(value)]
    nearer = _step_or_refuse(value, path)
    if isinstance(nearer, _Raw):
        return nearer if fragments else float(value)
    return _plain(nearer, path, nan, depth + 1, fragments=fragments)


def _scalar(value: str | int | float, path: str, nan: str, fragments: bool) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _not_finite(value, path, nan, fragments)
    if isinstance(value, int):
        within = -(2**63) <= value < 2**64
        return int(value) if within or not fragments else _Raw(str(int(value)))
    whole = not fragments or not HALF_A_CHARACTER.search(value)
    return str(value) if whole else _Raw(json.dumps(value))


def _not_finite(value: float, path: str, nan: str, fragments: bool) -> Any:
    name = json.dumps(float(value))
    if nan == "error":
        raise ResultNotSerializable(
            f"{_where(path)} is {name}, which JSON does not have, and SCORING_NAN is error. "
            "Return a finite number or None, or set SCORING_NAN to null, string or raw."
        )
    if nan == "raw":
        return _Raw(name) if fragments else float(value)
    return name if nan == "string" else None


def _key(key: Any, path: str) -> str:
    if isinstance(key, str) and not isinstance(key, Enum):
        return str(key)
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    nearer = _step_or_refuse(key, f"{path} (a key)")
    if isinstance(nearer, list | dict):
        raise _no_form(key, f"{path} (a key)")
    return nearer.text if isinstance(nearer, _Raw) else _key(nearer, path)


def _step_or_refuse(value: Any, path: str) -> Any:
    try:
        nearer = _one_step(value)
    except _TwiceNamedError as error:
        raise ResultNotSerializable(f"{_where(path)} {error}") from None
    except Exception as error:
        if isinstance(value, Iterator):  # the script's own code failed, in there
            raise
        raise _no_form(value, path) from error
    if nearer is value or (isinstance(nearer, complex) and not isinstance(nearer, float)):
        raise _no_form(value, path)
    return nearer


def _written(plain: Any) -> str:
    """What orjson cannot write: keys with half a surrogate pair, escaped as json.dumps does."""
    if isinstance(plain, _Raw):
        return plain.text
    if isinstance(plain, dict):
        members = (f"{json.dumps(key)}:{_written(value)}" for key, value in plain.items())
        return "{" + ",".join(members) + "}"
    if isinstance(plain, list):
        return "[" + ",".join(map(_written, plain)) + "]"
    return orjson.dumps(plain).decode()


def _no_form(value: Any, path: str) -> ResultNotSerializable:
    return ResultNotSerializable(
        f"{_where(path)} is of type {_type_name(value)}, which has no JSON form. Return lists, "
        "dicts, numbers, text, numpy or pandas values, or an AMLResponse."
    )


def _where(path: str) -> str:
    if len(path) > 200:
        path = f"{path[:60]} … {path[-100:]}"
    return f"The result of run() cannot be sent as JSON: {path}"


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
