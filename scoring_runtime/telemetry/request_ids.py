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
    """Makes random UUIDs of version 4 (RFC 9562 §5.4) as text.

    The system is asked for random bytes once for 256 ids: uuid.uuid4() takes six times as long.
    """

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def __call__(self) -> bytes:
        if self._at >= len(self._digits):
            self._digits, self._at = urandom(16 * 256).hex(), 0
        at = self._at
        self._at = at + 32
        d = self._digits
        variant = "89ab"[int(d[at + 16], 16) & 3]
        return (
            f"{d[at : at + 8]}-{d[at + 8 : at + 12]}-4{d[at + 13 : at + 16]}-"
            f"{variant}{d[at + 17 : at + 20]}-{d[at + 20 : at + 32]}"
        ).encode()
