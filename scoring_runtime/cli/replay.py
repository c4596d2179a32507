"""``scoring-runtime replay``: score records with another model or script, and show what changed."""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import math
import mimetypes
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import ScoringRuntimeError
from ..http.errors import INTERNAL, message_response, told
from ..messages import ScoringRequest
from ..recording.records import NO_RECORD, Record, read
from ..scoring.golden import Place, distance, leaves
from ..scoring.runtime import Runtime, build
from ..settings.settings import Settings
from ..telemetry.logs import log, printable
from ..triggers.outcomes import EXTENSIONS
from ..values.body import parse_json
from .parser import EXIT_OK
from .terminal import show_table

EXIT_CHANGED = 5
_WORST, _MOST_SAMPLES, _LONGEST, _MOST_NAMED = 20, 100, 60, 3
_NO_SAMPLE = "it is not scored by its body alone, or has failed"


class Change(NamedTuple):
    """The largest difference of two answers: how far, where, before and after."""

    distance: float
    at: str
    before: object
    after: object


_NONE = Change(0.0, "", "", "")


@dataclass
class Report:
    """What became of the records; ``worst`` are the changes, the largest first."""

    same: int = 0
    changed: int = 0
    now_failing: int = 0
    now_passing: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    largest_difference: float = 0.0
    """Of two numbers, where answers have the same form."""
    worst: list[tuple[float, int, str, Change]] = field(default_factory=list)
    tolerance: float = 0.0

    @property
    def differs(self) -> bool:
        """Whether an answer is another one."""
        return bool(self.changed or self.now_failing or self.now_passing)

    def add(self, where: str, change: Change) -> None:
        """Count a record."""
        if math.isfinite(change.distance):
            self.largest_difference = max(self.largest_difference, change.distance)
        if change.distance <= self.tolerance:
            self.same += 1
            return
        statuses = change.at == "status"
        if statuses and int(str(change.before)) < 400:
            self.now_failing += 1
        elif statuses and int(str(change.after)) < 400:
            self.now_passing += 1
        else:
            self.changed += 1
        # The number keeps changes of one distance in their order, and from being compared.
        heapq.heappush(self.worst, (change.distance, -self.scored, where, change))
        if len(self.worst) > _WORST:
            heapq.heappop(self.worst)

    @property
    def scored(self) -> int:
        """How many were."""
        return self.same + self.changed + self.now_failing + self.now_passing

    def rows(self) -> list[dict[str, str]]:
        """The worst: record, what has changed, before and after."""
        return [
            {"record": where, "at": at, "before": _short(before), "after": _short(after)}
            for _, _, where, (_, at, before, after) in sorted(self.worst, reverse=True)
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those beside the options of the model."""
    parser.add_argument("records", help="a file of records, or a folder with them")
    text = "how far numbers may be apart: a share of the larger, at least of 1 (0)"
    parser.add_argument("--tolerance", type=_tolerance, default=0.0, metavar="NUMBER", help=text)
    text = "name or name:version that scores all, whatever they ask for"
    parser.add_argument("--model", default="", help=text)
    text = f"score nothing; write up to {_MOST_SAMPLES} inputs with their answers there"
    parser.add_argument("--samples", metavar="FOLDER", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _tolerance(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed. Allowed: a number from 0.")
    return number


async def replayed(settings: Settings, options: argparse.Namespace) -> Report:
    """Score the records one after the other; only one of them is in memory.

    Raises:
        StartError: the model or script cannot be loaded.
        OSError: the records cannot be read.
    """
    runtime, report = build(settings), Report(tolerance=options.tolerance)
    runtime.start()
    await runtime.started()
    for record in _usable(Path(options.records), report):
        request = record.request
        request = request._replace(model=options.model or request.model)
        report.add(record.where, _change(record, *await _scored(runtime, request)))
    await runtime.stop()
    return report


def show(report: Report, options: argparse.Namespace) -> int:
    """Print it; the result is the exit code."""
    if options.json:
        print(json.dumps({**vars(report), "worst": report.rows()}, indent=2))
    else:
        for name in ("same", "changed", "now_failing", "now_passing"):
            print(f"{name.replace('_', ' ')}: {getattr(report, name)}")
        _show_skipped(report)
        if report.largest_difference:
            print(f"largest difference: {report.largest_difference:g}")
        if rows := report.rows():
            print()
            show_table(tuple(rows[0]), [list(row.values()) for row in rows])
    return EXIT_CHANGED if report.differs else EXIT_OK


def write_samples(options: argparse.Namespace) -> int:
    """Golden samples out of the records: ``001.json``, its answer ``001.expected.json``, and so on;
    of equal inputs the first. The result is the exit code.

    Raises:
        OSError: a file cannot be read or written, or is there already.
    """
    folder, report, seen = Path(options.samples), Report(), set[bytes]()
    folder.mkdir(parents=True, exist_ok=True)
    for record in _usable(Path(options.records), report):
        request = record.request
        name = _ending(request.header(b"content-type").decode("latin-1"), request.body)
        if request.query or request.method != "POST" or not name or record.status >= 300:
            report.skipped[_NO_SAMPLE] += 1
        elif (digest := hashlib.sha256(request.body).digest()) not in seen:
            seen.add(digest)
            answer = f".expected{_ending(record.kind, record.answer) or '.bin'}"
            for suffix, content in ((name, request.body), (answer, record.answer)):
                with (folder / f"{len(seen):03}{suffix}").open("xb") as file:
                    file.write(content)
        if len(seen) == _MOST_SAMPLES:
            break
    print(f"{len(seen)} samples in {folder}")
    _show_skipped(report)
    return EXIT_OK


def _show_skipped(report: Report) -> None:
    for why, times in report.skipped.items():
        print(f"skipped: {times} ({why})")


def _ending(content_type: str, body: bytes) -> str:
    """The extension of a file that says what is in it; curl calls JSON a form."""
    plain = content_type.partition(";")[0].strip().lower() or "application/json"
    known = {kind: ending for ending, kind in reversed(EXTENSIONS.items())}
    found = known.get(plain) or mimetypes.guess_extension(plain) or ""
    try:
        if not found:
            parse_json(body)
        return found or ".json"
    except (ValueError, RecursionError):
        return ""


def _usable(path: Path, report: Report) -> Iterator[Record]:
    """The records that can be scored again; the others are counted."""
    for record in read(path):
        if isinstance(record, Record):
            yield record
            continue
        report.skipped[record.why] += 1
        if record.why == NO_RECORD and report.skipped[NO_RECORD] <= _MOST_NAMED:
            log.warning("%s is %s.", record.where, NO_RECORD)


async def _scored(runtime: Runtime, request: ScoringRequest) -> tuple[int, str, bytes]:
    """Status, content type and body of the answer."""
    try:
        response = await runtime.score(request)
        body = await runtime.whole(response.body, True)
    except ScoringRuntimeError as error:
        response = told(error) or message_response(500, INTERNAL)
        body = await runtime.whole(response.body)
    kind = dict(response.headers).get(b"content-type", b"").decode("latin-1")
    return response.status, kind, body


def _change(record: Record, status: int, kind: str, body: bytes) -> Change:
    """The largest; its distance is 0 if there is none."""
    before = record.status
    if before != status or before >= 400:
        return Change(0.0 if before == status else math.inf, "status", before, status)
    if kind != record.kind:
        return Change(math.inf, "content-type", record.kind, kind)
    return _largest(record.answer, body)


def _largest(before: bytes, after: bytes) -> Change:
    if before == after:
        return _NONE
    try:
        values = parse_json(before), parse_json(after)
    except (ValueError, RecursionError):
        return Change(math.inf, "the bytes", f"{len(before)} bytes", f"{len(after)} bytes")
    changes = (Change(distance(*pair), _path(at), *pair) for *pair, at in leaves(*values))
    return max(changes, key=lambda each: each.distance, default=_NONE)


def _path(place: Place) -> str:
    return "$" + "".join(f".{each}" if isinstance(each, str) else f"[{each}]" for each in place)


def _short(value: object) -> str:
    text = printable(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
