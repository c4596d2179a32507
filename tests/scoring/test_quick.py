"""Which calls the event loop makes itself: quick ones, that come alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scoring_runtime.errors import RunFailed
from scoring_runtime.messages import ScoringRequest, ScoringResponse
from scoring_runtime.scoring.queue import Scorer
from scoring_runtime.scoring.quick import QUICK_SECONDS
from scoring_runtime.telemetry.logs import request_id

pytestmark = pytest.mark.anyio
ONE = ScoringRequest(b"[1]")
SLOW = ScoringRequest(b"[2]")
LONGER = ScoringRequest(b"[1, 1]")


class Model:
    """Says which thread called it, and works on ``[2]`` for longer than is quick."""

    is_async = is_bound = False

    def __init__(self) -> None:
        self.entered: list[str] = []

    def __call__(self, request: ScoringRequest) -> ScoringResponse:
        if request.enter is not None:
            request.enter()
        request_id.set(request.request_id)
        until = time.thread_time() + QUICK_SECONDS / (1 if request.body == SLOW.body else 8)
        while time.thread_time() < until:
            pass
        if request.body == b"[]":
            raise SystemExit
        return ScoringResponse(200, threading.current_thread().name.encode(), (), 0)

    async def awaited(self, request: ScoringRequest) -> ScoringResponse:
        return self(request)


@pytest.fixture
async def scorer() -> AsyncIterator[Scorer[Any]]:
    made: Scorer[Any] = Scorer(lambda _: Model())
    made.start()
    for _ in range(100):
        assert await by_thread(made, ONE)
    while await by_thread(made, ONE):  # this machine had other things to do
        pass
    yield made
    await made.stop(20)


async def by_thread(scorer: Scorer[Any], request: ScoringRequest) -> bool:
    await asyncio.sleep(0)  # a turn of the loop of its own
    answer = await scorer.call(request)
    return b"scoring-" in answer.body


async def test_a_quick_model_is_called_on_the_loop_when_nothing_else_waits(scorer):
    assert not await by_thread(scorer, ONE)
    assert await by_thread(scorer, LONGER)  # of which nothing is known yet
    assert not await by_thread(scorer, LONGER)
    encoded = ONE._replace(headers=[(b"content-encoding", b"gzip")])
    assert await by_thread(scorer, encoded)  # which may be any size


async def test_it_goes_back_to_the_thread_when_it_is_slow(scorer):
    while not await by_thread(scorer, SLOW):
        pass
    assert await by_thread(scorer, ONE)


async def together(scorer: Scorer[Any], count: int) -> int:
    """How many of so many requests of one turn of the loop the thread has scored."""
    return sum(await asyncio.gather(*(by_thread(scorer, ONE) for _ in range(count))))


async def test_requests_that_come_together_are_the_threads(scorer):
    while await together(scorer, 12) < 12:  # it looks again after some calls
        pass
    assert await together(scorer, 50) == 50
    while await by_thread(scorer, ONE):  # until they have come alone for a while
        pass


async def test_a_few_that_come_together_are_not(scorer):
    """Two wake-ups for each cost more than the thread saves."""
    found = [await together(scorer, 3) for _ in range(40)]
    assert found.count(0) > 30  # the others, where this machine made one slow


async def test_of_a_sudden_crowd_the_loop_scores_some_only(scorer):
    while not await together(scorer, 200):  # the turn in which it happened to look
        while await by_thread(scorer, ONE):
            pass
    assert scorer.begins_at_once() is False


async def test_on_the_loop_nothing_of_a_request_stays(scorer):
    entered: list[str] = []
    named = ONE._replace(request_id="mine", enter=lambda: entered.append("yes"))
    assert not await by_thread(scorer, named)
    assert (request_id.get(), entered) == ("", [])
    raises = ONE._replace(body=b"[]")
    await asyncio.sleep(0)
    with pytest.raises(RunFailed, match="SystemExit"):
        await scorer.call(raises)
    assert not await by_thread(scorer, ONE)


async def test_a_callee_that_is_bound_to_its_thread_stays_there():
    class Bound(Model):
        is_bound = True

    made: Scorer[Any] = Scorer(lambda _: Bound())
    made.start()
    for _ in range(300):
        assert await by_thread(made, ONE)
    await made.stop(20)


async def test_one_that_stops_takes_no_quick_call(scorer):
    await scorer.stop(20)
    with pytest.raises(Exception, match="stopping"):
        await scorer.call(ONE)
