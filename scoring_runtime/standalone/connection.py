"""A connection of the standalone host: requests take turns, answers are written in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing
from time import monotonic
from typing import Any

from ..http_messages import Handle, Reply
from ..runtime import Runtime
from ..telemetry import log
from .framing import NO_BODY, Turn, chunk, head

KEEP_ALIVE_SECONDS = 65.0
_MAX_PIPELINED = 32
_LINGER_SECONDS = 2.0
_ONE_WRITE = 64 * 1024


class Shared:
    """What all connections of one process use."""

    def __init__(self, runtime: Runtime, handle: Handle) -> None:
        self.runtime = runtime
        self.handle = handle
        self.limit = runtime.settings.max_body_bytes
        self._defaults: list[tuple[bytes, bytes]] = []
        self._default_lines = b""

    def default_lines(self, defaults: list[tuple[bytes, bytes]]) -> bytes:
        """The header lines that every response has; made again when uvicorn renews the date."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._default_lines = b"".join(b"%b: %b\r\n" % line for line in defaults)
        return self._default_lines


class Connection(asyncio.Protocol):
    """What does not depend on how requests are read; they come by :meth:`_take`."""

    def __init__(self, shared: Shared, server_state: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._shared = shared
        self._state = server_state
        self._loop = loop
        self._turns: deque[Turn] = deque()
        self._active = False
        self._receiving = False
        self._refused = False
        self._stopping = False
        self._head_bytes = 0
        self._since = monotonic()
        self._writable: asyncio.Event | None = None
        self._client = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._state.connections.add(self)
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if peer else ""

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._refused = True
        self._turns.clear()
        if self._writable is not None:
            self._writable.set()

    def eof_received(self) -> bool:
        # A client may close its side and still wait for its answer.
        self._stopping, self._receiving = True, False
        return self._active

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def shutdown(self) -> None:
        """Close at once when idle, else after what is being received and answered."""
        self._stopping = True
        if not self._active and not self._receiving:
            self._transport.close()

    def close_if_idle(self, now: float) -> None:
        """Close when no request, or no whole head of one, has come for the keep-alive time."""
        waits = not self._active and (not self._receiving or self._head_bytes > 0)
        if waits and now - self._since > KEEP_ALIVE_SECONDS:
            self._transport.close()

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
        task = self._loop.create_task(self._answer(item))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _answer(self, item: Turn) -> None:
        try:
            if self._writable is not None:
                await self._writable.wait()
            reply = item.reply
            if reply is None:
                assert item.request is not None
                reply = await self._shared.handle(item.request)
            if self._transport.is_closing():
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
        self._answered(item, keep_alive)

    def _goes_on_after(self, item: Turn) -> bool:
        last = not item.keep_alive or (self._stopping and not self._receiving)
        return bool(self._turns) or not last

    def _answered(self, item: Turn, keep_alive: bool) -> None:
        self._state.total_requests += 1
        self._active = False
        self._since = monotonic()
        if item.lingers:
            # The client may still send: closing now would reset the connection before it reads.
            self._loop.call_later(_LINGER_SECONDS, self._transport.close)
        elif keep_alive and self._turns:
            self._begin(self._turns.popleft())
            if len(self._turns) < _MAX_PIPELINED and not self._transport.is_closing():
                self._transport.resume_reading()
        elif not keep_alive or (self._stopping and not self._receiving):
            self._transport.close()

    def _refuse(self, reply: Reply) -> None:
        """Answer in turn and read no further request from this connection."""
        if not self._refused:
            self._refused = True
            self._receiving = False
            self._take(Turn(None, reply, "", keep_alive=False))

    def _head(self, reply: Reply, item: Turn, more: bytes, keep_alive: bool) -> list[bytes]:
        defaults = self._shared.default_lines(self._state.default_headers)
        return head(reply, item, defaults, more, keep_alive=keep_alive)

    def _write_whole(self, reply: Reply, body: bytes, item: Turn, keep_alive: bool) -> None:
        length = b"" if reply.status in NO_BODY else b"content-length: %d\r\n" % len(body)
        parts = self._head(reply, item, length, keep_alive)
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
        self._transport.write(b"".join(self._head(reply, item, more, keep_alive)))
        if item.method == "HEAD" or empty:
            return
        async with aclosing(self._shared.runtime.chunks(body)) as chunks:
            async for part in chunks:
                if self._writable is not None:
                    await self._writable.wait()
                if self._transport.is_closing():
                    return
                if part:
                    self._transport.write(chunk(part, item))
        if not item.old_http:
            self._transport.write(b"0\r\n\r\n")
