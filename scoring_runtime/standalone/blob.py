"""The blob trigger of the standalone host: look, claim, score, write the document.

It keeps no state of its own. The output or error document is the receipt: it says which version
(etag) of the input it was made from, so an input that is overwritten is scored again, and one whose
scoring was cut off at any point has no receipt and is found again.

Whose trouble it is, the place's or one input's, is asked of the place by opening it again. If it
refuses, nothing is begun and readiness says why until it does not. Else that input is tried
``BLOB_MAX_ATTEMPTS`` times and then left. A document that cannot be written is kept meanwhile:
run() is not called again for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from datetime import UTC, datetime
from math import inf
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from ..errors import InputTrouble, NotServing, RunFailed, Stopping, TriggerTrouble
from ..scoring.runtime import Runtime
from ..telemetry.logs import lines_of, log
from ..telemetry.request_ids import RandomIds
from ..triggers.blob_paths import BlobPaths, Documents
from ..triggers.outcomes import Health, Outcome, Scoring, Verdict, blob_request, directed, failed
from ..triggers.spans import Put, with_write_span
from ..values.wording import too_large
from .place import Claim, Document, Found, Place

T = TypeVar("T")
_LONGEST_PAUSE = 30.0
_CONNECTING = "The blob trigger is connecting."


class _Tried(NamedTuple):
    """Tries of a version of an input that failed, and the pause after which it is due again."""

    version: str
    tries: int = 0
    pause: float = 0.5
    due: float = 0


class BlobTrigger:
    """Scores every input that has no receipt.

    Args:
        runtime: started.
        scoring: scores one input.
        paths: which blobs are inputs, and the names of their documents.
        place: where they are.
    """

    def __init__(self, runtime: Runtime, scoring: Scoring, paths: BlobPaths, place: Place) -> None:
        settings = runtime.settings
        self._settings = settings
        self._health = Health(runtime.troubles, "blob", _CONNECTING, at_once=True)
        self._scoring = scoring
        self._paths = paths
        self._place = place
        self._new_id = RandomIds()
        self._slots = asyncio.Semaphore(settings.blob_max_concurrent)
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._tried: dict[str, _Tried] = {}
        self._kept: dict[str, Document] = {}
        self._away_for: set[str] = set()
        self._receipts: dict[str, str] = {}
        self._recent: dict[str, str] = {}
        self._is_open = False
        self._said_where = False
        self._put: Put = _put
        if runtime.spans is not None:
            self._put = with_write_span(_put, runtime.spans)

    async def run(self, stopping: asyncio.Event, *, once: bool = False) -> None:
        """Watch until ``stopping``, then finish what is in flight.

        ``once``: or until two passes in a row have found nothing to do; TriggerTrouble is raised
        when the place has been in trouble for half a minute.
        """
        shortest, longest = self._settings.blob_poll_seconds
        pause, busy = shortest, True if once else None
        while not stopping.is_set():
            began, was_busy = monotonic(), busy
            try:
                busy = await unless(stopping, self._pass())
                self._is_well()
                if once and not was_busy and not busy:
                    break
                pause = shortest if busy else min(pause * 1.5, longest)
                # A listing that takes long is not repeated without a rest.
                rest = 0.0 if once else min(monotonic() - began, longest)
                await unless(stopping, self._place.changed(rest, max(pause, rest)))
            except TriggerTrouble as error:
                self._has_trouble(error)
                pause = min(max(pause, 1.0) * 2, _LONGEST_PAUSE)
                if once and pause == _LONGEST_PAUSE:
                    raise
                await unless(stopping, asyncio.sleep(pause))
        await self._drain()
        await self._place.close()

    async def _pass(self) -> bool:
        """Start what is new; whether there was, or still is, anything to do."""
        busy = bool(self._in_flight)
        if not self._is_open:
            await self._place.open()
            self._is_open = True
            if not self._said_where:
                log.info("Watching %s", self._place.where)
            self._said_where = True
        self._recent = {}  # what is written while they are listed
        self._receipts = await self._place.receipts()
        self._receipts |= self._recent
        suspects: list[tuple[Found, Documents]] = []
        gone = {*self._tried, *self._kept} - self._in_flight.keys()
        async for found in self._place.inputs():
            self._is_well()  # a pass may take long
            gone.discard(found.name)
            documents = await self._to_do(found)
            if documents is None:
                continue
            busy = True
            if self._is_to_wait(found):
                continue
            if found.dropped:
                suspects.append((found, documents))
            else:
                await self._begin(found, documents)
        await self._try_alone(suspects)
        for name in gone:
            self._tried.pop(name, None)
            self._kept.pop(name, None)
            self._away_for.discard(name)
        return busy

    async def _begin(self, found: Found, documents: Documents) -> asyncio.Task[None]:
        await self._slots.acquire()
        task = asyncio.create_task(self._handled(found, documents))
        self._in_flight[found.name] = task
        return task

    async def _try_alone(self, suspects: list[tuple[Found, Documents]]) -> None:
        """One of these may have killed its process: alone, it takes no others with it."""
        if suspects and self._in_flight:
            await asyncio.wait(list(self._in_flight.values()))
        for found, documents in suspects:
            await asyncio.wait([await self._begin(found, documents)])

    async def _to_do(self, found: Found) -> Documents | None:
        """The documents of an input, container and name; None if there is nothing to do."""
        names = self._paths.documents(found.name)
        if names is None:
            return None
        documents = Documents(
            f"{self._paths.output.container}/{names.output}",
            f"{self._paths.error.container}/{names.error}",
        )
        if any(self._receipts.get(each) in (found.etag, found.version) for each in documents):
            self._kept.pop(found.name, None)  # another watcher was quicker
            if self._is_due(found):
                await self._tidy(found, documents)
            return None
        return None if self._tried_before(found).due == inf else documents

    async def _tidy(self, found: Found, documents: Documents) -> None:
        """Remove the document of an earlier version of an input that is done."""
        for each in documents:
            if self._receipts.get(each, found.etag) not in (found.etag, found.version):
                try:
                    await self._place.remove(each)
                    del self._receipts[each]
                except InputTrouble as error:
                    if self._is_last_try(found):
                        log.error("%s", error)

    def _is_to_wait(self, found: Found) -> bool:
        is_full = len(self._kept) >= self._settings.blob_max_concurrent
        return (
            found.held
            or not self._is_due(found)
            or not self._is_open  # it was when the pass began
            or (is_full and found.name not in self._kept)
        )

    def _is_due(self, found: Found) -> bool:
        return found.name not in self._in_flight and monotonic() >= self._tried_before(found).due

    def _tried_before(self, found: Found) -> _Tried:
        tried = self._tried.get(found.name)
        return tried if tried and tried.version == found.version else _Tried(found.version)

    def _postpone(self, found: Found, tries: int) -> None:
        pause = min(self._tried_before(found).pause * 2, _LONGEST_PAUSE)
        self._tried[found.name] = _Tried(found.version, tries, pause, monotonic() + pause)

    def _is_last_try(self, found: Found) -> bool:
        """Count a try that failed; the last leaves the input until it changes."""
        tries = self._tried_before(found).tries + 1
        self._postpone(found, tries)
        if tries < self._settings.blob_max_attempts:
            return False
        self._tried[found.name] = _Tried(found.version, tries, due=inf)
        return True

    async def _handled(self, found: Found, documents: Documents) -> None:
        try:
            await self._tried_now(found, documents)
        except TriggerTrouble as error:
            self._has_trouble(error)
            self._postpone(found, self._tried_before(found).tries)
            self._away_for.add(found.name)
        else:
            self._away_for.discard(found.name)
        finally:
            del self._in_flight[found.name]
            self._slots.release()

    async def _tried_now(self, found: Found, documents: Documents) -> None:
        try:
            claim = await self._place.claim(found, documents)
            if claim is not None:
                found = found._replace(etag=claim.etag)
                await self._claimed(found, documents, claim)
        except NotServing as error:
            pause = 0 if isinstance(error, Stopping) else 1
            before = self._tried_before(found)
            self._tried[found.name] = before._replace(due=monotonic() + pause)
        except TriggerTrouble:
            raise
        except Exception as error:
            await self._place.open()  # if it is the place that refuses, that is said instead
            await self._has_failed(found, documents, error)

    async def _has_failed(self, found: Found, names: Documents, error: Exception) -> None:
        """Try it again later; at last leave it, with an error document if one can be written."""
        shown, why, request_id = found.name, str(error), self._new_id().decode()
        if not isinstance(error, InputTrouble):
            with lines_of(request_id):
                log.error("Encountered Exception while scoring %s", shown, exc_info=error)
            why = "An unexpected error occurred, which the host's log has."
        if not self._is_last_try(found):
            return
        said = f"{why} It is tried again when it changes, or when this document is removed."
        refused = failed(RunFailed(said))
        document = self._document(found.version, names.error, refused, request_id)
        try:
            await self._place.leave(found, document)
        except InputTrouble:
            log.error("%s is left until it changes: %s", shown, why)
        else:
            self._note(document)
            self._answered(found, document, error=True)
            del self._tried[found.name]
            log.error("%s is left: %s See %s", shown, why, names.error)
        self._kept.pop(found.name, None)

    async def _claimed(self, found: Found, documents: Documents, claim: Claim) -> None:
        done = False
        try:
            document = self._kept.get(found.name)
            if document is None or document.metadata["sourceetag"] != claim.etag:
                document = await self._scored(found, documents, claim)
                found = found._replace(etag=claim.etag)
            if document is not None:
                await self._write(found, documents, claim, document)
                done = True
                await self._tidy(found, documents)
        finally:
            await claim.release(done=done)

    async def _scored(self, found: Found, names: Documents, claim: Claim) -> Document | None:
        """What to write; None when the input is to be tried again."""
        request_id = self._new_id().decode()
        outcome = await self._outcome(found, claim, request_id)
        if outcome is None:
            return None
        if claim.attempts:  # whoever removes the document wants as many tries again
            with contextlib.suppress(InputTrouble, TriggerTrouble):
                await claim.count(0)
        if outcome.verdict is Verdict.SCORED:
            return self._document(claim.etag, names.output, outcome, request_id)
        why = outcome.description.removesuffix(".")
        with lines_of(request_id):
            log.error("%s cannot be scored: %s. See %s", found.name, why, names.error)
        return self._document(claim.etag, names.error, outcome, request_id)

    async def _outcome(self, found: Found, claim: Claim, request_id: str) -> Outcome | None:
        limit, most = self._settings.blob_max_bytes, self._settings.blob_max_attempts
        if found.size > limit:
            return failed(too_large("The blob", limit, "BLOB_MAX_BYTES"))
        if claim.attempts >= most:
            return failed(
                RunFailed(f"The process ended while it scored this input, at {most} tries.")
            )
        body = await claim.read()
        if body is None:
            return None
        path = f"{self._paths.input.container}/{found.name}"
        said = (found.content_type, found.content_encoding, found.input_key)
        request = blob_request(path, body, *said, request_id=request_id)
        request = directed(request, {**self._paths.directions(found.name), **found.directions})
        outcome = await self._scoring(request, f"blob {path}")
        attempts = 1 + max(claim.attempts, self._tried_before(found).tries)
        if outcome.verdict is Verdict.FAILED and attempts < most:
            self._postpone(found, attempts)
            with contextlib.suppress(InputTrouble):  # then what is remembered here has to do
                await claim.count(attempts)
            tried = self._tried_before(found)._replace(version=claim.etag)
            self._tried[found.name] = tried
            self._scoring.retries.add()
            with lines_of(request_id):
                log.warning("%s failed at try %s of %s; it is tried again.", path, attempts, most)
            return None
        return outcome

    def _document(self, version: str, name: str, outcome: Outcome, request_id: str) -> Document:
        receipt = {"sourceetag": version, "status": str(outcome.status), "requestid": request_id}
        receipt |= outcome.named("x_model_") | outcome.properties
        known = name in self._receipts
        details = _details(outcome, request_id)
        return Document(name, outcome.body, outcome.content_type, receipt, known, details)

    async def _write(
        self, found: Found, names: Documents, claim: Claim, document: Document
    ) -> None:
        try:
            await self._put(claim, document)
        except Exception:
            self._kept[found.name] = document
            raise
        self._kept.pop(found.name, None)
        self._tried.pop(found.name, None)
        self._note(document)
        self._answered(found, document, error=document.name == names.error)

    def _answered(self, found: Found, document: Document, *, error: bool) -> None:
        about = {"name": found.name, "status": document.metadata["status"]}
        self._scoring.answered(found.changed, error=error, **about)

    def _note(self, document: Document) -> None:
        self._receipts[document.name] = document.metadata["sourceetag"]
        self._recent[document.name] = document.metadata["sourceetag"]

    async def _drain(self) -> None:
        tasks = list(self._in_flight.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.shutdown_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._scoring.flush_log()

    def _is_well(self) -> None:
        """Both listings answer, and no document waits for the place."""
        if self._is_open and self._away_for.isdisjoint(self._kept):
            self._health.is_well()

    def _has_trouble(self, error: TriggerTrouble) -> None:
        self._is_open = False
        self._health.has_trouble(error)


async def _put(claim: Claim, document: Document) -> None:
    await claim.write(document)


def _details(outcome: Outcome, request_id: str) -> dict[str, str]:
    """Of an error of ours: what the script answers itself is its own."""
    if not outcome.is_ours:
        return {}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    details = {"exception": outcome.exception, "request_id": request_id, "time": now}
    return {name: value for name, value in details.items() if value}


async def unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What it gives; None if the host stops before, which cuts it off: a pass may wait long."""
    tasks = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for each in tasks:
        each.cancel()
    await asyncio.wait(tasks)
    return None if tasks[0].cancelled() else tasks[0].result()
