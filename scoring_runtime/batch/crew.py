"""The workers of a batch, and what they have done together."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

from ..errors import RunFailed, TriggerTrouble
from .files import standing
from .job import Job
from .joining import join, left_out, missing_file
from .parts import Missing, Parts
from .work import EXIT_STUCK, work

EXIT_OK, EXIT_REFUSED, EXIT_CANNOT_START, EXIT_FAILED, EXIT_INTERRUPTED = 0, 2, 3, 4, 130
_LOOK_SECONDS = 0.2
# What is in flight may end by itself for so long; then it is left to the next run.
_PATIENCE_SECONDS = 3.0
_MOST_DEATHS = 10
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_EARLIER = "in an earlier run"


@dataclass
class Tally:
    """Inputs (rows, or files) by what has become of them; ``before``: in an earlier run.

    At the end: the exit ``code``, ``why`` if it could not go on, and the file with the ``errors``.
    """

    total: int = 0
    scored: int = 0
    refused: int = 0
    failed: int = 0
    before: int = 0
    left: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    code: int = EXIT_OK
    why: str = ""
    errors: str = ""

    @property
    def here(self) -> int:
        """Those of this run."""
        return self.scored + self.refused + self.failed

    def add(self, done: int, missing: Sequence[Missing]) -> None:
        """Some more."""
        self.scored += done
        for each in missing:
            if each.status < 500:
                self.refused += each.rows
            else:
                self.failed += each.rows
            self.reasons[each.reason or "NotScored"] += each.rows


@contextmanager
def kept_signals() -> Iterator[None]:
    """Afterwards signals are handled as before."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Crew:
    """Worker processes, each replaced when it dies; what it had taken is taken up again.

    Args:
        show: is called now and then with what is done.
        threshold: how many inputs may have no result before all ends, -1: all of them; None: as
            -1, and the exit code tells of them.
    """

    def __init__(
        self, job: Job, show: Callable[[Tally], object], threshold: int | None = None
    ) -> None:
        self._job, self._show, self._threshold = job, show, threshold
        self.tally = Tally()
        self._parts: Parts | None = None
        self._workers: dict[Connection, Any] = {}
        self._ready: set[Connection] = set()
        self._deaths, self._kill_at = 0, 0.0

    def run(self, hire: Callable[[Crew], None] | None = None) -> Tally:
        """Score what is there; SIGINT and SIGTERM end it within seconds.

        ``hire`` has it done elsewhere than in processes of this one.
        """
        began, tally, job = monotonic(), self.tally, self._job
        try:
            self._survey()
            if tally.before < tally.total or job.follow:
                with self._signals():
                    (hire or Crew._work)(self)
            self._finish()
        except (RunFailed, TriggerTrouble) as error:
            self.end(EXIT_FAILED, str(error))
        except OSError as error:
            self.end(EXIT_FAILED, f"{error.filename or job.target}: {error.strerror}.")
        tally.seconds = round(monotonic() - began, 3)
        tally.left = max(0, tally.total - tally.before - tally.here)
        if tally.code == EXIT_OK and self._threshold is None and not job.follow:
            tally.code = EXIT_REFUSED if tally.refused or tally.reasons[_EARLIER] else EXIT_OK
            tally.code = EXIT_FAILED if tally.failed or tally.left else tally.code
        tally.reasons = +tally.reasons
        return tally

    def told(self, done: int, missing: Sequence[Missing]) -> None:
        """A worker has done more."""
        self._deaths = 0
        self.tally.add(done, missing)
        self._hold_to_threshold()

    def end(self, code: int, why: str) -> None:
        """Tell all workers to end."""
        if self.tally.code == EXIT_OK:
            self.tally.code, self.tally.why = code, why
        self._kill_at = self._kill_at or monotonic() + _PATIENCE_SECONDS
        for each in self._workers.values():
            each.terminate()

    def _hold_to_threshold(self) -> None:
        """End when more have no result than may have none, those of earlier runs included."""
        tally, most = self.tally, self._threshold
        bad = tally.refused + tally.failed + (0 if self._job.follow else tally.reasons[_EARLIER])
        if most is not None and 0 <= most < bad:
            said = f"{bad} inputs have no result; {most} may have none (--error-threshold)."
            self.end(EXIT_FAILED, said)

    def _survey(self) -> None:
        """What there is, and what of it is done."""
        job, tally = self._job, self.tally
        if job.parts is None:
            stands = asyncio.run(standing(job))
            tally.total, tally.before = stands.inputs, stands.scored + stands.errors
            tally.reasons[_EARLIER] = stands.errors
            return
        job.target.parent.mkdir(parents=True, exist_ok=True)
        parts = self._parts = Parts(job.settings, job.parts, job.target, job.directions)
        asyncio.run(parts.open())
        is_joined = parts.is_joined()
        done = (each for each in job.parts if is_joined or parts.has_receipt(each))
        tally.total = sum(each.rows for each in job.parts)
        tally.before = sum(each.rows for each in done)

    def _finish(self) -> None:
        """Join the parts; and count what others have done too."""
        job, tally = self._job, self.tally
        if self._parts is None:
            stands = asyncio.run(standing(job))
            # One that was changed meanwhile has been scored here twice.
            tally.total = stands.inputs
            tally.before = max(0, stands.scored + stands.errors - tally.here)
            tally.reasons[_EARLIER] = max(0, stands.errors - tally.refused - tally.failed)
        elif tally.code == EXIT_OK:
            join(self._parts, job.kind)
            missing = left_out(job.target)
            tally.scored = tally.refused = tally.failed = tally.before = 0
            tally.reasons.clear()
            tally.add(tally.total - sum(each.rows for each in missing), missing)
            tally.errors = str(missing_file(job.target)) if missing else ""
        self._hold_to_threshold()

    def _work(self) -> None:
        for number in range(self._job.settings.worker_count):
            self._start(number)
        while self._workers:
            for pipe in wait([*self._workers], _LOOK_SECONDS):
                assert isinstance(pipe, Connection)
                self._hear(pipe)
            self._show(self.tally)
            if self._kill_at and monotonic() > self._kill_at:
                for each in self._workers.values():
                    each.kill()

    def _start(self, number: int) -> None:
        ours, theirs = multiprocessing.Pipe()
        made = multiprocessing.get_context("spawn").Process(
            target=work, args=(self._job, number, theirs), name=str(number)
        )
        made.start()
        theirs.close()
        self._workers[ours] = made

    def _hear(self, pipe: Connection) -> None:
        try:
            kind, *said = pipe.recv()
        except (EOFError, OSError):
            self._ended(pipe)
            return
        self._ready.add(pipe)
        if kind == "told":
            self.told(*said)
        elif kind == "end" and said[0]:
            self.end(*said)

    def _ended(self, pipe: Connection) -> None:
        process = self._workers.pop(pipe)
        process.join()
        code = process.exitcode
        if code == 0 or self._kill_at:
            return
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._deaths += code != EXIT_STUCK
        if pipe not in self._ready:
            self.end(EXIT_CANNOT_START, f"A worker ended with {how} before it was ready.")
        elif self._deaths > _MOST_DEATHS:
            self.end(EXIT_FAILED, f"Workers end one after the other, the last with {how}.")
        else:
            self._start(int(process.name))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, _: object) -> None:
            if self._kill_at:  # a second time
                self._kill_at = monotonic()
            done = "What is done stays; the same command goes on with the rest."
            is_told = self._job.follow and number == signal.SIGTERM  # its way to end
            self.end(EXIT_OK if is_told else EXIT_INTERRUPTED, f"Interrupted. {done}")
            if not self._workers:  # they are elsewhere, and who waits for them is to wait no more
                raise KeyboardInterrupt

        with kept_signals(), suppress(KeyboardInterrupt):
            for number in _SIGNALS:
                signal.signal(number, stop)
            yield
