"""Worker processes on the same sockets, and the process that looks after them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from .. import standard_streams
from ..telemetry import log

EXIT_OK, EXIT_USAGE, EXIT_CANNOT_START, EXIT_STUCK = 0, 1, 3, 5
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_TOLD = 60_000  # a pipe holds 65,536 bytes


class Supervision:
    """What a worker knows of the process that supervises it."""

    def __init__(self) -> None:
        self._supervisor = os.getpid()
        self._told, self._telling = os.pipe()
        os.set_blocking(self._told, False)
        os.set_blocking(self._telling, False)

    def tell(self, why: str) -> None:
        """In a worker: why it cannot start."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._telling, why.encode(errors="replace")[:_LONGEST_TOLD] + b"\0")

    def told(self) -> str:
        """In the supervisor: what the first worker has told, or nothing."""
        try:
            return os.read(self._told, 2 * _LONGEST_TOLD).split(b"\0")[0].decode(errors="replace")
        except BlockingIOError:
            return ""

    @property
    def has_ended(self) -> bool:
        """Whether the workers are alone: it was killed."""
        return os.getppid() != self._supervisor


class Supervisor:
    """Worker processes on the same sockets; one that dies is replaced, one that cannot start
    stops them all.

    ``work`` is what a worker process does; its result is that process's exit code.
    """

    def __init__(
        self, count: int, sockets: list[socket.socket], work: Callable[[Supervision], int]
    ) -> None:
        self._count = count
        self._sockets = sockets
        self._work = work
        self._supervision = Supervision()
        self._born: dict[int, float] = {}
        self._stopping = False
        self._exit_code = EXIT_OK

    def run(self) -> int:
        """Start the workers and stay until they have ended; the exit code of the process."""
        for each in END_SIGNALS:
            signal.signal(each, self._stop)
        for _ in range(self._count):
            self._fork()
        while self._born:
            pid, status = os.waitpid(-1, 0)
            if pid in self._born:  # and not a child of the script, which init() may have begun
                self._ended(pid, os.waitstatus_to_exitcode(status))
        if self._exit_code == EXIT_CANNOT_START:
            # Now that all have ended: it is said once, and nothing is logged after it.
            print(self._supervision.told(), file=sys.stderr, flush=True)
        return self._exit_code

    def _fork(self) -> None:
        sys.stdout.flush()
        with _no_end_meanwhile():
            if self._stopping:
                return
            pid = os.fork()
            if pid:
                self._born[pid] = time.monotonic()
                return
            for each in END_SIGNALS:
                signal.signal(each, signal.SIG_DFL)
        code = EXIT_USAGE
        try:
            code = self._work(self._supervision)
        except BaseException:
            log.exception("The worker failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            standard_streams.settle()
            os._exit(code)

    def _ended(self, pid: int, code: int) -> None:
        age = time.monotonic() - self._born.pop(pid)
        if self._stopping:
            return
        if code == EXIT_CANNOT_START:
            self._exit_code = EXIT_CANNOT_START
            self._stop()
            return
        log.error("Worker %s ended with %s; starting another.", pid, _how(code))
        time.sleep(max(0.0, 1.0 - age))
        self._fork()

    def _stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        self._stopping = True
        for listener in self._sockets:
            listener.close()
        for pid in list(self._born):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def _no_end_meanwhile() -> Iterator[None]:
    """A signal between fork and its record would miss the worker, or be passed on by it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
