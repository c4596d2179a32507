"""Comma-separated values, ``text/csv`` (RFC 4180, https://www.rfc-editor.org/rfc/rfc4180)."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputTooLarge, NotAcceptable, SchemaMismatch, UndecodableInput
from ..payloads import Columns, Limits, Rows
from ..results import encoder

# By name only: Python knows codecs that unpack, or that take a client's time.
_CHARSET = re.compile(
    r"(?:us-)?ascii|utf-?8|utf-(?:16|32)(?:le|be)?|latin-?1|iso-8859-(?:[1-9]|1[013456])"
    r"|windows-125[0-8]|cp125[0-8]|gb18030|gbk|gb2312|big5|shift_jis|euc-(?:jp|kr)|koi8-[ru]",
    re.IGNORECASE,
)
# Of a str of a few letters with its place in a list, and of a column with its name.
_BYTES_A_TEXT, _BYTES_A_COLUMN = 64, 400
_MEMORY_FACTOR = 10
_AT_ONCE = 4096
_WIDEST_UNCOUNTED = 1_000_000
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
) -> Columns | Rows:
    """With a header line columns of text, without one rows: of float64, or of text if any is.

    An empty field is a missing value: NaN in rows of numbers. Blank lines are skipped; a missing
    value alone in its record is written ``""``. A number is what ``float()`` reads, underscores
    aside.

    Args:
        body: in ``charset``; a byte order mark is dropped.
        limits: how much it may hold.
        header: whether the first record is one (``header=present`` or ``absent``, RFC 4180 §3).
            None: it is when all of ``names`` are in it; else when there are other records and
            none of its own fields is empty or a number.
        names: of the model's columns.
        charset: what the Content-Type says.

    Raises:
        UndecodableInput: empty, not of that charset or an unknown one, an unclosed quote, NUL, a
            field of more than 131,072 characters; the message names the line.
        SchemaMismatch: records of different lengths, or names in the header that are empty or
            there twice; the message names the record, counted from 1.
        InputTooLarge: more rows or values than the limits allow, or more than ten times
            ``limits.bytes`` of memory once read.
    """
    table = _Table(body, limits, charset)
    with_header, first = table.find_header(header, names)
    if with_header:
        return _columns(table, first)
    try:
        return Rows(_numbers(table, first))
    except _NotNumeric:
        return Rows(_texts(_Table(body, limits, charset)))


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


class _Table:
    """The records of a body, one after the other, and the checks that hold for each of them."""

    def __init__(self, body: bytes, limits: Limits, charset: str) -> None:
        if _CHARSET.fullmatch(charset) is None:
            raise UndecodableInput(
                f"The charset {charset[:50]!r} of the CSV body is not known. Allowed: utf-8, "
                "utf-16, utf-32, ascii, iso-8859-1 to -16, windows-1250 to -1258, gb18030, gbk, "
                "gb2312, big5, shift_jis, euc-jp, euc-kr, koi8-r, koi8-u."
            )
        self._charset = charset
        self._limits = limits
        self._stream = io.TextIOWrapper(io.BytesIO(body), charset, newline="")
        self._commas = 0
        self._reader = csv.reader(self._lines(), strict=True)
        self._records = self._read()
        self._rows = 0
        self._header = 0
        self.has_underscores = b"_" in body
        self.width = 0

    def find_header(
        self, said: bool | None, names: Collection[str]
    ) -> tuple[bool, list[list[str]]]:
        """Whether the first record is a header, and the records that were read to know it."""
        first = next(self._records, None)
        if first is None:
            raise UndecodableInput("The CSV body is empty.")
        self.width = len(first)
        records = [first]
        if said is None:
            said = bool(names) and set(names) <= set(first)
            if not said and not any(map(_is_data, first)):
                records.extend([second] if (second := next(self._records, None)) else [])
                said = len(records) > 1
        self._header = int(said)
        return said, records

    def rows(self, begun: list[list[str]]) -> Iterator[list[str]]:
        """The records after the header, each as long as the first."""
        for row in chain(begun, self._records):
            self._rows += 1
            if len(row) != self.width:
                self._ragged(len(row))
            if self._rows > self._limits.rows:
                raise self._too_many("rows", self._limits.rows, "SCORING_MAX_ROWS")
            if self._rows * self.width > self._limits.values:
                raise self._too_many("values", self._limits.values, "SCORING_MAX_VALUES")
            yield row

    def all(self) -> Iterator[list[str]]:
        """All records, none of them a header."""
        first = next(self._records)
        self.width = len(first)
        return self.rows([first])

    def check_memory(self) -> None:
        """Refuse what would take far more memory as text objects than it has as a body."""
        memory = self.width * (self._rows * _BYTES_A_TEXT + _BYTES_A_COLUMN)
        if memory > self._limits.bytes * _MEMORY_FACTOR:
            raise InputTooLarge(
                f"The CSV body would take more than {_MEMORY_FACTOR} times SCORING_MAX_BODY_BYTES "
                f"({self._limits.bytes}) of memory once read. Send application/x-npy, or fewer "
                "rows at once."
            )

    def _read(self) -> Iterator[list[str]]:
        try:
            for record in self._reader:
                self._commas = 0
                if record:
                    yield record
        except csv.Error as error:
            raise UndecodableInput(
                f"The CSV body cannot be read at line {self._reader.line_num}: {error}."
            ) from None
        except UnicodeError as error:
            raise UndecodableInput(
                f"The CSV body is not {self._charset} soon after line {self._reader.line_num}: "
                f"{error}."
            ) from None

    def _lines(self) -> Iterator[str]:
        most = max(self._limits.values, _WIDEST_UNCOUNTED)
        for number, line in enumerate(self._stream, 1):
            if "\0" in line:
                raise UndecodableInput(f"The CSV body has a NUL character in line {number}.")
            # The reader makes a whole record before it can be counted.
            self._commas += line.count(",")
            if self._commas > most:
                raise self._too_many("values", self._limits.values, "SCORING_MAX_VALUES")
            yield line.removeprefix("\ufeff") if number == 1 else line

    def _ragged(self, length: int) -> None:
        raise SchemaMismatch(
            f"Record {self._rows + self._header} of the CSV body (line {self._reader.line_num}) "
            f"has {length} fields; {self.width} are expected, as in the "
            f"{'header' if self._header else 'first record'}."
        )

    def _too_many(self, what: str, limit: int, setting: str) -> InputTooLarge:
        return InputTooLarge(
            f"The CSV body has more than {limit} {what}; at most {limit} are taken at once "
            f"({setting})."
        )


def _is_data(field: str) -> bool:
    return not field.strip() or _is_number(field)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


def _number(field: str) -> float:
    if not field.strip():
        return float("nan")
    if not _is_number(field):
        raise _NotNumeric
    return float(field)


def _numbers(table: _Table, begun: list[list[str]]) -> NDArray[Any]:
    """All fields as float64 ``[rows, fields]``; _NotNumeric when one is text."""
    numbers = array("d")
    convert = _number if table.has_underscores else float
    for row in table.rows(begun):
        try:
            numbers.extend([*map(convert, row)])
        except ValueError:
            numbers.extend([*map(_number, row)])
    return np.frombuffer(numbers, np.float64).reshape(-1, table.width)


def _texts(table: _Table) -> NDArray[Any]:
    """All fields as text ``[rows, fields]``."""
    made: list[list[str]] = []
    for row in table.all():
        made.append(row)
        table.check_memory()
    values = np.empty((len(made), table.width), dtype=object)
    values[:] = made
    return values


def _columns(table: _Table, records: list[list[str]]) -> Columns:
    names = records[0]
    _check_names(names)
    table.check_memory()
    columns: list[list[str]] = [[] for _ in names]
    at_once: list[list[str]] = []
    for row in table.rows(records[1:]):
        at_once.append(row)
        if len(at_once) == _AT_ONCE:
            _move(at_once, columns)
            table.check_memory()
    _move(at_once, columns)
    table.check_memory()
    return Columns(dict(zip(names, columns, strict=True)), typed=False)


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
        yield name, _writer(values)(values)


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


def _writer(values: NDArray[Any]) -> Callable[[NDArray[Any]], list[str]]:
    if values.dtype.kind == "b":
        return lambda values: ["true" if each else "false" for each in values.tolist()]
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        return lambda values: [str(each) for each in values]
    if values.dtype.kind in "iuf":
        return lambda values: [repr(each) for each in values.astype(values.dtype.str[1:]).tolist()]
    if values.dtype.kind == "M":
        return lambda values: ["" if each == "NaT" else each for each in values.astype(str)]
    return lambda values: [_text(each) for each in values.tolist()]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return str(_json(value), "ascii").strip('"')
    return "" if value is None else str(value)
