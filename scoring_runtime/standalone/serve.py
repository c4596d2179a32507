"""Listening sockets, worker processes, start and stop of the standalone host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType

import uvicorn

from ..diagnosis import diagnosis
from ..endpoint import create
from ..errors import ConfigurationError, StartError
from ..invocation import Invocation
from ..runtime import State, build, load
from ..settings import Settings
from ..telemetry import log
from .http import HttpProtocol, Shared

EXIT_OK, EXIT_USAGE, EXIT_CANNOT_START, EXIT_STUCK = 0, 1, 3, 5
_BACKLOG = 2048
_LONGEST_TOLD = 60_000  # a pipe holds 65,536 bytes
_END = (signal.SIGINT, signal.SIGTERM)


class PortInUse(Exception):
    """Another program listens there, or the address is not one of this machine."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the result is the exit code of the process."""
    settings = _with_shorter_timeout(settings)
    sockets = _listen(settings)
    preloaded: Invocation | None = None
    try:
        _attach_debugger(settings.debug_port)
        if settings.worker_preload:
            with asyncio.Runner() as runner:
                preloaded = load(settings, runner)
    except StartError as error:
        return _say_why(error, settings)
    if settings.worker_count == 1:
        return _Worker(settings, sockets, preloaded).run()
    return _Supervisor(settings, sockets, preloaded).run()


def _with_shorter_timeout(settings: Settings) -> Settings:
    """``WORKER_TIMEOUT`` killed a worker whose run() took longer; here it is a deadline too."""
    limits = [settings.scoring_timeout_ms, round(settings.worker_timeout * 1000)]
    return replace(settings, scoring_timeout_ms=min([each for each in limits if each] or [0]))


def _listen(settings: Settings) -> list[socket.socket]:
    ports = [settings.port]
    if settings.separate_health_endpoint and settings.health_port != settings.port:
        ports.append(settings.health_port)
    return [_bind(settings.host, port) for port in ports]


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with --port "
            "(or HEALTH_PORT), or stop what uses it."
        ) from error
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _attach_debugger(port: int) -> None:
    if not port:
        return
    try:
        import debugpy  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"AZUREML_DEBUG_PORT is {port} but debugpy is not installed. Install debugpy, or "
            "unset AZUREML_DEBUG_PORT."
        ) from None
    log.warning("Connecting to the debugger at port %s. Not for production.", port)
    debugpy.connect(port)
    debugpy.wait_for_client()


def _say_why(error: BaseException, settings: Settings) -> int:
    print(diagnosis(error, settings), file=sys.stderr, flush=True)
    return EXIT_CANNOT_START


class _Worker:
    """One process that serves: the runtime, the endpoint, uvicorn."""

    def __init__(
        self,
        settings: Settings,
        sockets: list[socket.socket],
        preloaded: Invocation | None,
        supervised: _Supervision | None = None,
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._supervised = supervised
        self._runtime = build(settings, preloaded)
        self._endpoint, handle = create(self._runtime)
        self._shared = Shared(self._runtime, handle)
        self._server = _Server(_server_config(self._shared))
        self._exit_code = EXIT_OK

    def run(self) -> int:
        self._runtime.start()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve())
        return self._exit_code

    async def _serve(self) -> None:
        watcher = asyncio.create_task(self._watch())
        await self._server.serve(sockets=self._sockets)
        watcher.cancel()
        await self._runtime.stop(0 if self._exit_code else self._settings.shutdown_seconds)
        self._endpoint.flush_log()

    async def _watch(self) -> None:
        try:
            await self._runtime.started()
        except Exception as error:
            self._exit_code = EXIT_CANNOT_START
            if self._supervised is None:
                _say_why(error, self._settings)
            else:
                self._supervised.tell(diagnosis(error, self._settings))
            self._server.should_exit = True
            return
        log.info("Worker with pid %s ready for serving traffic", os.getpid())
        while True:
            await asyncio.sleep(1)
            for connection in list(self._server.server_state.connections):
                connection.close_if_idle(time.monotonic())  # type: ignore[union-attr]
            if self._supervised is not None and self._is_to_end(self._supervised):
                self._server.should_exit = True
                return

    def _is_to_end(self, supervised: _Supervision) -> bool:
        if supervised.has_ended:
            log.error("The process that supervises the workers is gone; this worker ends.")
            return True
        if self._runtime.state is State.UNHEALTHY:
            log.error("run() has not returned after its deadline; this worker is replaced.")
            self._exit_code = EXIT_STUCK
            return True
        return False


def _server_config(shared: Shared) -> uvicorn.Config:
    def protocol(
        config: uvicorn.Config, server_state: object, app_state: object, _loop: object = None
    ) -> HttpProtocol:
        return HttpProtocol(shared, server_state, asyncio.get_running_loop())

    return uvicorn.Config(
        _no_app,
        interface="asgi3",
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(shared.runtime.settings.shutdown_seconds)),
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

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {each: signal.signal(each, self.handle_exit) for each in _END}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


class _Supervision:
    """What a worker knows of the process that supervises it."""

    def __init__(self) -> None:
        self._supervisor = os.getpid()
        self._told, self._telling = os.pipe()
        os.set_blocking(self._told, False)
        os.set_blocking(self._telling, False)

    def tell(self, why: str) -> None:
        """In a worker: why it cannot start."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._telling, why.encode(errors="replace")[:_LONGEST_TOLD] + b"\0")

    def told(self) -> str:
        """In the supervisor: what the first worker has told, or nothing."""
        try:
            return os.read(self._told, 2 * _LONGEST_TOLD).split(b"\0")[0].decode(errors="replace")
        except BlockingIOError:
            return ""

    @property
    def has_ended(self) -> bool:
        """Whether the workers are alone: it was killed."""
        return os.getppid() != self._supervisor


class _Supervisor:
    """Worker processes on the same sockets; one that dies is replaced, one that cannot start
    stops them all."""

    def __init__(
        self, settings: Settings, sockets: list[socket.socket], preloaded: Invocation | None
    ) -> None:
        if not hasattr(os, "fork"):
            raise ConfigurationError(
                f"WORKER_COUNT is {settings.worker_count}, but several worker processes need "
                "fork(), which this system does not have. Allowed here: 1."
            )
        self._settings = settings
        self._sockets = sockets
        self._preloaded = preloaded
        self._supervision = _Supervision()
        self._born: dict[int, float] = {}
        self._stopping = False
        self._exit_code = EXIT_OK

    def run(self) -> int:
        for each in _END:
            signal.signal(each, self._stop)
        for _ in range(self._settings.worker_count):
            self._fork()
        while self._born:
            pid, status = os.waitpid(-1, 0)
            if pid in self._born:  # and not a child of the script, which init() may have begun
                self._ended(pid, os.waitstatus_to_exitcode(status))
        if self._exit_code == EXIT_CANNOT_START:
            # Now that all have ended: it is said once, and nothing is logged after it.
            print(self._supervision.told(), file=sys.stderr, flush=True)
        return self._exit_code

    def _fork(self) -> None:
        sys.stdout.flush()
        with _no_end_meanwhile():
            if self._stopping:
                return
            pid = os.fork()
            if pid:
                self._born[pid] = time.monotonic()
                return
            for each in _END:
                signal.signal(each, signal.SIG_DFL)
        code = EXIT_USAGE
        try:
            code = _Worker(self._settings, self._sockets, self._preloaded, self._supervision).run()
        except BaseException:
            log.exception("The worker failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _ended(self, pid: int, code: int) -> None:
        age = time.monotonic() - self._born.pop(pid)
        if self._stopping:
            return
        if code == EXIT_CANNOT_START:
            self._exit_code = EXIT_CANNOT_START
            self._stop()
            return
        log.error("Worker %s ended with %s; starting another.", pid, _how(code))
        time.sleep(max(0.0, 1.0 - age))
        self._fork()

    def _stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        self._stopping = True
        for listener in self._sockets:
            listener.close()
        for pid in list(self._born):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def _no_end_meanwhile() -> Iterator[None]:
    """A signal between fork and its record would miss the worker, or be passed on by it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _END)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _END)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
