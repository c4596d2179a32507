"""The HTTP trigger of the standalone host: HTTP/1.1 on httptools, for uvicorn's server.

uvicorn listens, keeps the Date header and shuts down; this protocol stands in the place of its
ASGI protocols. A request becomes one :class:`HttpRequest` and a reply one write: the messages,
events and header checks of ASGI cost more than a fast model's ``run()``.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import httptools

from ..http_messages import HttpRequest, Reply
from .connection import Connection, Shared
from .framing import Turn, plain

# gunicorn's limits, which clients of the old server have lived with.
MAX_HEADER_LINE = 8190
MAX_REQUEST_LINE = 4094
MAX_HEADERS = 100
_MAX_HEAD = 256 * 1024
_IN_BODY = -(2**62)
_PLAIN_TARGETS = {b"/score": "/score", b"/": "/"}


class HttpProtocol(Connection):
    """One connection that speaks HTTP/1.x. Pipelined requests are answered one after the other."""

    def __init__(self, shared: Shared, server_state: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(shared, server_state, loop)
        self._parser = httptools.HttpRequestParser(self)
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

    def _refuse_body(self) -> None:
        request = self._request(None)
        self._refused = True
        self._receiving = False
        self._take(Turn(request, None, request.method, keep_alive=False))
