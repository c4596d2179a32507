"""The scoring thread: order, deadlines, overload, start and stop."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from scoring_runtime.errors import NotBegun, NotStarted, QueueFull, RunFailed, RunTimeout, Stopping
from scoring_runtime.scoring.queue import Scorer

pytestmark = pytest.mark.anyio
PATIENCE = 20.0


class Sync:
    """A callee made of a function."""

    is_async, is_bound = False, True

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, request: Any) -> Any:
        return self._function(request)

    async def awaited(self, request: Any) -> Any:
        raise AssertionError("a sync callee is called, not awaited")


class Async:
    """A callee made of a coroutine function."""

    is_async, is_bound = True, True

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, request: Any) -> Any:
        raise AssertionError("an async callee is awaited, not called")

    async def awaited(self, request: Any) -> Any:
        return await self._function(request)


def scoring_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("scoring-")}


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds; fail when it does not in time."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came true"
        await asyncio.sleep(0.002)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that callees wait for; opened at the end so that no thread is left behind."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
async def scoring(gate: threading.Event) -> AsyncIterator[Callable[..., Scorer[Any]]]:
    """``scoring(function, **options)``: a started scorer for it, sync or async."""
    made: list[Scorer[Any]] = []

    def started(function: Callable[[Any], Any], **options: Any) -> Scorer[Any]:
        kind = Async if inspect.iscoroutinefunction(function) else Sync
        made.append(Scorer(lambda runner: kind(function), **options))
        made[-1].start()
        return made[-1]

    yield started
    gate.set()
    for each in made:
        await each.stop(PATIENCE)


# --- threads and answers --------------------------------------------------------------------------


async def test_prepare_and_every_call_are_made_in_one_thread():
    """Scripts keep handles that belong to a thread; that is safe."""
    seen: list[threading.Thread] = []

    def prepare(runner: asyncio.Runner) -> Sync:
        seen.append(threading.current_thread())
        return Sync(lambda _: seen.append(threading.current_thread()))

    scorer: Scorer[Sync] = Scorer(prepare)
    scorer.start()
    for _ in range(20):
        await scorer.call(None)
    await asyncio.gather(*(scorer.call(None) for _ in range(80)))
    await scorer.stop(PATIENCE)
    assert len(seen) == 101
    assert set(seen) == {seen[0]}
    assert seen[0] is not threading.main_thread()


async def test_jobs_that_wait_are_all_done_in_order_and_each_caller_gets_its_own(gate, scoring):
    order: list[int] = []

    def run(number: int) -> int:
        if number == 0:
            gate.wait(PATIENCE)
        order.append(number)
        return number * 2

    scorer = scoring(run)
    calls = [asyncio.create_task(scorer.call(number)) for number in range(500)]
    await asyncio.sleep(0.02)
    gate.set()
    assert await asyncio.gather(*calls) == [number * 2 for number in range(500)]
    assert order == list(range(500))


async def test_an_error_reaches_its_own_caller_and_nobody_else(scoring):
    def run(number: int) -> int:
        if number % 3 == 0:
            raise LookupError(number)
        return number

    scorer = scoring(run)
    calls = [scorer.call(number) for number in range(30)]
    for number, answer in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
        if number % 3 == 0:
            assert isinstance(answer, LookupError)
            assert answer.args == (number,)
        else:
            assert answer == number


async def test_an_answer_is_not_held_back_by_a_slow_job_that_waits_behind_it(gate, scoring):
    """The fast job's caller is answered while the slow one is still being done."""

    def run(slow: bool) -> str:
        if slow:
            gate.wait(PATIENCE)
        return "slow" if slow else "fast"

    scorer = scoring(run)
    await scorer.call(False)
    fast = asyncio.create_task(scorer.call(False))
    slow = asyncio.create_task(scorer.call(True))
    assert await asyncio.wait_for(fast, PATIENCE / 4) == "fast"
    assert not slow.done()
    gate.set()
    assert await slow == "slow"


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration()], ids=repr
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_what_would_end_a_loop_is_an_error_of_its_caller_only(error, is_async, scoring):
    """The loop that asked goes on, the thread goes on, and the next caller is served."""

    def run(fails: bool) -> str:
        if fails:
            raise error
        return "served"

    async def run_async(fails: bool) -> str:
        return run(fails)

    scorer = scoring(run_async if is_async else run)
    # Python itself makes a StopIteration that leaves a coroutine a RuntimeError.
    by_python = is_async and isinstance(error, StopIteration)
    with pytest.raises(RuntimeError if by_python else RunFailed) as raised:
        await asyncio.wait_for(scorer.call(True), PATIENCE)
    assert raised.value.__cause__ is error
    assert await asyncio.wait_for(scorer.call(False), PATIENCE) == "served"


@pytest.mark.parametrize("how", ["exit", "stop"])
async def test_what_an_async_callee_does_to_its_loop_ends_no_service(how, scoring):
    async def leave() -> None:
        raise SystemExit(0)

    async def run(ends: bool) -> str:
        loop = asyncio.get_running_loop()
        if ends and how == "stop":
            loop.call_soon(loop.stop)
        elif ends:
            left.append(asyncio.create_task(leave()))
        await asyncio.sleep(0.01)
        return "served"

    left: list[asyncio.Task[None]] = []
    scorer = scoring(run)
    for ends in (True, False):
        assert await asyncio.wait_for(scorer.call(ends), PATIENCE) == "served"
    assert all(isinstance(task.exception(), SystemExit) for task in left)


async def test_an_async_callee_that_is_cancelled_from_inside_does_not_cancel_its_caller(scoring):
    async def run(_: object) -> None:
        raise asyncio.CancelledError

    scorer = scoring(run)
    with pytest.raises(RunFailed):
        await asyncio.wait_for(scorer.call(None), PATIENCE)


# --- overload -------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_at_once_and_what_waits_is_still_done(gate, scoring):
    begun = threading.Event()

    def run(number: int) -> int:
        begun.set()
        gate.wait(PATIENCE)
        return number

    scorer = scoring(run, queue_size=3)
    calls = [asyncio.create_task(scorer.call(0))]
    await soon(begun.is_set)
    calls += [asyncio.create_task(scorer.call(number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(QueueFull, match=r"3 requests wait already \(SCORING_QUEUE_SIZE\)"):
            await scorer.call(4)
    part = asyncio.create_task(scorer.call("part", str.upper))  # of an answer that has begun
    await asyncio.sleep(0)
    gate.set()
    assert await part == "PART"
    assert await asyncio.gather(*calls) == [0, 1, 2, 3]
    assert await scorer.call(5) == 5


# --- deadlines ------------------------------------------------------------------------------------


async def test_a_request_past_its_deadline_in_the_queue_never_reaches_run(gate, scoring):
    ran: list[str] = []

    def run(name: str) -> str:
        ran.append(name)
        if name == "first":
            gate.wait(PATIENCE)
        return name

    scorer = scoring(run, timeout_seconds=0.1)
    calls = [scorer.call(name) for name in ("first", "late", "late too")]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in answers] == [RunTimeout, NotBegun, NotBegun]
    gate.set()
    assert await scorer.call("next") == "next"
    assert ran == ["first", "next"]


async def test_a_patient_call_waits_without_a_deadline_and_runs_with_one(gate, scoring):
    """Five at once that take longer than the deadline together; then one that takes too long."""

    scorer = scoring(lambda wait: wait() or "done", timeout_seconds=0.5)
    waits = [lambda: time.sleep(0.2)] * 5
    calls = [scorer.call(wait, patient=True) for wait in waits]
    assert await asyncio.gather(*calls) == ["done"] * 5
    with pytest.raises(RunTimeout):
        await scorer.call(lambda: gate.wait(PATIENCE), patient=True)
    assert scorer.stuck
    late = asyncio.create_task(scorer.call(lambda: None, patient=True))
    with pytest.raises(NotBegun):
        await scorer.call(lambda: None)
    assert not late.done()
    gate.set()
    assert await late == "done"


async def test_patient_calls_are_not_refused_and_take_no_place_of_others(gate):
    def prepare(_: asyncio.Runner) -> Sync:
        gate.wait(PATIENCE)
        return Sync(lambda argument: argument)

    scorer: Scorer[Sync] = Scorer(prepare, queue_size=1)
    scorer.start()
    calls = [asyncio.create_task(scorer.call(n, patient=True)) for n in range(5)]
    await asyncio.sleep(0)
    calls.append(asyncio.create_task(scorer.call(5)))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await scorer.call("too many")
    calls.append(asyncio.create_task(scorer.call(6, patient=True)))
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*calls) == list(range(7))
    await scorer.stop(PATIENCE)


async def test_stuck_while_the_thread_is_late_and_not_after_it_returns(gate, scoring):
    scorer = scoring(lambda wait: wait and gate.wait(PATIENCE), timeout_seconds=0.05)
    assert not scorer.stuck
    call = asyncio.create_task(scorer.call(True))
    await asyncio.sleep(0)
    assert not scorer.stuck
    with pytest.raises(RunTimeout, match=r"^Scoring timeout after 50 ms$"):
        await call
    assert scorer.stuck
    gate.set()
    await soon(lambda: not scorer.stuck)
    assert await scorer.call(False) is False
    assert not scorer.stuck


async def test_one_late_thread_of_several_is_enough_to_be_stuck(gate, scoring):
    scorer = scoring(lambda wait: wait and gate.wait(PATIENCE), threads=2, timeout_seconds=0.05)
    with pytest.raises(RunTimeout):
        await scorer.call(True)
    assert await scorer.call(False) is False
    assert scorer.stuck
    gate.set()
    await soon(lambda: not scorer.stuck)


async def test_an_async_callee_that_blocks_its_loop_past_a_deadline_is_stuck(gate, scoring):
    async def run(wait: bool) -> bool:
        if wait:
            gate.wait(PATIENCE)
        return wait

    scorer = scoring(run, timeout_seconds=0.1)
    blocking = asyncio.create_task(scorer.call(True))
    await asyncio.sleep(0.03)
    with pytest.raises(RunTimeout):
        await scorer.call(False)
    assert scorer.stuck
    gate.set()
    await soon(lambda: not scorer.stuck)
    with pytest.raises(RunTimeout):
        await blocking


async def test_stuck_can_be_asked_while_the_queue_of_an_async_callee_is_emptied(scoring):
    """Health probes look at the queue in one thread while the other empties it."""

    async def run(number: int) -> int:
        return number

    scorer = scoring(run, timeout_seconds=PATIENCE)
    for _ in range(300):
        calls = asyncio.gather(*(scorer.call(number) for number in range(10)))
        while not calls.done():
            assert not any(scorer.stuck for _ in range(5))
            await asyncio.sleep(0)
        assert calls.result() == list(range(10))


async def test_each_call_has_a_deadline_of_its_own(scoring):
    """The timer is set again for those that came later."""

    def run(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    scorer = scoring(run, timeout_seconds=0.3)
    for _ in range(4):
        assert await scorer.call(0.1) == 0.1
    early = asyncio.create_task(scorer.call(0.2))
    await asyncio.sleep(0.1)
    later = asyncio.create_task(scorer.call(0.6))
    assert await early == 0.2
    with pytest.raises(RunTimeout):
        await later


async def test_a_deadline_passes_while_prepare_still_runs(gate):
    """A caller is not kept waiting by a slow init() either."""

    def prepare(runner: asyncio.Runner) -> Sync:
        gate.wait(PATIENCE)
        return Sync(lambda value: value)

    scorer: Scorer[Sync] = Scorer(prepare, timeout_seconds=0.1)
    scorer.start()
    with pytest.raises(RunTimeout):
        await scorer.call(1)
    assert not scorer.prepared.done()


# --- callers that leave ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_call_whose_caller_has_left_the_queue_is_not_made(gate, is_async, scoring):
    ran: list[int] = []

    def run(number: int) -> int:
        ran.append(number)
        if number == 0:
            gate.wait(PATIENCE)
        return number

    async def run_async(number: int) -> int:
        return run(number)

    scorer = scoring(run_async if is_async else run)
    first = asyncio.create_task(scorer.call(0))
    await soon(lambda: ran == [0])
    calls = [asyncio.create_task(scorer.call(number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(first, *calls, return_exceptions=True)
    assert answers[:2] == [0, 1]
    assert isinstance(answers[2], asyncio.CancelledError)
    assert answers[3] == 3
    assert ran == [0, 1, 3]


async def test_a_caller_that_leaves_during_its_call_disturbs_nobody(gate, scoring):
    begun = threading.Event()

    def run(number: int) -> int:
        begun.set()
        gate.wait(PATIENCE)
        return number

    scorer = scoring(run)
    first = asyncio.create_task(scorer.call(0))
    await soon(begun.is_set)
    second = asyncio.create_task(scorer.call(1))
    first.cancel()
    await asyncio.sleep(0)
    assert not scorer.stuck
    gate.set()
    assert await second == 1


# --- start and stop -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no model"), SystemExit(0)], ids=repr)
async def test_when_prepare_fails_waiting_and_later_calls_are_not_started(gate, error):
    def prepare(runner: asyncio.Runner) -> Sync:
        gate.wait(PATIENCE)
        raise error

    scorer: Scorer[Sync] = Scorer(prepare)
    scorer.start()
    waiting = [asyncio.create_task(scorer.call(number)) for number in range(3)]
    await asyncio.sleep(0.02)
    gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in answers] == [NotStarted] * 3
    with pytest.raises(NotStarted):
        await scorer.call(4)
    assert scorer.prepared.exception() is error
    assert not scorer.stuck
    await scorer.stop(PATIENCE)


async def test_a_call_that_joins_the_queue_just_after_prepare_has_failed_is_told():
    """It looked before the failure and waits after the thread has told those who waited."""
    begun = threading.Event()

    class LateQueue(deque[Any]):
        def append(self, job: Any) -> None:
            begun.set()
            assert scorer.prepared.exception(PATIENCE) is not None
            threads[0].join(PATIENCE)
            super().append(job)

    def prepare(runner: asyncio.Runner) -> Sync:
        begun.wait(PATIENCE)
        raise ValueError("no model")

    others = scoring_threads()
    scorer: Scorer[Sync] = Scorer(prepare)
    scorer._queue.waiting = LateQueue()
    scorer.start()
    threads = list(scoring_threads() - others)
    with pytest.raises(NotStarted):
        await asyncio.wait_for(scorer.call(1), PATIENCE / 4)


@pytest.mark.parametrize("threads", [1, 3])
async def test_stop_waits_for_what_is_in_flight_and_refuses_what_is_new(gate, threads, scoring):
    others = scoring_threads()

    def run(number: int) -> int:
        gate.wait(PATIENCE)
        return number

    scorer = scoring(run, threads=threads)
    calls = [asyncio.create_task(scorer.call(number)) for number in range(6)]
    await soon(lambda: len(scoring_threads() - others) == threads)
    stopping = asyncio.create_task(scorer.stop(PATIENCE))
    await asyncio.sleep(0.02)
    with pytest.raises(Stopping):
        await scorer.call(99)
    assert not stopping.done()
    gate.set()
    assert await asyncio.gather(*calls) == list(range(6))
    await stopping
    for function in (None, str.upper):
        with pytest.raises(Stopping):
            await scorer.call("late", function)
    await soon(lambda: not scoring_threads() - others)


async def test_stop_ends_an_idle_async_scorer_s_thread(scoring):
    others = scoring_threads()

    async def run(value: int) -> int:
        return value

    scorer = scoring(run)
    assert await scorer.call(1) == 1
    await scorer.stop(PATIENCE)
    await soon(lambda: not scoring_threads() - others)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_stopped_again_a_scorer_has_nothing_more_to_do(is_async, scoring):
    """Neither is its loop, which is closed, called, nor is the call waited for that it left."""
    others = scoring_threads()
    left = asyncio.Event()

    async def run_async(value: int) -> None:
        await left.wait()

    scorer = scoring(run_async if is_async else abs)
    call = asyncio.create_task(scorer.call(1))
    if not is_async:
        await call
    await soon(lambda: len(scoring_threads() - others) == 1)
    await scorer.stop(0.05)
    await soon(lambda: not scoring_threads() - others)
    async with asyncio.timeout(PATIENCE / 2):
        await scorer.stop(PATIENCE)
        await scorer.stop(PATIENCE)
    assert scorer.waiting == 0
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_scorer_stopped_while_it_prepares_ends_its_thread_later(gate, is_async):
    others = scoring_threads()

    async def run(value: int) -> int:
        return value

    def prepare(runner: asyncio.Runner) -> Any:
        gate.wait(PATIENCE)
        return Async(run) if is_async else Sync(lambda value: value)

    scorer: Scorer[Any] = Scorer(prepare)
    scorer.start()
    await scorer.stop(0.05)
    gate.set()
    await soon(lambda: not scoring_threads() - others)


# --- several threads ------------------------------------------------------------------------------


async def test_idle_threads_take_over_when_one_is_busy(gate, scoring):
    """One slow call does not hold up the calls behind it while other threads are free."""

    def run(slow: bool) -> bool:
        return gate.wait(PATIENCE) if slow else False

    scorer = scoring(run, threads=2)
    slow = asyncio.create_task(scorer.call(True))
    await asyncio.sleep(0.02)
    answers = await asyncio.wait_for(
        asyncio.gather(*(scorer.call(False) for _ in range(50))), PATIENCE / 2
    )
    assert answers == [False] * 50
    assert not slow.done()
    gate.set()
    assert await slow is True


@pytest.mark.parametrize("threads", [1, 4])
async def test_none_of_ten_thousand_calls_from_several_tasks_is_lost_or_mixed_up(threads, scoring):
    ran: Counter[int] = Counter()
    lock = threading.Lock()

    def run(number: int) -> int:
        with lock:
            ran[number] += 1
        return number * 3

    async def client(scorer: Scorer[Any], numbers: range) -> int:
        right = 0
        for number in numbers:
            right += await scorer.call(number) == number * 3
        return right

    scorer = scoring(run, threads=threads, timeout_seconds=PATIENCE)
    clients = [client(scorer, range(first, 10_000, 20)) for first in range(20)]
    assert sum(await asyncio.gather(*clients)) == 10_000
    assert ran == Counter(range(10_000))


@pytest.mark.parametrize("threads", [1, 4])
async def test_no_wake_up_is_lost(threads, scoring):
    """Thousands of calls, each made when the threads sleep or are just about to."""
    pause = random.Random(5)

    scorer = scoring(lambda value: value, threads=threads)
    for number in range(4000):
        assert await asyncio.wait_for(scorer.call(number), PATIENCE) == number
        if number % 10 == 0:
            await asyncio.sleep(pause.choice([0, 0.00002, 0.0002]))


# --- async callees --------------------------------------------------------------------------------


async def test_an_async_callee_is_awaited_in_the_scoring_thread_many_at_a_time(scoring):
    """Forty calls of 0.2 s take about 0.2 s, and none of it in the caller's thread."""
    threads: set[threading.Thread] = set()

    async def run(number: int) -> int:
        threads.add(threading.current_thread())
        await asyncio.sleep(0.2)
        return number

    scorer = scoring(run)
    await scorer.call(0)
    started = time.monotonic()
    answers = await asyncio.gather(*(scorer.call(number) for number in range(40)))
    assert time.monotonic() - started < 4
    assert answers == list(range(40))
    assert len(threads) == 1
    assert threading.main_thread() not in threads


async def test_async_calls_see_each_their_own_context(scoring):
    """A context variable that one call sets is not seen by another that runs meanwhile."""
    current: ContextVar[int] = ContextVar("current", default=-1)

    async def run(number: int) -> tuple[int, int]:
        before = current.get()
        current.set(number)
        await asyncio.sleep(0.01)
        return before, current.get()

    scorer = scoring(run)
    answers = await asyncio.gather(*(scorer.call(number) for number in range(20)))
    assert answers == [(-1, number) for number in range(20)]


async def test_at_its_deadline_an_async_call_is_answered_and_others_go_on(scoring):
    async def run(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    scorer = scoring(run, timeout_seconds=0.2)
    late = asyncio.create_task(scorer.call(30))
    assert await scorer.call(0.01) == 0.01
    with pytest.raises(RunTimeout):
        await late
    assert not scorer.stuck
    assert await scorer.call(0.01) == 0.01


# --- several loops --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_second_loop_can_use_the_scorer_after_the_first_is_closed(gate, is_async):
    """Answers for the closed loop are dropped; deadlines work on the new one."""
    begun = threading.Event()

    def run(wait: float) -> float:
        if wait < 0:
            begun.set()
            gate.wait(PATIENCE)
        else:
            time.sleep(wait)
        return wait

    async def run_async(wait: float) -> float:
        return run(wait)

    scorer: Scorer[Any] = Scorer(
        lambda runner: Async(run_async) if is_async else Sync(run), timeout_seconds=0.4
    )
    scorer.start()

    async def leave_one_behind() -> None:
        assert await scorer.call(0) == 0
        task = asyncio.create_task(scorer.call(-1))
        await soon(begun.is_set)
        task.cancel()

    async def second() -> None:
        gate.set()
        for _ in range(20):
            assert await asyncio.wait_for(scorer.call(0), PATIENCE) == 0
        with pytest.raises(RunTimeout):
            await scorer.call(0.8)
        await scorer.stop(PATIENCE)

    asyncio.run(leave_one_behind())
    asyncio.run(second())


@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_a_slow_call_keeps_no_answer_of_those_after_it(gate, kind, scoring):
    class Answer:
        """What weak references can be made to."""

    def run(slow: bool) -> Answer:
        if slow:
            gate.wait(PATIENCE)
        return Answer()

    async def run_async(slow: bool) -> Answer:
        while slow and not gate.is_set():
            await asyncio.sleep(0.01)
        return Answer()

    function, threads = (run_async, 1) if kind == "async" else (run, 4)
    scorer = scoring(function, threads=threads, timeout_seconds=PATIENCE)
    slow = asyncio.create_task(scorer.call(True))
    answers = [weakref.ref(await scorer.call(False)) for _ in range(50)]
    await soon(lambda: all(each() is None for each in answers))
    assert not slow.done()
    gate.set()
    await slow


async def test_what_waits_past_its_deadline_is_let_go_though_the_thread_is_stuck(gate, scoring):
    class Request:
        """What weak references can be made to."""

    scorer = scoring(lambda request: gate.wait(3 * PATIENCE), timeout_seconds=0.1)
    first = asyncio.create_task(scorer.call(Request()))
    await asyncio.sleep(0)
    request = Request()
    sent = weakref.ref(request)
    second = asyncio.create_task(scorer.call(request))
    del request
    with pytest.raises(NotBegun):
        await second
    del second
    await soon(lambda: sent() is None)
    assert not gate.is_set()
    gate.set()
    with pytest.raises(RunTimeout):
        await first
