"""Whole files or blobs as the inputs of a batch, by the place of the trigger."""

from __future__ import annotations

from typing import NamedTuple

from ..messages import Score, ScoringRequest
from ..scoring.runtime import Runtime
from ..scoring.served import served
from ..standalone import triggers
from ..triggers.outcomes import Outcome, Scoring, Verdict
from .job import Job
from .parts import Missing, Tell, missing


class Standing(NamedTuple):
    """Inputs in all, those with a result, and those with an error document, whoever made them."""

    inputs: int = 0
    scored: int = 0
    errors: int = 0


async def standing(job: Job) -> Standing:
    """What a listing of the place shows; raises TriggerTrouble."""
    paths = job.paths(served(job.settings)[0].folder is None)
    place = triggers.place(job.settings, paths)
    inputs = scored = errors = 0
    try:
        await place.open()
        receipts = await place.receipts()
        async for found in place.inputs():
            names = paths.documents(found.name)
            if names is not None:
                versions = (found.etag, found.version)
                inputs += 1
                scored += receipts.get(f"{paths.output.container}/{names.output}") in versions
                errors += receipts.get(f"{paths.error.container}/{names.error}") in versions
    finally:
        await place.close()
    return Standing(inputs, scored, errors)


class FileScoring(Scoring):
    """Scores files, and tells of each that is done with, and why it has no result."""

    def __init__(self, runtime: Runtime, score: Score, tell: Tell) -> None:
        super().__init__(runtime, "blob", score, access_log=False)
        self._tell = tell
        self._failures: dict[str, Missing] = {}

    async def __call__(self, request: ScoringRequest, what: str) -> Outcome:
        """One try; raises NotServing: not now."""
        outcome = await super().__call__(request, what)
        if outcome.verdict is not Verdict.SCORED:
            self._failures[what.partition("/")[2]] = missing(0, 1, outcome)
        return outcome

    def answered(
        self, since: float, *, error: bool = False, name: str = "", status: str = ""
    ) -> None:
        """Its document is written."""
        super().answered(since, error=error)
        found = self._failures.pop(name, None) or Missing(0, 1, int(status), "", "")
        self._tell(0 if error else 1, [found] if error else [])
