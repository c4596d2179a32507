"""One process that serves: the runtime, the endpoint, uvicorn's server."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from ..cache.build import caching
from ..http.endpoint import create
from ..http.probes import probes_only
from ..recording.build import recording
from ..scoring.diagnosis import diagnosis
from ..scoring.runtime import Loaded, State, build, settle_in
from ..scoring.served import Served
from ..settings.settings import Settings
from ..telemetry.logs import log
from ..telemetry.metrics import CONNECTIONS
from ..telemetry.pages import Pages
from ..telemetry.tracing import spans_of
from . import later, triggers
from .connection import Shared
from .http import GuardedProtocol, HttpProtocol, ProbeProtocol
from .orders import Orders
from .sharing import BACKLOG, Listener, Load, counts_of
from .supervisor import END_SIGNALS, EXIT_CANNOT_START, EXIT_OK, EXIT_STUCK, Supervision
from .tls import tls_of
from .wear import Wear

_RESTART_SECONDS = 5.0


class Worker:
    """One process that serves: the runtime, the endpoint, uvicorn."""

    def __init__(
        self,
        settings: Settings,
        sockets: list[socket.socket],
        preloaded: Mapping[Served, Loaded],
        supervised: Supervision | None = None,
        pages: Pages | None = None,
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._supervised = supervised
        number = supervised.load.place if supervised is not None else 0
        self._wear: Wear | None = None
        if supervised is not None and settings.recycles:
            self._wear = Wear(settings, supervised.began)
        self._runtime = build(settings, preloaded, pages, number)
        self._runtime.before_ready.append(settle_in)
        if supervised is not None:
            self._runtime.began = self._wear.began if self._wear else supervised.began
            if not supervised.is_candidate:
                # Before a client knows it: one that crashes then is replaced.
                self._runtime.before_ready.append(supervised.tell_ready)
        self._runtime.trace_by(spans_of(settings))
        self._caching = caching(self._runtime, "WORKER_COUNT")
        self._recording = recording(self._runtime)
        around = self._recording.around
        score = around(self._caching.score, "http")
        self._orders: Orders | None = None
        if supervised is not None and supervised.line is not None:
            self._orders = Orders(supervised, supervised.line, self._runtime)
        change = self._orders.change if self._orders is not None else None
        inputs = self._caching.inputs
        self._later, self._outward = later.build(self._runtime, score)
        self._endpoint, handle = create(
            self._runtime, score, inputs, change=change, later=self._later
        )
        self._shared = Shared(self._runtime, handle)
        self._shared.probes = probes_only(handle, self._endpoint.unknown)
        protocol: type[HttpProtocol] = HttpProtocol
        if (guard := self._endpoint.guard) is not None:
            protocol, self._shared.refuses = GuardedProtocol, guard.refuses
        self._tls = tls_of(settings)
        if self._tls is not None:
            self._shared.scheme = "https"
        self._server = _Server(_server_config(settings))
        self._server.shared = self._shared
        self._server.ports = [
            (partial(protocol, self._shared), self._tls.options if self._tls is not None else {}),
            (partial(ProbeProtocol, self._shared), {}),
        ]
        self._server.load = self._load()
        if self._server.load is not None:
            self._shared.lost = self._server.load.lost
        metrics = self._runtime.metrics
        metrics.parts.add("connections")
        self._connections = metrics.number(CONNECTIONS)
        metrics.publish_by(self._publish_connections)
        around = later.around(self._later, around)
        self._triggers = triggers.build(self._runtime, self._caching.score, around)
        self._exit_code = EXIT_OK

    def _load(self) -> Load | None:
        """None where a loop's own servers do: nobody else listens, and there are no handshakes."""
        if self._supervised is not None and self._settings.shares_sockets:
            return self._supervised.load
        has_handshakes = self._tls is not None and sys.platform != "win32"
        return Load(counts_of(1), 0) if has_handshakes else None

    def run(self) -> int:
        """Serve until a signal ends it; the exit code of the process."""
        self._runtime.start()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve())
        if self._runtime.spans is not None:
            self._runtime.spans.close()
        return self._exit_code

    async def _serve(self) -> None:
        self._stopping = stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._server.when_told_to_stop = partial(loop.call_soon_threadsafe, stopping.set)
        if self._settings.drain_seconds:
            self._server.before_stop = partial(loop.call_soon_threadsafe, self._drain)
        if self._orders is not None:
            self._orders.listen(self._retire)
            if self._supervised is not None and self._supervised.is_candidate:
                await self._stand_by(self._orders)
        if not self._exit_code:
            await self._take_requests()

    async def _stand_by(self, orders: Orders) -> None:
        try:
            await self._runtime.started()
            await orders.stand_by()
        except Exception as error:
            self._cannot_start(error)

    async def _take_requests(self) -> None:
        stopping = self._stopping
        watchers = [asyncio.create_task(each) for each in (self._watch(), self._sweep())]
        if self._orders is not None and self._settings.reload == "auto":
            watchers.append(asyncio.create_task(self._orders.watch()))
        triggered = asyncio.create_task(self._run_triggers(stopping))
        if self._later is not None and self._settings.cached:
            self._later.start()
        await self._server.serve(sockets=self._sockets)
        for each in watchers:
            each.cancel()
        self._shared.tally.flush(math.inf)
        stopping.set()
        if self._later is not None:
            await self._later.stop()
        await triggered
        await self._runtime.stop(0 if self._exit_code else self._settings.shutdown_seconds)
        if self._later is not None:
            await self._later.close()
        await self._outward.close()
        await self._caching.close()
        await asyncio.to_thread(self._recording.close)
        self._endpoint.flush_log()

    async def _run_triggers(self, stopping: asyncio.Event) -> None:
        stopped = asyncio.create_task(stopping.wait())
        started = asyncio.create_task(self._runtime.settled())
        await asyncio.wait([stopped, started], return_when=asyncio.FIRST_COMPLETED)
        if self._runtime.state is State.HEALTHY:
            await asyncio.gather(*(_kept_running(each, stopping) for each in self._triggers))
        stopped.cancel()

    async def _watch(self) -> None:
        try:
            await self._runtime.started()
        except Exception as error:
            self._cannot_start(error)
            return
        if self._supervised is not None:
            self._supervised.load.started()
        if self._wear is not None:
            self._wear.loaded()
        # What a cache waits for with a time-out has to be in a task.
        if not self._settings.cached:
            self._shared.begins_at_once = self._runtime.begins_at_once
        log.info("Worker with pid %s ready for serving traffic", os.getpid())

    def _cannot_start(self, error: Exception) -> None:
        self._exit_code = EXIT_CANNOT_START
        if self._supervised is None:
            print(diagnosis(error, self._settings), file=sys.stderr, flush=True)
        else:
            self._supervised.tell(diagnosis(error, self._settings))
        self._server.should_exit = True

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.1 if self._shared.retiring else 1)
            self._runtime.metrics.publish()
            if self._tls is not None:
                self._tls.look()
            self._shared.sweep(self._server.server_state.connections)  # type: ignore[arg-type]
            if self._supervised is not None and not self._server.should_exit:
                to_end = self._is_to_end(self._supervised) or self._has_retired(self._supervised)
                self._server.should_exit = to_end or self._server.should_exit

    def _has_retired(self, supervised: Supervision) -> bool:
        """Whether it has been replaced, and its last connection has ended."""
        if self._shared.retiring:
            return not (self._server.server_state.connections or self._server.is_connecting)
        if supervised.is_released:
            self._retire()
        elif self._wear is not None and not supervised.is_worn and (why := self._wear.why):
            supervised.ask_for_successor(why)
        return False

    def _retire(self) -> None:
        """Another is ready: end what has begun."""
        if not self._shared.retiring:
            log.info("Another worker is ready; this one ends what it has begun.")
            self._stopping.set()  # blobs and messages end as at a SIGTERM
            self._shared.retiring = True
            self._server.retire()

    def _drain(self) -> None:
        """SIGTERM has come: go on for a while, and say that it is not for long."""
        seconds = self._settings.drain_seconds
        log.info("SIGTERM: requests are taken for %g s more (SCORING_DRAIN_SECONDS).", seconds)
        self._stopping.set()
        self._runtime.troubles["host"] = "This process is about to end (SCORING_DRAIN_SECONDS)."
        end = partial(self._server.handle_exit, signal.SIGTERM, None)
        asyncio.get_running_loop().call_later(seconds, end)

    def _publish_connections(self) -> None:
        self._connections.set(len(self._server.server_state.connections))

    def _is_to_end(self, supervised: Supervision) -> bool:
        if supervised.has_ended:
            log.error("The process that supervises the workers is gone; this worker ends.")
            return True
        if supervised.is_hurried:
            return True
        # The only one is left alone: run() may yet return, and this process serve again.
        if self._settings.worker_count > 1 and self._runtime.state is State.UNHEALTHY:
            log.error("run() has not returned after its deadline; this worker is replaced.")
            self._exit_code = EXIT_STUCK
            return True
        return False


async def _kept_running(trigger: triggers.Trigger, stopping: asyncio.Event) -> None:
    """A trigger never ends before the host, not even by a mistake of its own."""
    while not stopping.is_set():
        try:
            await trigger.run(stopping)
        except Exception:
            log.exception("A trigger failed; it is started again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _RESTART_SECONDS)


def _server_config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        _no_app,
        interface="asgi3",
        http=asyncio.Protocol,  # each port has its own
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
    )


async def _no_app(scope: object, receive: object, send: object) -> None:
    """uvicorn wants an ASGI application; :class:`HttpProtocol` answers without one."""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Server(uvicorn.Server):
    """uvicorn's server, ending normally on SIGTERM: it would raise the signal again."""

    when_told_to_stop: Callable[[], object] | None = None
    before_stop: Callable[[], object] | None = None
    """Called at the first SIGTERM in place of an end, which it brings about itself."""
    _retired = False
    load: Load | None = None
    """Set where other workers have the same sockets, or with TLS."""
    shared: Shared
    ports: Sequence[tuple[Callable[..., asyncio.Protocol], Mapping[str, Any]]] = ()
    """For each socket what makes a protocol, of the server's state and the loop; and its TLS."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        if self._retired:  # before it began
            self.servers, self.started = [], True
            return
        loop = asyncio.get_running_loop()
        self.servers = []
        for each, (made, tls) in zip(sockets or (), self.ports, strict=False):
            protocol = partial(made, self.server_state, loop)
            if self.load is None:
                options = {"backlog": BACKLOG, **tls}
                self.servers.append(await loop.create_server(protocol, sock=each, **options))
            else:
                most = self._most_handshakes if tls else lambda: math.inf
                gave_way = self.shared.handshake_gave_way
                listener: Any = Listener(each, protocol, self.load, tls, most, gave_way)
                self.servers.append(listener)
        self.started = True

    def _most_handshakes(self) -> int:
        return self.shared.most_handshakes(len(self.server_state.connections))

    @property
    def is_connecting(self) -> bool:
        """Whether a connection is in its handshake, as far as that is known."""
        return self.load is not None and any(each.is_connecting for each in self.servers)  # type: ignore[attr-defined]

    def retire(self) -> None:
        """Take no new connection; the others end with their next answer."""
        self._retired = True
        if self.load is not None:
            self.load.leave()
        for each in self.servers if self.started else ():
            each.close()
        for connection in list(self.server_state.connections):
            connection.retire()  # type: ignore[union-attr]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the connections, those too that are just being made."""
        for each in self.servers if self.load is not None else ():
            each.close()
            await each.wait_closed()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let the triggers stop now, not after the connections."""
        if self.before_stop is not None and sig == signal.SIGTERM:
            drain, self.before_stop = self.before_stop, None
            drain()
            return
        super().handle_exit(sig, frame)
        if self.when_told_to_stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self.when_told_to_stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # They stay: a second signal must not cut off the triggers, which end after the server.
        for each in END_SIGNALS:
            signal.signal(each, self.handle_exit)
        yield
