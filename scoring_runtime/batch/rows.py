"""A part's rows are scored by one call; those that spoil it are found by halving.

What stands in a part's document is one row for each row of the part: an empty one (CSV), or
``null``, for a row that has no result.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, repeat, zip_longest
from typing import Any

from ..errors import ScoringRuntimeError, WrongBatchLength
from ..formats import by_content_type
from ..formats import csv as csv_format
from ..messages import Score, ScoringRequest
from ..scoring.runtime import Runtime
from ..telemetry.logs import script_log
from ..triggers.outcomes import Outcome, Scoring, Verdict, failed
from ..values.body import parse_json
from ..values.content import Columns, Limits
from ..values.inputs import check_names
from ..values.json_results import encoder
from ..values.named_outputs import named_outputs
from .parts import Missing, Parts, missing
from .plan import CSV, LINES, Part, head_end

# Calls for one part, and rows that fail one by one when none succeeds, until it is left as it is.
_MOST_CALLS, _MOST_ALONE = 200, 20
# Not the fault of a row.
_OF_THE_HOST = ("RunTimeout", "NotAcceptable", "UnsupportedContentType", "UnknownModel")
_EXACT = 2**53
_CODE = re.compile(r"\s*0[0-9]+\s*").fullmatch
_json = encoder()


class PartScoring(Scoring):
    """Scores the parts of a table.

    Args:
        accept: CSV or JSON Lines, which the documents are to be.
        name: of the rows in a JSON body, for scripts that read one: ``{name: [[…], …]}``; empty
            leaves them as they are.
    """

    def __init__(
        self, runtime: Runtime, score: Score, parts: Parts, accept: str, name: str = ""
    ) -> None:
        super().__init__(runtime, "blob", score, access_log=False)
        self._parts, self._accept, self._name = parts, accept, name
        self._limits = runtime.settings.limits
        self._halving = 0
        script_log.addFilter(self._says)

    async def __call__(self, request: ScoringRequest, what: str) -> Outcome:
        """One try of a part.

        Raises:
            NotServing: not now.
        """
        part = self._parts.parts[what.partition("/")[2]]
        scored = _Scored(self._accept, part)
        outcome = await self._aligned(request, what, part.rows)
        if outcome.verdict is Verdict.SCORED:
            return outcome
        alone = part.rows == 1 or outcome.reason in _OF_THE_HOST
        if not alone:
            self._halving += 1
            try:
                await self._halve(request, what, scored)
            finally:
                self._halving -= 1
        if not scored.done:
            self._parts.missing[part.name] = [missing(part.first, part.rows, outcome)]
            return outcome
        self._parts.missing[part.name] = scored.missing
        whole = Outcome(Verdict.SCORED, 200, scored.body(), self._accept)
        return whole._replace(trace=outcome.trace)

    def _says(self, record: logging.LogRecord) -> bool:
        """The first exception of a part is in the log, not that of each half again."""
        return not (self._halving and str(record.msg).startswith("Encountered Exception"))

    async def _halve(self, request: ScoringRequest, what: str, scored: _Scored) -> None:
        """Score the rows that can be, in order."""
        part = scored.part
        records = part.records(request.body)
        waiting = [(len(records) // 2, len(records)), (0, len(records) // 2)]
        calls = 0
        while waiting:
            start, end = waiting.pop()
            calls += 1
            some = request._replace(body=part.head + b"".join(records[start:end]))
            outcome = await self._aligned(some, what, end - start)
            if outcome.verdict is Verdict.SCORED and scored.add(outcome.body, end - start):
                continue
            given_up = calls >= _MOST_CALLS
            if end - start == 1 or given_up:
                scored.leave_out(missing(part.first + start, end - start, outcome))
                if not scored.done and len(scored.missing) >= _MOST_ALONE:
                    return
            else:
                middle = (start + end) // 2
                waiting += [(middle, end), (start, middle)]

    async def _aligned(self, request: ScoringRequest, what: str, rows: int) -> Outcome:
        """The outcome of so many rows, whose body has as many, in the format of the documents."""
        try:
            if self._name:
                part = self._parts.parts[what.partition("/")[2]]
                request = _as_json(request, self._name, self._limits, part)
            outcome = await super().__call__(request, what)
            if outcome.verdict is not Verdict.SCORED:
                return outcome
            body, found = _lines(outcome, self._accept)
        except ScoringRuntimeError as error:
            return failed(error)
        if found == rows:
            return outcome._replace(body=body, content_type=self._accept)
        return failed(
            WrongBatchLength(
                f"The answer to {rows} rows has {found}: expected is one for each row. (A run() "
                "that gives one answer for a whole body is for files: --input with a folder.)"
            )
        )


@dataclass
class _Scored:
    """The answers to the rows of a part, put together in order."""

    accept: str
    part: Part
    head: bytes = b""
    done: int = 0
    missing: list[Missing] = field(default_factory=list)
    _pieces: list[bytes | int] = field(default_factory=list)

    def add(self, body: bytes, rows: int) -> bool:
        """Take answers; False if their columns are others than those before."""
        head, lines = split_head(body, self.accept)
        if self.done and head != self.head:
            return False
        self.head = head
        self.done += rows
        self._pieces.append(lines)
        return True

    def leave_out(self, missing: Missing) -> None:
        """There is no answer for some rows."""
        self.missing.append(missing)
        self._pieces.append(missing.rows)

    def body(self) -> bytes:
        """All of them."""
        empty = nothing(self.head, self.accept)
        texts = (empty * each if isinstance(each, int) else each for each in self._pieces)
        return self.head + b"".join(texts)


def split_head(body: bytes, accept: str) -> tuple[bytes, bytes]:
    """The line of names of a CSV, and the rest."""
    if accept != CSV:
        return b"", body
    end = head_end(body)
    return body[:end], body[end:]


def nothing(head: bytes, accept: str) -> bytes:
    """A row without a result."""
    if accept != CSV:
        return b"null\n"
    columns = len(next(iter(csv.reader(io.StringIO(head.decode(), newline=""))), [""]))
    return b"," * (columns - 1) + b"\r\n" if columns > 1 else b'""\r\n'


def _lines(outcome: Outcome, accept: str) -> tuple[bytes, int]:
    """An answer in the format of the documents, and how many rows it has."""
    kind = outcome.content_type.partition(";")[0]
    body = outcome.body
    if kind in (CSV, LINES) and not body.endswith(b"\n"):
        body += b"\n"  # a script's own, before that of other rows
    if kind == accept == LINES:
        return body, body.count(b"\n")
    if kind == accept == CSV:
        if b'"' not in body:
            return body, body.count(b"\n") - 1
        return body, sum(1 for _ in csv.reader(io.StringIO(body.decode(), newline=""))) - 1
    rows = _rows(parse_json(body))
    if accept == CSV:
        return csv_format.encode(named_outputs(rows, "predictions")), len(rows)
    texts = (b"null" if each is None else _json(each) for each in rows)
    return b"".join(map(b"%b\n".__mod__, texts)), len(rows)


def _rows(answer: Any) -> list[Any]:
    """The rows of a JSON answer: a list, or the one list of an object, as ``{"result": […]}``."""
    found = [answer]
    if isinstance(answer, dict):
        found = [each for each in answer.values() if isinstance(each, list)]
    if len(found) == 1 and isinstance(found[0], list):
        return found[0]
    raise WrongBatchLength(
        "The answer is JSON that is no list: expected is one with a value for each row, or an "
        'object with one list, as in {"result": […]}.'
    )


def _as_json(request: ScoringRequest, name: str, limits: Limits, part: Part) -> ScoringRequest:
    """The rows as lists of values in a JSON object, in the order that the part's file has."""
    content = by_content_type.read(request, limits).content
    if isinstance(content, Columns):
        found: Mapping[str, Any] = content.columns
        if names := part.names:
            check_names(found, names, "column", names)
            gone = [None] * len(next(iter(found.values()), ()))
            found = {each: found.get(each, gone) for each in names}
        columns: Sequence[Any] = [*found.values()]
        if not content.typed:
            numeric = _numeric(part._replace(name="", first=0, rows=0, start=0, end=0))
            columns = [*map(_typed, columns, chain(numeric, repeat(False)))]
        rows: Any = [list(row) for row in zip(*columns, strict=True)]
    else:
        values = content[0]
        rows = values.tolist() if hasattr(values, "tolist") else values
    others = [line for line in request.headers if line[0] != b"content-type"]
    headers = [(b"content-type", b"application/json"), *others]
    return request._replace(body=json.dumps({name: rows}).encode(), headers=headers)


@lru_cache(maxsize=8)
def _numeric(part: Part) -> list[bool]:
    """Which columns of a part's file are numbers: a row is not to depend on the others of its part.

    Those where most of the first rows' values are, and none is a code such as 007.
    """
    rows: list[list[str]] = []
    text = part.sample().decode("utf-8-sig", "replace")
    with suppress(csv.Error):  # what cannot be read is refused where it is scored
        rows += csv.reader(io.StringIO(text, newline=""))
    return [*map(_are_numbers, zip_longest(*rows, fillvalue=""))]


def _are_numbers(texts: Sequence[str]) -> bool:
    there = [each for each in texts if each.strip()]
    numbers = [each for each in there if not isinstance(_number(each), str)]
    return len(numbers) * 2 >= len(there) and not any(map(_CODE, numbers))


def _typed(texts: Sequence[str], numeric: bool) -> Sequence[Any]:
    """Of a column of numbers what is one, an empty one missing; of others the texts."""
    return [*map(_number, texts)] if numeric else texts


def _number(text: str) -> float | str | None:
    """As in the formats; a whole number that a float would round keeps all its digits."""
    if not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    if "_" in text:
        return text
    return int(text) if abs(number) >= _EXACT and text.strip().lstrip("+-").isdecimal() else number
