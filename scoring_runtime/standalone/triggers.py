"""The triggers beside HTTP that the settings ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from ..connections import named
from ..errors import ConfigurationError
from ..messages import Score
from ..scoring.runtime import Runtime
from ..settings.settings import Settings
from ..telemetry.logs import quiet_sdks
from ..triggers.blob_paths import BlobPaths, blob_paths, refuse_shared_documents
from ..triggers.messages import listens_to
from ..triggers.outcomes import Scoring
from .blob import BlobTrigger
from .folder import Folder
from .place import Place


class Trigger(Protocol):
    """Works until it is told to stop, whatever happens to what it depends on."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Take inputs until ``stopping``, then finish those in flight."""


def build(
    runtime: Runtime, score: Score, around: Callable[[Score, str], Score] = lambda score, _: score
) -> list[Trigger]:
    """The triggers of a runtime, not started; ``around`` keeps what each scores.

    Raises:
        ConfigurationError: a setting of a trigger is wrong, or its package is not installed.
    """
    settings = runtime.settings
    wanted = named.triggers(settings)
    found: list[Trigger] = []
    if "blob" in wanted:
        paths = blob_paths(settings, has_script=runtime.has_script)
        refuse_shared_documents(paths)
        runtime.listens["blob"] = paths.listens_to(settings)
        scoring = Scoring(runtime, "blob", around(score, "blob"))
        found.append(BlobTrigger(runtime, scoring, paths, place(settings, paths)))
    if "service_bus" in wanted:
        named.service_bus(settings)
        service_bus = _imported("service_bus", "servicebus")
        runtime.listens["service_bus"] = listens_to(settings)
        scoring = Scoring(runtime, "service_bus", around(score, "service_bus"))
        found.append(service_bus.ServiceBusTrigger(runtime, scoring))
    if wanted != ("http",):
        quiet_sdks()
    return found


def check(settings: Settings) -> None:
    """Refuse what :func:`build` would refuse, before anything is started."""
    runtime = Runtime(settings)
    build(runtime, runtime.score)


def place(settings: Settings, paths: BlobPaths) -> Place:
    """The folder or the container that the settings name; raises as :func:`build`."""
    if settings.blob_input_folder:
        folder = Folder(settings, paths)
        folder.make()
        return folder
    connection = named.blob(settings)
    found: Place = _imported("container", "blob").Container(settings, paths, connection)
    return found


def _imported(module: str, extra: str) -> Any:
    try:
        return import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        package = ".".join(str(error.name).split(".")[:2])
        raise ConfigurationError(
            f"This trigger (SCORING_TRIGGERS) needs {package}: pip install "
            f"'scoring-runtime[{extra}]'"
        ) from None
