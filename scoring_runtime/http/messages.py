"""HTTP as plain data: what each host decodes its requests to, and encodes its responses from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, TypeAlias

from ..messages import Headers, Progress


class HttpRequest(NamedTuple):
    """One HTTP request: header names in lower case, the body read whole and still encoded.

    ``body`` is None when it is larger than allowed and its host has not read it.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes | None
    client: str = ""
    scheme: str = "http"
    enter: Callable[[], object] | None = None
    progress: Progress | None = None


class Reply(NamedTuple):
    """One HTTP response, without the headers a host adds itself (length, date)."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | Iterator[bytes]


Handle: TypeAlias = Callable[[HttpRequest], Awaitable[Reply]]
