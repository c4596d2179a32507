"""The records of a CSV body (RFC 4180), one after the other, within limits."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Generator, Iterator
from itertools import chain

from ..errors import InputTooLarge, SchemaMismatch, UndecodableInput
from ..values.content import Limits
from .guarded_json import MEMORY_FACTOR, check_columns

# By name only: Python knows codecs that unpack, or that take a client's time.
_CHARSET = re.compile(
    r"(?:us-)?ascii|utf-?8|utf-(?:16|32)(?:le|be)?|latin-?1|iso-8859-(?:[1-9]|1[013456])"
    r"|windows-125[0-8]|cp125[0-8]|gb18030|gbk|gb2312|big5|shift_jis|euc-(?:jp|kr)|koi8-[ru]",
    re.IGNORECASE,
)
# Of a str of a few letters with its place in a list, and of a column with its name.
_BYTES_A_TEXT, _BYTES_A_COLUMN = 64, 400
_WIDEST_UNCOUNTED = 1_000_000
# Lines, blank ones and those within quotes included, for each row; and characters read at once.
_LINES_A_ROW, _BATCH = 10, 64 * 1024


class Records:
    """The records of a body, one after the other, and the checks that hold for each of them."""

    def __init__(self, body: bytes, limits: Limits, charset: str) -> None:
        check_charset(charset)
        self._charset = charset
        self._limits = limits
        self._stream = io.TextIOWrapper(io.BytesIO(body), charset, newline="")
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
        width, limits = self.width, self._limits
        most = min(limits.rows, limits.values // width)
        for row in chain(begun, self._records):
            self._rows += 1
            if len(row) != width:
                self._ragged(len(row))
            if self._rows > most:
                if self._rows > limits.rows:
                    raise self._too_many("rows", limits.rows, "SCORING_MAX_ROWS")
                raise self._too_many("values", limits.values, "SCORING_MAX_VALUES")
            yield row

    def all(self) -> Iterator[list[str]]:
        """All records, none of them a header."""
        first = next(self._records)
        self.width = len(first)
        return self.rows([first])

    def close(self) -> None:
        """Read no further; else generators that have not ended would keep each other, and all."""
        self._records.close()
        self._batches.close()

    def check_columns(self) -> None:
        """Refuse more names in a header than the limits allow."""
        check_columns(self.width, self._limits, "The CSV body")

    def check_memory(self) -> None:
        """Refuse what would take far more memory as text objects than it has as a body."""
        memory = self.width * (self._rows * _BYTES_A_TEXT + _BYTES_A_COLUMN)
        if memory > self._limits.bytes * MEMORY_FACTOR:
            raise InputTooLarge(
                f"The CSV body would take more than {MEMORY_FACTOR} times SCORING_MAX_BODY_BYTES "
                f"({self._limits.bytes}) of memory once read. Send application/x-npy, or fewer "
                "rows at once."
            )

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
        most_lines = self._limits.rows * _LINES_A_ROW
        most_commas = max(self._limits.values, _WIDEST_UNCOUNTED)
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
                raise self._too_many("lines", most_lines, f"{_LINES_A_ROW} x SCORING_MAX_ROWS")
            # The reader makes a whole record before it can be counted.
            self._commas += text.count(",")
            if self._commas > most_commas:
                raise self._too_many("values", self._limits.values, "SCORING_MAX_VALUES")
            yield lines
            if len(text) < _BATCH:
                return

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


def check_charset(charset: str) -> None:
    """Refuse what is no charset of CSV.

    Raises:
        UndecodableInput: the message lists those there are.
    """
    if charset != "utf-8" and _CHARSET.fullmatch(charset) is None:
        raise UndecodableInput(
            f"The charset {charset[:50]!r} of the CSV body is not known. Allowed: utf-8, "
            "utf-16, utf-32, ascii, iso-8859-1 to -16, windows-1250 to -1258, gb18030, gbk, "
            "gb2312, big5, shift_jis, euc-jp, euc-kr, koi8-r, koi8-u."
        )


def is_positions(names: list[str]) -> bool:
    """Whether they are ``0``, ``1``, … as pandas writes for columns without names."""
    return names == [*map(str, range(len(names)))]


def _may_be_header(fields: list[str]) -> bool:
    """Names; pandas leaves out that of its index, and counts columns that have none."""
    named = fields[1:] if fields[0] == "" and len(fields) > 1 else fields
    return is_positions(named) or not any(map(_is_data, named))


def _differs(first: list[str], second: list[str]) -> bool:
    """Whether what may be a header is no record: rows of ``0,1``, or without a first value, may
    well be, unless what follows has no whole numbers, or an index and numbers."""
    if not first[0]:
        is_index = second[0].isdecimal()
        return is_index and (is_positions(first[1:]) or any(map(is_number, second[1:])))
    return len(first) > 2 or not is_positions(first) or not all(map(str.isdecimal, second))


def _is_data(field: str) -> bool:
    return not field.strip() or is_number(field)


def is_number(field: str) -> bool:
    """Whether ``float()`` reads it, underscores aside."""
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field
