"""Where results and inputs are kept: bytes by key, each for some time."""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from typing import Protocol

BUSY = b"\0busy"
"""What :meth:`Store.take` leaves under a key for those who come next."""


class Store(Protocol):
    """Bytes by key. None is a miss.

    Every method but ``close`` may raise StoreAway.
    """

    async def get(self, key: str) -> bytes | None:
        """What is kept under ``key``."""

    async def take(self, key: str, seconds: float) -> bytes | None:
        """The same; on a miss the key is marked BUSY for ``seconds`` and the miss is the caller's.

        Others get BUSY until the caller sets or deletes the key.
        """

    async def hold(self, key: str, seconds: float) -> None:
        """Let the BUSY mark under ``key``, if it is there, last for ``seconds`` from now."""

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep ``value`` under ``key`` for ``seconds``."""

    async def delete(self, key: str) -> bool:
        """Keep nothing under ``key``; whether there was anything."""

    async def close(self) -> None:
        """Let go of connections."""

    @property
    def is_open(self) -> bool:
        """Whether it answers, as far as is known."""


class MemoryStore:
    """In this process; what was used least recently makes room for what is new.

    Args:
        max_bytes: of keys and values together.
    """

    is_open = True

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        """What is kept under ``key``."""
        found = self._kept.get(key)
        if found is None:
            return None
        if found[1] <= monotonic():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return found[0]

    async def take(self, key: str, seconds: float) -> bytes | None:
        """The same: within one process equal requests wait for each other anyway."""
        return await self.get(key)

    async def hold(self, key: str, seconds: float) -> None:
        """There are no marks."""

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep it, unless it is larger than the whole store."""
        self._drop(key)
        size = _size(key, value)
        if size > self._max_bytes or seconds <= 0:
            return
        while self._bytes + size > self._max_bytes:
            self._drop(next(iter(self._kept)))
        self._kept[key] = (value, monotonic() + seconds)
        self._bytes += size

    async def delete(self, key: str) -> bool:
        """Drop the key."""
        there = await self.get(key) is not None
        self._drop(key)
        return there

    async def close(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._bytes -= _size(key, dropped[0])


def _size(key: str, value: bytes) -> int:
    # The objects around them weigh about as much.
    return len(key) + len(value) + 200
