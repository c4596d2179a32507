"""The thread that makes the calls: takes jobs from a queue, hands results back to the loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
import traceback
from _thread import allocate_lock
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from ..errors import RunFailed
from .batches import Batches
from .quick import Quickness

HAND_OVER_SECONDS = 0.005
# Before Python 3.13, to clear the frame of a generator that only waits would close it.
_MAY_WAIT = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Callee(Protocol):
    """What the scoring threads call: sync, or with ``is_async`` by ``awaited``.

    ``is_bound``: it is called in the thread that prepared it, or one like it, and nowhere else.
    """

    is_async: bool
    is_bound: bool

    def __call__(self, request: Any) -> Any: ...

    async def awaited(self, request: Any) -> Any: ...


@dataclass(slots=True, eq=False)
class Job:
    """One call; ``future`` belongs to ``loop``. A call whose future is done is not made.

    ``call`` is None for the callee itself, which may not be prepared yet. ``begins`` is called
    right before the call. ``argument`` is taken away once the deadline has passed: who reads it
    before ``future`` is seen to be open has it.
    """

    call: Callable[[Any], Any] | None
    argument: Any
    future: Future[Any]
    loop: AbstractEventLoop
    begins: Callable[[], object] | None = None


Done = deque[tuple[Future[Any], Any, BaseException | None]]


class JobQueue:
    """Jobs that wait, the threads that sleep, and what the jobs call.

    ``None`` among the jobs ends the thread that takes it.
    """

    def __init__(self) -> None:
        self.waiting: deque[Job | None] = deque()
        self.sleeping: list[ScoringThread] = []
        self.callee: Callee | None = None
        self.batches: Batches | None = None
        self.quickness: Quickness | None = None
        self.watched: Callable[[Any], Any] | None = None
        self.ends = False

    def wake_one(self) -> None:
        """Wake a thread that sleeps, if there is one."""
        try:
            self.sleeping.pop().awake.release()
        except IndexError:
            pass


class ScoringThread(threading.Thread):
    """One scoring thread. ``awake`` is released to wake it; it holds it while it sleeps."""

    def __init__(
        self, queue: JobQueue, number: int, first: Callable[[ScoringThread], None] | None = None
    ) -> None:
        super().__init__(name=f"scoring-{number}", daemon=True)
        self.awake = allocate_lock()
        self.awake.acquire()
        self._queue = queue
        self._first = first
        self._current: Future[Any] | None = None
        self._together: Sequence[Future[Any]] = ()
        self.done: Done = deque()
        self.loop: AbstractEventLoop | None = None
        self._oldest = 0.0

    @property
    def overdue(self) -> bool:
        """Whether it still works on a call whose deadline has passed."""
        current = self._current
        return (current is not None and expired(current)) or any(map(expired, self._together))

    @property
    def holds_back(self) -> bool:
        """Whether a result has been done for longer than it may wait for those after it."""
        return bool(self.done) and perf_counter() - self._oldest > HAND_OVER_SECONDS

    def run(self) -> None:
        if self._first is not None:
            self._first(self)
            return
        with asyncio.Runner():  # whose loop a script's asyncio.get_event_loop() finds
            self.work()

    def work(self) -> None:
        """Do jobs until one is None."""
        assert self._queue.callee is not None
        self._callee = self._queue.watched or self._queue.callee
        waiting, batches = self._queue.waiting, self._queue.batches
        drain = self._drain if batches is None else partial(self._drain_together, batches)
        is_idle = True
        while True:
            if not waiting:
                self._sleep()
                is_idle = True
            elif is_idle and batches is not None:
                self._wait_for_more(batches)
                is_idle = False
            elif drain(waiting):
                return

    def _sleep(self, than: int = 0, seconds: float = -1) -> None:
        """Until more jobs wait ``than`` so many, for some seconds at most."""
        sleeping, waiting = self._queue.sleeping, self._queue.waiting
        sleeping.append(self)
        # A job that came between the look and the line above found nobody to wake.
        if len(waiting) > than or not self.awake.acquire(timeout=seconds):
            try:
                sleeping.remove(self)
            except ValueError:
                self.awake.acquire()  # somebody is about to wake it

    def _wait_for_more(self, batches: Batches) -> None:
        until, waiting = perf_counter() + batches.max_wait, self._queue.waiting
        while (there := len(waiting)) < batches.max_size and not self._queue.ends:
            left = until - perf_counter()
            if left <= 0:
                return
            self._sleep(there, left)

    def _drain(self, waiting: deque[Job | None]) -> bool:
        """Do what waits; True when the thread is to end."""
        while True:
            try:
                job = waiting.popleft()
            except IndexError:
                break
            if job is None:
                hand_over(self.loop, self.done)
                return True
            argument = job.argument
            if job.future.done():
                continue
            if job.loop is not self.loop:
                self._turn_to(job.loop)
            elif self.holds_back:
                hand_over(self.loop, self.done)
            self._do(job, argument)
        hand_over(self.loop, self.done)
        return False

    def _drain_together(self, batches: Batches, waiting: deque[Job | None]) -> bool:
        """The same, up to a batch; functions alone."""
        jobs: list[tuple[Job, Any]] = []
        ends = False
        while len(jobs) < batches.max_size and not ends:
            try:
                job = waiting.popleft()
            except IndexError:
                break
            argument = job and job.argument
            if job is None:
                ends = True
            elif not job.future.done():
                if job.call is None:
                    jobs.append((job, argument))
                else:
                    self._turn_to(job.loop)
                    self._do(job, argument)
        if len(jobs) == 1:
            self._turn_to(jobs[0][0].loop)
            batches.observe(1)
            self._do(*jobs[0])
        else:
            self._do_together(batches, jobs)
        hand_over(self.loop, self.done)
        return ends

    def _do_together(self, batches: Batches, jobs: list[tuple[Job, Any]]) -> None:
        def begin(places: Sequence[int]) -> set[int]:
            hand_over(self.loop, self.done)
            wanted = {place for place in places if not jobs[place][0].future.done()}
            self._together = [jobs[place][0].future for place in wanted]
            for place in wanted:
                if (begins := jobs[place][0].begins) is not None:
                    with suppress(RuntimeError):  # its loop is closed: nobody waits for it
                        begins()
            return wanted

        left = {*range(len(jobs))}
        try:
            for outcomes in batches([request for _, request in jobs], begin):
                self._together = ()
                for place, response, error, _ in outcomes:
                    left.remove(place)
                    self._answer(jobs[place][0], response, error)
        except BaseException as error:  # of none of them: the thread goes on whatever it is
            for place in left:
                self._answer(jobs[place][0], None, error)
        self._together = ()

    def _answer(self, job: Job, value: Any, error: BaseException | None) -> None:
        self._turn_to(job.loop)
        self.done.append((job.future, value, None if error is None else for_caller(error)))
        if len(self.done) == 1:
            self._oldest = perf_counter()

    def _turn_to(self, loop: AbstractEventLoop) -> None:
        """Have the next results go to this loop."""
        if loop is not self.loop:
            hand_over(self.loop, self.done)
            self.done, self.loop = deque(), loop

    def _do(self, job: Job, argument: Any) -> None:
        self._current = job.future
        try:
            if job.begins is not None:
                job.begins()
            self.done.append((job.future, (job.call or self._callee)(argument), None))
        except BaseException as error:
            self.done.append((job.future, None, for_caller(error)))
        if len(self.done) == 1:
            self._oldest = perf_counter()
        self._current = None


async def answered(job: Job, argument: Any, callee: Callee) -> None:
    """Await a job on the loop of the scoring thread, and hand its result back."""
    try:
        if job.begins is not None:
            job.begins()
        if job.call is None:
            value = await callee.awaited(argument)
        else:
            value = job.call(argument)
        done: Done = deque([(job.future, value, None)])
    except BaseException as error:
        done = deque([(job.future, None, for_caller(error))])
    hand_over(job.loop, done)


def for_caller(error: BaseException) -> Exception:
    """The error for the caller alone: these would end the loop that awaits, or its generator."""
    _forget_locals(error)
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    failed = RunFailed(f"The call ended with {type(error).__name__}.")
    failed.__cause__ = error
    return failed


def _forget_locals(error: BaseException) -> None:
    """Let go of the variables of all functions that an error, or one before it, has ended.

    They hold the request, and often an error again: such a cycle would keep both until the
    garbage collector's last generation. The lines of the traceback stay.
    """
    if error.__traceback__ is not None:  # its first frame, the caller's, has the error's future
        error.__traceback__ = error.__traceback__.tb_next
    seen, waiting = set[int](), [error]
    while waiting:
        each = waiting.pop()
        seen.add(id(each))
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if not frame.f_code.co_flags & _MAY_WAIT:
                with suppress(RuntimeError):  # it still runs
                    frame.clear()
        group = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        before = (each.__cause__, each.__context__, *group)
        waiting += [one for one in before if one is not None and id(one) not in seen]


def hand_over(loop: AbstractEventLoop | None, done: Done) -> None:
    """Have ``loop`` settle these results; from any thread."""
    if not done or loop is None:
        return
    try:
        loop.call_soon_threadsafe(settle, done)
    except RuntimeError:
        # The loop that asked is closed: nobody is left to be told.
        pass


def expired(future: Future[Any]) -> bool:
    """Whether the deadline of a call has passed that has not been answered."""
    # Only the deadline, or an answer, ends a future; a thread gives its answer after its call.
    return future.done() and not future.cancelled()


def settle(done: Done) -> None:
    """Give each caller its result; in the loop that the futures belong to."""
    while done:
        future, value, error = done.popleft()
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
