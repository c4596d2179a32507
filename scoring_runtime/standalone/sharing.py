"""Listening sockets that several worker processes share, so that each has as many connections.

The kernel wakes all that wait at a socket, and the loops of asyncio and libuv take all that is
queued there: whoever is first gets most. Here a worker takes the next connection only while no
other has fewer, which it reads in memory that all of them see. The queue stays the kernel's: of a
worker that ends, no connection is lost that it has not taken.

With TLS a single worker does the same: a loop counts no connection whose handshake stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import mmap
import select
import socket
from collections.abc import Callable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any

from ..telemetry.logs import log
from .connection import HURRIED_SECONDS

BACKLOG = 2048
"""How many connections wait until they are taken."""
_AGAIN_SECONDS = 0.001
# How long others may be too busy to come for the next, and how many are taken then in each pause.
_PATIENCE_SECONDS = 0.05
_FOR_OTHERS = 8
_AFTER_AN_ERROR_SECONDS = 1.0
# A handshake that has taken longer gives way where too many are being made.
_STILL_SECONDS = 0.5
_NOBODY = -1
# Counted for a worker that is starting, so that no request waits for it while others have started.
_STARTING = 1 << 30


def counts_of(places: int) -> ctypes.Array[ctypes.c_int32]:
    """How many connections the worker in each place has; made before they are forked."""
    counts = (ctypes.c_int32 * places).from_buffer(mmap.mmap(-1, 4 * places))
    counts[:] = [_NOBODY] * places
    return counts


class Load:
    """How many connections a worker has, and whether it may take another."""

    def __init__(self, counts: ctypes.Array[ctypes.c_int32], place: int) -> None:
        self.place = place
        self._counts = counts
        self._own, self._left = _STARTING, False
        self._tell(0)

    def _tell(self, more: int) -> None:
        self._own += more
        if not self._left:
            self._counts[self.place] = self._own

    def took(self) -> None:
        """It has taken a connection."""
        self._tell(1)

    def lost(self) -> None:
        """A connection has ended."""
        self._tell(-1)

    def started(self) -> None:
        """It is ready."""
        self._tell(-_STARTING)

    def leave(self) -> None:
        """It takes no more, or has ended."""
        self._counts[self.place], self._left = _NOBODY, True

    @property
    def _least(self) -> int:
        """Of the others."""
        others = [n for at, n in enumerate(self._counts) if at != self.place and n != _NOBODY]
        return min(others, default=self._own)

    @property
    def is_next(self) -> bool:
        """Whether no other has fewer; by an eighth it may have more, since thousands that come at
        once are not given out one by one."""
        least = self._least
        return self._own <= least + least % _STARTING // 8

    @property
    def stands_back(self) -> bool:
        """Whether it is starting while another has started."""
        return self._own >= _STARTING > self._least


class Listener:
    """A listening socket of several workers; to uvicorn it is one of its servers.

    Args:
        shared: listens.
        protocol: makes one for a connection.
        load: of this worker.
        tls: options of the calls that make connections.
        most: how many may be in their handshakes now.
        gave_way: called when one is ended for another.
    """

    def __init__(
        self,
        shared: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        load: Load,
        tls: Mapping[str, Any] = MappingProxyType({}),
        most: Callable[[], float] = lambda: math.inf,
        gave_way: Callable[[], object] = int,
    ) -> None:
        self._most, self._gave_way = most, gave_way
        self._socket, self._protocol, self._load, self._tls = shared, protocol, load, tls
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(shared, select.POLLIN)
        self._others_since, self._for_others = 0.0, 0
        self._later: asyncio.TimerHandle | None = None
        self._connecting: dict[asyncio.Task[None], tuple[socket.socket, float]] = {}
        self._loop.add_reader(shared, self._take)

    def close(self) -> None:
        """Take no more, and leave what waits to others."""
        self._loop.remove_reader(self._socket)
        if self._later is not None:
            self._later.cancel()

    @property
    def is_connecting(self) -> bool:
        """Whether something that was taken has not become a connection yet."""
        return bool(self._connecting)

    async def wait_closed(self) -> None:
        """What was taken has become a connection, or stood still and is ended."""
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=HURRIED_SECONDS)
        for taken, _ in self._connecting.values():
            _end(taken)
        await asyncio.gather(*self._connecting)

    def _take(self) -> None:
        while self._has_room() and self._is_own_turn():
            try:
                taken, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._listen()
                return
            except OSError as error:  # too many open files
                log.error("A connection could not be taken: %s", error)
                self._pause(_AFTER_AN_ERROR_SECONDS)
                return
            self._load.took()
            task = self._loop.create_task(self._connect(taken))
            self._connecting[task] = taken, monotonic()
            task.add_done_callback(self._connecting.pop)
        self._pause(_AGAIN_SECONDS)

    def _has_room(self) -> bool:
        """For one more; else the oldest handshake gives way if it stands still."""
        if len(self._connecting) < self._most():
            return True
        taken, since = next(iter(self._connecting.values()))
        if monotonic() - since > _STILL_SECONDS and _end(taken):
            self._gave_way()
        return False

    def _is_own_turn(self) -> bool:
        """Or that of others who do not come."""
        if self._load.is_next:
            return True
        now = monotonic()
        self._others_since = self._others_since or now
        late = now - self._others_since > _PATIENCE_SECONDS
        self._for_others += 1
        return late and self._for_others <= _FOR_OTHERS and not self._load.stands_back

    def _listen(self) -> None:
        self._others_since = 0.0
        if self._later is not None:
            self._later = None
            self._loop.add_reader(self._socket, self._take)

    def _pause(self, seconds: float) -> None:
        # Until others have taken it, the socket would call again in every turn of the loop.
        self._loop.remove_reader(self._socket)
        self._for_others = 0
        self._later = self._loop.call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        if self._poll.poll(0):
            self._take()
        else:
            self._listen()

    async def _connect(self, taken: socket.socket) -> None:
        taken.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._protocol, taken, **self._tls)
        except OSError as error:
            log.debug("A connection ended at once: %s", error)
            self._load.lost()
            taken.close()


def _end(taken: socket.socket) -> bool:
    """Have what waits for its client see its end; False if it has already."""
    with contextlib.suppress(OSError):
        taken.shutdown(socket.SHUT_RDWR)
        return True
    return False
