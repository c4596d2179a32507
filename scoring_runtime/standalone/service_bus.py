"""The Service Bus trigger of the standalone host: receive, score, reply, settle."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus.exceptions import MessagingEntityNotFoundError

from ..connections import service_bus
from ..errors import TriggerTrouble
from ..outcomes import Scoring
from ..queue_scoring import QueueScoring
from ..replies import Replies, ReplyRefused
from ..runtime import Runtime
from ..service_bus_client import client_of, receiver_of, trouble
from ..settings import Settings
from ..telemetry import log
from .reception import Reception, wait_for

_LONGEST_PAUSE = 30.0
_CONNECTING = "The Service Bus trigger is connecting."


class ServiceBusTrigger:
    """Scores the messages of a queue or subscription.

    Raises:
        ConfigurationError: the connection is not set, or is not one.
    """

    def __init__(self, runtime: Runtime, scoring: Scoring) -> None:
        self._settings = runtime.settings
        self._troubles = runtime.troubles
        self._troubles["service_bus"] = _CONNECTING
        self._scoring = scoring
        self._connection = service_bus(self._settings)
        self.where = _where(self._settings)
        if self._connection.text:
            client_of(self._settings, self._connection)  # to refuse a bad connection string now

    async def run(self, stopping: asyncio.Event) -> None:
        """Receive until ``stopping``, then finish what is in flight; reconnects for ever."""
        pause = 0.5
        while not stopping.is_set():
            began = monotonic()
            try:
                await self._session(stopping)
            except TriggerTrouble as error:
                self._has_trouble(error)
                pause = 0.5 if monotonic() - began > _LONGEST_PAUSE else min(pause * 2, 30.0)
                await wait_for(stopping, pause)
        self._scoring.flush_log()

    async def _session(self, stopping: asyncio.Event) -> None:
        """One connection, until it breaks or ``stopping``."""
        client, credential = client_of(self._settings, self._connection)
        replies = Replies(client, self._connection.name)
        try:
            if self._settings.servicebus_output_queue:
                await self._open_output(replies)
            reception = Reception(
                self._settings,
                receiver_of(self._settings, client),
                QueueScoring(self._scoring, replies, self._settings),
                stopping,
            )
            with self._translated():
                await reception.open()
            log.info("Receiving from %s", self.where)
            self._is_well()
            with self._translated():
                await reception.run()
        finally:
            await _closed(replies, client, credential)

    async def _open_output(self, replies: Replies) -> None:
        try:
            await replies.open(self._settings.servicebus_output_queue)
        except ReplyRefused as error:
            raise TriggerTrouble(f"{error} Trying again.") from error

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except MessagingEntityNotFoundError as error:
            raise TriggerTrouble(
                f"The {_source(self._settings)} does not exist (SERVICEBUS_INPUT_QUEUE, "
                "SERVICEBUS_INPUT_SUBSCRIPTION). Trying again."
            ) from error
        except (AzureError, OSError, ValueError) as error:
            name = self._settings.servicebus_input_queue
            raise trouble(error, self._connection.name, name) from error

    def _is_well(self) -> None:
        if self._troubles.pop("service_bus", _CONNECTING) != _CONNECTING:
            log.info("The Service Bus trigger works again.")

    def _has_trouble(self, error: TriggerTrouble) -> None:
        if self._troubles.get("service_bus") != str(error):
            log.error("%s", error)
        self._troubles["service_bus"] = str(error)


def _source(settings: Settings) -> str:
    name, subscription = settings.servicebus_input_queue, settings.servicebus_input_subscription
    return f"subscription {name}/{subscription}" if subscription else f"queue {name!r}"


def _where(settings: Settings) -> str:
    target = settings.servicebus_output_queue
    replies = f"reply_to or {target!r}" if target else "reply_to"
    return f"Service Bus {_source(settings)}; replies go to {replies}"


async def _closed(replies: Replies, client: Any, credential: Any) -> None:
    for each in (replies, client, credential):
        if each is not None:
            with contextlib.suppress(AzureError, OSError, ValueError):
                await each.close()
