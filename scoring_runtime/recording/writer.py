"""What is kept goes to files in a thread of its own; whoever hands something over never waits."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from time import gmtime, monotonic, sleep, strftime, time
from typing import NamedTuple
from zlib import crc32

from ..telemetry.logs import log
from ..telemetry.metrics import Number

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where there is one process
    fcntl = None  # type: ignore[assignment]

_PAUSE_SECONDS = 0.05
_AT_ONCE, _BREATH_SECONDS = 32, 0.0002
_MOST_WAITING = 10_000
_MOST_BYTES = 64 * 1024 * 1024
_LARGEST_SEGMENT = 16 * 1024 * 1024
_LOOK_SECONDS = 60.0
_SAY_SECONDS = 60.0
# A file of another process that has not changed for so long is whole, or its process is gone.
_ABANDONED_SECONDS = 300.0


class Part(NamedTuple):
    """Lines for a file: ``head`` begins it. ``target`` ends with ``/`` where each process has files
    of its own below it."""

    target: str
    data: bytes
    head: bytes = b""


Make = Callable[[], Part]


class Writer:
    """Writes what it is given, from any thread, to the files of a folder.

    What waits is bounded, and what there is no room for is dropped: counted, and said once a
    minute. So is what the disk does not take. A file is whole lines, whatever happens.

    Args:
        folder: of the files; it is there.
        most_bytes: of all files together; then the oldest are removed.
        segment_seconds: after that a process begins another file.
        kept: counts what is written.
        dropped: counts what is not.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        segment_seconds: float,
        kept: Number,
        dropped: Number,
    ) -> None:
        self.folder = folder
        self._most_bytes, self._segment_seconds = most_bytes, segment_seconds
        self._segment_bytes = min(_LARGEST_SEGMENT, max(most_bytes // 16, 4096))
        self._kept, self._dropped = kept, dropped
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._waiting: list[Make] = []
        self._bytes = self._refused = 0
        self._open: dict[str, tuple[Path, float]] = {}
        self._number = self._since_look = self._lost = 0
        self._why, self._looked, self._said = "", 0.0, -_SAY_SECONDS
        self._is_full = False
        self._process = f"{socket.gethostname()}-{os.getpid()}"
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def put(self, make: Make, size: int) -> None:
        """Have what ``make`` gives written; it is called in the thread that writes.

        Args:
            make: gives it; it may raise.
            size: bytes that it holds until then.
        """
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING or self._bytes + size > _MOST_BYTES:
                self._refused += 1
                return
            self._waiting.append(make)
            self._bytes += size

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits; no longer than ``seconds``."""
        self._stopping.set()
        self._thread.join(seconds)

    def finished(self) -> list[Path]:
        """The files that nobody writes to any more, the oldest names first."""
        return sorted(path for changed, _, path in self._files() if self._is_done(path, changed))

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each was changed, in seconds since 1970, its size and its path."""
        found = []
        for path in self.folder.rglob("*"):
            with suppress(OSError):  # it is gone meanwhile
                about = path.stat()
                if S_ISREG(about.st_mode):
                    found.append((about.st_mtime, about.st_size, path))
        return found

    def _is_done(self, path: Path, changed: float) -> bool:
        with self._lock:
            current = {path for path, _ in self._open.values()}
        is_ours = self._process in path.name
        return path not in current and (is_ours or changed < time() - _ABANDONED_SECONDS)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(_PAUSE_SECONDS)
            with self._lock:
                makes, self._waiting, self._bytes = self._waiting, [], 0
                refused, self._refused = self._refused, 0
            if refused:
                self._lose(refused, "they come quicker than they are written")
            self._write(makes)
            try:
                self._look()
            except OSError as error:
                self._lose(0, f"{self.folder} cannot be looked through: {error.strerror}")
            if self._why and (stopping or monotonic() - self._said >= _SAY_SECONDS):
                self._say()
        with self._lock:
            self._open.clear()

    def _write(self, makes: list[Make]) -> None:
        parts: dict[tuple[str, bytes], list[bytes]] = {}
        for number, make in enumerate(makes):
            if number % _AT_ONCE == _AT_ONCE - 1:
                sleep(_BREATH_SECONDS)  # others wait for the interpreter
            try:
                part = make()
            except Exception as error:
                self._lose(1, f"a record cannot be made: {type(error).__name__}: {error}")
            else:
                parts.setdefault((part.target, part.head), []).append(part.data)
        for (target, head), lines in parts.items():
            try:
                self._append(target, head, b"".join(lines))
            except OSError as error:
                self._lose(len(lines), f"{self.folder} cannot be written to: {error.strerror}")
            else:
                self._kept.add(len(lines))

    def _append(self, target: str, head: bytes, data: bytes) -> None:
        if self._is_full:
            raise OSError(0, "it holds as much as SCORING_RECORD_MAX_MB allows")
        path = self._path(target, head)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            if fcntl is not None and not target.endswith("/"):
                fcntl.flock(file, fcntl.LOCK_EX)  # all processes write to it
            before = os.fstat(file.fileno()).st_size
            data = data if before else head + data
            try:
                if file.write(data) < len(data):
                    raise OSError(0, "the disk is full")
            except OSError:
                file.truncate(before)
                raise
        self._since_look += len(data)
        if target in self._open and before + len(data) >= self._segment_bytes:
            self._end(target)

    def _path(self, target: str, head: bytes) -> Path:
        if not target.endswith("/"):
            return _with_head(self.folder / target, head)
        path, began = self._open.get(target, (None, 0.0))
        if path is None or monotonic() - began > self._segment_seconds:
            self._number += 1
            kind = "csv" if target.endswith(".csv/") else "jsonl"
            name = f"{strftime('%H%M%S', gmtime())}-{self._process}-{self._number}.{kind}"
            path = self.folder / target / name
            with self._lock:
                self._open[target] = path, monotonic()
        return path

    def _end(self, target: str) -> None:
        with self._lock:
            del self._open[target]

    def _look(self) -> None:
        """End what has been open for long enough, and remove the oldest files above the limit."""
        now = monotonic()
        for target, (_, began) in list(self._open.items()):
            if now - began > self._segment_seconds:
                self._end(target)
        written = self._since_look > self._most_bytes // 32
        if now - self._looked < _LOOK_SECONDS and not written:
            return
        self._looked, self._since_look = now, 0
        found = self._files()
        total = sum(size for _, size, _ in found)
        for changed, size, path in sorted(found) if total > self._most_bytes else ():
            if total > self._most_bytes and self._is_done(path, changed):
                path.unlink(missing_ok=True)
                total -= size
        self._is_full = total > self._most_bytes

    def _lose(self, count: int, why: str) -> None:
        self._dropped.add(count)
        self._lost, self._why = self._lost + count, why

    def _say(self) -> None:
        log.warning("%s records were not kept: %s.", self._lost, self._why)
        self._lost, self._why, self._said = 0, "", monotonic()


def _with_head(path: Path, head: bytes) -> Path:
    """The file, or one beside it where that one begins with other columns."""
    try:
        with path.open("rb") as file:
            same = file.readline(len(head)) == head
    except FileNotFoundError:
        same = True
    return path if same else path.with_stem(f"{path.stem}-{crc32(head):08x}")
