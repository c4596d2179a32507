"""What every trigger sends to the core and gets back, as plain data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

INFER_HEADER_LENGTH = b"inference-header-content-length"
"""Where the tensors of a V2 body with binary data begin: the length of the JSON before them."""

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Header lines in order: lower-case names, latin-1 values, as in ASGI."""


class OwnHeaders(tuple[tuple[bytes, bytes], ...]):
    """Header lines of which none is a script's, nor one that belongs to the host."""

    __slots__ = ()


class Progress:
    """How far one input has come; times are those of ``time.perf_counter()``, in seconds.

    What is set on the way hides the values of the class: to set all of them takes four times as
    long, for each request.
    """

    received = 0.0
    begun = 0.0
    """When a scoring thread took it up; 0 until then, and where no run() is needed."""
    model = ""
    """As the input names it; nothing for the default."""
    caller = ""
    """By what name the caller is known, whose key was asked for."""
    prefer = b""
    """What the client prefers (RFC 7240)."""
    later = False
    """Whether it has been accepted, to be scored later."""
    trace: Any = None
    """Its trace (telemetry/spans.py), if it is of one."""


class ScoringRequest(NamedTuple):
    """One input.

    ``body`` holds the bytes exactly as they arrived (still compressed when ``content-encoding``
    says so). ``enter`` is called in the scoring thread before ``run()``: a host uses it to tie the
    lines that the script logs to its own invocation. ``model`` is ``name`` or ``name:version``;
    without it the default is meant. ``patient``: nobody waits for the answer, so the deadline is
    that of ``run()`` alone and the request is not refused for those that wait before it.
    """

    body: bytes
    headers: Headers = ()
    method: str = "POST"
    path: str = "/score"
    query: bytes = b""
    client: str = ""
    scheme: str = "http"
    request_id: str = ""
    enter: Callable[[], object] | None = None
    model: str = ""
    patient: bool = False
    progress: Progress | None = None

    def header(self, name: bytes) -> bytes:
        """The value of the first header line of this (lower-case) name, or ``b""``."""
        for each, value in self.headers:
            if each == name:
                return value
        return b""


class ScoringResponse(NamedTuple):
    """One result.

    ``body`` is bytes, or an iterator of bytes when ``run()`` returned a streaming AMLResponse.
    ``headers`` are those ``run()`` chose, with content type and ``x-ms-run-function-failed``.
    ``run_ms`` is the time spent in ``run()``, in milliseconds.
    """

    status: int
    body: bytes | Iterator[bytes]
    headers: Headers
    run_ms: float


Score: TypeAlias = Callable[[ScoringRequest], Awaitable[ScoringResponse]]
"""The one contract: triggers call it, the runtime is it, a cache wraps it."""
