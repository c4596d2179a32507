"""The start of the standalone host: listening sockets, debugger, one worker or several."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace

from ..cache.build import store_of
from ..errors import ConfigurationError, StartError
from ..http.keys import guarding
from ..models import in_force
from ..recording import build as records
from ..scoring.diagnosis import diagnosis
from ..scoring.runtime import Loaded, cells, load_before_fork, set_aside
from ..scoring.served import Served
from ..settings.settings import Settings
from ..telemetry import tracing
from ..telemetry.logs import log
from ..telemetry.pages import Pages
from . import later, triggers
from .change import ChangingSupervisor, with_choices
from .sharing import BACKLOG
from .supervisor import EXIT_CANNOT_START, Supervision, Supervisor
from .tls import tls_of
from .worker import Worker


class PortInUse(Exception):
    """Another program listens there, or the address is not one of this machine."""


def run(settings: Settings, export: Callable[[Settings], object] = lambda _: None) -> int:
    """Serve until SIGTERM or SIGINT; the result is the exit code of the process.

    ``export`` puts into the environment what scripts read there, before they are loaded.
    """
    if settings.worker_count > 1 and not hasattr(os, "fork"):
        raise ConfigurationError(
            f"WORKER_COUNT is {settings.worker_count}, but several worker processes need fork(), "
            "which this system does not have. Allowed here: 1."
        )
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # unless the model can be changed
    settings = _with_those_in_force(settings, export)
    tracing.check(settings)
    triggers.check(settings)
    later.check(settings)
    guarding(settings)
    tls_of(settings)
    if settings.cached:
        store_of(settings, "WORKER_COUNT")  # what is wrong is said once, before there are workers
    if settings.record:
        records.check(settings)
    sockets = _listen(settings)
    try:
        _attach_debugger(settings.debug_port)
        preloaded = _preloaded(settings)
    except StartError as error:
        print(diagnosis(error, settings), file=sys.stderr, flush=True)
        return EXIT_CANNOT_START
    return _supervised(settings, sockets, preloaded, export)


def _with_those_in_force(settings: Settings, export: Callable[[Settings], object]) -> Settings:
    found = with_choices(settings, in_force.at_start(settings.model_dir))
    if found.model_dir != settings.model_dir:
        log.warning(
            "AZUREML_MODEL_DIR is %s, but %s is in force (scoring-runtime models use).",
            *(settings.model_dir, found.model_dir),
        )
        export(found)
    return found


def _supervised(
    settings: Settings,
    sockets: list[socket.socket],
    preloaded: dict[Served, Loaded],
    export: Callable[[Settings], object],
) -> int:
    # A debugger is in this process; where fork() is missing or frail, one worker does without.
    if settings.worker_count == 1 and (settings.debug_port or sys.platform != "linux"):
        if settings.recycles or settings.reload == "auto":
            log.warning(
                "SCORING_MAX_REQUESTS, SCORING_MAX_RSS_MB and SCORING_RELOAD have no effect: no "
                "process looks after this one, with a debugger or outside of Linux."
            )
        return Worker(settings, sockets, preloaded).run()

    def work_of(wanted: Settings) -> Callable[[Supervision], int]:
        pages = Pages.of_children(wanted.worker_count + 1, cells(wanted))

        def work(supervision: Supervision) -> int:
            export(wanted)
            return Worker(wanted, sockets, preloaded, supervision, pages).run()

        return work

    if settings.reload == "off" or preloaded or sys.platform != "linux":
        return Supervisor(settings.worker_count, sockets, work_of(settings)).run()
    return ChangingSupervisor(settings, sockets, work_of).run()


def _preloaded(settings: Settings) -> dict[Served, Loaded]:
    if not settings.worker_preload or settings.worker_count == 1:
        return {}
    if settings.reload == "auto":
        raise ConfigurationError(
            "WORKER_PRELOAD and SCORING_RELOAD=auto exclude each other: what all workers share "
            "cannot be loaded anew. Set WORKER_PRELOAD to false, or SCORING_RELOAD to off."
        )
    found = load_before_fork(settings)
    set_aside()  # a collection in a worker would write to, and so copy, what it shares
    return found


def with_shorter_timeout(settings: Settings) -> Settings:
    """The settings that :func:`run` takes: ``WORKER_TIMEOUT`` killed a worker whose run() took
    longer; here it is a deadline too."""
    limits = [settings.scoring_timeout_ms, round(settings.worker_timeout * 1000)]
    return replace(settings, scoring_timeout_ms=min([each for each in limits if each] or [0]))


def _listen(settings: Settings) -> list[socket.socket]:
    ports = [settings.port]
    if settings.separate_health_endpoint and settings.health_port != settings.port:
        ports.append(settings.health_port)
    listeners: list[socket.socket] = []
    try:
        for port in ports:
            listeners.append(_bind(settings.address, port))
    except PortInUse:
        for each in listeners:
            each.close()
        raise
    return listeners


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # here the later one fails, of two that start together
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with --port "
            "(or HEALTH_PORT), or stop what uses it."
        ) from error
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
