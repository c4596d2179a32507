"""One worker of a batch: the runtime and the trigger in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from ..cache.build import caching
from ..errors import ScoringRuntimeError, StartError
from ..scoring.diagnosis import diagnosis
from ..scoring.runtime import Runtime, State, build
from ..script.parallel_run import describe
from ..standalone import triggers
from ..standalone.blob import BlobTrigger, unless
from ..telemetry.tracing import spans_of
from . import mini_batch
from .files import FileScoring
from .job import Job
from .parts import Parts
from .rows import PartScoring

Send = Callable[[tuple[Any, ...]], object]
"""Takes ``("ready",)`` and ``("told", done, missing)``."""
_STUCK_SECONDS = 0.5
EXIT_STUCK = 5


def work(job: Job, number: int, pipe: Connection) -> None:
    """A whole process; it sends what happens, at last ``("end", exit code, why)``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    os.dup2(2, 1)  # standard output is for the summary
    with asyncio.Runner() as runner:
        pipe.send(("end", *worked(job, partial(score, job, number, pipe.send), runner)))
    pipe.close()


def worked(
    job: Job, scoring: Callable[[asyncio.Event], Coroutine[Any, Any, None]], runner: asyncio.Runner
) -> tuple[int, str]:
    """Begin the process and score; the exit code, and why it is not 0."""
    job.begin(job.settings)
    sys.argv = [job.settings.entry_script or sys.argv[0], *job.arguments]
    try:
        runner.run(_until_told(scoring))
    except StartError as error:
        return 3, diagnosis(error, job.settings)
    except ScoringRuntimeError as error:
        return 4, str(error)
    return 0, ""


async def score(job: Job, number: int, send: Send, stopping: asyncio.Event) -> None:
    """Score all that no other worker does, until there is nothing left or ``stopping``.

    Raises:
        StartError: the model or script cannot be loaded.
        TriggerTrouble, InputTrouble: the place does not work, or a file has changed.
    """
    runtime = _built(job)
    runtime.start()
    await unless(stopping, runtime.started())
    if runtime.state is State.HEALTHY:
        send(("ready",))
        cache = caching(runtime)
        begin_at = number / job.settings.worker_count
        trigger = _trigger(job, begin_at, runtime, cache.score, send)
        watch = asyncio.create_task(_end_when_stuck(runtime))
        await trigger.run(stopping, once=not job.follow)
        watch.cancel()
        if job.mini_batch is not None:
            await runtime.within(runtime.served[0], mini_batch.shut_down)
        await cache.close()
    await runtime.stop()
    if runtime.spans is not None:
        runtime.spans.close()


def _built(job: Job) -> Runtime:
    runtime = build(job.settings)
    runtime.trace_by(spans_of(job.settings))
    if job.mini_batch is not None:
        describe(working_dir=os.getcwd(), **job.mini_batch)
        runtime.load_script = mini_batch.load
    return runtime


def _trigger(job: Job, begin_at: float, runtime: Runtime, score: Any, send: Send) -> BlobTrigger:
    def tell(done: int, missing: Any) -> None:
        send(("told", done, list(missing)))

    if job.parts is None:
        paths = job.paths(runtime.has_script)
        place = triggers.place(job.settings, paths)
        return BlobTrigger(runtime, FileScoring(runtime, score, tell), paths, place)
    parts = Parts(job.settings, job.parts, job.target, job.directions, begin_at)
    parts.tell = tell
    if job.mini_batch is None:
        rows = PartScoring(runtime, score, parts, job.kind, job.rows_as)
        return BlobTrigger(runtime, rows, parts.paths, parts)
    appends = job.mini_batch["config"]["output_action"] == "append_row"
    batches = mini_batch.MiniBatchScoring(runtime, score, parts, appends=appends)
    return BlobTrigger(runtime, batches, parts.paths, parts)


async def _until_told(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stopping = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await work(stopping)


async def _end_when_stuck(runtime: Runtime) -> None:
    """End a process whose run() is past its deadline: another takes its place."""
    before = State.HEALTHY
    while not (before is runtime.state is State.UNHEALTHY):
        before = runtime.state
        await asyncio.sleep(_STUCK_SECONDS)
    os._exit(EXIT_STUCK)


def _end_with(pipe: Connection) -> None:
    """End when the process that started this one is gone."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)
