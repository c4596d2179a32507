"""The Service Bus trigger of the standalone host: receive, score, reply, settle."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import Any

from azure.core.exceptions import AzureError

from ..connections.named import service_bus
from ..connections.service_bus import client_of, receiver_of, trouble
from ..errors import TriggerTrouble
from ..scoring.runtime import Runtime
from ..settings.settings import Settings
from ..telemetry.logs import log
from ..triggers.messages import entity
from ..triggers.outcomes import Health, Scoring
from ..triggers.queue import QueueScoring
from ..triggers.replies import Replies, replies_of
from .received import isolate_faults
from .reception import Reception, wait_for

_LONGEST_PAUSE = 30.0
_CONNECTING = "The Service Bus trigger is connecting."


class ServiceBusTrigger:
    """Scores the messages of a queue or subscription.

    Raises:
        ConfigurationError: the connection is not set, or is not one.
    """

    def __init__(self, runtime: Runtime, scoring: Scoring) -> None:
        self._settings, self._spans = runtime.settings, runtime.spans
        self._health = Health(runtime.troubles, "service_bus", _CONNECTING)
        self._scoring = scoring
        self._score: QueueScoring | None = None
        self._connection = service_bus(self._settings)
        self.where = _where(self._settings)
        if self._connection.text:
            client_of(self._settings, self._connection)  # to refuse a bad connection string now
        isolate_faults()

    async def run(self, stopping: asyncio.Event) -> None:
        """Receive until ``stopping``, then finish what is in flight; reconnects for ever."""
        pause = 0.5
        while not stopping.is_set():
            began = monotonic()
            try:
                await self._session(stopping)
            except TriggerTrouble as error:
                self._health.has_trouble(error)
                pause = 0.5 if monotonic() - began > _LONGEST_PAUSE else min(pause * 2, 30.0)
                await wait_for(stopping, pause)
        self._scoring.flush_log()

    async def _session(self, stopping: asyncio.Event) -> None:
        """One connection, until it breaks or ``stopping``."""
        client, credential = client_of(self._settings, self._connection)
        replies = replies_of(client, self._connection.name, self._spans)
        try:
            if self._settings.servicebus_output_queue:
                await replies.open(self._settings.servicebus_output_queue)
            receiver = receiver_of(self._settings, client)
            reception = Reception(self._settings, receiver, self._scores(replies), stopping)
            with self._translated():
                await reception.open()
            log.info("Receiving from %s", self.where)
            self._health.is_well()
            with self._translated():
                await reception.run()
        finally:
            await _closed(replies, client, credential)

    def _scores(self, replies: Replies) -> QueueScoring:
        """The same for each connection: it keeps answers that could not be sent."""
        if self._score is None:
            self._score = QueueScoring(self._scoring, replies, self._settings, self._health)
        self._score.replies, self._score.output_is_away = replies, False
        return self._score

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except (AzureError, OSError, ValueError) as error:
            setting = "SERVICEBUS_INPUT_QUEUE, SERVICEBUS_INPUT_SUBSCRIPTION"
            raise trouble(error, self._connection.name, entity(self._settings), setting) from error


def _where(settings: Settings) -> str:
    name, subscription = settings.servicebus_input_queue, settings.servicebus_input_subscription
    source = f"subscription {name}/{subscription}" if subscription else f"queue {name!r}"
    target = settings.servicebus_output_queue
    replies = f"reply_to or {target!r}" if target else "reply_to"
    return f"Service Bus {source}; replies go to {replies}"


async def _closed(replies: Replies, client: Any, credential: Any) -> None:
    for each in (replies, client, credential):
        if each is not None:
            with contextlib.suppress(AzureError, OSError, ValueError):
                await each.close()
