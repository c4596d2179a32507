"""Inputs by key: a request that names a key is scored on the bytes kept there."""

from __future__ import annotations

import re

from ..errors import InputNotFound, UndecodableInput
from ..messages import Score, ScoringRequest, ScoringResponse
from ..settings.settings import Settings
from ..values.wording import too_large
from .entries import pack, unpack
from .memory import Store

HEADER = b"x-input-key"
_KEY = re.compile(r"[A-Za-z0-9._:@=+-]{1,200}")
_MAX_AGE = re.compile(rb"max-age\s*=\s*(\d{1,9})")


class StoredInputs:
    """Keeps inputs, and scores requests that name one.

    Args:
        store: where they are kept.
        score: what scores.
        settings: their limits.
    """

    def __init__(self, store: Store, score: Score, settings: Settings) -> None:
        self._store = store
        self._score = score
        self._settings = settings

    async def score(self, request: ScoringRequest) -> ScoringResponse:
        """``Score``: with the body that is kept under the key of ``x-input-key``, if there is one.

        Raises:
            InputNotFound: nothing is kept there (any more).
            StoreAway: the store does not answer; later it may.
        """
        key = request.header(HEADER)
        if not key:
            return await self._score(request)
        return await self._score(await self._filled(request, key.decode("latin-1")))

    async def put(self, key: str, request: ScoringRequest) -> int:
        """Keep a request's body and its content type; for how many seconds.

        ``Cache-Control: max-age=60`` asks for less than ``CACHE_TTL_SECONDS``.

        Raises:
            InputTooLarge, UndecodableInput (of the key), StoreAway.
        """
        name, limit = _checked(key), self._settings.cache_max_input_bytes
        if len(request.body) > limit:
            raise too_large("The input", limit, "CACHE_MAX_INPUT_BYTES")
        seconds = self._settings.cache_ttl_seconds or 3600
        asked = _MAX_AGE.search(request.header(b"cache-control"))
        if asked and 0 < int(asked[1]) < seconds:
            seconds = int(asked[1])
        head = {
            "type": request.header(b"content-type").decode("latin-1"),
            "encoding": request.header(b"content-encoding").decode("latin-1"),
        }
        await self._store.set(name, pack(head, request.body, name), seconds)
        return seconds

    async def delete(self, key: str) -> bool:
        """Forget an input; whether there was one."""
        return await self._store.delete(_checked(key))

    async def _filled(self, request: ScoringRequest, key: str) -> ScoringRequest:
        name = _checked(key)
        value = await self._store.get(name)
        try:
            kept = unpack(value, name) if value is not None else None
        except (ValueError, KeyError, TypeError):
            kept = None
        if kept is None:
            raise InputNotFound(
                f"No input is kept under the key {key!r} (any more). PUT it to /inputs/{key} first."
            )
        replaced = (b"content-type", b"content-encoding", b"content-length", HEADER)
        lines = [line for line in request.headers if line[0] not in replaced]
        for name_of_header, said in (
            (b"content-type", kept.head.get("type")),
            (b"content-encoding", kept.head.get("encoding")),
        ):
            if said:
                lines.append((name_of_header, str(said).encode("latin-1")))
        return request._replace(body=kept.body, headers=lines, method="POST")


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise UndecodableInput(
            f"The input key {key[:210]!r} is not allowed. Allowed: 1 to 200 letters, digits and "
            "any of . _ : @ = + -"
        )
    return f"in:{key}"
