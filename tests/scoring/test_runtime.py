"""The core put together: states, waiting for init(), streams, stop."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime import InputError, ScoringRequest, Settings, build
from scoring_runtime.errors import (
    EntryScriptFailed,
    NotStarted,
    RunFailed,
    ScoringRuntimeError,
)
from scoring_runtime.models.folder import model_path
from scoring_runtime.scoring.runtime import Runtime, State, load
from scoring_runtime.scoring.served import served

pytestmark = pytest.mark.anyio
PATIENCE = 20.0
# Scripts in this process wait for and note things here.
gate = threading.Event()
notes: list[Any] = []
SHARED = "from tests.scoring.test_runtime import gate, notes\nimport threading, time, asyncio"


@pytest.fixture(autouse=True)
def shared() -> Iterator[None]:
    """A closed gate and no notes at the start; no thread left waiting at the end."""
    gate.clear()
    notes.clear()
    yield
    gate.set()


def settings(path: Path, **environ: str) -> Settings:
    return Settings.from_environ(
        {"AZUREML_ENTRY_SCRIPT": str(path), "AML_APP_ROOT": str(path.parent), **environ}
    )


@pytest.fixture
async def runtime(write_script: Any) -> AsyncIterator[Callable[..., Runtime]]:
    """``runtime(source, NAME="value")`` → a runtime for a script, started; stopped at the end."""
    made: list[Runtime] = []

    def start(source: str, **environ: str) -> Runtime:
        made.append(build(settings(write_script(f"{SHARED}\n{source}"), **environ)))
        made[-1].start()
        return made[-1]

    yield start
    gate.set()
    for each in made:
        await each.stop()


async def scored(runtime: Runtime, body: bytes = b"", **request: Any) -> Any:
    response = await runtime.score(ScoringRequest(body, **request))
    return json.loads(await runtime.whole(response.body))


async def soon(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came true"
        await asyncio.sleep(0.002)


ECHO = "def init(): pass\ndef run(data): return data"
SLOW_INIT = "def init(): gate.wait(20)\ndef run(data): return data"
BAD_INIT = "def init():\n    gate.wait(20)\n    raise LookupError('no model')\ndef run(data): pass"


# --- states ---------------------------------------------------------------------------------------


async def test_transitioning_until_init_is_done_then_healthy(runtime):
    core = runtime(SLOW_INIT)
    assert core.state is State.TRANSITIONING
    assert core.wait_started(0.05) is False
    assert core.state is State.TRANSITIONING
    gate.set()
    await core.started()
    assert core.state.value == "Healthy"
    assert core.wait_started(0) is True


async def test_failed_when_init_raises_and_every_request_is_told(runtime):
    core = runtime(BAD_INIT)
    waiting = asyncio.create_task(scored(core))
    settled = asyncio.create_task(core.settled())
    raw = asyncio.create_task(core.takes_any_method())
    await asyncio.sleep(0.02)
    gate.set()
    with pytest.raises(EntryScriptFailed, match=r"^User's init function failed$") as raised:
        await core.started()
    assert isinstance(raised.value.__cause__, LookupError)
    await settled
    assert await raw is False
    assert core.state is State.FAILED
    for late in (waiting, scored(core)):
        with pytest.raises(NotStarted):
            await late
    with pytest.raises(EntryScriptFailed):
        core.wait_started(0)


async def test_a_failed_start_that_some_waited_for_is_not_reported_twice(runtime, caplog):
    """asyncio's "exception was never retrieved" would be a second, misleading traceback."""

    core = runtime(BAD_INIT)
    leaves = asyncio.create_task(core.settled())
    waits = [asyncio.create_task(core.settled()) for _ in range(3)]
    await asyncio.sleep(0.01)
    leaves.cancel()
    gate.set()
    await asyncio.gather(*waits)
    await asyncio.sleep(0.01)
    gc.collect()
    assert [each.getMessage() for each in caplog.records if each.name == "asyncio"] == []


async def test_on_started_tells_of_success_and_failure(runtime):
    for source in (SLOW_INIT, BAD_INIT):
        gate.clear()
        told: list[Any] = []
        core = runtime(source)
        core.on_started(told.append)
        await asyncio.sleep(0.01)
        assert told == []
        gate.set()
        await core.settled()
        while not told:
            await asyncio.sleep(0.002)
        (future,) = told
        assert (future.exception() is None) is (source is SLOW_INIT)


async def test_takes_any_method_waits_for_init_and_is_true_for_rawhttp(runtime):
    core = runtime(
        "from scoring_runtime import rawhttp\n"
        "def init(): gate.wait(20)\n"
        "@rawhttp\ndef run(request): return request.method"
    )
    asked = asyncio.create_task(core.takes_any_method())
    await asyncio.sleep(0.02)
    assert not asked.done()
    gate.set()
    assert await asked is True
    assert await scored(core, method="OPTIONS") == "OPTIONS"


# --- load -----------------------------------------------------------------------------------------


def test_load_imports_calls_init_once_and_makes_the_model_folder_known(write_script, tmp_path):
    (tmp_path / "model.txt").write_text("weights")
    path = write_script(
        f"{SHARED}\nnotes.append('import')\n"
        "def init(): notes.append(threading.current_thread())\n"
        "def run(data): return data"
    )
    with asyncio.Runner() as runner:
        load(settings(path, AZUREML_MODEL_DIR=str(tmp_path)), runner)
        assert notes == ["import", threading.current_thread()]
        assert model_path(file="model.txt") == tmp_path / "model.txt"


async def test_a_preloaded_invocation_is_used_and_init_not_run_again(write_script):
    """WORKER_PRELOAD: what the parent loaded serves in the scoring thread of each worker."""
    path = write_script(
        f"{SHARED}\ndef init(): notes.append('init')\n"
        "def run(data): return threading.current_thread().name"
    )

    def in_the_parent() -> Any:
        with asyncio.Runner() as runner:
            return load(settings(path), runner)

    loaded = await asyncio.to_thread(in_the_parent)
    core = build(settings(path), {served(settings(path))[0]: loaded})
    core.start()
    assert await scored(core) == "scoring-0"
    assert core.documents.get("2")
    await core.stop()
    assert notes == ["init"]


# --- settings reach the scoring thread ------------------------------------------------------------


async def test_scoring_concurrency_runs_as_many_at_a_time(runtime):
    core = runtime(
        "barrier = threading.Barrier(3)\ndef init(): pass\ndef run(data): return barrier.wait(20)",
        SCORING_CONCURRENCY="3",
    )
    assert sorted(await asyncio.gather(*(scored(core) for _ in range(3)))) == [0, 1, 2]


async def test_stop_waits_scoring_shutdown_seconds_unless_told_otherwise(runtime):
    core = runtime(
        "def init(): pass\ndef run(data): return gate.wait(20)", SCORING_SHUTDOWN_SECONDS="0.2"
    )
    call = asyncio.create_task(scored(core))
    await asyncio.sleep(0.02)
    for seconds, least in ((None, 0.19), (0, 0)):
        started = time.monotonic()
        await core.stop(seconds)
        assert least <= time.monotonic() - started < 5
    call.cancel()


# --- async scripts --------------------------------------------------------------------------------


async def test_async_init_and_async_run_share_a_loop_of_the_scoring_thread(runtime):
    """A lock, a client or a queue made in init() can be awaited in run()."""

    core = runtime(
        "async def init():\n"
        "    global lock, home\n"
        "    await asyncio.sleep(0.01)\n"
        "    lock, home = asyncio.Lock(), asyncio.get_running_loop()\n"
        "async def run(data):\n"
        "    async with lock:\n"
        "        await asyncio.sleep(0)\n"
        "        return [data, asyncio.get_running_loop() is home, threading.get_ident()]\n"
    )
    answers = await asyncio.gather(*(scored(core, b"%d" % n) for n in range(20)))
    assert [answer[:2] for answer in answers] == [[str(n), True] for n in range(20)]
    assert threading.get_ident() not in {answer[2] for answer in answers}


async def test_async_init_with_a_sync_run(runtime):
    core = runtime(
        "async def init():\n"
        "    await asyncio.sleep(0)\n"
        "    notes.append(threading.get_ident())\n"
        "def run(data): return threading.get_ident() == notes[0]"
    )
    assert await scored(core) is True


# --- streams --------------------------------------------------------------------------------------

STREAM = """
from scoring_runtime import AMLResponse, InputError
def parts(count):
    try:
        for n in range(count):
            if n == 3:
                {then}
            notes.append(threading.get_ident())
            yield b"%d," % n
    finally:
        notes.append(("closed", threading.get_ident()))
def init(): pass
{define} run(data): return AMLResponse(parts(int(data)), 200)
"""


def stream(then: str = "pass", is_async: bool = False) -> str:
    return STREAM.format(then=then, define="async def" if is_async else "def")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_every_part_of_a_stream_is_made_in_the_scoring_thread(runtime, is_async):
    core = runtime(stream(is_async=is_async))
    response = await core.score(ScoringRequest(b"5"))
    assert not isinstance(response.body, bytes)
    assert [chunk async for chunk in core.chunks(response.body)] == [
        b"0,", b"1,", b"2,", b"3,", b"4,",
    ]  # fmt: skip
    assert len(set(notes[:5])) == 1
    assert notes[0] != threading.get_ident()
    assert notes[5:] == [("closed", notes[0])]


async def test_a_stream_that_is_left_early_is_closed_in_the_scoring_thread(runtime):
    """A generator's finally may close what belongs to that thread, and may take long."""

    core = runtime(stream())
    response = await core.score(ScoringRequest(b"5"))
    chunks = core.chunks(response.body)
    assert await anext(chunks) == b"0,"
    home = notes[0]
    await chunks.aclose()
    assert home != threading.get_ident()
    # Whatever holds the generator, it is the close that ends it, not the garbage collector.
    del chunks, response
    await soon(lambda: len(notes) == 2)
    assert notes[1] == ("closed", home)


@pytest.mark.parametrize("whole", [False, True], ids=["in parts", "whole"])
@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("raise ValueError('half-way')", RunFailed),
        ("raise SystemExit(3)", RunFailed),
        ("raise KeyboardInterrupt", RunFailed),
        ("raise InputError('row 3 is bad')", InputError),
    ],
)
async def test_an_error_in_a_stream_is_a_failed_run_and_the_service_goes_on(
    runtime, caplog, then, error, whole
):
    core = runtime(stream(then))
    response = await core.score(ScoringRequest(b"5"))
    assert not isinstance(response.body, bytes)
    with pytest.raises(error) as raised:
        if whole:
            await core.whole(response.body)
        else:
            async for _ in core.chunks(response.body):
                pass
    assert isinstance(raised.value, ScoringRuntimeError)
    good = await core.score(ScoringRequest(b"2"))
    assert await core.whole(good.body) == b"0,1,"
    logged = [each.getMessage() for each in caplog.records if each.name.endswith("user_script")]
    assert any(then.split()[1].partition("(")[0] in each for each in logged) is (error is RunFailed)


async def test_whole_joins_a_stream_in_the_scoring_thread_and_leaves_bytes_alone(runtime):
    core = runtime(stream())
    assert await core.whole(b"as it is") == b"as it is"
    response = await core.score(ScoringRequest(b"4"))
    assert await core.whole(response.body) == b"0,1,2,3,"
    assert len(set(notes[:4])) == 1
    assert notes[0] != threading.get_ident()
