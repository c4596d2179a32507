"""A connection of the standalone host: requests take turns, answers are written in their order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Generator, Iterator
from time import monotonic
from typing import Any

from ..http.messages import Handle, HttpRequest, Reply
from ..scoring.runtime import Runtime
from ..telemetry.logs import Tally, log
from ..telemetry.metrics import CONNECTIONS_REFUSED, REASONS
from .framing import NO_BODY, Turn, chunk, head

KEEP_ALIVE_SECONDS = 65.0
# Of what stands still while the process is to end, or while there are too many connections.
HURRIED_SECONDS = 5.0
# Connections above the bound: they may ask for health, and the oldest gives way to the next.
_SPARE = 16
_FILES = 64
_MAX_PIPELINED = 32
_LINGER_SECONDS = 2.0
_ONE_WRITE = 64 * 1024

_REASONS = {400: "malformed", 408: "too_slow", 414: "head_too_large", 431: "head_too_large"}
UNREAD = "An answer was not read by its client: the connection is ended"
TOO_MANY_CONNECTIONS = (
    "There are too many connections (SCORING_MAX_CONNECTIONS, ulimit -n): one more is told 503"
)
_HANDSHAKES = (
    "There are too many connections (SCORING_MAX_CONNECTIONS, ulimit -n): one whose handshake "
    "stood still is ended"
)


class Shared:
    """What all connections of one process use."""

    def __init__(self, runtime: Runtime, handle: Handle) -> None:
        self.runtime = runtime
        self.handle = handle
        self.probes = handle
        """Answers on the port of health."""
        self.refuses: Callable[[HttpRequest], bool] = lambda head: False
        """Whether a request is refused by its head already."""
        self.scheme = "http"
        self.begins_at_once: Callable[[], bool] = bool
        """Whether a request that has come is likely to be answered without waiting for anything."""
        settings = runtime.settings
        self.limit = settings.max_body_bytes
        self.idle_seconds = settings.idle_timeout_seconds or math.inf
        self.room = max(settings.max_bytes_in_flight, self.limit)
        """Bytes that may come beside the bodies that are received, wait, or are scored."""
        self.most_connections = min(settings.max_connections, _descriptors_for_connections())
        self.spare: dict[Connection, None] = {}
        self.lost: Callable[[], object] = int
        """Called when a connection has ended."""
        self.retiring = False
        """Whether each connection ends with its next answer, but none before it."""
        self.now = 0.0
        """Seconds, as :meth:`sweep` counts them."""
        self.tally = Tally()
        self.refused = {
            reason: runtime.metrics.number(CONNECTIONS_REFUSED, reason) for reason in REASONS
        }
        """Connections that were refused or ended, by why."""
        self._swept = monotonic()
        self._defaults: list[tuple[bytes, bytes]] = []
        self._default_lines = b""

    def default_lines(self, defaults: list[tuple[bytes, bytes]]) -> bytes:
        """The header lines that every response has; made again when uvicorn renews the date."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._default_lines = b"".join(b"%b: %b\r\n" % line for line in defaults)
        return self._default_lines

    def sweep(self, connections: Collection[Connection]) -> None:
        """Once a second: end what stands still, and make room where few places are left."""
        moment = monotonic()
        # While something else held up the loop it read nothing: that is no client's idleness.
        self.now += min(moment - self._swept, 2.0)
        self._swept = moment
        for each in list(connections):
            each.look(self.now)
        surplus = len(connections) - self.most_connections * 7 // 8
        if surplus > 0:
            waiting = (each for each in connections if each.waits_since < self.now)
            for each in sorted(waiting, key=lambda one: one.waits_since)[:surplus]:
                each.shutdown()
        self.tally.flush(self.now)

    def most_handshakes(self, connections: int) -> int:
        """How many there may be beside the connections."""
        return max(_SPARE, self.most_connections - connections)

    def handshake_gave_way(self) -> None:
        """One has been ended, so that another has room."""
        self.tally.add(_HANDSHAKES)
        self.refused["too_many"].add()

    def takes(self, connection: Connection, connections: int) -> bool:
        """Whether a new one is within the bound; above it, it has a place for a moment only."""
        if connections <= self.most_connections:
            return True
        self.tally.add(TOO_MANY_CONNECTIONS)
        self.refused["too_many"].add()
        if len(self.spare) >= _SPARE:
            oldest = next(iter(self.spare))
            del self.spare[oldest]
            oldest._transport.abort()
        self.spare[connection] = None
        return False


class Connection(asyncio.Protocol):
    """What does not depend on how requests are read; they come by :meth:`_take`."""

    def __init__(self, shared: Shared, server_state: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._shared, self._handle, self._scheme = shared, shared.handle, shared.scheme
        self._state = server_state
        self._loop = loop
        self._turns: deque[Turn] = deque()
        self._active = False
        self._receiving = False
        self._refused = False
        self._stopping = False
        self._retires = shared.retiring
        self._head_bytes = 0
        self._since = shared.now
        self._unsent: tuple[int, bytes] | None = None
        self._moved = 0.0
        self._spare = False
        self._writable: asyncio.Event | None = None
        self._client = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._state.connections.add(self)
        self._spare = not self._shared.takes(self, len(self._state.connections))
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if peer else ""

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._shared.spare.pop(self, None)
        self._shared.lost()
        self._refused = True
        self._forget_body()
        self._shared.room += sum(each.size for each in self._turns)
        self._turns.clear()
        if self._writable is not None:
            self._writable.set()

    def eof_received(self) -> bool:
        # A client may close its side and still wait for its answer.
        self._stopping, self._receiving = True, False
        return self._active and self._scheme == "http"  # asyncio's TLS has no half of a connection

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def retire(self) -> None:
        """Close after the next answer, or when no request comes for so long as always."""
        self._retires = True

    def shutdown(self) -> None:
        """Close at once when idle, else after what is being received and answered."""
        self._stopping = True
        if not self._active and not self._receiving:
            self._transport.close()

    @property
    def waits_since(self) -> float:
        """Since when it waits for a request; infinite while there is one."""
        return math.inf if self._active or self._receiving else self._since

    def look(self, now: float) -> None:
        """Once a second: end it when an answer is not read, or no request comes."""
        unsent = _unsent(self._transport, self._scheme == "https")
        if unsent != self._unsent:
            self._unsent, self._moved = unsent, now
        elif unsent is None:
            keeps = HURRIED_SECONDS if self._spare else KEEP_ALIVE_SECONDS
            if now - self.waits_since > keeps:
                self._transport.close()
        elif now - self._moved > self._patience:
            self._shared.tally.add(UNREAD)
            self._shared.refused["unread"].add()
            self._transport.abort()

    @property
    def _is_paused(self) -> bool:
        return len(self._turns) >= _MAX_PIPELINED

    @property
    def _patience(self) -> float:
        idle = self._shared.idle_seconds
        return min(idle, HURRIED_SECONDS) if self._stopping or self._spare else idle

    # --- answering ----------------------------------------------------------------------------

    def _take(self, item: Turn) -> None:
        if self._active:
            self._turns.append(item)
            if len(self._turns) >= _MAX_PIPELINED:
                self._transport.pause_reading()
        else:
            self._begin(item)

    def _begin(self, item: Turn) -> None:
        self._active = True
        answering: Coroutine[Any, Any, None] = self._answer(item)
        if self._shared.begins_at_once():
            try:
                waits_for = answering.send(None)
            except StopIteration:
                return
            answering = rest_of(answering, waits_for)
        self._answer_in_task(answering)

    def _answer_in_task(self, answering: Coroutine[Any, Any, None]) -> None:
        self._active = True
        task = self._loop.create_task(answering)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _answer(self, item: Turn) -> None:
        try:
            if self._writable is not None:
                await self._writable.wait()
                if self._transport.is_closing():
                    return
            reply = item.reply
            if reply is None:
                assert item.request is not None
                reply = await self._handle(item.request)
            if self._transport.is_closing():
                await self._shared.runtime.close(reply.body)
                return
            keep_alive = self._goes_on_after(item)
            if isinstance(reply.body, bytes):
                self._write_whole(reply, reply.body, item, keep_alive)
            else:
                keep_alive = keep_alive and not item.old_http
                await self._write_stream(reply, reply.body, item, keep_alive)
        except Exception:
            log.exception("The answer could not be sent")
            self._transport.abort()
            return
        finally:
            self._shared.room += item.size
        self._answered(item, keep_alive)

    def _goes_on_after(self, item: Turn) -> bool:
        ends = self._stopping or self._retires
        last = not item.keep_alive or (ends and not self._receiving)
        return bool(self._turns) or not last

    def _answered(self, item: Turn, keep_alive: bool) -> None:
        self._state.total_requests += 1
        self._active = False
        self._since = self._shared.now
        if item.lingers:
            # The client may still send: closing now would reset the connection before it reads.
            self._loop.call_later(_LINGER_SECONDS, self._transport.close)
        elif keep_alive and self._turns:
            self._answer_in_task(self._answer(self._turns.popleft()))
            if len(self._turns) < _MAX_PIPELINED and not self._transport.is_closing():
                self._transport.resume_reading()
        elif not keep_alive or (self._stopping and not self._receiving):
            self._transport.close()

    def _refuse(self, reply: Reply | None, request: HttpRequest | None = None) -> None:
        """Answer in turn and read no further request from this connection."""
        if not self._refused:
            self._refused = True
            self._receiving = False
            self._forget_body()
            if reply is not None and reply.status in _REASONS:
                self._shared.refused[_REASONS[reply.status]].add()
            self._take(Turn(request, reply, request.method if request else "", keep_alive=False))

    def _forget_body(self) -> None:
        """Let go of the part of a body that has come."""
        raise NotImplementedError

    def _write_whole(self, reply: Reply, body: bytes, item: Turn, keep_alive: bool) -> None:
        length = b"" if reply.status in NO_BODY else b"content-length: %d\r\n" % len(body)
        defaults = self._shared.default_lines(self._state.default_headers)
        parts = head(reply, item, defaults, length, keep_alive)
        if item.method == "HEAD" or reply.status in NO_BODY:
            self._transport.write(b"".join(parts))
        elif len(body) <= _ONE_WRITE:
            parts.append(body)
            self._transport.write(b"".join(parts))
        else:
            self._transport.write(b"".join(parts))
            self._transport.write(body)

    async def _write_stream(
        self, reply: Reply, body: Iterator[bytes], item: Turn, keep_alive: bool
    ) -> None:
        empty = reply.status in NO_BODY
        more = b"" if item.old_http or empty else b"transfer-encoding: chunked\r\n"
        defaults = self._shared.default_lines(self._state.default_headers)
        self._transport.write(b"".join(head(reply, item, defaults, more, keep_alive)))
        if item.method == "HEAD" or empty:
            await self._shared.runtime.close(body)
            return
        async with contextlib.aclosing(self._shared.runtime.chunks(body)) as chunks:
            async for part in chunks:
                if self._writable is not None:
                    await self._writable.wait()
                if self._transport.is_closing():
                    return
                if part:
                    self._transport.write(chunk(part, item))
        if not item.old_http:
            self._transport.write(b"0\r\n\r\n")


async def rest_of(begun: Coroutine[Any, Any, None], waits_for: Any) -> None:
    """What is left of a coroutine that was begun outside of a task, and waits for something."""
    await _continued(begun, waits_for)


@types.coroutine
def _continued(begun: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    with contextlib.suppress(StopIteration):
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:
                waits_for = begun.throw(error)
            else:
                waits_for = begun.send(sent)


def _descriptors_for_connections() -> int:
    """How many this process may open, but for those that files and libraries need."""
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors != resource.RLIM_INFINITY:
            return max(1, descriptors - max(_FILES, descriptors // 8) - _SPARE)
    return sys.maxsize


def _unsent(transport: Any, of_tls: bool) -> tuple[int, bytes] | None:
    """How much the client has not taken, while it holds up what is to be sent; None if not.

    With TLS what is sealed lies in another transport, which tells nothing of it.
    """
    size = transport.get_write_buffer_size()
    queued = b""
    if size or of_tls:
        # On Linux with what has left this process: slow readers take that first (tcp(7)).
        with contextlib.suppress(ImportError, OSError, AttributeError):
            from fcntl import ioctl
            from termios import TIOCOUTQ

            queued = ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
    return (size, queued) if size or any(queued) else None
