"""The HTTP trigger of the standalone host: HTTP/1.1 on httptools, for uvicorn's server.

uvicorn listens, keeps the Date header and shuts down; this protocol stands in the place of its
ASGI protocols. A request becomes one :class:`HttpRequest` and a reply one write: the messages,
events and header checks of ASGI cost more than a fast model's ``run()``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing
from time import monotonic
from typing import Any
from urllib.parse import unquote

import httptools

from ..http_messages import Handle, HttpRequest, Reply
from ..runtime import Runtime
from ..telemetry import log
from .framing import NO_BODY, Turn, chunk, head, plain

# gunicorn's limits, which clients of the old server have lived with.
MAX_HEADER_LINE = 8190
MAX_REQUEST_LINE = 4094
MAX_HEADERS = 100
KEEP_ALIVE_SECONDS = 65.0
_MAX_HEAD = 256 * 1024
_IN_BODY = -(2**62)
_MAX_PIPELINED = 32
_LINGER_SECONDS = 2.0
_ONE_WRITE = 64 * 1024
_PLAIN_TARGETS = {b"/score": "/score", b"/": "/"}


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


class HttpProtocol(asyncio.Protocol):
    """One connection. Requests that are pipelined are answered one after the other."""

    def __init__(self, shared: Shared, server_state: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._shared = shared
        self._state = server_state
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._turns: deque[Turn] = deque()
        self._active = False
        self._receiving = False
        self._refused = False
        self._stopping = False
        self._head_bytes = 0
        self._since = monotonic()
        self._writable: asyncio.Event | None = None
        self._client = ""
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_is_complete = False
        self._upgrades = False
        self._first = b""
        self._parts: bytearray | None = None
        self._length = 0
        self._expects = False
        self._problem: Reply | None = None
        self._too_large = False

    # --- the connection -----------------------------------------------------------------------

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

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._head_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(plain(400, "This is not an HTTP request."))
        if self._receiving and self._head_bytes > _MAX_HEAD:
            self._refuse(plain(431, "The request's headers are too large."))

    def _feed(self, data: bytes | memoryview) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                if self._upgrades:
                    self._begin_again_without_upgrade()

    def _begin_again_without_upgrade(self) -> None:
        # No other protocol is spoken here, so the offer is ignored (RFC 9110 §7.8); but the
        # parser has taken the request to end with its head, and would lose the body.
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        lines = [b"%b: %b" % line for line in self._headers if line[0] != b"upgrade"]
        head = [b"%b %b HTTP/%b" % (method, self._url, version), *lines, b"", b""]
        self._reset()
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"\r\n".join(head))

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

    # --- the parser's callbacks ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._receiving = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_is_complete:
            return  # a trailer, which must not pass for a header (RFC 9110 §6.5.1)
        name, value = name.lower(), value.rstrip(b" \t")
        self._headers.append((name, value))
        if len(name) + len(value) > MAX_HEADER_LINE or len(self._headers) > MAX_HEADERS:
            self._problem = plain(
                431,
                f"A header line has more than {MAX_HEADER_LINE} bytes, or there are more than "
                f"{MAX_HEADERS} of them.",
            )
        elif name == b"content-length":
            if int(value) > self._shared.limit:
                self._too_large = True
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects = True
        elif name == b"upgrade":
            self._upgrades = True

    def on_headers_complete(self) -> None:
        self._upgrades = self._upgrades and self._parser.should_upgrade()
        if self._upgrades:
            return
        self._head_is_complete = True
        self._head_bytes = _IN_BODY  # which is limited by its own rule
        if len(self._url) > MAX_REQUEST_LINE:
            self._problem = plain(414, f"The request line is longer than {MAX_REQUEST_LINE} bytes.")
        if self._problem is not None:
            self._refuse(self._problem)
        elif self._too_large:
            self._refuse_body()
        elif self._expects and not self._active:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_chunk_header(self) -> None:
        self._head_bytes = 0  # data follows, or trailers, and those are limited as headers are

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._head_bytes = _IN_BODY
        self._length += len(body)
        if self._length > self._shared.limit:
            self._refuse_body()
        elif self._parts is not None:
            self._parts += body
        elif self._first:
            self._parts = bytearray(self._first) + body
        else:
            self._first = body

    def on_message_complete(self) -> None:
        self._receiving = False
        self._head_bytes = 0
        if self._refused or self._upgrades:
            return
        parser = self._parser
        request = self._request(self._first if self._parts is None else bytes(self._parts))
        old_http = parser.get_http_version() == "1.0"
        keep_alive = parser.should_keep_alive()
        self._refused = not keep_alive  # what the client sends after its last request is not one
        self._take(Turn(request, None, request.method, keep_alive, old_http))
        self._reset()

    def _request(self, body: bytes | None) -> HttpRequest:
        method = self._parser.get_method().decode("ascii")
        path, query = self._target()
        return HttpRequest(method, path, query, self._headers, body, self._client)

    def _target(self) -> tuple[str, bytes]:
        plain = _PLAIN_TARGETS.get(self._url)
        if plain is not None:
            return plain, b""
        try:
            parsed = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError:
            return self._url.decode("latin-1"), b""
        path = (parsed.path or b"/").decode("latin-1")
        if path.startswith("//"):  # a base URL that ends in a slash, put before a path
            path = "/" + path.lstrip("/")
        return (unquote(path) if "%" in path else path), parsed.query or b""

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

    def _refuse_body(self) -> None:
        request = self._request(None)
        self._refused = True
        self._receiving = False
        self._take(Turn(request, None, request.method, keep_alive=False))

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
