"""The core put together: settings → script → scoring thread → ``score``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent import futures
from enum import Enum
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..connections import redis
from ..connections.named import triggers
from ..errors import EntryScriptFailed, ModelDamaged, NotStarted, UnknownModel
from ..messages import ScoringRequest, ScoringResponse
from ..models import folder as models
from ..models import manifest
from ..script import entry_script, openapi, openapi_routes
from ..script.batched import BatchedInvocation, batch_of
from ..script.call import InFlask, Invocation, close_stream, joined_stream, next_chunk
from ..script.entry_script import EntryScript
from ..settings.settings import Settings
from ..telemetry.logs import began, log, script_log
from ..telemetry.metrics import (
    BATCH_SIZE,
    IN_FLIGHT,
    QUEUE_DEPTH,
    TRIGGER_UP,
    Layout,
    Metrics,
    Number,
)
from ..telemetry.pages import Pages, of_siblings
from ..telemetry.recent import Recent
from ..values.content import NoCodeModel, Spec
from .batches import Batches
from .queue import Scorer
from .served import Served, chosen, default, served

if TYPE_CHECKING:
    from ..telemetry.spans import Spans
    from .model_call import ModelInvocation


_NOTHING: Mapping[Any, Any] = MappingProxyType({})
# Seconds that a thread may keep the interpreter for when others ask.
_USUAL_TURN, _TURN = 0.005, 0.0001


class State(Enum):
    """The states as users of Azure ML know them."""

    TRANSITIONING = "Transitioning"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    FAILED = "Failed"


def load(
    settings: Settings, runner: asyncio.Runner, model: tuple[str, str] = ("model", "1")
) -> Invocation:
    """Import the entry script and run its ``init()`` in this thread.

    Raises:
        EntryScriptError: as :func:`entry_script.load`; or ``init()`` raised.
    """
    script = started(settings, runner, entry_script.load)
    if (batch := batch_of(script.run)) is not None:
        return BatchedInvocation(script, settings, model, batch)
    if settings.max_batch_size > 1:
        log.warning(
            "SCORING_MAX_BATCH_SIZE is for models without a script; a run() that takes several "
            "inputs at once says so with @batched."
        )
    return (InFlask if script.uses_flask else Invocation)(script, settings, model)


def started(
    settings: Settings, runner: asyncio.Runner, load: Callable[[Settings], EntryScript]
) -> EntryScript:
    """The entry script that ``load`` imports, its ``init()`` run in this thread; raises as
    :func:`load`."""
    _use_model_dir(settings)
    redis.use(settings)
    with _signals_refused_quietly():
        script = load(settings)
        script_log.info("Invoking user's init function")
        try:
            result = script.init()
            if asyncio.iscoroutine(result):
                runner.run(result)
        except BaseException as error:
            raise EntryScriptFailed("User's init function failed") from error
    asyncio.set_event_loop(runner.get_loop())  # which an asyncio.run() in init() has taken away
    entry_script.carry_by_value()
    script_log.info("Users's init has completed successfully")
    return script


def _use_model_dir(settings: Settings) -> None:
    last = {name: versions[-1] for name, versions in settings.versions if versions}
    models.use_model_dir(settings.model_dir, last)


@contextlib.contextmanager
def _signals_refused_quietly() -> Iterator[None]:
    """``signal.signal()`` in a scoring thread warns instead of ending the start: Python lets the
    main thread alone handle signals, and there they are the host's."""
    real = signal.signal

    def set_handler(number: int, handler: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return real(number, handler)
        script_log.warning(
            "signal.signal(%s) has no effect: the host handles the signals of this process.", number
        )
        return signal.getsignal(number)

    signal.signal = set_handler  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = real


class Loaded(Protocol):
    """What scores once loaded: the entry script, or a model without one."""

    is_async: bool
    is_bound: bool
    sees_headers: bool
    takes_any_method: bool
    takes_tensors: bool
    platform: str
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    began: Callable[[ScoringRequest], object]
    batch: tuple[int, float] | None

    def __call__(self, request: ScoringRequest) -> ScoringResponse: ...

    async def awaited(self, request: ScoringRequest) -> ScoringResponse: ...


class Runtime:
    """What one process serves: the entry script, or models each with a scoring thread of its own.

    ``build`` it, ``start`` it, ``await score(request)``; ``await stop()`` at the end.

    Raises:
        ConfigurationError: SCORING_DEFAULT_MODEL names a model that is not there.
    """

    def __init__(
        self,
        settings: Settings,
        preloaded: Mapping[Served, Loaded] = _NOTHING,
        pages: Pages | None = None,
        number: int = 0,
    ) -> None:
        self.settings = settings
        self.served = served(settings)
        self.metrics = _metrics(settings, self.served, pages, number)
        self.documents = openapi.Documents()
        self.troubles: dict[str, str] = {}
        """What keeps a trigger from working, by its name: it is not ready, but alive."""
        self.listens: dict[str, dict[str, str]] = {}
        """What a trigger listens to, and where its answers go, by its name; for people."""
        self.changes: Mapping[str, Any] = {}
        """What has become of changes of the model, for people; see ``standalone.change``."""
        self.asks_for_key = False
        """Whether its host asks HTTP clients for a key, so that the documents say it."""
        self.digests: dict[tuple[str, str], str] = {}
        """SHA-256 over the files of a model, by its name and version, once they have been read:
        nobody pays for it who does not ask for metrics."""
        self._reading: threading.Thread | None = None
        self.began: Callable[[ScoringRequest], object] = began
        """Called in a scoring thread with each request that is begun."""
        self.spans: Spans | None = None
        """What makes traces, if there are any."""
        self.load_script: Callable[..., Invocation] = load
        """What loads the entry script, in the scoring thread; as :func:`load`."""
        self.before_ready: list[Callable[[], object]] = []
        """Called in a scoring thread when all is loaded, before anybody can see that it is."""
        self._preloaded = preloaded
        self._scorers: dict[Served, Scorer[Loaded]] = {}
        for each in self.served:
            self._scorers[each] = self._scorer(each, [*self._scorers.values()][-1:])
        self._all = list(self._scorers.values())
        self._started = _all_of([scorer.prepared for scorer in self._all])
        chosen_by_default = default(self.served, settings)
        self._default = self._scorers[chosen_by_default] if chosen_by_default else None
        self._publish_gauges()
        self.recent = Recent(self.metrics)

    def trace_by(self, spans: Spans | None) -> None:
        """Make the traces of all that is scored; before it is started, when ``began`` is set."""
        self.spans = spans
        if spans is not None:
            self.began = spans.entering(self.began)

    def score(self, request: ScoringRequest) -> Awaitable[ScoringResponse]:
        """``Score``: one request in, one response out; InputError, RunError or NotServing raised.

        Requests that come before ``init()`` is done wait for it. An entry script scores whatever
        model is named: the metadata of a blob may call something else so.

        Raises:
            UnknownModel: at once, when no model of that name is served, or none is named and
                several are.
        """
        if self._default is None or (request.model and not self.has_script):
            return self._scorers[self.model(request.model)].call(request, None, request.patient)
        return self._default.call(request, None, request.patient)

    @property
    def begins_at_once(self) -> Callable[[], bool]:
        """Tells whether the default model is likely to answer before the event loop does anything
        else; only once started."""
        return bool if self._default is None else self._default.begins_at_once

    def model(self, wanted: str) -> Served:
        """The model of this ``name`` or ``name:version``; without a name the default.

        Raises:
            UnknownModel: there is none; the message lists what is served.
        """
        if wanted:
            return chosen(self.served, wanted)
        found = default(self.served, self.settings)
        if found is None:
            paths = ", ".join(f"/score/{each}" for each in {one.name: 0 for one in self.served})
            raise UnknownModel(
                f"Several models are served and none is the default (SCORING_DEFAULT_MODEL). "
                f"Name one: {paths}; for a blob or message by its metadata or property 'model'."
            )
        return found

    def loaded(self, model: Served) -> Loaded:
        """What scores for a model; only once started."""
        return self._scorers[model].prepared.result(0)

    def state_of(self, model: Served) -> State:
        """The state of one model."""
        return _state(self._scorers[model], self._scorers[model].prepared)

    @property
    def state(self) -> State:
        """Transitioning until every ``init()`` is done; Unhealthy while a run() is past its
        deadline."""
        if len(self._all) == 1:
            return _state(self._all[0], self._started)
        states = {_state(each, self._started) for each in self._all}
        order = (State.TRANSITIONING, State.FAILED, State.UNHEALTHY)
        return next((each for each in order if each in states), State.HEALTHY)

    @property
    def failure(self) -> BaseException | None:
        """Why it could not be started."""
        return self._started.exception() if self._started.done() else None

    @property
    def sees_headers(self) -> bool:
        """Whether a run() is given the request's headers; only once started."""
        return any(each.prepared.result(0).sees_headers for each in self._all)

    @property
    def has_script(self) -> bool:
        """Whether an entry script scores."""
        return self.served[0].folder is None

    @property
    def readiness(self) -> State:
        """The state, or Unhealthy while a trigger has trouble."""
        return State.UNHEALTHY if self.troubles and self.state is State.HEALTHY else self.state

    async def measured(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all workers as Prometheus reads them, for a value of ``Accept``, and the
        content type."""
        self.metrics.publish()
        if self._reading is None and self.state is State.HEALTHY:
            self._reading = threading.Thread(target=self._read, name="digests", daemon=True)
            self._reading.start()
        return await asyncio.to_thread(self._measured, accept)

    def _read(self) -> None:
        for model in self.served:
            folder = model.folder or Path(self.settings.model_dir)
            is_there = model.folder is not None or bool(self.settings.model_dir)
            try:
                found = manifest.digest(folder) if is_there else ""
            except (OSError, ModelDamaged) as error:
                found = ""
                log.warning("The files of %s cannot be read: %s", model.identity, error)
            self.digests[model[:2]] = found

    def _measured(self, accept: str) -> tuple[bytes, str]:
        from ..telemetry.exposition import written  # prometheus_client takes 0.1 s

        return written(self.metrics, self.digests, accept)

    def start(self) -> None:
        """Begin loading, in the scoring threads."""
        for each in self._all:
            each.start()

    async def started(self) -> None:
        """Wait until ``init()`` is done; raises what it raised."""
        await asyncio.shield(asyncio.wrap_future(self._started))

    async def settled(self) -> None:
        """Wait until ``init()`` is done or has failed; the state says which."""
        if not self._started.done():
            waiting = asyncio.wrap_future(self._started)
            # asyncio reports an error that nobody has looked at.
            waiting.add_done_callback(lambda future: future.exception())
            await asyncio.wait([waiting])

    async def takes_any_method(self) -> bool:
        """Whether run() wants the request itself (``@rawhttp``), OPTIONS and HEAD included."""
        await self.settled()
        failed = self._started.exception() is not None
        return not failed and any(each.prepared.result().takes_any_method for each in self._all)

    def wait_started(self, seconds: float) -> bool:
        """The same without an event loop; False when it takes longer than ``seconds``."""
        try:
            self._started.result(seconds)
        except futures.TimeoutError:
            if self._started.done():
                raise
            return False
        return True

    def on_started(self, callback: object) -> None:
        """``callback(future)`` once ``init()`` is done or has failed, in a scoring thread."""
        self._started.add_done_callback(callback)  # type: ignore[arg-type]

    async def chunks(self, body: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
        """A streaming response's parts; each is made in the scoring thread, as run() was."""
        try:
            while (chunk := await self._all[0].call(body, next_chunk)) is not None:
                yield chunk
        finally:
            await self.close(body)

    async def close(self, body: bytes | Iterator[bytes]) -> None:
        """End a streaming response in the scoring thread, though not all of it was made."""
        if not isinstance(body, bytes):
            await self._all[0].call(body, close_stream)

    async def whole(self, body: bytes | Iterator[bytes], patient: bool = False) -> bytes:
        """A response's body, a stream joined together."""
        if isinstance(body, bytes):
            return body
        joined: bytes = await self._all[0].call(body, joined_stream, patient)
        return joined

    async def within(self, model: Served, function: Callable[[Any], Any]) -> Any:
        """What ``function(None)`` gives in a scoring thread of a model, where it is called."""
        return await self._scorers[model].call(None, function, True)

    async def stop(self, seconds: float | None = None) -> None:
        """Refuse new requests, wait for those in flight."""
        patience = self.settings.shutdown_seconds if seconds is None else seconds
        await asyncio.gather(*(each.stop(patience) for each in self._all))

    def _scorer(self, model: Served, before: list[Scorer[Loaded]]) -> Scorer[Loaded]:
        def prepare(runner: asyncio.Runner) -> Loaded:
            # One after the other: libraries that two threads import at once may be half imported.
            if any(each.prepared.exception() is not None for each in before):
                raise NotStarted("A model before it could not be loaded; its log says why.")
            loaded = self._preloaded.get(model) or self._load(model, runner)
            loaded.began = self.began
            if loaded.batch:
                self.metrics.parts.add("batches")
            if model is self.served[-1]:
                self._finish(loaded)
                for each in self.before_ready:
                    each()
            return loaded

        settings = self.settings
        sizes = self.metrics.histogram(BATCH_SIZE, *model[:2])
        return Scorer(
            prepare,
            batches=lambda loaded: (
                Batches(loaded, settings.limits, sizes.observe) if loaded.batch else None
            ),
            threads=settings.concurrency,
            queue_size=settings.queue_size,
            timeout_seconds=settings.timeout_seconds,
        )

    def _publish_gauges(self) -> None:
        metrics = self.metrics

        def published(scorer: Scorer[Loaded], waiting: Number, in_flight: Number) -> None:
            waiting.set(scorer.waiting)
            in_flight.set(scorer.in_flight)

        for model, scorer in self._scorers.items():
            numbers = (metrics.number(each, *model[:2]) for each in (QUEUE_DEPTH, IN_FLIGHT))
            metrics.publish_by(partial(published, scorer, *numbers))
        ups = {each: metrics.number(TRIGGER_UP, each) for each in triggers(self.settings)}
        metrics.publish_by(lambda: self._publish_triggers(ups))

    def _publish_triggers(self, ups: dict[str, Number]) -> None:
        is_up = self.state is State.HEALTHY
        for trigger, up in ups.items():
            up.set(is_up and trigger not in self.troubles)

    def _load(self, model: Served, runner: asyncio.Runner) -> Loaded:
        if model.folder is None:
            return self.load_script(self.settings, runner, model[:2])
        from ..no_code import loading

        _use_model_dir(self.settings)
        shared = self.settings.worker_count > 1
        return _called(
            loading.load(model.folder, self.settings, shared=shared), model, self.settings
        )

    def _finish(self, last: Loaded) -> None:
        if isinstance(last, Invocation):
            named = [each[:2] for each in self.served]
            service = openapi_routes.Service(named, last.takes_tensors, self.asks_for_key)
            self.documents = openapi.build(last.script.run, self.settings, service)
        else:
            from .model_openapi import build as build_documents

            others = {each: self.loaded(each) for each in self.served[:-1]}
            every = cast("dict[Served, ModelInvocation]", {**others, self.served[-1]: last})
            asks = self.asks_for_key
            self.documents = build_documents(every, self.settings, asks_for_key=asks)
        log.info("Scoring timeout is set to %s", self.settings.scoring_timeout_ms)


def build(
    settings: Settings,
    preloaded: Mapping[Served, Loaded] = _NOTHING,
    pages: Pages | None = None,
    number: int = 0,
) -> Runtime:
    """The runtime for these settings, not started yet; it counts in the page of this number."""
    return Runtime(settings, preloaded, pages, number)


def cells(settings: Settings) -> int:
    """The size of the page that each of several processes with these settings counts in."""
    return Layout([each[:2] for each in served(settings)]).cells


def pages_of_siblings(settings: Settings) -> tuple[Pages, int]:
    """Pages for processes with these settings that the parent of this one starts, and ours."""
    said = repr((settings, triggers(settings)))
    purpose = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return of_siblings(purpose, cells(settings))


def _metrics(settings: Settings, there: list[Served], pages: Pages | None, number: int) -> Metrics:
    by_default = default(there, settings)
    only = there[0][:2] if there[0].folder is None else None
    named = [each[:2] for each in there]
    chosen_by_default = by_default[:2] if by_default else None
    return Metrics(named, chosen_by_default, triggers(settings), only, pages, number)


def set_aside() -> None:
    """Have the garbage collector look no more at what is there, for as long as this process lives.

    With scikit-learn its longest pass takes 45 ms, for which all requests wait, several times a
    second under load.
    """
    gc.collect()
    gc.freeze()


def settle_in() -> None:
    """What makes a process serve better for long, once all is loaded.

    A thread that waits for the interpreter asks for it only when nobody has released it for a
    while. A model that releases it all the time (a forest for each of its trees) takes it again
    before the event loop has woken up: with Python's 5 ms the loop starves beside such a model,
    and wakes up in vain 15,000 times a second. A script's own choice stays.
    """
    set_aside()
    if sys.getswitchinterval() == _USUAL_TURN:
        sys.setswitchinterval(_TURN)


def load_before_fork(settings: Settings) -> dict[Served, Loaded]:
    """What processes forked from this one need not load: the entry script, scikit-learn models.

    Raises:
        StartError: it cannot be loaded.
    """
    found: dict[Served, Loaded] = {}
    for each in served(settings):
        if each.folder is None:
            with asyncio.Runner() as runner:
                found[each] = load(settings, runner, each[:2])
        elif (model := _model_before_fork(each, each.folder, settings)) is not None:
            found[each] = model
    return found


def _model_before_fork(model: Served, folder: Path, settings: Settings) -> Loaded | None:
    from ..no_code import loading

    _use_model_dir(settings)
    made = partial(_called, model=model, settings=settings)
    found = loading.load_before_fork(folder, settings, made)
    if found is None:
        log.info(
            "WORKER_PRELOAD is for entry scripts and scikit-learn models: each worker loads %s "
            "itself.",
            model.identity,
        )
    return found


def _called(found: NoCodeModel, model: Served, settings: Settings) -> Loaded:
    from .model_call import BatchedModelInvocation, ModelInvocation

    kind = ModelInvocation if settings.max_batch_size == 1 else BatchedModelInvocation
    return kind(found, model.name, model.version, settings)


def _state(scorer: Scorer[Loaded], started: futures.Future[Any]) -> State:
    if not started.done():
        return State.TRANSITIONING
    if started.exception() is not None:
        return State.FAILED
    return State.UNHEALTHY if scorer.stuck else State.HEALTHY


def _all_of(prepared: list[futures.Future[Loaded]]) -> futures.Future[Any]:
    """Done when the last is, which waits for those before it; failed as the first that has."""
    if len(prepared) == 1:
        return prepared[0]
    whole: futures.Future[Any] = futures.Future()

    def look(_: futures.Future[Loaded]) -> None:
        errors = (each.exception() for each in prepared)
        first = next((error for error in errors if error is not None), None)
        if first is None:
            whole.set_result(None)
        else:
            whole.set_exception(first)

    prepared[-1].add_done_callback(look)
    return whole
