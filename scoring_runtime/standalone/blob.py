"""The blob trigger of the standalone host: look, claim, score, write the document.

It keeps no state of its own. The output or error document is the receipt: it says which version
(etag) of the input it was made from, so an input that is overwritten is scored again, and one whose
scoring was cut off at any point has no receipt and is found again.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from ..blob_paths import BlobPaths, Documents
from ..errors import InputTooLarge, NotServing, RunFailed, Stopping, TriggerTrouble
from ..outcomes import Outcome, Scoring, Verdict, blob_request, directed, failed
from ..request_ids import RandomIds
from ..runtime import Runtime
from ..telemetry import log
from .place import Claim, Document, Found, Place

_LONGEST_PAUSE = 30.0
_CONNECTING = "The blob trigger is connecting."


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
        self._troubles = runtime.troubles
        self._scoring = scoring
        self._paths = paths
        self._place = place
        self._new_id = RandomIds()
        self._slots = asyncio.Semaphore(settings.blob_max_concurrent)
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._receipts: dict[str, str] = {}
        self._task_has_trouble = False
        self._is_open = False
        self._said_where = False
        self._troubles["blob"] = _CONNECTING

    async def run(self, stopping: asyncio.Event) -> None:
        """Watch until ``stopping``, then finish what is in flight."""
        shortest, longest = self._settings.blob_poll_seconds
        pause = shortest
        while not stopping.is_set():
            began = monotonic()
            try:
                busy = await self._pass_or_stop(stopping)
                self._is_well()
                pause = shortest if busy else min(pause * 1.5, longest)
                # A listing that takes long is not repeated without a rest.
                pause = max(pause, min(monotonic() - began, longest))
            except TriggerTrouble as error:
                self._is_open = False
                self._has_trouble(error)
                pause = min(max(pause, 1.0) * 2, _LONGEST_PAUSE)
            await _wait(stopping, pause)
        await self._drain()
        await self._place.close()

    async def _pass_or_stop(self, stopping: asyncio.Event) -> bool:
        """A pass, which may wait long for a free slot, cut off when the host stops."""
        looking = asyncio.create_task(self._pass())
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait([looking, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if looking.done():
            return looking.result()
        looking.cancel()
        await asyncio.wait([looking])
        return False

    async def _pass(self) -> bool:
        """Start what is new; whether there was, or still is, anything to do."""
        busy = bool(self._in_flight)
        if not self._is_open:
            await self._place.open()
            self._is_open = True
            self._say_where()
        self._receipts = await self._place.receipts()
        suspects: list[tuple[Found, Documents]] = []
        async for found in self._place.inputs():
            self._is_well()  # both listings answer; a pass may take long
            documents = self._paths.documents(found.name)
            if documents is None:
                continue
            documents = self._with_containers(documents)
            if self._is_done(found, documents):
                await self._tidy(found, documents)
                continue
            busy = True
            if found.held or not self._is_due(found.name):
                continue
            if found.dropped:
                suspects.append((found, documents))
            else:
                await self._begin(found, documents)
        await self._try_alone(suspects)
        return busy

    def _say_where(self) -> None:
        if not self._said_where:
            log.info("Watching %s", self._place.where)
        self._said_where = True

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

    def _with_containers(self, documents: Documents) -> Documents:
        return Documents(
            f"{self._paths.output.container}/{documents.output}",
            f"{self._paths.error.container}/{documents.error}",
        )

    def _is_done(self, found: Found, documents: Documents) -> bool:
        return found.etag in map(self._receipts.get, documents)

    async def _tidy(self, found: Found, documents: Documents) -> None:
        """Remove the document of an earlier version that a killed process left."""
        for each in documents:
            if each in self._receipts and self._receipts[each] != found.etag:
                await self._place.remove(each)
                del self._receipts[each]

    def _is_due(self, name: str) -> bool:
        return name not in self._in_flight and monotonic() >= self._not_before.get(name, 0)

    async def _handled(self, found: Found, documents: Documents) -> None:
        try:
            claim = await self._place.claim(found, documents)
            if claim is not None:
                await self._claimed(found, documents, claim)
            self._task_has_trouble = False
        except TriggerTrouble as error:
            self._task_has_trouble = True
            self._has_trouble(error)
            self._not_before[found.name] = monotonic() + 1
        except Exception:
            log.exception("Encountered Exception while scoring %s", found.name)
            self._not_before[found.name] = monotonic() + _LONGEST_PAUSE
        finally:
            del self._in_flight[found.name]
            self._slots.release()

    async def _claimed(self, found: Found, documents: Documents, claim: Claim) -> None:
        done = False
        request_id = self._new_id().decode()
        try:
            outcome = await self._outcome(found, claim, request_id)
            if outcome is not None:
                await self._end(found, documents, claim, outcome, request_id)
                done = True
        except NotServing as error:
            pause = 0 if isinstance(error, Stopping) else 1
            self._not_before[found.name] = monotonic() + pause
        finally:
            await claim.release(done=done)

    async def _outcome(self, found: Found, claim: Claim, request_id: str) -> Outcome | None:
        """What to write; None when the input is to be tried again."""
        limit, most = self._settings.blob_max_bytes, self._settings.blob_max_attempts
        if found.size > limit:
            return failed(InputTooLarge(f"The blob is larger than {limit} bytes (BLOB_MAX_BYTES)."))
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
        attempts = claim.attempts + 1
        if outcome.verdict is Verdict.FAILED and attempts < most:
            await claim.count(attempts)
            self._not_before[found.name] = monotonic() + min(2.0**attempts / 2, _LONGEST_PAUSE)
            log.warning("%s failed at try %s of %s; it is tried again.", path, attempts, most)
            return None
        return outcome

    async def _end(
        self, found: Found, names: Documents, claim: Claim, outcome: Outcome, request_id: str
    ) -> None:
        scored = outcome.verdict is Verdict.SCORED
        name, other = (names.output, names.error) if scored else (names.error, names.output)
        receipt = {"sourceetag": claim.etag, "status": str(outcome.status), "requestid": request_id}
        receipt |= outcome.properties
        known = name in self._receipts
        await claim.write(Document(name, outcome.body, outcome.content_type, receipt, known))
        self._receipts[name] = claim.etag
        self._not_before.pop(found.name, None)
        if other in self._receipts:  # of an earlier version of the input
            await self._place.remove(other)
            self._receipts.pop(other, None)
        if not scored:
            shown = found.name
            log.error("%s cannot be scored: %s See %s", shown, _sentence(outcome), name)

    async def _drain(self) -> None:
        tasks = list(self._in_flight.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.shutdown_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._scoring.flush_log()

    def _is_well(self) -> None:
        if not self._task_has_trouble and self._troubles.pop("blob", _CONNECTING) != _CONNECTING:
            log.info("The blob trigger works again.")

    def _has_trouble(self, error: TriggerTrouble) -> None:
        if self._troubles.get("blob") != str(error):
            log.error("%s", error)
        self._troubles["blob"] = str(error)


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        pass


def _sentence(outcome: Outcome) -> str:
    text = outcome.description
    return text if text.endswith(".") else f"{text}."
