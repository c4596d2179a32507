"""Standard output and error that never wait for their reader, nor raise when it is gone.

A pipe that nobody reads, or a file on a full disk, would else block or fail whoever logs. What
cannot be written at once waits in memory, up to a bound, for a thread that writes it later; what is
beyond the bound is lost, counted, and said when writing works again.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from typing import Any

MOST_WAITING_BYTES = 8 << 20
"""What waits for one stream at most; one text alone may be longer."""
_RETRY_SECONDS = 0.5
_outlets: list[Outlet] = []


class Outlet(io.FileIO):
    """The binary side of a standard stream.

    Its descriptor is neither changed nor closed, as other processes share it.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._target, self._blocks = _unblocked(descriptor)
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # the thread is not there

    def write(self, data: Any, /) -> int:
        """Write now if that takes no time, else later; from any thread."""
        kept = bytes(data)
        with self._changed:
            at_once = 0 if self._blocks or self._waiting else self._written(kept)
            if at_once < len(kept):
                self._keep(memoryview(kept)[at_once:])
        return len(kept)

    def settle(self, seconds: float = 0.5) -> None:
        """Wait until all is written, this long at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[memoryview] = deque()
        self._bytes = self._lost = 0
        self._writes_on = False

    def _keep(self, rest: memoryview) -> None:
        if self._waiting and self._bytes + len(rest) > MOST_WAITING_BYTES:
            self._lost += bytes(rest).count(b"\n")
            return
        self._waiting.append(rest)
        self._bytes += len(rest)
        if not self._writes_on:
            with contextlib.suppress(RuntimeError):  # no more threads, or at the very end
                threading.Thread(target=self._write_on, name="log", daemon=True).start()
                self._writes_on = True
        self._changed.notify_all()

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                first = self._waiting[0]
            done = self._written(first, patient=True)
            with self._changed:
                self._bytes -= done
                self._waiting[0] = first[done:]
                if done == len(first):
                    self._waiting.popleft()
                if not self._waiting and self._lost:
                    said = f"{self._lost} lines that could not be written here are lost.\n"
                    self._lost = 0
                    self._keep(memoryview(said.encode()))
                self._changed.notify_all()

    def _written(self, data: bytes | memoryview, *, patient: bool = False) -> int:
        try:
            return os.write(self._target, data)
        except BlockingIOError:
            if patient:
                select.select([], [self._target], [], _RETRY_SECONDS)
        except OSError:
            if patient:
                time.sleep(_RETRY_SECONDS)
        return 0


def install() -> None:
    """Put outlets in the place of the process's own ``sys.stdout`` and ``sys.stderr``, once.

    A stream that somebody has put there already stays, and so do Windows', which may be no files.
    """
    for name in ("stdout", "stderr") if os.name == "posix" else ():
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            with contextlib.suppress(OSError):
                stream.flush()
            outlet = Outlet(stream.fileno())
            outlet.name = stream.name
            _outlets.append(outlet)
            made = io.TextIOWrapper(outlet, stream.encoding, "backslashreplace", write_through=True)
            setattr(sys, name, made)
            atexit.register(outlet.settle)


def settle() -> None:
    """Wait for what has not been written yet, for a moment; before the process ends."""
    for each in _outlets:
        each.settle()


def _unblocked(descriptor: int) -> tuple[int, bool]:
    """A descriptor to write to, and whether a write to it may wait.

    ``O_NONBLOCK`` would be that of every process that shares the pipe, so it is opened once more.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode):
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{descriptor}", flags), False
    return descriptor, not stat.S_ISREG(mode)
