"""One message: scored, answered, and how it is to be settled then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ..errors import (
    NotServing,
    NotStarted,
    Stopping,
    TriggerTrouble,
    UndecodableInput,
)
from ..messages import ScoringRequest
from ..settings.settings import Settings
from ..telemetry.logs import lines_of, log
from ..telemetry.request_ids import RandomIds
from ..values.wording import too_large
from .messages import (
    MOST_HOPS,
    Answer,
    QueueMessage,
    QueueReply,
    ReplyRefused,
    Settlement,
    answer,
    reply_id,
    request_of,
)
from .outcomes import Health, Outcome, Scoring, Verdict, failed

_AGAIN_SECONDS = 0.5
_LONGEST_PAUSE = 5.0
_OUT_OF_REACH = 12
_MOST_KEPT = 100
# The broker takes 4,096 characters, the id among them; a reply_to may be longer.
_LONGEST_DESCRIPTION = 3900


class Sender(Protocol):
    """What sends replies: it may raise ReplyRefused or TriggerTrouble."""

    async def send(self, reply: QueueReply) -> None: ...


class QueueScoring:
    """Scores messages and sends the replies; the settlement is the host's to make.

    Args:
        scoring: scores one input.
        replies: sends.
        settings: names of queues, and how often to try.
        health: is told whether the output queue takes replies.
        patience: seconds to wait while a message cannot be scored, or answered, just now.
    """

    def __init__(
        self,
        scoring: Scoring,
        replies: Sender,
        settings: Settings,
        health: Health,
        patience: float = float("inf"),
    ) -> None:
        self.replies = replies
        self.output_is_away = False
        """Whether replies wait for the output queue: then nothing more is to be taken."""
        self.elsewhere = 0
        """Replies under way to queues that messages chose, which may be no good ones."""
        self._patience = patience
        self._scoring = scoring
        self._dead_letters = scoring.dead_letters
        self._settings = settings
        self._health = health
        self._new_id = RandomIds()
        self._kept: dict[str, Answer] = {}

    async def __call__(
        self, message: QueueMessage, *, enter: Callable[[], object] | None = None
    ) -> Answer:
        """How to settle a message, once its reply has been sent: both steps."""
        return await self.replied(await self.decided(message, enter=enter))

    async def decided(
        self,
        message: QueueMessage,
        *,
        goes_on: Callable[[], bool] = lambda: True,
        enter: Callable[[], object] | None = None,
    ) -> Answer:
        """The reply to a message, and how to settle it then.

        Args:
            message: as received.
            goes_on: whether to wait when it cannot be scored just now. To abandon it at once
                would use its deliveries up.
            enter: called in the scoring thread before run().

        Raises:
            NotServing: not now; give the message back.
        """
        kept = self._kept.pop(reply_id(message, self._settings), None)
        if kept is not None:
            return kept
        request = request_of(message, self._new_id, enter)
        decided = await self._decided_at_last(message, request, goes_on)
        if decided.settlement is Settlement.DEAD_LETTER:
            with lines_of(request.request_id):
                log.error(
                    "Message %s cannot be scored and is dead-lettered: %s: %s",
                    message.message_id or request.request_id,
                    decided.reason,
                    decided.description,
                )
        return _with_id(decided, request.request_id)._replace(enqueued=message.enqueued)

    async def replied(
        self,
        decided: Answer,
        *,
        is_ours: Callable[[], bool] = lambda: True,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> Answer:
        """How to settle a message, once its reply has been sent; it is counted.

        A reply waits for the output queue; one to a queue that the message chose is tried
        ``SERVICEBUS_MAX_ATTEMPTS`` times.

        Args:
            decided: what :meth:`decided` gave.
            is_ours: whether its lock still holds; without it somebody else answers.
            goes_on: whether to wait.

        Raises:
            TriggerTrouble: it could not be sent; give the message back.
        """
        if not is_ours():
            self.keep(decided)
            return Answer(None, Settlement.RELEASE, "LockLost", "its lock was lost")
        with lines_of(decided.request_id):
            answered = await self._replied(decided, goes_on)
        if answered.settlement is Settlement.ABANDON:
            self._scoring.retries.add()
        else:
            self._scoring.answered(decided.enqueued)
            self._dead_letters.add(answered.settlement is Settlement.DEAD_LETTER)
        return answered

    async def _replied(self, decided: Answer, goes_on: Callable[[], bool]) -> Answer:
        if decided.reply is None:
            return decided
        is_chosen = decided.reply.target != self._settings.servicebus_output_queue
        self.elsewhere += is_chosen
        try:
            return await self._sent(decided, decided.reply, is_chosen, goes_on)
        except (TriggerTrouble, asyncio.CancelledError):
            self.keep(decided)
            raise
        finally:
            self.elsewhere -= is_chosen

    def keep(self, decided: Answer) -> None:
        """Keep the answer for the next delivery of its message, which is not scored again."""
        if decided.reply is not None:
            self._kept[decided.reply.message_id] = decided
            if len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]

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
        if message.hops >= MOST_HOPS:
            text = f"It has been scored {message.hops} times, by one host after the other."
            return Answer(None, Settlement.DEAD_LETTER, "TooManyHops", text)
        try:
            outcome = self._refused(message) or await self._scoring(request, what)
            return answer(message, outcome, self._settings)
        except UndecodableInput as error:  # where to reply to
            return Answer(None, Settlement.DEAD_LETTER, type(error).__name__, str(error))

    def _refused(self, message: QueueMessage) -> Outcome | None:
        limit = self._settings.max_body_bytes
        if message.fault:
            return failed(UndecodableInput(message.fault))
        if len(message.body) > limit:
            return failed(too_large("The message", limit, "SCORING_MAX_BODY_BYTES"))
        return None

    async def _sent(
        self, decided: Answer, reply: QueueReply, is_chosen: bool, goes_on: Callable[[], bool]
    ) -> Answer:
        began, tries = monotonic(), 0
        while True:
            try:
                await self.replies.send(reply)
            except ReplyRefused as error:
                await self._say_so(reply, failed(error), decided.request_id)
                return _dead(error, decided.request_id)
            except TriggerTrouble as error:
                tries += 1
                if is_chosen and tries >= self._settings.servicebus_max_attempts:
                    return _dead(error, decided.request_id)
                self._is_away(is_chosen, error)
                patience = self._patience / (_OUT_OF_REACH if error.is_out_of_reach else 1)
                if monotonic() - began > patience or not goes_on():
                    raise
                await asyncio.sleep(min(0.25 * 2**tries, _LONGEST_PAUSE))
            else:
                self._is_away(is_chosen, None)
                return decided

    def _is_away(self, is_chosen: bool, error: TriggerTrouble | None) -> None:
        if is_chosen:
            return  # the message chose that queue: its trouble is not that of all
        if error is not None:
            self._health.has_trouble(error)
        elif self.output_is_away:
            self._health.is_well()
        self.output_is_away = error is not None

    async def _say_so(self, reply: QueueReply, refused: Outcome, request_id: str) -> None:
        """Send the error in place of a reply that was too large."""
        assert refused.verdict is Verdict.FAILED
        said = {"status": refused.status, "request_id": request_id}
        properties = {**reply.properties, **said}
        try:
            await self.replies.send(
                reply._replace(
                    body=refused.body, content_type=refused.content_type, properties=properties
                )
            )
        except (ReplyRefused, TriggerTrouble):  # it was not the size
            pass


def _with_id(decided: Answer, request_id: str) -> Answer:
    """An error says by which id the log has it."""
    decided = decided._replace(request_id=request_id)
    if decided.settlement is Settlement.DEAD_LETTER:
        description = decided.description[:_LONGEST_DESCRIPTION]
        decided = decided._replace(description=f"{description} [{request_id}]")
    if decided.reply is not None and int(str(decided.reply.properties["status"])) >= 400:
        properties = {**decided.reply.properties, "request_id": request_id}
        decided = decided._replace(reply=decided.reply._replace(properties=properties))
    return decided


def _dead(error: ReplyRefused | TriggerTrouble, request_id: str) -> Answer:
    log.error("%s", error)
    text = str(error).removesuffix(" Trying again.")
    return _with_id(Answer(None, Settlement.DEAD_LETTER, "ReplyRefused", text), request_id)
