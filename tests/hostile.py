"""Small bodies that would take long, or much memory: ``python -m tests.hostile NAME`` reads one.

It prints the seconds of processor time, the megabytes of memory, and how it was refused.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scoring_runtime import ScoringRequest, Settings
from scoring_runtime.errors import InputError
from scoring_runtime.formats import by_content_type

LIMITS = Settings().limits
_MOST = LIMITS.bytes - 100
_CSV, _LINES, _NPY = "text/csv", "application/jsonl", "application/x-npy"


class Hostile(NamedTuple):
    """A body, made when it is read; the codings to make it small with; how it is refused."""

    body: Callable[[], bytes]
    refusal: str
    content_type: str = "application/json"
    codings: int = 1
    path: str = "/score"
    coded: int = 0  # how many of the codings the body has already


def _numbered(one: str, times: int, between: str = ",") -> str:
    return between.join(one.replace("#", str(number)) for number in range(times))


def _records(between: str) -> bytes:
    return _numbered('{"k#":1}', 500_000, between).encode()


def _members() -> bytes:
    one = gzip.compress(b"")
    return one * (_MOST // len(one))


_COLUMNS = r"has \d+ (columns|inputs); at most 10000 are taken at once \(SCORING_MAX_COLUMNS\)"
_QUOTED = b'"' + b"\n" * 130_000 + b'"\n'
_MANY = "10 x SCORING_MAX_ROWS"
_MEMORY = r"of memory once read; at most 10 times SCORING_MAX_BODY_BYTES \(104857600\)"
_VALUES = r"at most 20000000 are taken at once \(SCORING_MAX_VALUES\)"
_TENSOR = '{"name":"k#","datatype":"FP64","shape":[1],"data":[1]}'
BODIES = {
    "CSV of line ends": Hostile(lambda: b"\n" * _MOST, _MANY, _CSV),
    "CSV of carriage returns": Hostile(lambda: b"a\n" + b"\r" * _MOST, _MANY, _CSV),
    "CSV of quoted line ends": Hostile(lambda: _QUOTED * (_MOST // len(_QUOTED)), _MANY, _CSV),
    "CSV of spaces": Hostile(lambda: b" \n" * (_MOST // 2), "SCORING_MAX_ROWS", _CSV),
    "CSV of commas": Hostile(lambda: b"," * _MOST, _VALUES, _CSV),
    "CSV of columns": Hostile(
        lambda: f"{_numbered('c#', 80_000)}\n{_numbered('1', 80_000)}\n".encode(), _COLUMNS, _CSV
    ),
    "members": Hostile(_members, "more than 250000 members", _CSV, 2, coded=1),
    "members thrice": Hostile(_members, "more than 250000 members", _CSV, 3, coded=1),
    "codings": Hostile(lambda: b"1" * _MOST, "lists 40 codings. Allowed: at most 3", _CSV, 40),
    "JSON Lines of line ends": Hostile(lambda: b"\n" * _MOST, _MEMORY, _LINES),
    "JSON Lines of new keys": Hostile(
        lambda: _records("\n"), _COLUMNS, _LINES
    ),
    "records of new keys": Hostile(
        lambda: b'{"dataframe_records":[' + _records(",") + b"]}", _COLUMNS
    ),
    "instances of new keys": Hostile(
        lambda: b'{"inputs":[' + _records(",") + b"]}", _COLUMNS
    ),
    "inputs by name": Hostile(
        lambda: b'{"inputs":' + _records(",").replace(b"},{", b",") + b"}", _COLUMNS
    ),
    "V2 of inputs": Hostile(
        lambda: f'{{"inputs":[{_numbered(_TENSOR, 300_000)}]}}'.encode(), _COLUMNS,
        path="/v2/models/m/infer",
    ),
    "JSON of rows": Hostile(lambda: b"[" + b"[1]," * 10_000_000 + b"[1]]", _MEMORY),
    "JSON of objects": Hostile(lambda: b'{"data":[' + b"{}," * 33_000_000 + b"{}]}", _VALUES),
    "JSON of small objects": Hostile(
        lambda: b'{"data":[' + b'{"a":1},' * 8_000_000 + b"{}]}", _MEMORY
    ),
    "JSON of depth": Hostile(lambda: b"[" * _MOST, _MEMORY),
    "JSON of one number": Hostile(lambda: b"[" + b"1" * _MOST + b"]", "could not be decoded"),
}  # fmt: skip


def _peak_kilobytes() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def main(name: str) -> None:
    """Read one and print what it took."""
    hostile = BODIES[name]
    body = hostile.body()
    for _ in range(hostile.codings - hostile.coded):
        body = gzip.compress(body, 1 if hostile.codings > 3 else 6)
    headers = [
        (b"content-type", hostile.content_type.encode()),
        (b"content-encoding", b", ".join([b"gzip"] * hostile.codings)),
    ]
    # ru_maxrss would hold the peak of the process that called exec(), and of what made the body.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kilobytes()
    began = time.process_time()
    refusal = ""
    try:
        by_content_type.read(ScoringRequest(body, headers, path=hostile.path), LIMITS)
    except InputError as error:
        refusal = str(error)
    seconds = time.process_time() - began
    more = (_peak_kilobytes() - before) / 1024
    print(json.dumps([seconds, more, refusal]))


if __name__ == "__main__":
    main(sys.argv[1])
