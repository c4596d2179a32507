"""The scoring thread: one thread runs ``init()`` and every ``run()``, the event loop stays free.

The loop appends jobs to a deque and wakes a thread only when one sleeps. The thread does all that
waits and hands the results back together, so that the cost of the hand-over is shared. No result
is held back by the jobs after it for longer than ``HAND_OVER_SECONDS``: by then the thread hands
it over before it begins the next job, or the loop, by a timer, collects it from a busy thread.

An ``async def run`` is awaited on a loop of the scoring thread's own: what it computes cannot
hold up health probes, and its ``init()`` still runs where ``run()`` does.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable
from concurrent import futures
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

from ..errors import NotBegun, NotServing, NotStarted, QueueFull, RunTimeout, Stopping
from ..telemetry.logs import log
from .batches import Batches
from .quick import Quickness
from .thread import (
    HAND_OVER_SECONDS,
    Callee,
    Job,
    JobQueue,
    ScoringThread,
    answered,
    expired,
    for_caller,
    hand_over,
    settle,
)

# How long the loop makes calls before it looks again how many come in one of its turns.
_LOOK_SECONDS = 0.00025
# From so many on, in the mean of some turns, the thread is faster; the loop does not do more in
# one turn.
_FEW, _MOST = 4.5, 8
_C = TypeVar("_C", bound=Callee)


class Scorer(Generic[_C]):
    """A queue of calls, the threads that make them, and their deadlines.

    Args:
        prepare: makes the callee; called once, in the first scoring thread, with a runner for
            coroutines.
        threads: how many scoring threads (one is what old scripts rely on).
        queue_size: how many calls may wait.
        timeout_seconds: deadline of one call, waiting included unless it is patient; 0 is none.
        batches: how the callee is given what waits together; None: one by one.
    """

    def __init__(
        self,
        prepare: Callable[[asyncio.Runner], _C],
        *,
        threads: int = 1,
        queue_size: int = 1000,
        timeout_seconds: float = 0,
        batches: Callable[[_C], Batches | None] = lambda _: None,
    ) -> None:
        self.prepared: futures.Future[_C] = futures.Future()
        self._prepare, self._batches = prepare, batches
        self._queue_size = queue_size
        self._timeout = timeout_seconds
        self._queue = JobQueue()
        self._workers = [
            ScoringThread(self._queue, number, None if number else self._prepare_and_work)
            for number in range(threads)
        ]
        self._async_loop: AbstractEventLoop | None = None
        self._tasks: set[Future[None]] = set()
        self._deadlines: dict[Future[Any], float] = {}
        self._timer_on: AbstractEventLoop | None = None
        self._in_flight = 0
        self._patient: set[Future[Any]] = set()
        self._waking_on: AbstractEventLoop | None = None
        self._collecting_on: AbstractEventLoop | None = None
        self._refusal: Callable[[], NotServing] | None = None
        self._ended = False
        self._looks, self._in_turn, self._at_once = False, 0, 0.0

    def start(self) -> None:
        """Start the first thread, which prepares; the others follow it."""
        self._workers[0].start()

    async def call(
        self,
        argument: Any,
        function: Callable[[Any], Any] | None = None,
        patient: bool = False,
    ) -> Any:
        """The callee's answer to ``argument``, or ``function(argument)``, in a scoring thread.

        Before the callee is prepared, calls wait for it. A ``function`` goes on with what has
        begun (the next part of a stream), so it is neither refused nor counted by the queue. Nor
        is a ``patient`` call, whose deadline begins with it in the scoring thread.

        Raises:
            QueueFull, Stopping, NotStarted: at once.
            RunTimeout: the deadline passed; the function may still run, or never begins.
        """
        if function is None:
            answer = self._answer_at_once(argument)
            if answer is not None:
                return answer
            self._admit(patient)
        elif self._ended:
            raise _stopping()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._in_flight += 1
        begins = self._deadline_of(loop, future, patient)
        try:
            self._queue.waiting.append(Job(function, argument, future, loop, begins))
            if self._queue.sleeping and self._waking_on is not loop:
                self._waking_on = loop
                # Not at once: what else this turn of the loop reads joins the same hand-over.
                loop.call_soon(self._wake_sleeping)
            elif self._async_loop is not None:
                self._async_loop.call_soon_threadsafe(self._begin_tasks)
            if self._in_flight > 1 and self._collecting_on is not loop:
                self._collecting_on = loop
                loop.call_later(HAND_OVER_SECONDS, self._collect, loop)
            if self._refusal is _not_started:
                # prepare() failed between the look at the top and the append.
                self._refuse_waiting()
            return await future
        finally:
            self._in_flight -= 1
            self._deadlines.pop(future, None)
            del future, argument  # its error has this frame in its traceback

    def _admit(self, patient: bool) -> None:
        if self._refusal is not None:
            raise self._refusal()
        if not patient and len(self._queue.waiting) - len(self._patient) >= self._queue_size:
            raise QueueFull(
                f"{self._queue_size} requests wait already (SCORING_QUEUE_SIZE). Try again later."
            )

    def _are_few(self, quickness: Quickness) -> bool:
        """Whether so few calls come together that to hand this one over costs more than it saves:
        what a model computes in its own code, the scoring thread does beside the event loop."""
        if self._looks:
            if not self._in_turn:
                asyncio.get_running_loop().call_soon(self._end_turn)
            self._in_turn += 1
        elif quickness.spent > _LOOK_SECONDS:
            quickness.spent, self._looks = 0.0, True
        return self._at_once < _FEW and self._in_turn <= _MOST and not self._in_flight

    def _end_turn(self) -> None:
        together = max(self._in_turn, self._in_flight)
        self._at_once += (together - self._at_once) / 8
        self._in_turn, self._looks = 0, self._at_once >= _FEW

    def _answer_at_once(self, request: Any) -> Any:
        """What the callee answers, if it is expected to be quick and few come at once."""
        quickness = self._queue.quickness
        if quickness is None or self._refusal is not None:
            return None
        if not (self._are_few(quickness) and quickness.expects(request)):
            return None
        assert self._queue.watched is not None
        if request.enter is not None:  # which is for the scoring thread
            request = request._replace(enter=None)
        try:
            return copy_context().run(self._queue.watched, request)
        except BaseException as error:
            failed = for_caller(error)
        raise failed

    def _deadline_of(
        self, loop: AbstractEventLoop, future: Future[Any], patient: bool
    ) -> Callable[[], object] | None:
        """What begins the deadline of a patient call, unless it begins now."""
        if patient:
            self._patient.add(future)
            future.add_done_callback(self._patient.discard)
        if not self._timeout:
            return None
        if not patient or self._async_loop is not None:
            self._watch(loop, future)
            return None
        return partial(loop.call_soon_threadsafe, self._watch, loop, future)

    @property
    def begins_at_once(self) -> Callable[[], bool]:
        """Tells whether the next call is likely to be made by the event loop itself; only once
        prepared."""
        quickness = self._queue.quickness
        if quickness is None:
            return bool
        return lambda: self._at_once < _FEW and quickness.is_quick()

    @property
    def stuck(self) -> bool:
        """Whether a thread still works on a call whose deadline has passed."""
        if self._async_loop is not None:
            # A copy: the other thread may take the oldest meanwhile.
            oldest = next(iter(self._queue.waiting.copy()), None)
            return oldest is not None and expired(oldest.future)
        return any(worker.overdue for worker in self._workers)

    async def stop(self, seconds: float) -> None:
        """Take nothing new, wait for what is in flight, end the threads; once they end, again is
        nothing."""
        self._refusal = _stopping
        until = monotonic() + seconds
        while self._in_flight and monotonic() < until and not self._ended:
            await asyncio.sleep(0.01)
        if self._ended:
            return
        self._ended = self._queue.ends = True
        for _ in self._workers:
            self._queue.waiting.append(None)
        while self._queue.sleeping:
            self._queue.wake_one()
        if self._async_loop is not None:
            self._async_loop.call_soon_threadsafe(self._begin_tasks)

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return len(self._queue.waiting)

    @property
    def in_flight(self) -> int:
        """How many calls wait or are being made."""
        return self._in_flight

    def _wake_sleeping(self) -> None:
        self._waking_on = None
        for _ in range(min(len(self._queue.waiting), len(self._queue.sleeping))):
            self._queue.wake_one()

    def _collect(self, loop: AbstractEventLoop) -> None:
        for worker in self._workers:
            if worker.loop is loop and worker.holds_back:
                settle(worker.done)
        if self._in_flight:
            loop.call_later(HAND_OVER_SECONDS, self._collect, loop)
        else:
            self._collecting_on = None

    def _watch(self, loop: AbstractEventLoop, future: Future[Any]) -> None:
        if future.done():  # a patient call that was cancelled meanwhile
            return
        self._deadlines[future] = monotonic() + self._timeout
        if self._timer_on is not loop:
            self._timer_on = loop
            loop.call_later(self._timeout, self._expire, loop)

    def _expire(self, loop: AbstractEventLoop) -> None:
        now = monotonic()
        # Copies: the other threads may take the oldest meanwhile.
        waiting = {job.future: job for job in self._queue.waiting.copy() if job is not None}
        for future, deadline in [*self._deadlines.items()]:  # in the order of the deadlines
            if deadline > now:
                loop.call_later(deadline - now, self._expire, loop)
                return
            if not future.done() and future.get_loop() is loop:
                milliseconds = round(self._timeout * 1000)
                job = waiting.get(future)
                kind = RunTimeout if job is None else NotBegun
                future.set_exception(kind(f"Scoring timeout after {milliseconds} ms"))
                if job is not None:
                    job.argument = None
        self._timer_on = None

    # --- in the scoring threads ---------------------------------------------------------------

    def _prepare_and_work(self, worker: ScoringThread) -> None:
        with asyncio.Runner() as runner:
            try:
                callee = self._prepare(runner)
            except BaseException as error:
                self._refusal = _not_started
                self.prepared.set_exception(error)
                self._refuse_waiting()
                return
            self._queue.callee, self._queue.batches = callee, self._batches(callee)
            if not (callee.is_async or callee.is_bound):
                self._queue.quickness = quickness = Quickness()
                self._queue.watched = quickness.watches(callee)
            self.prepared.set_result(callee)
            if callee.is_async:
                self._serve_tasks(runner.get_loop())
                return
            for other in self._workers[1:]:
                other.start()
            worker.work()  # the runner's loop stays the thread's own: scripts use it

    def _refuse_waiting(self) -> None:
        # Called in the thread that failed and by a caller that came too late for it.
        while True:
            try:
                job = self._queue.waiting.popleft()
            except IndexError:
                return
            if job is not None:
                hand_over(job.loop, deque([(job.future, None, _not_started())]))

    def _serve_tasks(self, own_loop: AbstractEventLoop) -> None:
        self._async_loop = own_loop
        own_loop.call_soon(self._begin_tasks)
        # Whatever else ends the loop is the script's doing.
        while not (self._ended or own_loop.is_closed()):
            try:
                own_loop.run_forever()
            except BaseException:  # SystemExit, say, in a task that a call has left behind
                log.exception("A task of the script's own has ended the loop that awaits run().")

    def _begin_tasks(self) -> None:
        while self._queue.waiting:
            job = self._queue.waiting.popleft()
            argument = job and job.argument
            if job is None:
                asyncio.get_running_loop().stop()
            elif not job.future.done():
                assert self._queue.callee is not None
                task = asyncio.ensure_future(answered(job, argument, self._queue.callee))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)


def _stopping() -> NotServing:
    return Stopping("The service is stopping and takes no new requests.")


def _not_started() -> NotServing:
    return NotStarted("The entry script could not be started; its log says why.")
