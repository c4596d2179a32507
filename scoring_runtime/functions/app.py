"""The function app: every trigger that the settings ask for, on one runtime.

Of a start-up the Functions host passes on what is written to standard error, and the message of
what the import of ``function_app.py`` raises; log records outside of invocations it drops.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import azure.functions as func

from ..cache.build import caching
from ..connections.named import triggers
from ..errors import ConfigurationError, EntryScriptFailed, NotStarted
from ..http.later import Callback, Later, NotHere, later_of, trigger_of
from ..messages import Score, ScoringRequest, ScoringResponse
from ..recording.build import recording
from ..scoring.diagnosis import diagnosis, summary
from ..scoring.runtime import Runtime, build, pages_of_siblings, settle_in
from ..settings import processors
from ..settings.settings import Settings
from ..telemetry import standard_streams, tracing
from ..telemetry.logs import (
    LineFormatter,
    RequestIds,
    escape_client_text,
    log,
    quiet_sdks,
    redirect_print,
)
from ..telemetry.pages import born
from ..telemetry.threads import carry_ids
from ..triggers.outcomes import Scoring
from . import blob, http

EXIT_CANNOT_START = 3
_LAST_SECONDS = 2.0
_AND_AFTER = 1.2
_PLACEHOLDER_SECONDS = 60
_PROCESSES = "FUNCTIONS_WORKER_PROCESS_COUNT"
_IMPORTED = time.monotonic()
_failures: dict[Settings, BaseException] = {}


def create_app(environ: Mapping[str, str], app_root: Path) -> func.FunctionApp:
    """The function app, once ``init()`` is done or its grace has passed.

    An ``init()`` that takes longer than ``SCORING_INIT_GRACE_SECONDS`` goes on in the background
    and invocations wait for it; if it fails then, they end with the cause, and soon after the
    process, so that the host starts another.

    Args:
        environ: the settings.
        app_root: where ``function_app.py`` lies; the default of ``AML_APP_ROOT``.

    Raises:
        StartError: no function is registered; the message has the cause. Workers for Python up to
            3.12 import ``function_app.py`` again for each function, and get the same error.
    """
    standard_streams.install()
    escape_client_text()
    try:
        found = Settings.from_environ(environ, defaults={"AML_APP_ROOT": str(app_root)})
    except ConfigurationError as error:
        print(diagnosis(error), file=sys.stderr, flush=True)
        raise
    settings = replace(found, worker_count=_processes(environ))
    if settings not in _failures:
        try:
            return _started(settings)
        except Exception as error:
            _tell(error, settings)
    raise _failures[settings]


def for_libraries(environ: Mapping[str, str]) -> dict[str, str]:
    """What is to be in the environment, and is not, before libraries of models are imported:
    their threads are divided among the host's worker processes."""
    return processors.for_libraries(environ, _processes(environ))


def _processes(environ: Mapping[str, str]) -> int:
    count = environ.get(_PROCESSES, "").strip()
    return int(count) if count.isdecimal() and int(count) else 1


def _tell(error: BaseException, settings: Settings) -> None:
    print(diagnosis(error, settings), file=sys.stderr, flush=True)
    told = isinstance(error, EntryScriptFailed)
    _failures[settings] = EntryScriptFailed(summary(error, settings)) if told else error


def _started(settings: Settings) -> func.FunctionApp:
    quiet_sdks()
    _name_requests()
    log.setLevel(settings.log_level)
    pages, number = pages_of_siblings(settings)
    runtime = build(settings, pages=pages, number=number)
    runtime.before_ready.append(settle_in)
    tracing.check(settings, on_functions=True)
    runtime.trace_by(tracing.spans_of(settings, on_functions=True))
    app = func.FunctionApp()
    _register(app, runtime)  # imports the triggers' SDKs, before the wait
    _log_to_stderr_until_started(runtime)
    for warning in settings.warnings:
        log.warning("%s", warning)
    runtime.start()
    if not runtime.wait_started(_left_of(settings.init_grace_seconds)):
        log.warning(
            "init() takes longer than %s s after the start of the process; it goes on in the "
            "background.",
            settings.init_grace_seconds,
        )
        runtime.on_started(lambda future: _end_if_failed(future, settings))
    return app


def _name_requests() -> None:
    """Have each line of a request end with its id, whatever the worker's handlers make of it."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(each, RequestIds) for each in handler.filters):
            handler.addFilter(RequestIds())
    redirect_print(only_of_requests=True)
    carry_ids()


def _left_of(grace: float) -> float:
    """What is left of a grace that counts from the start of the process, as the host's limit does.

    What comes after the wait takes a part of what came before it, more on a busy machine. A process
    that had waited for its app as a placeholder is much older.
    """
    age = _process_seconds()
    return grace if age > _PLACEHOLDER_SECONDS else max(0.0, grace - _AND_AFTER * age)


def _process_seconds() -> float:
    """The age of this process; without Linux's /proc since this module was imported."""
    ticks = born(os.getpid())
    if ticks <= 0 or not hasattr(time, "CLOCK_BOOTTIME"):
        return time.monotonic() - _IMPORTED
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _log_to_stderr_until_started(runtime: Runtime) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(LineFormatter())
    logging.getLogger().addHandler(handler)
    runtime.on_started(lambda _: logging.getLogger().removeHandler(handler))


def _register(app: func.FunctionApp, runtime: Runtime) -> None:
    wanted = triggers(runtime.settings)
    cached, around = caching(runtime, _PROCESSES), recording(runtime).around
    recorded = around(cached.score, "http")
    later = _later(runtime, recorded, wanted)
    if "http" in wanted:
        http.register(app, runtime, cached._replace(score=recorded), later)
    if isinstance(later, Later):
        around = later.around(around)
    score = _telling_why(runtime.settings, cached.score)
    # The host logs each invocation.
    if "blob" in wanted:
        blob.register(
            app, runtime, Scoring(runtime, "blob", around(score, "blob"), access_log=False)
        )
    if "service_bus" in wanted:
        scoring = Scoring(runtime, "service_bus", around(score, "service_bus"), access_log=False)
        _from_sdk(".service_bus").register(app, runtime, scoring)


def _later(runtime: Runtime, score: Score, wanted: Sequence[str]) -> Later | NotHere | None:
    """What answers later, of any of the host's instances: only with Redis."""
    callbacks: dict[bytes, Callback] = {}
    by, send = trigger_of(runtime.settings), None
    if "service_bus" in wanted and "http" in wanted and runtime.settings.later_seconds:
        queues = _from_sdk("..triggers.later").Queues(runtime)
        callbacks[b"x-callback-queue"] = queues
        send = queues.send if by == "service_bus" else None
    if by and send is None:
        raise ConfigurationError(
            f"SCORING_LATER_TRIGGER is {by!r}, which inputs cannot go by on Azure Functions. "
            "Allowed: service_bus, when its connection is set. (environment variable: "
            "SCORING_LATER_TRIGGER)"
        )
    return later_of(runtime, score, one_process=False, callbacks=callbacks, send=send)


def _from_sdk(module: str) -> Any:
    try:
        return import_module(module, __package__)
    except ModuleNotFoundError as error:
        package = ".".join(str(error.name).split(".")[:2])
        raise ConfigurationError(
            f"The service_bus trigger (SCORING_TRIGGERS) needs {package}: add azure-servicebus "
            "to requirements.txt."
        ) from None


def _telling_why(settings: Settings, score: Score) -> Score:
    """``score`` whose error says why ``init()`` has failed: it is for operators alone."""

    async def scored(request: ScoringRequest) -> ScoringResponse:
        if settings in _failures:
            # The process is about to end. To fail at once would use up the input's deliveries.
            await asyncio.sleep(2 * _LAST_SECONDS)
        try:
            return await score(request)
        except NotStarted as error:
            raise NotStarted(str(_failures.get(settings, error))) from error

    return scored


def _end_if_failed(future: futures.Future[object], settings: Settings) -> None:
    error = future.exception()
    if error is not None:
        _tell(error, settings)
        # Once the invocations that waited have been answered.
        threading.Timer(_LAST_SECONDS, _end).start()


def _end() -> None:
    standard_streams.settle()
    os._exit(EXIT_CANNOT_START)
