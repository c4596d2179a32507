"""The function app: every trigger that the settings ask for, on one runtime."""

from __future__ import annotations

import os
import sys
from concurrent import futures

import azure.functions as func

from ..caching import caching
from ..connections import triggers
from ..diagnosis import diagnosis
from ..errors import ConfigurationError
from ..outcomes import Scoring
from ..runtime import Runtime
from ..telemetry import log, quiet_sdks
from . import blob, http

EXIT_CANNOT_START = 3


def create_app(runtime: Runtime) -> func.FunctionApp:
    """The function app for a runtime, once its ``init()`` is done or its grace has passed.

    The worker imports ``function_app.py`` inside the host's start-up limit (10 s on Python 3.13),
    so loading it waits ``SCORING_INIT_GRACE_SECONDS`` at most. An ``init()`` that takes longer
    goes on in the background and invocations wait for it; if it fails then, the process ends, so
    that the host starts another and nothing is taken from a queue meanwhile.

    Raises:
        EntryScriptError, ConfigurationError: within the grace; no function is registered then.
    """
    quiet_sdks()
    log.setLevel(runtime.settings.log_level)
    for warning in runtime.settings.warnings:
        log.warning("%s", warning)
    runtime.start()
    grace = runtime.settings.init_grace_seconds
    try:
        started = runtime.wait_started(grace)
    except Exception as error:
        log.critical("%s", diagnosis(error, runtime.settings))
        raise
    if not started:
        log.warning("init() takes longer than %s s; it goes on in the background.", grace)
        runtime.on_started(lambda future: _end_if_failed(future, runtime))
    app = func.FunctionApp()
    _register(app, runtime)
    return app


def _register(app: func.FunctionApp, runtime: Runtime) -> None:
    wanted = triggers(runtime.settings)
    cached = caching(runtime, "FUNCTIONS_WORKER_PROCESS_COUNT")
    if "http" in wanted:
        http.register(app, runtime, cached)
    scoring = Scoring(runtime, cached.score, access_log=False)  # the host logs each invocation
    if "blob" in wanted:
        blob.register(app, runtime, scoring)
    if "service_bus" in wanted:
        _register_service_bus(app, runtime, scoring)


def _register_service_bus(app: func.FunctionApp, runtime: Runtime, scoring: Scoring) -> None:
    try:
        from . import service_bus
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The service_bus trigger (SCORING_TRIGGERS) needs {error.name}: add azure-servicebus "
            "to requirements.txt."
        ) from None
    service_bus.register(app, runtime, scoring)


def _end_if_failed(future: futures.Future[object], runtime: Runtime) -> None:
    error = future.exception()
    if error is None:
        return
    # The worker's log handler puts lines into a queue, which would end with the process.
    print(diagnosis(error, runtime.settings), file=sys.stderr, flush=True)
    os._exit(EXIT_CANNOT_START)
