"""Worker processes on the same sockets, and the process that looks after them."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

from ..messages import ScoringRequest
from ..telemetry import standard_streams
from ..telemetry.logs import began, log
from .line import Line
from .sharing import Load, counts_of

EXIT_OK, EXIT_USAGE, EXIT_CANNOT_START, EXIT_STUCK = 0, 1, 3, 5
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_QUICK_END_SECONDS = _LONGEST_PAUSE = 30.0
_SHARED_BYTES = 64 * 1024
_ID = ctypes.c_wchar * 129
_ID_AT = ctypes.alignment(_ID)
_TEXT_AT = _ID_AT + ctypes.sizeof(_ID)
_READY, _WORN, _RELEASED, _HURRIED = range(4)  # the bytes before that id
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Crew(NamedTuple):
    """Workers that serve the same.

    ``work`` is what each does; its result is the exit code of the process. ``counts`` are their
    connections.
    """

    work: Callable[[Supervision], int]
    counts: ctypes.Array[ctypes.c_int32]


class Supervision:
    """What a worker and its supervisor know of each other, in memory that both see: whether the
    worker is ready, is to be replaced, has been, and a text. ``quick_ends`` workers in a row before
    it have ended quickly."""

    load: Load
    """Its connections, which the other workers see; and its place among them, whose page of metrics
    it has."""
    crew: Crew
    line: Line | None = None
    """Where it is told, and asks, more than that; there is one where its crew can be replaced."""
    changes: Mapping[str, Any] = {}
    """What has become of changes of the model so far."""
    old_answers = -1
    """Of a candidate, which is to load and compare a new version and to wait then: an open file."""

    def __init__(self, quick_ends: int) -> None:
        self.pause = min(2.0 ** (quick_ends - 2), _LONGEST_PAUSE) if quick_ends > 1 else 0.0
        self._quick_ends = quick_ends
        self._born = time.monotonic() + self.pause
        self._supervisor = os.getpid()
        self._shared = mmap.mmap(-1, _SHARED_BYTES)
        self._last_id = _ID.from_buffer(self._shared, _ID_AT)

    def tell(self, why: str) -> None:
        """In the worker: why it cannot start."""
        text = why.encode(errors="replace")[: _SHARED_BYTES - _TEXT_AT]
        self._shared[_TEXT_AT : _TEXT_AT + len(text)] = text

    def began(self, request: ScoringRequest) -> None:
        """In a scoring thread of the worker, at each request that it begins: its id."""
        began(request)
        self._last_id.value = request.request_id[:128]

    def tell_ready(self) -> None:
        """In the worker: it has started."""
        self._tell_supervisor(_READY)

    @property
    def was_ready(self) -> bool:
        """Whether the worker had started."""
        return bool(self._shared[_READY])

    def ask_for_successor(self, why: str) -> None:
        """In the worker: it is to be replaced, and serves until it has been."""
        self.tell(why)
        self._tell_supervisor(_WORN)

    @property
    def is_worn(self) -> bool:
        """Whether the worker is to be replaced."""
        return bool(self._shared[_WORN])

    def release(self) -> None:
        """Its successor is ready: the worker is to end what it has begun."""
        self._shared[_RELEASED] = 1

    @property
    def is_released(self) -> bool:
        """Whether its successor is ready."""
        return bool(self._shared[_RELEASED])

    def hurry(self) -> None:
        """A second signal has come: the worker is to drain no longer."""
        self._shared[_HURRIED] = 1

    @property
    def is_hurried(self) -> bool:
        """Whether a second signal has come; of two that come at once a process sees one."""
        return bool(self._shared[_HURRIED])

    def _tell_supervisor(self, place: int) -> None:
        self._shared[place] = 1
        os.kill(self._supervisor, signal.SIGCHLD)  # which makes it look

    @property
    def is_candidate(self) -> bool:
        """Whether it waits for its crew, once it is ready."""
        return self.old_answers >= 0

    @property
    def told(self) -> str:
        """Why the worker cannot start, or nothing."""
        return self._shared[_TEXT_AT:].partition(b"\0")[0].decode(errors="replace")

    @property
    def last_id(self) -> str:
        """The id of the request that the worker began last, or nothing."""
        return self._last_id.value

    def next(self) -> Supervision:
        """That of the worker that replaces this one."""
        quick = time.monotonic() - self._born < _QUICK_END_SECONDS
        return Supervision(self._quick_ends + 1 if quick else 0)

    @property
    def has_ended(self) -> bool:
        """Whether the workers are alone: it was killed."""
        return os.getppid() != self._supervisor

    def bind(self) -> None:
        """Have Linux kill this worker as soon as the supervisor is gone, however that ends."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if self.has_ended:
            os._exit(EXIT_USAGE)


class Supervisor:
    """Worker processes on the same sockets; one that dies is replaced, after pauses that grow
    when that goes on; one that cannot start stops them all, and so does the only one if it has
    never been ready. One that is worn is released once its successor is ready, one at a time.

    ``work`` is what a worker process does; its result is that process's exit code.
    """

    _woken_by: socket.socket

    def __init__(
        self, count: int, sockets: list[socket.socket], work: Callable[[Supervision], int]
    ) -> None:
        self._count = count
        self._sockets = sockets
        self._workers: dict[int, Supervision] = {}
        self._crew = Crew(work, counts_of(count + 1))
        self._worn: Supervision | None = None
        self._successor: Supervision | None = None
        self._stopping = self._worked = False
        self._exit_code = EXIT_OK

    def run(self) -> int:
        """Start the workers and stay until they have ended; the exit code of the process."""
        self._woken_by = _woken_by_signals()
        for each in END_SIGNALS:
            signal.signal(each, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for _ in range(self._count):
            self._fork(Supervision(0), self._crew)
        why = ""
        while self._workers:
            self._wait()
            for pid, status in _ended_children():
                if pid in self._workers:  # and no child of the script, which init() may have begun
                    why = self._ended(pid, os.waitstatus_to_exitcode(status)) or why
            self._renew()
        if why:
            # Now that all have ended: it is said once, and nothing is logged after it.
            print(why, file=sys.stderr, flush=True)
        return self._exit_code

    def _wait(self) -> None:
        """Until a signal has come."""
        self._woken_by.recv(4096)

    def _fork(self, supervision: Supervision, crew: Crew) -> None:
        supervision.crew = crew
        sys.stdout.flush()
        with _no_end_meanwhile():
            if self._stopping:
                return
            taken = {each.load.place for each in self._workers.values() if each.crew is crew}
            place = next(each for each in range(self._count + 1) if each not in taken)
            supervision.load = Load(crew.counts, place)
            pid = os.fork()
            if pid:
                self._workers[pid] = supervision
                return
            signal.set_wakeup_fd(-1)
            for each in (*END_SIGNALS, signal.SIGCHLD):
                signal.signal(each, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        supervision.bind()
        time.sleep(supervision.pause)  # here, since the supervisor has others to look after
        code = EXIT_USAGE
        try:
            code = crew.work(supervision)
        except BaseException:
            log.exception("The worker failed")
        sys.stdout.flush()
        sys.stderr.flush()
        if self._count == 1 and (supervision.was_ready or not supervision.is_candidate):
            sys.exit(code)  # with what the script has left to be done at the end
        standard_streams.settle()
        os._exit(code)

    def _renew(self) -> None:
        """Begin to replace a worker that is worn, or release it when its successor is ready."""
        if self._worn is None:
            self._worn = next((each for each in self._workers.values() if each.is_worn), None)
            if self._worn is not None:
                self._successor = Supervision(0)
                self._fork(self._successor, self._crew)
        elif self._successor is not None and self._successor.was_ready:
            self._worn.release()
            self._successor = None

    def _ended(self, pid: int, code: int) -> str:
        """Replace a worker; or why none can start, now that all are told to end."""
        ended = self._workers.pop(pid)
        ended.load.leave()
        if self._stopping or self._is_of_another(ended, pid, code):
            return ""
        if self._is_replaced(ended, pid, code):
            return ""
        if code == EXIT_CANNOT_START and not ended.was_ready:
            self._exit_code = EXIT_CANNOT_START
            self._stop()
            return ended.told
        self._worked = self._worked or ended.was_ready
        if self._count == 1 and not self._worked:
            self._exit_code = EXIT_CANNOT_START
            return f"The worker ended with {how(code)} before it was ready."
        following = ended.next()
        pause = f" in {following.pause:g} s" if following.pause else ""
        last = ended.last_id and f" The last request that it began to score was {ended.last_id}."
        log.error("Worker %s ended with %s; starting another%s.%s", pid, how(code), pause, last)
        self._fork(following, self._crew)
        return ""

    def _is_of_another(self, ended: Supervision, pid: int, code: int) -> bool:
        """Whether it was of another crew than that which serves now: it needs no successor."""
        if ended.crew is self._crew:
            return False
        if ended.is_released:
            level = logging.INFO if code == EXIT_OK else logging.ERROR
            log.log(level, "Worker %s ended with %s, replaced by a new version", pid, how(code))
        return True

    def _is_replaced(self, ended: Supervision, pid: int, code: int) -> bool:
        """Whether it was worn and has a successor, or was a successor, and there is another now."""
        if ended is self._worn:
            level = logging.INFO if ended.is_released and code == EXIT_OK else logging.ERROR
            log.log(level, "Worker %s ended with %s, replaced: it %s", pid, how(code), ended.told)
            self._worn = self._successor = None
            return True
        if ended is not self._successor:
            return False
        self._successor = following = ended.next()
        log.error(
            "Worker %s, which was to replace another, ended with %s; starting another in %g s.%s",
            *(pid, how(code), following.pause, ended.told and f"\n{ended.told}"),
        )
        self._fork(following, self._crew)
        return True

    def _stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        for each in self._workers.values() if self._stopping else ():
            each.hurry()
        self._stopping = True
        for listener in self._sockets:
            listener.close()
        for pid in list(self._workers):
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


def _woken_by_signals() -> socket.socket:
    """What can be read once a signal has come.

    ``waitpid()`` would sleep on for one that comes right before it: Python calls a handler only
    between two of its own instructions.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(True)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    return reader


def _ended_children() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def how(code: int) -> str:
    """How a process with this code ended."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
