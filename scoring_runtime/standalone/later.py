"""Answers that come later, in the standalone host: what they are scored by and sent to."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

from ..connections import named
from ..errors import ConfigurationError, InputTrouble, StoreAway, UndecodableInput
from ..http.later import CONTENT_TYPE, Around, Callback, Later, NotHere, Send, later_of, trigger_of
from ..messages import Score, ScoringResponse
from ..scoring.runtime import Runtime
from ..settings.settings import Settings
from ..triggers.blob_paths import LONGEST_NAME, BlobPaths, blob_paths

_ID = "laterid"


class _Closed(Protocol):
    async def close(self) -> None: ...


class Outward:
    """What callbacks and inputs go by; to be closed at the end."""

    def __init__(self) -> None:
        self.callbacks: dict[bytes, Callback] = {}
        self.send: Send | None = None
        self._parts: list[_Closed] = []

    def add(self, header: bytes, part: Any, *, sends: bool) -> None:
        """A way for answers, and for inputs too if it ``sends`` them."""
        self.callbacks[header] = part
        self.send = part.send if sends else self.send
        self._parts.append(part)

    async def close(self) -> None:
        """Close the connections."""
        for each in self._parts:
            with suppress(Exception):
                await each.close()


def build(runtime: Runtime, score: Score) -> tuple[Later | NotHere | None, Outward]:
    """What answers later, and what that is connected to.

    Raises:
        ConfigurationError: a setting is wrong, or a package is not installed.
    """
    settings, outward = runtime.settings, Outward()
    served = named.triggers(settings)
    if not settings.later_seconds or "http" not in served:
        return None, outward
    by = trigger_of(settings)
    if "service_bus" in served:
        from ..triggers.later import Queues

        outward.add(b"x-callback-queue", Queues(runtime), sends=by == "service_bus")
    if "blob" in served and not settings.blob_input_folder:
        outward.add(b"x-callback-blob", Blobs(settings), sends=by == "blob")
    if by and outward.send is None:
        raise ConfigurationError(
            f"SCORING_LATER_TRIGGER is {by!r}, which is not served here. Allowed: a trigger whose "
            "connection is set and that SCORING_TRIGGERS names; no watched folder. (environment "
            "variable: SCORING_LATER_TRIGGER)"
        )
    made = later_of(
        runtime, score, one_process=True, callbacks=outward.callbacks, send=outward.send
    )
    return made, outward


def check(settings: Settings) -> None:
    """Refuse what :func:`build` would refuse, before anything is started."""
    runtime = Runtime(settings)
    build(runtime, runtime.score)


def around(later: Later | NotHere | None, around: Around) -> Around:
    """What is around what triggers score by, with inputs that were accepted to come by them."""
    return later.around(around) if isinstance(later, Later) else around


class Blobs:
    """The containers that the settings allow; a :class:`~.http.later.Callback`.

    Raises:
        ConfigurationError: the connection is not set or is none.
    """

    def __init__(self, settings: Settings) -> None:
        from .container import service_of

        self._paths: BlobPaths = blob_paths(settings)
        self._allowed = settings.later_containers or (self._paths.output.container,)
        self._connection = named.blob(settings)
        self._service, self._credential = service_of(self._connection)

    async def send(self, id: str, value: bytes) -> None:
        """Write an accepted input as an input of the trigger; StoreAway when that failed."""
        source = self._paths.input
        name = source.fill({each: f"later-{id}" for each in source.names})
        try:
            await self._upload(source.container, name, value, CONTENT_TYPE.decode(), {_ID: id})
        except InputTrouble as error:
            raise StoreAway(
                "The container that inputs go by cannot be reached just now."
            ) from error

    def check(self, name: str) -> None:
        """Raises UndecodableInput unless the blob may be there."""
        container, _, path = name.partition("/")
        source, why = self._paths.input, ""
        if container not in self._allowed:
            why = f"its container is none of {', '.join(self._allowed)} (SCORING_LATER_CONTAINERS)"
        elif not 1 <= len(path) <= LONGEST_NAME:
            why = f"after the container comes a name of 1 to {LONGEST_NAME} characters"
        elif container == source.container and source.match(path):
            why = "it would be an input again"
        if why:
            raise UndecodableInput(
                f"x-callback-blob is {name[:100]!r}, which is not allowed: {why}. Allowed: "
                "container/name."
            )

    async def deliver(self, name: str, id: str, response: ScoringResponse) -> None:
        """Write an answer, with its status and ``id`` as metadata; never over another blob.

        Raises:
            InputTrouble: it could not be written.
        """
        assert isinstance(response.body, bytes)
        container, _, path = name.partition("/")
        kind = dict(response.headers).get(b"content-type", b"").decode("latin-1")
        said = {_ID: id, "status": str(response.status)}
        await self._upload(container, path, response.body, kind, said)

    async def close(self) -> None:
        """Close the connections."""
        await self._service.close()
        if self._credential is not None:
            await self._credential.close()

    async def _upload(
        self, container: str, name: str, body: bytes, kind: str, metadata: dict[str, str]
    ) -> None:
        from azure.core.exceptions import AzureError, ResourceExistsError
        from azure.storage.blob import ContentSettings

        from .container import code_of

        blob = self._service.get_blob_client(container, name)
        said = ContentSettings(content_type=kind or None)
        try:
            try:
                await blob.upload_blob(body, metadata=metadata, content_settings=said)
            except ResourceExistsError:
                there = await blob.get_blob_properties()
                if (there.metadata or {}).get(_ID) != metadata[_ID]:
                    raise
        except AzureError as error:
            raise InputTrouble(
                f"{container}/{name} cannot be written: {code_of(error)}."
            ) from error
