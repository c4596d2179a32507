"""Comma-separated values, ``text/csv`` (RFC 4180, https://www.rfc-editor.org/rfc/rfc4180)."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import NotAcceptable, SchemaMismatch
from ..values.content import Columns, Limits, Rows, TextRows
from ..values.json_results import encoder
from .csv_records import Records, is_number, is_positions

_VALUES_AT_ONCE = 65_536
_INDEX = "Unnamed: 0"  # what pandas.read_csv calls a first column without a name
_json = encoder()


class _NotNumeric(Exception):
    pass


def decode(
    body: bytes,
    limits: Limits,
    *,
    header: bool | None = None,
    names: Collection[str] = (),
    charset: str = "utf-8",
    as_text: bool = False,
) -> Columns | Rows:
    """With a header line columns of text, without one rows: of float64, or of text if any is.

    An empty field is a missing value: NaN in rows of numbers. Blank lines are skipped; a missing
    value alone in its record is written ``""``. A number is what ``float()`` reads, underscores
    aside. What pandas writes by default is read as it was: a header of the positions ``0,1,…`` of
    columns without names gives rows, and the first column is left out if its name is empty, as that
    of an index is.

    Args:
        body: in ``charset``; a byte order mark is dropped.
        limits: how much it may hold.
        header: whether the first record is one (``header=present`` or ``absent``, RFC 4180 §3).
            None: it is when all of ``names`` are in it; else when there are other records and
            none of its own fields is empty or a number, save the first, or they are positions.
        names: of the model's columns.
        charset: what the Content-Type says.
        as_text: rows of numbers stay text too.

    Raises:
        UndecodableInput: empty, not of that charset or an unknown one, an unclosed quote, NUL, a
            field of more than 131,072 characters; the message names the line.
        SchemaMismatch: records of different lengths, or names in the header that are empty or
            there twice; the message names the record, counted from 1.
        InputTooLarge: more rows or values than the limits allow, or more than ten times
            ``limits.bytes`` of memory once read.
    """
    table = Records(body, limits, charset)
    try:
        with_header, first = table.find_header(header, names)
        if with_header:
            columns = _columns(table, first, names)
            unnamed = header is None and is_positions([*columns.columns]) and "0" not in names
            if not unnamed:
                return columns
            return TextRows(np.array([*columns.columns.values()], dtype=object).T)
        if not as_text:
            return Rows(_numbers(table, first))
    except _NotNumeric:
        pass
    finally:
        table.close()
    table = Records(body, limits, charset)
    try:
        return TextRows(_texts(table))
    finally:
        table.close()


def encode(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """A header line and a line a row; ``name_0``, ``name_1``, … for an output of two dimensions.

    Floats have as many digits as it takes to read the same again, booleans are ``true`` and
    ``false``, bytes are base64.

    Raises:
        NotAcceptable: more than two dimensions, outputs that are not equally long, two columns of
            the same name, or text that is not UTF-8.
    """
    columns = dict(_named_columns(outputs))
    out = io.StringIO(newline="")
    write = csv.writer(out)
    write.writerow(columns)
    write.writerows(zip(*columns.values(), strict=True))
    try:
        return out.getvalue().encode()
    except UnicodeEncodeError as error:
        raise NotAcceptable(f"The result holds text that CSV cannot: {error}.") from None


# --- reading --------------------------------------------------------------------------------------


def _number(field: str) -> float:
    if not field.strip():
        return float("nan")
    if not is_number(field):
        raise _NotNumeric
    return float(field)


def _numbers(table: Records, begun: list[list[str]]) -> NDArray[Any]:
    """All fields as float64 ``[rows, fields]``; _NotNumeric when one is text."""
    numbers = array("d")
    convert = _number if table.has_underscores else float
    for row in table.rows(begun):
        try:
            numbers.extend([*map(convert, row)])
        except ValueError:
            numbers.extend([*map(_number, row)])
    return np.frombuffer(numbers, np.float64).reshape(-1, table.width)


def _texts(table: Records) -> NDArray[Any]:
    """All fields as text ``[rows, fields]``."""
    made: list[list[str]] = []
    for row in table.all():
        made.append(row)
        table.check_memory()
    values = np.empty((len(made), table.width), dtype=object)
    values[:] = made
    return values


def _columns(table: Records, records: list[list[str]], known: Collection[str]) -> Columns:
    names = records[0]
    table.check_columns()
    table.check_memory()
    indexed = not names[0] and len(names) > 1
    if indexed:
        names = [_INDEX, *names[1:]]
    _check_names(names)
    at_once_most = max(1, _VALUES_AT_ONCE // table.width)
    columns: list[list[str]] = [[] for _ in names]
    at_once: list[list[str]] = []
    for row in table.rows(records[1:]):
        at_once.append(row)
        if len(at_once) == at_once_most:
            _move(at_once, columns)
            table.check_memory()
    _move(at_once, columns)
    table.check_memory()
    made = dict(zip(names, columns, strict=True))
    if indexed and _INDEX not in known:
        del made[_INDEX]
    return Columns(made, typed=False)


def _move(rows: list[list[str]], columns: list[list[str]]) -> None:
    """Put rows at the ends of columns, and forget them."""
    for column, values in zip(columns, zip(*rows, strict=True), strict=False):
        column.extend(values)
    rows.clear()


def _check_names(names: list[str]) -> None:
    seen: set[str] = set()
    for place, name in enumerate(names, 1):
        if not name.strip():
            raise SchemaMismatch(
                f"Record 1 of the CSV body, the header, has no name for column {place}."
            )
        if name in seen:
            raise SchemaMismatch(
                f"Record 1 of the CSV body, the header, has the name {name[:100]!r} twice; each "
                "column needs its own."
            )
        seen.add(name)


# --- writing --------------------------------------------------------------------------------------


def _named_columns(outputs: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, list[str]]]:
    seen: dict[str, int] = {}
    for name, values in _flat_columns(outputs):
        if name in seen:
            raise NotAcceptable(f"Two columns of the CSV would be named {name!r}.")
        seen[name] = len(values)
        if len(set(seen.values())) > 1:
            shown = ", ".join(f"{each} {length}" for each, length in seen.items())
            raise NotAcceptable(
                f"CSV holds one record a row; the outputs are not equally long: {shown}."
            )
        yield name, _fields(values)


def _flat_columns(outputs: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, given in outputs.items():
        values = np.atleast_1d(given)
        if values.ndim > 2:
            raise NotAcceptable(
                f"The output {name!r} has the shape {list(values.shape)}; CSV holds at most two "
                "dimensions. Ask for another format, such as application/json."
            )
        if values.ndim == 1:
            yield name, values
        else:
            yield from ((f"{name}_{at}", values[:, at]) for at in range(values.shape[1]))


def _fields(values: NDArray[Any]) -> list[str]:
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return ["true" if each else "false" for each in values.tolist()]
    if kind == "f" and size < 8:  # as many digits as float32 needs, as in JSON
        return [str(each) for each in values.astype(np.float32)]
    if kind in "iuf":
        return [repr(each) for each in (values if size <= 8 else values.astype(float)).tolist()]
    if kind == "M":
        return ["" if each == "NaT" else each for each in values.astype(str).tolist()]
    return [_text(each) for each in values.tolist()]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return str(_json(value), "ascii").strip('"')
    return "" if value is None else str(value)
