"""Links to Service Bus beside the Functions host's own: for replies and for dead letters.

The host's Python binding can only complete or abandon a message. The broker settles by lock token
whoever asks for it on the entity's management node, so a message that can never be scored is
dead-lettered there, with its reason; the host's own completion finds it gone and only logs that.
Source: https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-request-response#message-update-disposition
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any

from azure.servicebus.exceptions import MessageLockLostError

from ..connections.named import Connection
from ..connections.service_bus import client_of, receiver_of
from ..settings.settings import Settings
from ..triggers.replies import replies_of

if TYPE_CHECKING:
    from ..telemetry.spans import Spans

_DEAD_LETTER = "suspended"


class NotMoved(Exception):
    """The message could not be dead-lettered here; the text says why."""


class Links:
    """Made once, connected at first use on the worker's event loop."""

    def __init__(
        self, settings: Settings, connection: Connection, spans: Spans | None = None
    ) -> None:
        self._settings = settings
        self._client, _ = client_of(settings, connection)
        self._receiver: Any = None
        self._opening = asyncio.Lock()
        self.replies = replies_of(self._client, connection.name, spans)

    async def dead_letter(self, lock_token: str, reason: str, description: str) -> None:
        """Move a message that this function holds to the dead-letter queue.

        Raises:
            NotMoved: the broker is away, the lock is lost, or the SDK does not offer it.
        """
        details = {"deadletter-reason": reason, "deadletter-description": description}
        try:
            await self._settle(uuid.UUID(lock_token), details)
        except Exception as error:  # the SDK lets errors of its AMQP layer through here
            raise NotMoved(
                f"The message could not be dead-lettered with its reason ({type(error).__name__}); "
                "it is delivered again until the queue's maximum of deliveries."
            ) from error

    async def _settle(
        self, token: uuid.UUID, details: dict[str, str], *, again: bool = True
    ) -> None:
        again = again and self._receiver is not None
        receiver = await self._opened()
        try:
            # azure-servicebus settles by lock token only for messages that it received itself.
            await receiver._settle_message_via_mgmt_link(
                _DEAD_LETTER, [token], dead_letter_details=details
            )
        except MessageLockLostError:
            raise
        except Exception:
            await self._close(receiver)
            if not again:
                raise
            await self._settle(token, details, again=False)  # Azure closes links that are idle

    async def _opened(self) -> Any:
        async with self._opening:
            if self._receiver is None:
                receiver: Any = receiver_of(self._settings, self._client)
                await receiver.__aenter__()
                self._receiver = receiver
            return self._receiver

    async def _close(self, receiver: Any) -> None:
        if self._receiver is receiver:
            self._receiver = None
        with contextlib.suppress(Exception):
            await receiver.close()
