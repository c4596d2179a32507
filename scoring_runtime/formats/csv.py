"""Comma-separated values, ``text/csv`` (RFC 4180, https://www.rfc-editor.org/rfc/rfc4180)."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputTooLarge, NotAcceptable, SchemaMismatch, UndecodableInput
from ..values.content import Columns, Limits, Rows, TextRows
from ..values.json_results import encoder
from ..values.wording import check_columns, too_many, uneven
from .guarded_json import check_texts

# Python knows them by the same names.
_CHARSETS = (
    "utf-8", "utf8", "us-ascii", "utf-16", "utf-16le", "utf-16be", "latin-1", "latin1",
    "iso-8859-1", "cp1252", "windows-1252",
)  # fmt: skip
_VALUES_AT_ONCE = 65_536
_INDEX = "Unnamed: 0"  # what pandas.read_csv calls a first column without a name
_WIDEST_UNCOUNTED = 1_000_000
# Lines, blank ones and those within quotes included, for each row; and characters read at once.
_LINES_A_ROW, _BATCH = 10, 64 * 1024
_BODY = "The CSV body"
_json = encoder()


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

    An empty field is a missing value: NaN in rows of numbers, unless they stay text (``as_text``).
    Blank lines are skipped. A number is what ``float()`` reads, underscores aside. What pandas
    writes by default is read as it was: a header of the positions ``0,1,…`` of columns without
    names gives rows, and the first column is left out if its name is empty, as that of an index is.

    ``header`` says whether the first record is one (RFC 4180 §3). None: it is when all of
    ``names``, those of the model's columns, are in it; else when there are other records and none
    of its own fields is empty or a number, save the first, or they are positions.

    Raises:
        UndecodableInput: empty, not of that charset or an unknown one, an unclosed quote, NUL, a
            field of more than 131,072 characters; the message names the line.
        SchemaMismatch: records of different lengths, or names in the header that are empty or
            there twice; the message names the record, counted from 1.
        InputTooLarge: more rows or values, or memory, than the limits allow.
    """
    with closing(_Records(body, limits, charset)) as table:
        with_header, first = table.find_header(header, names)
        if with_header:
            columns = _columns(table, first, names)
            unnamed = header is None and _is_positions([*columns.columns]) and "0" not in names
            if not unnamed:
                return columns
            return TextRows(np.array([*columns.columns.values()], dtype=object).T)
        if as_text:
            return TextRows(_texts(table, first))
        try:
            return Rows(_numbers(table, first))
        except ValueError:
            return decode(body, limits, header=False, charset=charset, as_text=True)


def header_of(body: bytes, limits: Limits) -> list[str] | None:
    """The names in the first record, if that is a header by the rules of :func:`decode`.

    Raises:
        UndecodableInput: as :func:`decode`.
    """
    with closing(_Records(body, limits, "utf-8")) as table:
        with_header, first = table.find_header(None, ())
        return first[0] if with_header else None


def encode(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """A header line and a line a row; ``name_0``, ``name_1``, … for an output of two dimensions.

    Floats have as many digits as it takes to read the same again, booleans are ``true`` and
    ``false``, bytes are base64.

    Raises:
        NotAcceptable: more than two dimensions, outputs that are not equally long, two columns of
            the same name, or text that is not UTF-8.
    """
    columns = _named_columns(outputs)
    out = io.StringIO(newline="")
    write = csv.writer(out)
    write.writerow(columns)
    write.writerows(zip(*columns.values(), strict=True))
    try:
        return out.getvalue().encode()
    except UnicodeEncodeError as error:
        raise NotAcceptable(f"The result holds text that CSV cannot: {error}.") from None


# --- records --------------------------------------------------------------------------------------


def check_charset(charset: str) -> None:
    """Refuse what is no charset of CSV.

    Raises:
        UndecodableInput: the message lists those there are.
    """
    if charset not in _CHARSETS:
        raise UndecodableInput(
            f"The charset {charset[:50]!r} of the CSV body is not known. Allowed: "
            f"{', '.join(_CHARSETS)}."
        )


class _Records:
    """The records of a body, one after the other, and the checks that hold for each of them."""

    def __init__(self, body: bytes, limits: Limits, charset: str) -> None:
        check_charset(charset)
        self._charset = charset
        self.limits = limits
        self._stream = io.TextIOWrapper(io.BytesIO(body), self._charset, newline="")
        self._commas = 0
        self._batches = self._read_batches()
        self._reader = csv.reader(chain.from_iterable(self._batches), strict=True)
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
            if not said and _may_be_header(first):
                second = next(self._records, None)
                said = second is not None and _differs(first, second)
                records += [second] if second else []
        self._header = int(said)
        return said, records

    def rows(self, begun: list[list[str]]) -> Iterator[list[str]]:
        """The records after the header, each as long as the first."""
        width, limits = self.width, self.limits
        most = min(limits.rows, limits.values // width)
        for row in chain(begun, self._records):
            self._rows += 1
            if len(row) != width:
                self._ragged(len(row))
            if self._rows > most:
                if self._rows > limits.rows:
                    raise _more("rows", limits.rows, "SCORING_MAX_ROWS")
                raise _more("values", limits.values, "SCORING_MAX_VALUES")
            yield row

    def close(self) -> None:
        """Read no further; else generators that have not ended would keep each other, and all."""
        self._records.close()
        self._batches.close()

    def check_memory(self) -> None:
        """Refuse what would take far more memory as text objects than it has as a body."""
        check_texts(self._rows, self.width, self.limits, _BODY)

    def _read(self) -> Generator[list[str], None, None]:
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

    def _read_batches(self) -> Generator[list[str], None, None]:
        most_lines = self.limits.rows * _LINES_A_ROW
        most_commas = max(self.limits.values, _WIDEST_UNCOUNTED)
        before = 0
        while lines := self._stream.readlines(_BATCH):
            text = "".join(lines)
            if "\0" in text:
                number = before + next(at for at, line in enumerate(lines, 1) if "\0" in line)
                raise UndecodableInput(f"The CSV body has a NUL character in line {number}.")
            if not before:
                lines[0] = lines[0].removeprefix("\ufeff")
            before += len(lines)
            if before > most_lines:
                raise _more("lines", most_lines, f"{_LINES_A_ROW} x SCORING_MAX_ROWS")
            # The reader makes a whole record before it can be counted.
            self._commas += text.count(",")
            if self._commas > most_commas:
                raise _more("values", self.limits.values, "SCORING_MAX_VALUES")
            yield lines
            if len(text) < _BATCH:
                return

    def _ragged(self, length: int) -> None:
        raise SchemaMismatch(
            f"Record {self._rows + self._header} of the CSV body (line {self._reader.line_num}) "
            f"has {length} fields; {self.width} are expected, as in the "
            f"{'header' if self._header else 'first record'}."
        )


def _more(what: str, limit: int, setting: str) -> InputTooLarge:
    return too_many(_BODY, f"more than {limit}", what, limit, setting)


def _is_positions(names: list[str]) -> bool:
    """Whether they are ``0``, ``1``, … as pandas writes for columns without names."""
    return names == [*map(str, range(len(names)))]


def _may_be_header(fields: list[str]) -> bool:
    """Names; pandas leaves out that of its index, and counts columns that have none."""
    named = fields[1:] if fields[0] == "" and len(fields) > 1 else fields
    return _is_positions(named) or not any(map(_is_data, named))


def _differs(first: list[str], second: list[str]) -> bool:
    """Whether what may be a header is no record: rows of ``0,1``, or without a first value, may
    well be, unless what follows has no whole numbers, or an index and numbers."""
    if not first[0]:
        is_index = second[0].isdecimal()
        return is_index and (_is_positions(first[1:]) or any(map(_is_number, second[1:])))
    return len(first) > 2 or not _is_positions(first) or not all(map(str.isdecimal, second))


def _is_data(field: str) -> bool:
    return not field.strip() or _is_number(field)


def _is_number(field: str) -> bool:
    """Whether ``float()`` reads it, underscores aside."""
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


# --- reading --------------------------------------------------------------------------------------


def _number(field: str) -> float:
    if not field.strip():
        return float("nan")
    if not _is_number(field):
        raise ValueError(field)
    return float(field)


def _numbers(table: _Records, begun: list[list[str]]) -> NDArray[Any]:
    """All fields as float64 ``[rows, fields]``; ValueError when one is text."""
    numbers = array("d")
    convert = _number if table.has_underscores else float
    for row in table.rows(begun):
        try:
            numbers.extend([*map(convert, row)])
        except ValueError:
            numbers.extend([*map(_number, row)])
    return np.frombuffer(numbers, np.float64).reshape(-1, table.width)


def _texts(table: _Records, begun: list[list[str]]) -> NDArray[Any]:
    """All fields as text ``[rows, fields]``."""
    made: list[list[str]] = []
    for row in table.rows(begun):
        made.append(row)
        table.check_memory()
    values = np.empty((len(made), table.width), dtype=object)
    values[:] = made
    return values


def _columns(table: _Records, records: list[list[str]], known: Collection[str]) -> Columns:
    names = records[0]
    check_columns(table.width, table.limits, _BODY)
    table.check_memory()
    indexed = not names[0] and len(names) > 1
    if indexed:
        names = [_INDEX, *names[1:]]
    _check_names(names)
    columns: list[list[str]] = [[] for _ in names]
    rows = table.rows(records[1:])
    while some := [*islice(rows, max(1, _VALUES_AT_ONCE // table.width))]:
        for column, values in zip(columns, zip(*some, strict=True), strict=True):
            column.extend(values)
        table.check_memory()
    made = dict(zip(names, columns, strict=True))
    if indexed and _INDEX not in known:
        del made[_INDEX]
    return Columns(made, typed=False)


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


def _named_columns(outputs: Mapping[str, NDArray[Any]]) -> dict[str, list[str]]:
    columns: dict[str, NDArray[Any]] = {}
    for name, given in outputs.items():
        values = np.atleast_1d(given)
        if values.ndim > 2:
            raise NotAcceptable(
                f"The output {name!r} has the shape {list(values.shape)}; CSV holds at most two "
                "dimensions. Ask for another format, such as application/json."
            )
        parts = {name: values}
        if values.ndim == 2:
            parts = {f"{name}_{at}": values[:, at] for at in range(values.shape[1])}
        if twice := parts.keys() & columns.keys():
            raise NotAcceptable(f"Two columns of the CSV would be named {min(twice)!r}.")
        columns |= parts
    if wrong := uneven({name: len(values) for name, values in columns.items()}):
        raise NotAcceptable(f"CSV holds one record a row; the outputs are {wrong}.")
    return {name: _fields(values) for name, values in columns.items()}


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
