"""One JSON value a line, ``application/jsonl`` (https://jsonlines.org)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import NotAcceptable, SchemaMismatch, UndecodableInput
from ..values.body import parse_json
from ..values.content import Columns, Limits, Rows
from ..values.json_results import encoder
from ..values.wording import check_columns, check_values, too_many, uneven
from .guarded_json import check_memory, memory_of

_BODY = "The JSON Lines body"
_BOM = b"\xef\xbb\xbf"
_KINDS: Mapping[type, str] = {dict: "an object", list: "an array"}
_json = encoder()


def decode(body: bytes, limits: Limits) -> Columns | Rows:
    """Objects become columns, in the order in which their keys appear; arrays or scalars rows.

    A key that a line does not have is None there. Blank lines are skipped. NaN and Infinity are
    read as in JSON bodies.

    Raises:
        UndecodableInput: empty, or a line that is not JSON; the message names its number.
        SchemaMismatch: objects, arrays and scalars are mixed; the message names the line.
        InputTooLarge: more rows or values (each comma is taken for one between values) than the
            limits allow, or nested lists that would take more than ten times ``limits.bytes``.
    """
    memory = memory_of(body, body.count(b",") + body.count(b"\n") + 1)
    check_memory(memory, limits, _BODY)
    rows: list[Any] = []
    expected = ""
    for number, value in _values(body):
        kind = _KINDS.get(type(value), "a single value")
        if kind != (expected := expected or kind):
            raise SchemaMismatch(
                f"Line {number} of the JSON Lines body is {kind}; {expected} is expected, as in "
                "the lines before."
            )
        if len(rows) == limits.rows:
            more = f"more than {limits.rows}"
            raise too_many(_BODY, more, "rows", limits.rows, "SCORING_MAX_ROWS")
        rows.append(value)
    if not rows:
        raise UndecodableInput("The JSON Lines body is empty.")
    check_values(body.count(b",") + len(rows), limits, _BODY)
    return _columns(rows, limits) if expected == "an object" else Rows(rows)


def encode(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """One object a row, the outputs by name. NaN and Infinity, which JSON lacks, are null.

    Raises:
        NotAcceptable: the outputs are not equally long.
    """
    lengths = {name: len(np.atleast_1d(values)) for name, values in outputs.items()}
    if wrong := uneven(lengths):
        raise NotAcceptable(f"JSON Lines hold one object a row; the outputs are {wrong}.")
    keys = [_json(name) + b":" for name in outputs]
    columns = [_texts(np.atleast_1d(values)) for values in outputs.values()]
    lines = (
        b"{" + b",".join(map(b"".join, zip(keys, row, strict=True))) + b"}\n"
        for row in zip(*columns, strict=True)
    )
    return b"".join(lines)


# --- reading --------------------------------------------------------------------------------------


def _values(body: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(io.BytesIO(body.removeprefix(_BOM)), 1):
        stripped = line.strip()
        if not stripped:
            continue
        try:
            yield number, parse_json(stripped)
        except RecursionError:
            raise UndecodableInput(
                f"Line {number} of the JSON Lines body is nested too deeply."
            ) from None
        except ValueError as error:
            raise UndecodableInput(
                f"Line {number} of the JSON Lines body is not JSON: {error}."
            ) from None


def _columns(rows: list[dict[str, Any]], limits: Limits) -> Columns:
    keys = dict.fromkeys(chain.from_iterable(rows))
    check_columns(len(keys), limits, _BODY)
    check_values(len(keys) * len(rows), limits, _BODY)
    return Columns({key: [row.get(key) for row in rows] for key in keys})


# --- writing --------------------------------------------------------------------------------------


def _texts(values: NDArray[Any]) -> list[bytes]:
    """The JSON text of each value of the first dimension."""
    if values.dtype.kind in "biuf" and values.ndim == 1 and values.size:
        # All at once, and as JSON answers write them: float32 with as few digits as it needs.
        return _json(np.ascontiguousarray(values))[1:-1].split(b",")
    return [b"null" if value is None else _json(value) for value in values]
