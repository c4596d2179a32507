"""What becomes of an input for which no client waits: a blob or a message."""

from __future__ import annotations

import asyncio
import mimetypes
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePosixPath
from time import perf_counter
from traceback import format_exception_only
from typing import NamedTuple
from urllib.parse import quote

from ..errors import InputError, NotBegun, NotServing, QueueFull, ScoringRuntimeError
from ..formats.by_content_type import is_known
from ..http.errors import INTERNAL, error_response, forget, message_response
from ..messages import INFER_HEADER_LENGTH, Progress, Score, ScoringRequest, ScoringResponse
from ..scoring.runtime import Runtime
from ..scoring.served import shown_in_headers
from ..settings.secrets import masked
from ..telemetry.access import AccessLog
from ..telemetry.logs import lines_of, log
from ..telemetry.metrics import (
    DEAD_LETTERS,
    ERROR_DOCUMENTS,
    FAILED,
    LAG_SECONDS,
    RETRIES,
    outcome_of,
    outcome_of_status,
)
from .spans import Try, with_spans

_JSON = "application/json"
# What tools write when they do not know: then the name of the blob says more.
_SAYS_NOTHING = frozenset({"", "application/octet-stream", "text/plain"})
_LONGEST_DESCRIPTION = 1000
_GRACE_SECONDS = 10.0
_NAMES = {"service_bus": "Service Bus"}
EXTENSIONS = {
    ".csv": "text/csv",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".npy": "application/x-npy",
    ".parquet": "application/vnd.apache.parquet",
}
"""Content types by the extension of a name; mimetypes knows few of them."""
READ_BY_SCRIPTS = ("image/", "audio/", "video/", "application/pdf", "application/xml", "text/xml")
"""Beginnings of the content types of files that a script may read, beside those of formats."""
INPUT_KEY = "x_input_key"
"""The metadata of a blob that names the key of the input to score in its place."""
_INFER_LENGTH = INFER_HEADER_LENGTH.decode().replace("-", "_")
_TRACE = ("traceparent", "tracestate", "diagnostic_id")
_DIRECTIONS = ("model", "method", "accept", _INFER_LENGTH, *_TRACE)


class Verdict(Enum):
    """Which of the three ways an input goes."""

    SCORED = "scored"
    """It has a result."""
    REFUSED = "refused"
    """The client's fault: trying again cannot help."""
    FAILED = "failed"
    """``run()`` gave no result; another try may."""


class Outcome(NamedTuple):
    """The result of one try, or what went wrong.

    ``body`` holds the same bytes that an HTTP client would get. ``reason`` is the name of the
    error (or ``Status422``), ``description`` its text, for dead letters and logs.
    """

    verdict: Verdict
    status: int
    body: bytes
    content_type: str
    reason: str = ""
    description: str = ""
    header_length: str = ""
    exception: str = ""
    """What ``run()`` raised, for who may see more than a client."""
    kind: int = FAILED
    """Which of the outcomes it is counted as."""
    run_ms: float = -1
    cache: str = ""
    """``hit``, ``miss`` or ``bypass``, with a cache."""
    trace: Mapping[str, str] = {}
    """``traceparent`` and ``tracestate`` for what follows, if it is of a trace."""
    model: str = ""
    """Which one it is counted for, as ``name:version``."""

    @property
    def is_ours(self) -> bool:
        """Whether it is an error that the script did not answer itself: its body is JSON."""
        return bool(self.reason) and not self.reason.startswith("Status")

    @property
    def properties(self) -> dict[str, str]:
        """What an HTTP client reads in headers, and cannot do without: where tensors begin; and
        what continues its trace."""
        length = {_INFER_LENGTH: self.header_length} if self.header_length else {}
        return {**length, **self.trace}

    def named(self, prefix: str) -> dict[str, str]:
        """What an HTTP client reads in ``x-model-name`` and ``x-model-version``, by such names."""
        name, _, version = self.model.rpartition(":")
        return (
            {f"{prefix}name": shown_in_headers(name), f"{prefix}version": version} if name else {}
        )


class Scoring:
    """Scores inputs for which no client waits; each is counted, with a line in the access log."""

    def __init__(
        self,
        runtime: Runtime,
        trigger: str,
        score: Score | None = None,
        *,
        access_log: bool = True,
    ) -> None:
        self._trigger = trigger
        self._runtime = runtime
        self.retries = runtime.metrics.number(RETRIES, trigger)
        self._counted = runtime.metrics.inputs(trigger)
        self._recent = runtime.recent.of(trigger)
        self._lag = runtime.metrics.histogram(LAG_SECONDS, trigger)
        self.dead_letters = runtime.metrics.number(DEAD_LETTERS)
        self._error_documents = runtime.metrics.number(ERROR_DOCUMENTS)
        self._score: Score = score or runtime.score
        self._access = AccessLog(enabled=access_log)
        self._try: Try = self._outcome
        if runtime.spans is not None:
            self._try = with_spans(self._outcome, runtime.spans, trigger, runtime.settings)

    async def __call__(self, request: ScoringRequest, what: str) -> Outcome:
        """One try.

        Args:
            request: the input.
            what: the input's kind and name, for the log.

        Raises:
            NotServing: not now; the input is to be left where it is.
        """
        progress = Progress()
        progress.received, progress.model = perf_counter(), request.model
        self._recent.in_flight += 1
        try:
            outcome: Outcome = await self._try(request._replace(patient=True, progress=progress))
        finally:
            self._recent.in_flight -= 1
        seconds = perf_counter() - progress.received
        model = self._counted.ended(progress, outcome.kind, seconds, outcome.run_ms / 1000)
        said = (outcome.status, outcome.kind, seconds, outcome.run_ms, progress)
        self._recent.add(what, *said, request.request_id)
        kind, _, name = what.partition(" ")
        answer = (outcome.status, seconds, len(outcome.body))
        about = (self._trigger, "", model, outcome.cache, "", request.request_id)
        self._access.add((time.time(), kind, name, b"", *answer, *about))
        return outcome._replace(model=model)

    def answered(
        self, since: float, *, error: bool = False, name: str = "", status: str = ""
    ) -> None:
        """Count an input that is done with.

        Args:
            since: when it came about, in seconds since 1970; 0 where that is not known.
            error: by an error document.
            name: of a file or blob, without its container.
            status: of its document, as HTTP would have it.
        """
        if since:
            self._lag.observe(max(0.0, time.time() - since))
        if error:
            self._error_documents.add()

    def flush_log(self) -> None:
        """Write the access lines that wait."""
        self._access.flush()

    async def _outcome(self, request: ScoringRequest) -> Outcome:
        try:
            response = await self._score(request)
            body = await self._runtime.whole(response.body, True)
        except NotServing:
            raise
        except NotBegun as error:
            raise QueueFull("Others took all the time; it has not been tried.") from error
        except ScoringRuntimeError as error:
            with lines_of(request.request_id):
                return failed(error)
        except Exception as error:
            with lines_of(request.request_id):
                log.exception("Encountered Exception while scoring %s", request.request_id)
            forget(error)
            return _of(Verdict.FAILED, message_response(500, INTERNAL), "InternalError", INTERNAL)
        if response.status < 400:
            return _of(Verdict.SCORED, response._replace(body=body))
        verdict = Verdict.REFUSED if response.status < 500 else Verdict.FAILED
        text = body.decode("utf-8", "replace")
        return _of(verdict, response._replace(body=body), f"Status{response.status}", text)


class Health:
    """Whether a trigger works, as the log and readiness say it.

    Readiness changes when a trouble lasts: links are closed and opened again all the time; or
    ``at_once``. What is said to be ``connecting`` is not ready from the start.
    """

    def __init__(
        self,
        troubles: dict[str, str],
        name: str,
        connecting: str = "",
        *,
        at_once: bool = False,
    ) -> None:
        self._troubles, self._name, self._said, self._at_once = troubles, name, "", at_once
        self._timer: asyncio.TimerHandle | None = None
        if connecting:
            troubles[name] = connecting

    def has_trouble(self, error: ScoringRuntimeError) -> None:
        """It does not work; the log says so once."""
        if self._said != str(error):
            log.error("%s", error)
        self._said = str(error)
        if self._at_once or self._name in self._troubles:
            self._troubles[self._name] = self._said
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._show)

    def is_well(self) -> None:
        """It works."""
        if self._said:
            log.info("The %s trigger works again.", _NAMES.get(self._name, self._name))
        self._said = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._troubles.pop(self._name, None)

    def _show(self) -> None:
        self._timer = None
        self._troubles[self._name] = self._said


def failed(error: ScoringRuntimeError) -> Outcome:
    """The outcome of an error: refused when it is the client's fault."""
    verdict = Verdict.REFUSED if isinstance(error, InputError) else Verdict.FAILED
    raised = "".join(format_exception_only(error.__cause__)) if error.__cause__ else ""
    outcome = _of(verdict, error_response(error), type(error).__name__, str(error))
    exception = masked(raised.strip()[:_LONGEST_DESCRIPTION])
    return outcome._replace(exception=exception, kind=outcome_of(error))


def content_type_of(said: str, name: str = "") -> str:
    """The content type to score with: what was said, or what the name's extension says, or JSON.

    Tools store blobs as ``application/octet-stream`` unless told otherwise.
    """
    if said.partition(";")[0].strip().lower() not in _SAYS_NOTHING:
        return said
    if not name:
        return _JSON
    known = EXTENSIONS.get(PurePosixPath(name).suffix.lower())
    return known or mimetypes.guess_type(name)[0] or said or _JSON


def is_read(name: str, has_script: bool) -> bool:
    """Whether a file's extension names a type that a model reads, or a script may."""
    extension = PurePosixPath(name).suffix.lower()
    kind = mimetypes.guess_type(name.lower())[0] or ""
    known = extension == ".json" or is_known(EXTENSIONS.get(extension, "").encode())
    return known or (has_script and (extension == ".txt" or kind.startswith(READ_BY_SCRIPTS)))


def directions(metadata: Mapping[str, object]) -> dict[str, str]:
    """What a blob's metadata, or a message's application properties, say of how to score it.

    ``model`` (name or name:version), ``method`` (as ``?method=``), ``accept`` and
    ``inference_header_content_length`` (as the headers), in any case, with ``-`` or ``_``; and
    ``traceparent``, ``tracestate`` or, as older clients of Service Bus have it, ``Diagnostic-Id``.
    """
    named = {name.lower().replace("-", "_"): str(value) for name, value in metadata.items()}
    return {name: named[name].strip() for name in _DIRECTIONS if named.get(name, "").strip()}


def is_folder(metadata: Mapping[str, object]) -> bool:
    """Whether a blob stands for a folder, as accounts with a hierarchical namespace have it."""
    return ("hdi_isfolder", "true") in {(k.lower(), str(v).lower()) for k, v in metadata.items()}


def directed(request: ScoringRequest, said: Mapping[str, str]) -> ScoringRequest:
    """The request with the directions given with it."""
    if not said:
        return request
    headers = [
        (name.replace("_", "-").encode(), said[name].encode("latin-1", "replace"))
        for name in _DIRECTIONS[2:]
        if name in said
    ]
    method = said.get("method", "")
    return request._replace(
        headers=[*request.headers, *headers],
        query=f"method={quote(method)}".encode() if method else request.query,
        model=said.get("model", request.model),
    )


def blob_request(
    name: str,
    body: bytes,
    content_type: str,
    content_encoding: str,
    input_key: str = "",
    *,
    request_id: str,
) -> ScoringRequest:
    """A blob as a request: its name, ``container/name``, is the header ``x-blob-name``."""
    lines = {
        b"content-type": content_type_of(content_type, name),
        b"content-encoding": content_encoding,
        b"x-blob-name": quote(name, errors="replace"),
        b"x-input-key": input_key,
        b"x-request-id": request_id,
    }
    headers = [(key, value.encode("latin-1", "replace")) for key, value in lines.items() if value]
    return ScoringRequest(body, headers, request_id=request_id)


def _of(
    verdict: Verdict, response: ScoringResponse, reason: str = "", description: str = ""
) -> Outcome:
    assert isinstance(response.body, bytes)
    headers = dict(response.headers[::-1])
    kind, length = (headers.get(name, b"") for name in (b"content-type", INFER_HEADER_LENGTH))
    return Outcome(
        verdict,
        response.status,
        response.body,
        kind.decode("latin-1") or _JSON,
        reason,
        description[:_LONGEST_DESCRIPTION],
        length.decode("latin-1"),
        kind=outcome_of_status(response.status),
        run_ms=response.run_ms,
        cache=headers.get(b"x-cache", b"").decode("latin-1"),
    )
