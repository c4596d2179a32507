"""Requests and answers kept as files: a wrapper of the same shape as ``score``."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import random
from time import gmtime, perf_counter, strftime, time
from typing import Any

from ..connections.named import record as connection_of
from ..errors import ScoringRuntimeError, UnknownModel
from ..http.errors import INTERNAL, message_response, told
from ..messages import Score, ScoringRequest, ScoringResponse
from ..scoring.runtime import Runtime
from ..scoring.served import chosen, default
from ..script import collectors
from ..telemetry.logs import log
from ..telemetry.metrics import RECORDED, RECORDS_DROPPED
from .records import Entry, line_of
from .redaction import Redaction
from .writer import Part, Writer

_SEGMENT_SECONDS, _UPLOAD_SECONDS = 3600.0, 60.0
_TRACE = (b"x-model-name", b"x-model-version")


class Recorder:
    """What keeps the requests of a process, and what its script collects.

    Args:
        runtime: scores.
        folder: of the files; it is there.
        container: the module of containers, where the files are to be uploaded to one.
    """

    def __init__(self, runtime: Runtime, folder: Path, container: Any = None) -> None:
        self._served, self._has_script = runtime.served, runtime.has_script
        self._settings = settings = runtime.settings
        self._redaction = Redaction(settings.record_redact)
        self._limit = settings.record_max_body_kb * 1024
        self._is_url = container is not None
        metrics = runtime.metrics
        metrics.parts.add("records")
        self._writer = Writer(
            folder,
            settings.record_max_mb * 1024 * 1024,
            _UPLOAD_SECONDS if self._is_url else _SEGMENT_SECONDS,
            metrics.number(RECORDED),
            metrics.number(RECORDS_DROPPED),
        )
        self._uploads: Any = None
        if container is not None:
            self._uploads = container.Container(
                settings.record, connection_of(settings), folder, self._writer.finished
            )
        said_no = "model_data_collection" in settings.sources and not settings.model_data_collection
        if not said_no:
            collectors.use(collectors.Place.of(settings, self._collected))
        log.info("Requests and answers are kept in %s (SCORING_RECORD)", settings.record)

    def around(self, score: Score, trigger: str) -> Score:
        """``score``, whose requests and answers are kept."""
        rate = self._settings.record_rate

        def scored(request: ScoringRequest) -> Awaitable[ScoringResponse]:
            if random() >= rate:
                return score(request)
            return self._kept(score, request, trigger)

        return scored if rate else score

    def close(self) -> None:
        """Write, and upload, what waits."""
        collectors.use(None)
        self._writer.close()
        if self._uploads is not None:
            self._uploads.close()

    async def _kept(self, score: Score, request: ScoringRequest, trigger: str) -> ScoringResponse:
        began = perf_counter()
        try:
            response = await score(request)
        except Exception as error:
            said = told(error) if isinstance(error, ScoringRuntimeError) else None
            self._put(request, said or message_response(500, INTERNAL), trigger, began)
            raise
        self._put(request, response, trigger, began)
        return response

    def _put(
        self, request: ScoringRequest, response: ScoringResponse, trigger: str, began: float
    ) -> None:
        size, answer = len(request.body), response.body
        if size > self._limit:
            request = request._replace(body=b"")
        kept = answer if isinstance(answer, bytes) and len(answer) <= self._limit else None
        entry = Entry(
            time(), trigger, request, size, response.status,
            response.headers, kept, perf_counter() - began, response.run_ms,
        )  # fmt: skip
        held = sum(len(value) for _, value in request.headers) + len(request.body)
        self._writer.put(partial(self._part, entry), held + len(kept or b""))

    def _part(self, entry: Entry) -> Part:
        target = strftime("requests/%Y/%m/%d/", gmtime(entry.when))
        model = self._model(entry)
        return Part(target, line_of(entry, model, self._redaction, self._limit))

    def _model(self, entry: Entry) -> str:
        answer = dict(entry.headers)
        if _TRACE[0] in answer:
            return ":".join(answer.get(name, b"").decode("latin-1") for name in _TRACE)
        wanted = "" if self._has_script else entry.request.model
        with suppress(UnknownModel):  # that is the answer
            found = (
                chosen(self._served, wanted) if wanted else default(self._served, self._settings)
            )
            return found.identity if found else ""
        return ""

    def _collected(self, path: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        size = sum(len(each) if isinstance(each, str) else 32 for row in rows for each in row)
        self._writer.put(partial(self._table, path, names, rows), size)

    def _table(self, path: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Part:
        hidden = (self._redaction.row(names, row) for row in rows)
        target = f"{path}/" if self._is_url else path
        return Part(target, collectors.csv_of(hidden), collectors.csv_of([names]))
