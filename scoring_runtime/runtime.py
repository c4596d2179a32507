"""The core put together: settings → script → scoring thread → ``score``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent import futures
from enum import Enum
from functools import partial

from . import entry_script, models, redis_clients, schema
from .errors import EntryScriptFailed, InputError
from .invocation import Invocation, run_failed
from .scorer import Scorer
from .settings import Settings
from .telemetry import log, script_log


class State(Enum):
    """The states as users of Azure ML know them."""

    TRANSITIONING = "Transitioning"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    FAILED = "Failed"


def load(settings: Settings, runner: asyncio.Runner) -> Invocation:
    """Import the entry script and run its ``init()`` in this thread.

    Raises:
        EntryScriptError: as :func:`entry_script.load`; or ``init()`` raised.
    """
    models.use_model_dir(settings.model_dir)
    redis_clients.use(settings)
    script = entry_script.load(settings)
    script_log.info("Invoking user's init function")
    try:
        result = script.init()
        if asyncio.iscoroutine(result):
            runner.run(result)
    except BaseException as error:
        raise EntryScriptFailed("User's init function failed") from error
    script_log.info("Users's init has completed successfully")
    return Invocation(script, settings)


class Runtime:
    """One loaded model in one process.

    ``build`` it, ``start`` it, ``await score(request)``; ``await stop()`` at the end.
    """

    def __init__(self, settings: Settings, preloaded: Invocation | None = None) -> None:
        self.settings = settings
        self.documents = schema.Documents()
        self.troubles: dict[str, str] = {}
        """What keeps a trigger from working, by its name: it is not ready, but alive."""
        self.metrics: dict[str, Callable[[], float]] = {}
        """Numbers that ``/metrics`` shows: name → what to call for the value."""
        self._preloaded = preloaded
        self._scorer: Scorer[Invocation] = Scorer(
            self._prepare,
            threads=settings.concurrency,
            queue_size=settings.queue_size,
            timeout_seconds=settings.timeout_seconds,
        )
        self.score = self._scorer.call
        """``Score``: one request in, one response out; InputError, RunError or NotServing raised.

        Requests that come before ``init()`` is done wait for it.
        """

    @property
    def state(self) -> State:
        """Transitioning until ``init()`` is done; Unhealthy while a run() is past its deadline."""
        if not self._scorer.prepared.done():
            return State.TRANSITIONING
        if self._scorer.prepared.exception() is not None:
            return State.FAILED
        return State.UNHEALTHY if self._scorer.stuck else State.HEALTHY

    @property
    def script(self) -> entry_script.EntryScript:
        """The loaded entry script; only once started."""
        return self._scorer.prepared.result(0).script

    @property
    def readiness(self) -> State:
        """The state, or Unhealthy while a trigger has trouble."""
        return State.UNHEALTHY if self.troubles and self.state is State.HEALTHY else self.state

    def start(self) -> None:
        """Begin loading the script, in the scoring thread."""
        self._scorer.start()

    async def started(self) -> None:
        """Wait until ``init()`` is done; raises what it raised."""
        await asyncio.shield(asyncio.wrap_future(self._scorer.prepared))

    async def settled(self) -> None:
        """Wait until ``init()`` is done or has failed; the state says which."""
        if not self._scorer.prepared.done():
            waiting = asyncio.wrap_future(self._scorer.prepared)
            # asyncio reports an error that nobody has looked at.
            waiting.add_done_callback(lambda future: future.exception())
            await asyncio.wait([waiting])

    async def takes_any_method(self) -> bool:
        """Whether run() wants the request itself (``@rawhttp``), OPTIONS and HEAD included."""
        await self.settled()
        failed = self._scorer.prepared.exception() is not None
        return not failed and self._scorer.prepared.result().script.kind == "raw"

    def wait_started(self, seconds: float) -> bool:
        """The same without an event loop; False when it takes longer than ``seconds``."""
        try:
            self._scorer.prepared.result(seconds)
        except futures.TimeoutError:
            if self._scorer.prepared.done():
                raise
            return False
        return True

    def on_started(self, callback: object) -> None:
        """``callback(future)`` once ``init()`` is done or has failed, in the scoring thread."""
        self._scorer.prepared.add_done_callback(callback)  # type: ignore[arg-type]

    async def chunks(self, body: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
        """A streaming response's parts; each is made in the scoring thread, as run() was."""
        try:
            while (chunk := await self._scorer.call(body, _next_chunk)) is not None:
                yield chunk
        finally:
            await self._scorer.call(body, _close)

    async def whole(self, body: bytes | Iterator[bytes]) -> bytes:
        """A response's body, a stream joined together."""
        if isinstance(body, bytes):
            return body
        joined: bytes = await self._scorer.call(body, _joined)
        return joined

    async def stop(self, seconds: float | None = None) -> None:
        """Refuse new requests, wait for those in flight."""
        await self._scorer.stop(self.settings.shutdown_seconds if seconds is None else seconds)

    def _prepare(self, runner: asyncio.Runner) -> Invocation:
        invocation = self._preloaded or load(self.settings, runner)
        self.documents = schema.build(invocation.script.run, self.settings)
        log.info("Scoring timeout is set to %s", self.settings.scoring_timeout_ms)
        return invocation


def build(settings: Settings, preloaded: Invocation | None = None) -> Runtime:
    """The runtime for these settings, not started yet."""
    return Runtime(settings, preloaded)


def _close(body: Iterator[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


def _next_chunk(body: Iterator[bytes]) -> bytes | None:
    try:
        return next(body, None)
    except InputError:
        raise
    except BaseException as error:
        raise run_failed(error) from error


def _joined(body: Iterator[bytes]) -> bytes:
    try:
        return b"".join(iter(partial(_next_chunk, body), None))
    finally:
        _close(body)
