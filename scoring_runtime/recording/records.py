"""One record: a request and its answer as one line of JSON, written and read.

``body`` is text, ``body64`` bytes in base64, ``left_out`` the reason why neither is there. A body
that came compressed is kept as what it was made of.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ..errors import InputError, InputTooLarge
from ..messages import Headers, ScoringRequest
from ..values.body import decompressed
from .redaction import LeftOut, Redaction

_LONGEST_LINE = 1 << 28
_OF_THE_WAY = frozenset({"content-encoding", "content-length", "transfer-encoding", "connection"})


class Entry(NamedTuple):
    """One request and its answer, as they are handed to the thread that writes."""

    when: float
    """When it was answered, in seconds since 1970."""
    trigger: str
    request: ScoringRequest
    """Without a body that is too large."""
    size: int
    """Bytes of its body."""
    status: int
    headers: Headers
    body: bytes | None
    """None where the answer was streamed, or is too large."""
    seconds: float
    """From the call to the answer."""
    run_ms: float


def line_of(entry: Entry, model: str, redaction: Redaction, limit: int) -> bytes:
    """The line, with its end.

    Args:
        entry: what happened.
        model: name and version of what has scored; nothing where that is not known.
        redaction: hides what is not to be kept.
        limit: bytes that a body may have, decompressed.
    """
    request, answer = entry.request, dict(entry.headers)
    encoding = request.header(b"content-encoding")
    query = redaction.query(request.query) if request.query else ""
    is_hidden = request.method == "GET" and query.encode("latin-1") != request.query
    found = {
        "time": datetime.fromtimestamp(entry.when, UTC).isoformat(timespec="microseconds"),
        "trigger": entry.trigger,
        "id": request.request_id,
        "model": model,
        "asked": request.model,
        "method": request.method,
        "path": request.path,
        "query": query,
        "headers": _without_framing(redaction, request.headers),
        **({"redacted": True} if is_hidden else {}),  # the query is the input
        **_body(request.body, entry.size, encoding, redaction, limit),
        "answer": {
            "status": entry.status,
            "headers": _without_framing(redaction, entry.headers),
            **_body(entry.body, -1, answer.get(b"content-encoding", b""), redaction, limit),
        },
        "ms": round(entry.seconds * 1000, 3),
        "run_ms": round(entry.run_ms, 3),
    }
    return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)


def _without_framing(redaction: Redaction, lines: Headers) -> list[tuple[str, str]]:
    return [line for line in redaction.headers(lines) if line[0] not in _OF_THE_WAY]


def _body(
    body: bytes | None, size: int, encoding: bytes, redaction: Redaction, limit: int
) -> dict[str, object]:
    kept_are = f"{limit} are kept (SCORING_RECORD_MAX_BODY_KB)"
    if body is None or max(size, len(body)) > limit:
        said = f"it has {size} bytes" if size >= 0 else "it was streamed, or is larger"
        return {"left_out": f"{said}, and {kept_are}"}
    try:
        plain = decompressed(body, encoding, limit) if encoding else body
        kept, hidden = redaction.body(plain)
    except InputTooLarge:
        return {"left_out": f"decompressed it has more bytes, and {kept_are}"}
    except (InputError, LeftOut) as error:
        return {"left_out": str(error)}
    found: dict[str, object] = {"redacted": True} if hidden else {}
    try:
        return {"body": kept.decode(), **found}
    except UnicodeDecodeError:
        return {"body64": b64encode(kept).decode(), **found}


class Record(NamedTuple):
    """A request and its answer as they were read; ``where`` is file and line."""

    where: str
    request: ScoringRequest
    status: int
    kind: str
    """The content type of the answer."""
    answer: bytes


class Unusable(NamedTuple):
    """A line that cannot be scored again, and why."""

    where: str
    why: str


NO_RECORD = "no whole record, as the last line of a killed process"


def read(path: Path) -> Iterator[Record | Unusable]:
    """The lines of a file, or of all files below a folder in the order of their names; one of them
    is in memory.

    Raises:
        OSError: a file cannot be read.
    """
    for file in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]:
        with file.open("rb") as lines:
            for number in count(1):
                if not (line := lines.readline(_LONGEST_LINE)):
                    break
                yield _read(f"{file}:{number}", line)


def _read(where: str, line: bytes) -> Record | Unusable:
    try:
        said = orjson.loads(line)
        why = _why_not(said)
        return Unusable(where, why) if why else _record(where, said)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Unusable(where, NO_RECORD)


def _why_not(said: Mapping[str, Any]) -> str:
    answer = said["answer"]
    if answer["status"] == 503 and said["run_ms"] < 0:
        return "it was not scored (503)"
    if any(name == "x-input-key" for name, _ in said["headers"]):
        return "its input was named by a key"
    if "left_out" in said or "left_out" in answer:
        return "a body was left out"
    return "something in a body is hidden" if "redacted" in said or "redacted" in answer else ""


def _record(where: str, said: Mapping[str, Any]) -> Record:
    answer = said["answer"]
    request = ScoringRequest(
        _bytes(said),
        [(name.encode("latin-1"), value.encode("latin-1")) for name, value in said["headers"]],
        said["method"],
        said["path"],
        said["query"].encode("latin-1"),
        request_id=said["id"],
        model=said["asked"],
        patient=said["trigger"] != "http",
    )
    kinds = (value for name, value in answer["headers"] if name == "content-type")
    return Record(where, request, int(answer["status"]), next(kinds, ""), _bytes(answer))


def _bytes(said: Mapping[str, Any]) -> bytes:
    return b64decode(said["body64"]) if "body64" in said else bytes(said["body"], "utf-8")
