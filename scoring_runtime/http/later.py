"""Answers later: ``Prefer: respond-async`` (RFC 7240 §4.1), and ``/results/{id}``.

An input that is accepted lies on a shelf. A few at a time are taken from it and scored, so that
requests whose clients wait come in between; each has the deadline of run() alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic, perf_counter, time
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..cache.entries import Kept, pack, pack_response, response_of, unpack
from ..cache.shelf import LEASE_SECONDS, Removed, Shelf, shelf_of
from ..errors import (
    NotBegun,
    NotServing,
    QueueFull,
    ScoringRuntimeError,
    StoreAway,
    UndecodableInput,
)
from ..messages import Headers, Progress, Score, ScoringRequest, ScoringResponse
from ..scoring.runtime import Runtime, State
from ..settings.settings import Settings
from ..telemetry.logs import lines_of, log
from ..telemetry.metrics import FAILED, outcome_of
from ..telemetry.request_ids import Ids
from .errors import INTERNAL, error_response, forget, message_response
from .keys import without_codes
from .messages import HttpRequest
from .model_routes import as_read, json_response
from .spans import Answer, with_later_spans

RESULTS = "/results/"
CONTENT_TYPE = b"application/x-scoring-later"
"""Of an accepted input that goes by a trigger."""
CALLBACKS = {b"x-callback-queue": "SERVICEBUS_CONNECTION", b"x-callback-blob": "BLOB_CONNECTION"}
_ID = re.compile(r"[A-Za-z0-9_-]{22}")
# Possessive, so that it takes as long as it is; a string that is not closed goes to the end.
_PREFERENCE = re.compile(rb'(?:[^,"]++|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++', re.DOTALL)
_WAIT = re.compile(rb"\d{1,9}")
_LONGEST_WAIT = 60.0
_SHORTEST_LOOK, _LONGEST_LOOK = 0.02, 0.5
_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 0.5
_MOST_TRIES = 5
_NOT_KEPT = (b"x-functions-key", b"authorization", b"cookie", b"prefer")
"""Headers that go into no store: they open something, or were for this answer alone."""

Send: TypeAlias = Callable[[str, bytes], Awaitable[None]]
"""Gives an accepted input, by its id, to a trigger."""
Ended: TypeAlias = Callable[[HttpRequest, ScoringResponse, Ids, int], Headers]
Around: TypeAlias = Callable[[Score, str], Score]


class Callback(Protocol):
    """Where an answer is sent too."""

    def check(self, name: str) -> None:
        """UndecodableInput unless answers may go there."""

    async def deliver(self, name: str, id: str, response: ScoringResponse) -> None:
        """Send it; ScoringRuntimeError when that failed. The same id again is a repeat."""


class Preferences(NamedTuple):
    """What a client prefers: whether not to wait, and how many seconds nevertheless."""

    later: bool
    wait: float


def preferences(said: bytes) -> Preferences:
    """The value of ``Prefer``, lines joined by commas; of two of one name the first counts."""
    found: dict[bytes, bytes] = {}
    for each in _PREFERENCE.findall(said):
        name, _, value = each.partition(b";")[0].partition(b"=")
        found.setdefault(name.strip().lower(), value.strip().strip(b'"'))
    wait = found.get(b"wait", b"")
    seconds = min(float(wait), _LONGEST_WAIT) if _WAIT.fullmatch(wait) else 0.0
    return Preferences(b"respond-async" in found, seconds)


class Later:
    """Accepts inputs, scores them one after the other, and keeps the answers.

    Args:
        runtime: started, or about to be.
        score: what scores.
        shelf: where inputs and answers are kept.
        callbacks: by the header that names one.
        send: gives inputs to a trigger, which scores by :meth:`around`; None: they are taken
            from the shelf.
    """

    ended: Ended | None = None
    """Counts and logs what was scored."""

    def __init__(
        self,
        runtime: Runtime,
        score: Score,
        shelf: Shelf,
        callbacks: Mapping[bytes, Callback],
        send: Send | None = None,
    ) -> None:
        self._runtime, self._score, self._shelf = runtime, score, shelf
        self._callbacks, self._send = callbacks, send
        self._answer: Answer = self._scored_as
        if runtime.spans is not None:
            self._answer = with_later_spans(self._scored_as, runtime.spans)
        self._wake = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None
        self._stopped = False
        self._scoring: set[asyncio.Task[None]] = set()

    async def accepted(self, request: ScoringRequest, said: bytes) -> ScoringResponse | None:
        """202, or the answer if it comes in the time the client waits; None: it waits for it.

        Raises:
            UndecodableInput: a callback is not allowed.
            QueueFull: the shelf is full.
            StoreAway, TriggerTrouble, ReplyRefused: the input could not be kept, or sent.
        """
        wanted = preferences(said)
        if not wanted.later or request.method != "POST":
            return None
        for name, callback in self._called_back(request):
            callback.check(name)
        self.start()
        id = secrets.token_urlsafe(16)
        await self._keep(id, _packed(request, id))
        assert request.progress is not None
        request.progress.later = True
        applied = (b"preference-applied", b"respond-async")
        if wanted.wait and (response := await self._awaited(id, wanted.wait)) is not None:
            return response._replace(headers=[*response.headers, applied])
        return _pending(id, applied, (b"location", f"{RESULTS}{id}".encode()))

    async def result(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        """The route of ``/results/{id}``: GET, HEAD and DELETE."""
        self.start()
        id = request.path[len(RESULTS) :]
        if not _ID.fullmatch(id):
            return self._unknown()
        if request.method == "DELETE":
            return await self._removed(id)
        kept = await self._kept(id)
        if kept is None or "gone" in kept.head:
            return self._unknown()
        return response_of(kept) if "status" in kept.head else _pending(id)

    def around(self, around: Around) -> Around:
        """The same around what triggers score by: inputs accepted here may come by them."""

        def scoring(score: Score, trigger: str) -> Score:
            others = around(score, trigger)

            async def by_trigger(request: ScoringRequest) -> ScoringResponse:
                if request.header(b"content-type") != CONTENT_TYPE:
                    return await others(request)
                return await self._by_trigger(request)

            return by_trigger

        return scoring

    def start(self) -> None:
        """Begin to score what waits, once there is an event loop."""
        if self._taking is None and self._send is None and not self._stopped:
            self._taking = asyncio.get_running_loop().create_task(self._take())

    async def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait([self._taking])

    async def close(self) -> None:
        """After the runtime has stopped: keep what is done, cut off the rest, close the shelf."""
        if self._scoring:
            await asyncio.wait(self._scoring, timeout=1)
        for each in self._scoring:
            each.cancel()
        await asyncio.gather(*self._scoring, return_exceptions=True)
        await self._shelf.close()

    # --- routes -------------------------------------------------------------------------------

    def _called_back(self, request: ScoringRequest) -> list[tuple[str, Callback]]:
        found = []
        for header, setting in CALLBACKS.items():
            if not (name := request.header(header).decode("latin-1")):
                continue
            if header not in self._callbacks:
                raise UndecodableInput(
                    f"{header.decode()} is given, but this service has no connection to send "
                    f"answers by ({setting})."
                )
            found.append((name, self._callbacks[header]))
        return found

    async def _keep(self, id: str, value: bytes) -> None:
        waits = self._send is None
        if not await self._shelf.add(id, value if waits else pack({}, b"", id), waits=waits):
            raise QueueFull(
                "There is no room for another answer that comes later (SCORING_LATER_MAX, "
                "SCORING_LATER_MAX_BYTES)."
            )
        if self._send is None:
            self._wake.set()
            return
        try:
            await self._send(id, id.encode() + value)
        except BaseException:
            with contextlib.suppress(StoreAway):
                await self._shelf.remove(id, pack({"gone": True}, b"", id))
            raise

    async def _kept(self, id: str) -> Kept | None:
        value = await self._shelf.get(id)
        return unpack(value, id) if value else None

    async def _awaited(self, id: str, seconds: float) -> ScoringResponse | None:
        until, pause = monotonic() + seconds, _SHORTEST_LOOK
        while (left := until - monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            kept = await self._kept(id)
            if kept is not None and "status" in kept.head:
                await self._shelf.remove(id)
                return response_of(kept)
            pause = min(pause * 1.5, _LONGEST_LOOK)
        return None

    async def _removed(self, id: str) -> ScoringResponse:
        removed = await self._shelf.remove(id, pack({"gone": True}, b"", id))
        if removed is Removed.UNKNOWN:
            return self._unknown()
        if removed is Removed.BEGUN:
            return message_response(409, "It has been begun, and cannot be cancelled any more.")
        return ScoringResponse(204, b"", (), -1)

    def _unknown(self) -> ScoringResponse:
        seconds = self._runtime.settings.later_seconds
        ended = "" if self._shelf.is_shared else ", or the process that had it has ended"
        return message_response(
            404,
            f"There is no such result here (any more). Results are kept {seconds} s "
            f"(SCORING_LATER_SECONDS) or until they are deleted{ended}.",
        )

    # --- scoring ------------------------------------------------------------------------------

    async def _by_trigger(self, request: ScoringRequest) -> ScoringResponse:
        """Score and keep it; what the trigger is given to write is only that this was done."""
        id, value = request.body[:22].decode("latin-1"), request.body[22:]
        accepted = _unpacked(value, id)
        if accepted is None:
            raise UndecodableInput("This is no input that was accepted to be answered later.")
        if not await self._shelf.begin(id):
            return json_response({"id": id, "state": "cancelled"})
        try:
            response, _ = await self._answer(accepted._replace(enter=request.enter))
        except NotServing:
            await self._shelf.give_back(id)
            raise
        await self._deliver(id, accepted, response)
        await self._finish(id, response)
        return json_response({"id": id, "status": response.status})

    async def _take(self) -> None:
        await self._runtime.settled()
        if self._runtime.state is State.FAILED:
            return
        room = asyncio.Semaphore(self._at_once())
        while True:
            await room.acquire()
            try:
                id, value, tries = await self._taken()
            except BaseException:
                room.release()
                raise
            task = asyncio.create_task(self._one(id, value, tries))
            self._scoring.add(task)
            task.add_done_callback(self._scoring.discard)
            task.add_done_callback(lambda _: room.release())

    def _at_once(self) -> int:
        """Enough that no scoring thread waits, and that a batch can be full."""
        models = [self._runtime.loaded(each) for each in self._runtime.served]
        batches = [each.batch[0] for each in models if each.batch]
        return max(2 * self._runtime.settings.concurrency, *batches, 1)

    async def _taken(self) -> tuple[str, bytes, int]:
        while True:
            self._wake.clear()
            with contextlib.suppress(StoreAway):
                if (taken := await self._shelf.take()) is not None:
                    return taken
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LOOK_SECONDS)

    async def _one(self, id: str, value: bytes, tries: int) -> None:
        holding = asyncio.create_task(self._hold(id))
        try:
            await self._scored(id, value, tries)
        except NotServing:
            with contextlib.suppress(StoreAway):  # else its lease ends
                await self._shelf.give_back(id)
        finally:
            holding.cancel()

    async def _scored(self, id: str, value: bytes, tries: int) -> None:
        request = _unpacked(value, id)
        if request is None or tries > _MOST_TRIES:
            said = f"The process ended while it scored this input, at {_MOST_TRIES} tries."
            await self._finish(id, message_response(500, said, failed=True))
            return
        response, outcome = await self._answer(request)
        if self.ended is not None:
            sent = (request.method, request.path, request.query, request.headers, None)
            about = (request.client, request.scheme, None, request.progress)
            ids = Ids(request.request_id.encode("latin-1"), b"", b"")
            more = self.ended(HttpRequest(*sent, *about), response, ids, outcome)
            response = response._replace(headers=[*response.headers, *more])
        await self._deliver(id, request, response)
        await self._finish(id, response)

    async def _hold(self, id: str) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with contextlib.suppress(StoreAway):
                await self._shelf.hold(id)

    async def _scored_as(self, request: ScoringRequest) -> tuple[ScoringResponse, int]:
        """What a client that waits would get, and as what it is counted; -1: by its status.

        Raises:
            NotServing: not now.
        """
        outcome = -1
        with lines_of(request.request_id):
            try:
                response = await self._score(request)
                body = await self._runtime.whole(response.body, True)
                response = response._replace(body=body)
            except NotServing:
                raise
            except NotBegun as error:
                raise QueueFull("Others took all the time; it has not been tried.") from error
            except ScoringRuntimeError as error:
                outcome = outcome_of(error)
                response = as_read(error_response(error), request.path)
            except Exception as error:
                outcome = FAILED
                log.exception("Encountered Exception while scoring %s", request.request_id)
                forget(error)
                response = as_read(message_response(500, INTERNAL), request.path)
        return response, outcome

    async def _deliver(self, id: str, request: ScoringRequest, response: ScoringResponse) -> None:
        for name, callback in self._called_back(request):
            for tries in range(_MOST_TRIES):
                try:
                    await callback.deliver(name, id, response)
                    break
                except Exception as error:
                    with lines_of(request.request_id):
                        log.error("The answer %s could not be sent to %s: %s", id, name, error)
                await asyncio.sleep(_AGAIN_SECONDS * 2**tries)

    async def _finish(self, id: str, response: ScoringResponse) -> None:
        """Keep the answer, when the store is there again at the latest."""
        while True:
            assert isinstance(response.body, bytes)
            value = pack_response(response, response.body, id)
            try:
                if await self._shelf.finish(id, value):
                    return
            except StoreAway:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            said = f"The answer has {len(value)} bytes, for which there is no room"
            log.error("%s: %s (SCORING_LATER_MAX_BYTES).", id, said)
            response = message_response(500, f"{said} (SCORING_LATER_MAX_BYTES).")


class NotHere:
    """In place of :class:`Later` where answers cannot be kept."""

    ended: Ended | None = None

    async def accepted(self, request: ScoringRequest, said: bytes) -> ScoringResponse | None:
        """Raises UndecodableInput when an answer is wanted later."""
        if not preferences(said).later or request.method != "POST":
            return None
        raise UndecodableInput(
            "Answers that come later (Prefer: respond-async) need a Redis server here (CACHE_URL "
            "or REDIS_HOST), as several processes answer and each would keep its own."
        )

    async def result(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        """There is none."""
        return message_response(404, "No results are kept here (CACHE_URL or REDIS_HOST).")

    def start(self) -> None:
        """There is nothing to score."""

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def close(self) -> None:
        """There is nothing to close."""


def later_of(
    runtime: Runtime,
    score: Score,
    *,
    one_process: bool,
    callbacks: Mapping[bytes, Callback],
    send: Send | None = None,
) -> Later | NotHere | None:
    """What the settings ask for; None: ``Prefer`` is ignored, as the old server did.

    Args:
        runtime: started, or about to be.
        score: what scores.
        one_process: whether all requests come to this process.
        callbacks: as :class:`Later`.
        send: the same.
    """
    settings = runtime.settings
    if not settings.later_seconds or settings.strict_compat:
        return None
    shelf = shelf_of(settings)
    if shelf is None or not (one_process or shelf.is_shared):
        return NotHere()
    return Later(runtime, score, shelf, callbacks, send)


def _pending(id: str, *headers: tuple[bytes, bytes]) -> ScoringResponse:
    response = json_response({"id": id, "state": "pending"}, 202)
    return response._replace(headers=[*response.headers, *headers, (b"retry-after", b"1")])


def _packed(request: ScoringRequest, id: str) -> bytes:
    progress = request.progress
    lines = [each for each in request.headers if each[0] not in _NOT_KEPT]
    if progress is not None and progress.trace is not None:  # which goes on when it is scored
        carrier = {name.encode(): text.encode() for name, text in progress.trace.carrier.items()}
        lines = [*(each for each in lines if each[0] not in carrier), *carrier.items()]
    said = {
        "method": request.method,
        "path": request.path,
        "query": without_codes(request.query).decode("latin-1"),
        "headers": [[name.decode("latin-1"), text.decode("latin-1")] for name, text in lines],
        "client": request.client,
        "scheme": request.scheme,
        "request_id": request.request_id,
        "model": request.model,
        "named": progress.model if progress else "",
    }
    return pack(said, request.body, id)


def _unpacked(value: bytes, id: str) -> ScoringRequest | None:
    """The request as it was accepted, for which nobody waits; None when it is none of ours."""
    kept = unpack(value, id)
    if kept is None:
        return None
    said: dict[str, Any] = kept.head
    progress = Progress()
    progress.received = perf_counter() - max(0.0, time() - said["at"])
    progress.model = said["named"]
    headers = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in said["headers"]]
    return ScoringRequest(
        kept.body,
        headers,
        said["method"],
        said["path"],
        said["query"].encode("latin-1"),
        said["client"],
        said["scheme"],
        said["request_id"],
        None,
        said["model"],
        True,
        progress,
    )


def trigger_of(settings: Settings) -> str:
    """The trigger that inputs go by, if any."""
    return settings.later_trigger if settings.later_seconds else ""
