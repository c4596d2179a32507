"""The documents of all parts as one file, in order; what has no result in a file beside it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import RunFailed
from ..standalone.folder import FolderClaim
from ..standalone.place import Found
from .parts import Missing, Parts
from .plan import CSV, Part
from .rows import nothing, split_head

_PAUSE_SECONDS = 0.2


def missing_file(target: Path) -> Path:
    """The file that says which inputs have no result, one a line."""
    return target.with_name(f"{target.name}.errors.jsonl")


def join(parts: Parts, kind: str) -> None:
    """Join the documents, or wait until another process has, and remove them.

    Args:
        parts: opened, each with a receipt.
        kind: CSV or JSON Lines; or empty, to write the documents as they are.

    Raises:
        RunFailed: the documents do not go together; the message says which.
    """
    claim = FolderClaim(parts, Found("whole", "0", 0), "whole")
    while not parts.is_joined():
        if not claim.lock():
            time.sleep(_PAUSE_SECONDS)
            continue
        try:
            if not parts.is_joined():
                _write(parts, kind)
        finally:
            claim.unlock(done=True)
    shutil.rmtree(parts.folder, ignore_errors=True)


def left_out(target: Path) -> list[Missing]:
    """What the output has no result for."""
    try:
        lines = missing_file(target).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [Missing(**json.loads(each)) for each in lines]


def _write(parts: Parts, kind: str) -> None:
    beside = parts.folder / "joined"
    missing: list[Missing] = []
    with beside.open("wb") as file:
        _write_lines(_documents(parts, missing), kind, file)
        file.flush()
        os.fsync(file.fileno())
    os.utime(beside, ns=(parts.receipt, parts.receipt))
    errors = missing_file(parts.target)
    if missing:
        texts = "".join(json.dumps(each._asdict()) + "\n" for each in missing)
        (parts.folder / "errors").write_text(texts)
        os.replace(parts.folder / "errors", errors)
    else:
        errors.unlink(missing_ok=True)
    os.replace(beside, parts.target)


def _documents(parts: Parts, missing: list[Missing]) -> Iterator[tuple[Part, bytes | None]]:
    """Each part, and its document if it has one."""
    for part in parts.parts.values():
        body = parts.written(part, "out")
        rows = parts.written(part, "rows.json")
        if rows is not None:
            missing += [Missing(**each) for each in json.loads(rows)]
        elif body is None:
            said = json.loads(parts.written(part, "error.json") or b"{}").get("message", "")
            missing.append(Missing(part.first, part.rows, 500, "", said))
        yield part, body


def _write_lines(documents: Iterator[tuple[Part, bytes | None]], kind: str, file: BinaryIO) -> None:
    """One after the other; a CSV with its line of names once."""
    head, before = b"", 0  # rows without a result before the first document
    for part, body in documents:
        if body is None:
            if kind:
                before += part.rows if kind == CSV and not head else 0
                file.write(b"" if kind == CSV and not head else nothing(head, kind) * part.rows)
            continue
        if kind == CSV:
            found, body = split_head(body, CSV)
            if not head:
                head = found
                file.write(head + nothing(head, kind) * before)
            elif found != head:
                raise RunFailed(
                    f"The result of rows {part.first} to {part.first + part.rows - 1} has the "
                    f"columns {found.decode().strip()}, and those before {head.decode().strip()}: "
                    "they cannot be one CSV. Name an output that ends in .jsonl."
                )
        file.write(body)
