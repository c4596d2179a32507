"""The scoring thread: one thread runs ``init()`` and every ``run()``, the event loop stays free.

The loop appends jobs to a deque and wakes a thread only when one sleeps. The thread does all that
waits and hands the results back together, so that the cost of the hand-over is shared. No result
is held back by the jobs after it for longer than ``_HAND_OVER_SECONDS``: by then the thread hands
it over before it begins the next job, or the loop, by a timer, collects it from a busy thread.

An ``async def run`` is awaited on a loop of the scoring thread's own: what it computes cannot
hold up health probes, and its ``init()`` still runs where ``run()`` does.
"""

from __future__ import annotations

import asyncio
import threading
from _thread import allocate_lock
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable
from concurrent import futures
from time import monotonic, perf_counter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from .errors import NotServing, NotStarted, QueueFull, RunFailed, RunTimeout, Stopping

_HAND_OVER_SECONDS = 0.005


class Callee(Protocol):
    """What the scoring threads call: sync, or with ``is_async`` by ``awaited``."""

    is_async: bool

    def __call__(self, request: Any) -> Any: ...

    async def awaited(self, request: Any) -> Any: ...


class Job(NamedTuple):
    """One call; ``future`` belongs to ``loop``. A call whose future is done is not made.

    ``call`` is None for the callee itself, which may not be prepared yet.
    """

    call: Callable[[Any], Any] | None
    argument: Any
    future: Future[Any]
    loop: AbstractEventLoop


Done = deque[tuple[Future[Any], Any, BaseException | None]]


_C = TypeVar("_C", bound=Callee)


class Scorer(Generic[_C]):
    """A queue of calls, the threads that make them, and their deadlines.

    Args:
        prepare: makes the callee; called once, in the first scoring thread, with a runner for
            coroutines.
        threads: how many scoring threads (one is what old scripts rely on).
        queue_size: how many calls may wait.
        timeout_seconds: deadline of one call, waiting included; 0 is none.
    """

    def __init__(
        self,
        prepare: Callable[[asyncio.Runner], _C],
        *,
        threads: int = 1,
        queue_size: int = 1000,
        timeout_seconds: float = 0,
    ) -> None:
        self.prepared: futures.Future[_C] = futures.Future()
        self._prepare = prepare
        self._queue_size = queue_size
        self._timeout = timeout_seconds
        self._waiting: deque[Job | None] = deque()
        self._sleeping: list[_Worker] = []
        self._workers = [_Worker(self, number) for number in range(threads)]
        self._async_loop: AbstractEventLoop | None = None
        self._tasks: set[Future[None]] = set()
        self._deadlines: deque[tuple[float, Future[Any]]] = deque()
        self._timer_on: AbstractEventLoop | None = None
        self._in_flight = 0
        self._waking_on: AbstractEventLoop | None = None
        self._collecting_on: AbstractEventLoop | None = None
        self._refusal: Callable[[], NotServing] | None = None
        self._ended = False

    def start(self) -> None:
        """Start the first thread, which prepares; the others follow it."""
        self._workers[0].start()

    async def call(self, argument: Any, function: Callable[[Any], Any] | None = None) -> Any:
        """The callee's answer to ``argument``, or ``function(argument)``, in a scoring thread.

        Before the callee is prepared, calls wait for it. A ``function`` goes on with what has
        begun (the next part of a stream), so it is neither refused nor counted by the queue.

        Raises:
            QueueFull, Stopping, NotStarted: at once.
            RunTimeout: the deadline passed; the function may still run, or never begins.
        """
        if function is None:
            self._admit()
        elif self._ended:
            raise _stopping()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._in_flight += 1
        try:
            self._waiting.append(Job(function, argument, future, loop))
            if self._sleeping and self._waking_on is not loop:
                self._waking_on = loop
                # Not at once: what else this turn of the loop reads joins the same hand-over.
                loop.call_soon(self._wake_sleeping)
            elif self._async_loop is not None:
                self._async_loop.call_soon_threadsafe(self._begin_tasks)
            if self._in_flight > 1 and self._collecting_on is not loop:
                self._collecting_on = loop
                loop.call_later(_HAND_OVER_SECONDS, self._collect, loop)
            if self._timeout:
                self._watch(loop, future)
            if self._refusal is _not_started:
                # prepare() failed between the look at the top and the append.
                self._refuse_waiting()
            return await future
        finally:
            self._in_flight -= 1

    def _admit(self) -> None:
        if self._refusal is not None:
            raise self._refusal()
        if len(self._waiting) >= self._queue_size:
            raise QueueFull(
                f"{self._queue_size} requests wait already (SCORING_QUEUE_SIZE). Try again later."
            )

    @property
    def stuck(self) -> bool:
        """Whether a thread still works on a call whose deadline has passed."""
        if self._async_loop is not None:
            # A copy: the other thread may take the oldest meanwhile.
            oldest = next(iter(self._waiting.copy()), None)
            return oldest is not None and _expired(oldest.future)
        return any(worker.overdue for worker in self._workers)

    async def stop(self, seconds: float) -> None:
        """Take nothing new, wait for what is in flight, end the threads."""
        self._refusal = _stopping
        until = monotonic() + seconds
        while self._in_flight and monotonic() < until:
            await asyncio.sleep(0.01)
        self._ended = True
        for _ in self._workers:
            self._waiting.append(None)
        while self._sleeping:
            self._wake_one()
        if self._async_loop is not None:
            self._async_loop.call_soon_threadsafe(self._begin_tasks)

    def _wake_sleeping(self) -> None:
        self._waking_on = None
        for _ in range(min(len(self._waiting), len(self._sleeping))):
            self._wake_one()

    def _collect(self, loop: AbstractEventLoop) -> None:
        for worker in self._workers:
            if worker.loop is loop and worker.holds_back:
                _settle(worker.done)
        if self._in_flight:
            loop.call_later(_HAND_OVER_SECONDS, self._collect, loop)
        else:
            self._collecting_on = None

    def _wake_one(self) -> None:
        try:
            self._sleeping.pop().awake.release()
        except IndexError:
            pass

    def _watch(self, loop: AbstractEventLoop, future: Future[Any]) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][1].done():
            deadlines.popleft()
        deadlines.append((monotonic() + self._timeout, future))
        if self._timer_on is not loop:
            self._timer_on = loop
            loop.call_later(self._timeout, self._expire, loop)

    def _expire(self, loop: AbstractEventLoop) -> None:
        deadlines, now = self._deadlines, monotonic()
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1].done()):
            future = deadlines.popleft()[1]
            if not future.done() and future.get_loop() is loop:
                milliseconds = round(self._timeout * 1000)
                future.set_exception(RunTimeout(f"Scoring timeout after {milliseconds} ms"))
        if deadlines:
            loop.call_later(deadlines[0][0] - now, self._expire, loop)
        else:
            self._timer_on = None

    # --- in the scoring threads ---------------------------------------------------------------

    def _prepare_and_work(self, worker: _Worker) -> None:
        with asyncio.Runner() as runner:
            try:
                callee = self._prepare(runner)
            except BaseException as error:
                self._refusal = _not_started
                self.prepared.set_exception(error)
                self._refuse_waiting()
                return
            self._callee = callee
            self.prepared.set_result(callee)
            if callee.is_async:
                self._serve_tasks(runner.get_loop())
                return
        for other in self._workers[1:]:
            other.start()
        worker.work()

    def _refuse_waiting(self) -> None:
        # Called in the thread that failed and by a caller that came too late for it.
        while True:
            try:
                job = self._waiting.popleft()
            except IndexError:
                return
            if job is not None:
                _hand_over(job.loop, deque([(job.future, None, _not_started())]))

    def _serve_tasks(self, own_loop: AbstractEventLoop) -> None:
        self._async_loop = own_loop
        own_loop.call_soon(self._begin_tasks)
        own_loop.run_forever()

    def _begin_tasks(self) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            if job is None:
                asyncio.get_running_loop().stop()
            elif not job.future.done():
                task = asyncio.ensure_future(_answered(job, self._callee))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)


class _Worker(threading.Thread):
    """One scoring thread. ``awake`` is released to wake it; it holds it while it sleeps."""

    def __init__(self, scorer: Scorer[Any], number: int) -> None:
        super().__init__(name=f"scoring-{number}", daemon=True)
        self.awake = allocate_lock()
        self.awake.acquire()
        self._scorer = scorer
        self._first = number == 0
        self._current: Future[Any] | None = None
        self.done: Done = deque()
        self.loop: AbstractEventLoop | None = None
        self._oldest = 0.0

    @property
    def overdue(self) -> bool:
        current = self._current
        return current is not None and _expired(current)

    @property
    def holds_back(self) -> bool:
        """Whether a result has been done for longer than it may wait for those after it."""
        return bool(self.done) and perf_counter() - self._oldest > _HAND_OVER_SECONDS

    def run(self) -> None:
        if self._first:
            self._scorer._prepare_and_work(self)
        else:
            self.work()

    def work(self) -> None:
        self._callee = self._scorer._callee
        waiting = self._scorer._waiting
        while True:
            if not waiting:
                self._sleep()
            elif self._drain(waiting):
                return

    def _sleep(self) -> None:
        sleeping, waiting = self._scorer._sleeping, self._scorer._waiting
        sleeping.append(self)
        # A job that came between the look and the line above found nobody to wake.
        if waiting:
            try:
                sleeping.remove(self)
                return
            except ValueError:
                pass
        self.awake.acquire()

    def _drain(self, waiting: deque[Job | None]) -> bool:
        """Do what waits; True when the thread is to end."""
        while True:
            try:
                job = waiting.popleft()
            except IndexError:
                break
            if job is None:
                _hand_over(self.loop, self.done)
                return True
            if job.future.done():
                continue
            if job.loop is not self.loop:
                _hand_over(self.loop, self.done)
                self.done, self.loop = deque(), job.loop
            elif self.holds_back:
                _hand_over(self.loop, self.done)
            self._do(job)
        _hand_over(self.loop, self.done)
        return False

    def _do(self, job: Job) -> None:
        self._current = job.future
        try:
            self.done.append((job.future, (job.call or self._callee)(job.argument), None))
        except BaseException as error:
            self.done.append((job.future, None, _for_future(error)))
        if len(self.done) == 1:
            self._oldest = perf_counter()
        self._current = None


async def _answered(job: Job, callee: Callee) -> None:
    try:
        if job.call is None:
            value = await callee.awaited(job.argument)
        else:
            value = job.call(job.argument)
        done: Done = deque([(job.future, value, None)])
    except BaseException as error:
        done = deque([(job.future, None, _for_future(error))])
    _hand_over(job.loop, done)


def _for_future(error: BaseException) -> Exception:
    """The error for the caller alone: these would end the loop that awaits, or its generator."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    failed = RunFailed(f"The call ended with {type(error).__name__}.")
    failed.__cause__ = error
    return failed


def _hand_over(loop: AbstractEventLoop | None, done: Done) -> None:
    if not done or loop is None:
        return
    try:
        loop.call_soon_threadsafe(_settle, done)
    except RuntimeError:
        # The loop that asked is closed: nobody is left to be told.
        pass


def _expired(future: Future[Any]) -> bool:
    # Only the deadline, or an answer, ends a future; a thread gives its answer after its call.
    return future.done() and not future.cancelled()


def _stopping() -> NotServing:
    return Stopping("The service is stopping and takes no new requests.")


def _not_started() -> NotServing:
    return NotStarted("The entry script could not be started; its log says why.")


def _settle(done: Done) -> None:
    while done:
        future, value, error = done.popleft()
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
