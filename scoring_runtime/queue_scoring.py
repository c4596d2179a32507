"""One message: scored, answered, and how it is to be settled then."""

from __future__ import annotations

from collections.abc import Callable

from .errors import TriggerTrouble, UndecodableInput
from .messages import ScoringRequest
from .outcomes import Outcome, Scoring, Verdict, failed
from .queue_messages import Answer, QueueMessage, QueueReply, Settlement, answer, request_of
from .replies import Replies, ReplyRefused
from .request_ids import RandomIds
from .settings import Settings
from .telemetry import log


class QueueScoring:
    """Scores messages and sends the replies; the settlement is the host's to make."""

    def __init__(self, scoring: Scoring, replies: Replies, settings: Settings) -> None:
        self._scoring = scoring
        self._replies = replies
        self._settings = settings
        self._new_id = RandomIds()

    async def __call__(
        self,
        message: QueueMessage,
        *,
        is_ours: Callable[[], bool] = lambda: True,
        enter: Callable[[], object] | None = None,
    ) -> Answer:
        """How to settle a message, once its reply has been sent.

        Args:
            message: as received.
            is_ours: whether its lock still holds; without it somebody else answers.
            enter: called in the scoring thread before run().

        Raises:
            NotServing: not now; abandon the message.
            TriggerTrouble: the reply could not be sent; abandon the message.
        """
        request = request_of(message, self._new_id, enter)
        decided = await self._decided(message, request)
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
