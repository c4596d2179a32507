"""The ids that tie a request, its answer and its log lines together."""

from __future__ import annotations

from collections.abc import Callable
from os import urandom
from typing import NamedTuple

from ..errors import RequestIdTooLong
from .logs import log

MAX_ID = 100


class Ids(NamedTuple):
    """The ids of a request, as sent back; an empty one is not."""

    request: bytes
    ms_request: bytes
    client: bytes


NO_IDS = Ids(b"", b"", b"")


class BadIds(RequestIdTooLong):
    """``ids`` are those that may be sent back all the same."""

    def __init__(self, message: str, ids: Ids) -> None:
        super().__init__(message)
        self.ids = ids


def ids_of(headers: dict[bytes, bytes], new_id: Callable[[], bytes]) -> Ids:
    """The ids of an answer, from the headers of its request.

    ``x-request-id`` is made when it is missing; ``x-ms-request-id`` and
    ``x-ms-client-request-id`` stand in for each other, as in azureml-inference-server-http 1.5.1.

    Raises:
        BadIds: one is longer than 100 characters.
    """
    request = headers.get(b"x-request-id")
    if request is None:
        request = new_id()
    elif len(request) > MAX_ID:
        raise BadIds(f"x-request-id must not exceed {MAX_ID} characters", NO_IDS)
    old = headers.get(b"x-ms-request-id", b"")
    client = headers.get(b"x-ms-client-request-id", b"")
    if old:
        log.warning(
            "x-ms-request-id header has been deprecated and will be removed from future versions "
            "of the server. Please use x-ms-client-request-id."
        )
        client = client or old
    else:
        old = client or request
    if len(old) > MAX_ID or len(client) > MAX_ID:
        raise BadIds(
            f"x-ms-request-id and x-ms-client-request-id must not exceed {MAX_ID} characters",
            Ids(request, b"", b""),
        )
    return Ids(request, old, client)


class RandomIds:
    """Makes random UUIDs of version 4 (RFC 9562 §5.4) as text, 64 at a time.

    uuid.uuid4() takes six times as long.
    """

    def __init__(self) -> None:
        self._made: list[bytes] = []

    def __call__(self) -> bytes:
        if not self._made:
            digits = urandom(16 * 64).hex()
            self._made = [_uuid4(digits[at : at + 32]) for at in range(0, len(digits), 32)]
        return self._made.pop()


def _uuid4(d: str) -> bytes:
    variant = "89ab"[int(d[16], 16) & 3]
    return f"{d[:8]}-{d[8:12]}-4{d[13:16]}-{variant}{d[17:20]}-{d[20:]}".encode()
