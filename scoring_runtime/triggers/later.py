"""Service Bus for answers that come later: inputs go by the input queue, answers to a callback."""

from __future__ import annotations

from typing import Any

from ..connections.named import service_bus
from ..connections.service_bus import client_of
from ..errors import ConfigurationError, InputTooLarge, StoreAway, TriggerTrouble, UndecodableInput
from ..http.later import CONTENT_TYPE
from ..messages import INFER_HEADER_LENGTH, ScoringResponse
from ..scoring.runtime import Runtime
from ..settings.settings import Settings
from .messages import QueueReply, ReplyRefused
from .replies import replies_of


class Queues:
    """The queues that the settings allow, by one client; a :class:`~.http.later.Callback`.

    Raises:
        ConfigurationError: the connection is not set, or the input queue is allowed as a callback.
    """

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        self._input = settings.servicebus_input_queue
        self._allowed = _allowed(settings)
        connection = service_bus(settings)
        self._client, self._credential = client_of(settings, connection)
        self._replies = replies_of(self._client, connection.name, runtime.spans)

    async def send(self, id: str, value: bytes) -> None:
        """Put an accepted input into the input queue, under its id.

        Raises:
            InputTooLarge: it does not fit into a message.
            StoreAway: Service Bus is away, or refuses.
        """
        kind = CONTENT_TYPE.decode()
        try:
            await self._replies.send(QueueReply(self._input, value, kind, id, id, "", {}))
        except ReplyRefused as error:
            raise InputTooLarge(
                "The input is too large for a message, by which it would go (256 kB on the "
                "Standard tier of Service Bus; SCORING_LATER_TRIGGER)."
            ) from error
        except TriggerTrouble as error:
            raise StoreAway("The queue that inputs go by cannot be reached just now.") from error

    def check(self, name: str) -> None:
        """Raises UndecodableInput unless it is one of the allowed."""
        if name.lower() not in {each.lower() for each in self._allowed}:
            shown = ", ".join(self._allowed) or "none"
            raise UndecodableInput(
                f"x-callback-queue is {name[:100]!r}, which is not allowed. Allowed: {shown} "
                "(SCORING_LATER_QUEUES)."
            )

    async def deliver(self, name: str, id: str, response: ScoringResponse) -> None:
        """Send an answer; its message id is the same each time, and the correlation id is ``id``.

        Raises:
            ReplyRefused, TriggerTrouble: it could not be sent.
        """
        assert isinstance(response.body, bytes)
        said = dict(response.headers)
        properties: dict[str, Any] = {"status": response.status}
        if length := said.get(INFER_HEADER_LENGTH):
            properties[INFER_HEADER_LENGTH.decode().replace("-", "_")] = length.decode("latin-1")
        kind = said.get(b"content-type", b"").decode("latin-1")
        about = (kind, f"{id}:later", id, "", properties)
        await self._replies.send(QueueReply(name, response.body, *about))

    async def close(self) -> None:
        """Close the connections."""
        for each in (self._replies, self._client, self._credential):
            if each is not None:
                await each.close()


def _allowed(settings: Settings) -> tuple[str, ...]:
    if not settings.later_queues:  # that of replies, of which the trigger says the same
        return tuple(filter(None, [settings.servicebus_output_queue]))
    found = settings.later_queues
    if settings.servicebus_input_queue.lower() in {each.lower() for each in found}:
        raise ConfigurationError(
            f"SCORING_LATER_QUEUES has {settings.servicebus_input_queue!r}, which is "
            "SERVICEBUS_INPUT_QUEUE too: an answer would be an input again. Allowed: other queues. "
            "(environment variable: SCORING_LATER_QUEUES)"
        )
    return found
