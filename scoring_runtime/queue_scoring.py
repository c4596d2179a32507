"""One message: scored, answered, and how it is to be settled then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from .errors import NotServing, NotStarted, Stopping, TriggerTrouble, UndecodableInput
from .messages import ScoringRequest
from .outcomes import Outcome, Scoring, Verdict, failed
from .queue_messages import Answer, QueueMessage, QueueReply, Settlement, answer, request_of
from .replies import Replies, ReplyRefused
from .request_ids import RandomIds
from .settings import Settings
from .telemetry import log

_AGAIN_SECONDS = 0.5


class QueueScoring:
    """Scores messages and sends the replies; the settlement is the host's to make.

    Args:
        scoring: scores one input.
        replies: sends.
        settings: names of queues, and how often to try.
        patience: seconds to wait while a message cannot be scored just now.
    """

    def __init__(
        self,
        scoring: Scoring,
        replies: Replies,
        settings: Settings,
        patience: float = float("inf"),
    ) -> None:
        self._patience = patience
        self._scoring = scoring
        self._replies = replies
        self._settings = settings
        self._new_id = RandomIds()

    async def __call__(
        self,
        message: QueueMessage,
        *,
        is_ours: Callable[[], bool] = lambda: True,
        goes_on: Callable[[], bool] = lambda: True,
        enter: Callable[[], object] | None = None,
    ) -> Answer:
        """How to settle a message, once its reply has been sent.

        Args:
            message: as received.
            is_ours: whether its lock still holds; without it somebody else answers.
            goes_on: whether to wait when it cannot be scored just now. To abandon it at once
                would use its deliveries up.
            enter: called in the scoring thread before run().

        Raises:
            NotServing: not now; abandon the message.
            TriggerTrouble: the reply could not be sent; abandon the message.
        """
        request = request_of(message, self._new_id, enter)
        decided = await self._decided_at_last(message, request, goes_on)
        if not is_ours():
            return Answer(None, Settlement.ABANDON, "LockLost", "its lock was lost")
        if decided.settlement is Settlement.DEAD_LETTER:
            log.error(
                "Message %s cannot be scored and is dead-lettered: %s: %s",
                request.request_id,
                decided.reason,
                decided.description,
            )
        if decided.reply is None:
            return decided
        return await self._replied(decided, decided.reply)

    async def _decided_at_last(
        self, message: QueueMessage, request: ScoringRequest, goes_on: Callable[[], bool]
    ) -> Answer:
        until = monotonic() + self._patience
        while True:
            try:
                return await self._decided(message, request)
            except (Stopping, NotStarted):
                raise
            except NotServing:
                if monotonic() > until or not goes_on():
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _decided(self, message: QueueMessage, request: ScoringRequest) -> Answer:
        what = f"queue {self._settings.servicebus_input_queue}/{request.request_id}"
        try:
            outcome = await self._scoring(request, what)
            return answer(message, outcome, self._settings)
        except UndecodableInput as error:  # where to reply to
            return Answer(None, Settlement.DEAD_LETTER, type(error).__name__, str(error))

    async def _replied(self, decided: Answer, reply: QueueReply) -> Answer:
        try:
            await self._replies.send(reply)
        except ReplyRefused as error:
            log.error("%s", error)
            refused = failed(error)
            await self._say_so(reply, refused)
            return Answer(None, Settlement.DEAD_LETTER, "ReplyRefused", str(error))
        except TriggerTrouble as error:
            if reply.target == self._settings.servicebus_output_queue:
                raise
            # The message chose that queue: its trouble is not that of all.
            log.error("%s", error)
            return Answer(None, Settlement.ABANDON, type(error).__name__, str(error))
        return decided

    async def _say_so(self, reply: QueueReply, refused: Outcome) -> None:
        """Send the error in place of a reply that was too large."""
        assert refused.verdict is Verdict.FAILED
        properties = {**reply.properties, "status": refused.status}
        try:
            await self._replies.send(
                reply._replace(
                    body=refused.body, content_type=refused.content_type, properties=properties
                )
            )
        except ReplyRefused:  # it was not the size
            pass
