"""Recording put together, when the settings ask for it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from errno import EPERM
from pathlib import Path
from typing import Any, NamedTuple

from ..connections.named import record as connection_of
from ..errors import ConfigurationError
from ..messages import Score
from ..scoring.runtime import Runtime
from ..settings.settings import Settings
from ..telemetry.logs import log, quiet_sdks


class Recording(NamedTuple):
    """What keeps the requests of a process; ``around(score, trigger)`` scores and keeps."""

    around: Callable[[Score, str], Score]
    close: Callable[[], object]


def recording(runtime: Runtime) -> Recording:
    """What the settings ask for; without ``SCORING_RECORD`` it is nothing, and costs nothing.

    Raises:
        ConfigurationError: as :func:`check`.
    """
    settings = runtime.settings
    if not settings.record:
        if settings.model_data_collection:
            log.warning(
                "AML_MODEL_DC_STORAGE_ENABLED is true, but nothing is collected: SCORING_RECORD "
                "names the folder or container for it."
            )
        return Recording(lambda score, trigger: score, lambda: None)
    from .recorder import Recorder  # what it needs is not imported without it

    folder = check(settings)
    found = Recorder(runtime, folder, _container(settings) if _is_url(settings) else None)
    return Recording(found.around, found.close)


def check(settings: Settings) -> Path:
    """The folder that is written to, which is made if it is missing.

    Raises:
        ConfigurationError: it cannot be, or the container's connection is none, or a package for
            it is missing.
    """
    folder = Path(settings.record)
    if _is_url(settings):
        _container(settings)
        digest = hashlib.sha256(settings.record.encode()).hexdigest()[:12]
        folder = Path(tempfile.gettempdir(), f"scoring-records-{digest}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_url(settings) and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(EPERM, "it belongs to another user")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"SCORING_RECORD is {settings.record!r}, and nothing can be written to the folder "
            f"{folder}: {error.strerror}. Allowed: a folder that this process may write to, or "
            "the URL of a container."
        ) from None
    return folder


def _is_url(settings: Settings) -> bool:
    return "://" in settings.record


def _container(settings: Settings) -> Any:
    """The module of containers, once it is known that the settings fit."""
    if not settings.record.startswith(("https://", "http://")):
        raise ConfigurationError(
            f"SCORING_RECORD is {settings.record!r}. Allowed: a folder, or an address such as "
            "https://<account>.blob.core.windows.net/<container>."
        )
    try:
        from . import container
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"SCORING_RECORD is a container, which needs {error.name}: pip install "
            "'scoring-runtime[blob]'"
        ) from None
    quiet_sdks()
    container.client(settings.record, connection_of(settings))
    return container
