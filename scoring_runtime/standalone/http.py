"""The HTTP trigger of the standalone host: HTTP/1.1 on httptools, for uvicorn's server.

uvicorn listens, keeps the Date header and shuts down; this protocol stands in the place of its
ASGI protocols. A request becomes one :class:`HttpRequest` and a reply one write: the messages,
events and header checks of ASGI cost more than a fast model's ``run()``.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import httptools

from ..http.messages import HttpRequest, Reply
from ..messages import Progress
from .connection import TOO_MANY_CONNECTIONS, Connection, Shared
from .framing import Turn, plain

# gunicorn's limits, which clients of the old server have lived with.
MAX_HEADER_LINE = 8190
MAX_REQUEST_LINE = 4094
MAX_HEADERS = 100
_MAX_HEAD = 256 * 1024
_IN_BODY = -(2**62)
_LEAST_RATE = 500  # bytes per second, as Apache's mod_reqtimeout asks of bodies
_SMALL_BODY = 64 * 1024
_HEALTH = (b"/", b"/health/live", b"/health/ready")
_TOO_LARGE_HEADERS = (
    f"A header line has more than {MAX_HEADER_LINE} bytes, or there are more than {MAX_HEADERS} of "
    "them."
)
_TOO_MANY_BYTES = "The bodies of all requests are too large (SCORING_MAX_BYTES_IN_FLIGHT)"
_PLAIN_TARGETS = {b"/score": "/score", b"/": "/"}


class HttpProtocol(Connection):
    """One connection that speaks HTTP/1.x. Pipelined requests are answered one after the other."""

    def __init__(self, shared: Shared, server_state: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(shared, server_state, loop)
        self._parser = httptools.HttpRequestParser(self)
        self._seen: list[tuple[bytes, bytes]] | None = None
        self._problem: Reply | None = None
        self._too_large = False
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
        self._hosts = 0

    def _forget_body(self) -> None:
        self._shared.room += self._length
        self._first, self._parts, self._length = b"", None, 0

    # --- the connection -----------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Once a second: refuse a request, too, whose rest does not come, or too slowly."""
        super().look(now)
        came, patience = (self._length, self._head_bytes), self._patience
        if not self._receiving or self._refused or self._is_paused:
            self._seen = None
        elif self._seen is not self._headers:  # another request than before
            self._seen, self._seen_at, self._heard, self._came = self._headers, now, now, came
        elif came != self._came:
            self._heard, self._came = now, came
        if self._seen is None:
            return
        if now - self._heard > patience:
            self._give_up(f"No byte of a request came for {patience:g} seconds")
        elif self._length < _LEAST_RATE * (now - self._seen_at - patience):
            self._give_up(f"A request came with less than {_LEAST_RATE} bytes per second")

    def _give_up(self, why: str) -> None:
        why = f"{why} (SCORING_IDLE_TIMEOUT_SECONDS)"
        self._shared.tally.add(f"{why}: it is told 408")
        self._refuse(plain(408, f"{why}."))

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
        if len(name) + len(value) > MAX_HEADER_LINE:
            self._problem = plain(431, _TOO_LARGE_HEADERS)
        elif name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._too_large = int(value) > self._shared.limit
        elif name == b"expect":
            self._expects = value.lower() == b"100-continue"
        elif name == b"upgrade":
            self._upgrades = True

    def on_headers_complete(self) -> None:
        self._upgrades = self._upgrades and self._parser.should_upgrade()
        if self._upgrades:
            return
        self._head_is_complete = True
        self._head_bytes = _IN_BODY  # which is limited by its own rule
        lines = len(self._headers)
        if (
            self._hosts != 1
            or self._spare
            or len(self._url) > MAX_REQUEST_LINE
            or lines > MAX_HEADERS
        ):
            self._problem = self._problem_of_head()
        if self._problem is not None:
            self._refuse(self._problem)
        elif self._too_large:
            self._refuse_body()
        elif self._expects and not self._active and not self._is_old:  # RFC 9110 §10.1.1
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def _is_old(self) -> bool:
        return bool(self._parser.get_http_version() == "1.0")

    def _problem_of_head(self) -> Reply | None:
        if len(self._url) > MAX_REQUEST_LINE:
            return plain(414, f"The request line is longer than {MAX_REQUEST_LINE} bytes.")
        if self._problem is not None or len(self._headers) > MAX_HEADERS:
            return plain(431, _TOO_LARGE_HEADERS)
        if self._hosts > 1 or not (self._hosts or self._is_old):  # RFC 9112 §3.2
            return plain(400, f"A request has one Host header line; this one has {self._hosts}.")
        if self._spare and self._url not in _HEALTH:
            return plain(503, f"{TOO_MANY_CONNECTIONS.partition(':')[0]}. Try again later.")
        return None

    def on_chunk_header(self) -> None:
        self._head_bytes = 0  # data follows, or trailers, and those are limited as headers are

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._head_bytes = _IN_BODY
        size, shared = len(body), self._shared
        self._length += size
        shared.room -= size
        if self._length > shared.limit:
            self._refuse_body()
        elif shared.room < 0:
            shared.tally.add(f"{_TOO_MANY_BYTES}: one more is told 503")
            shared.refused["too_many_bytes"].add()
            self._refuse(plain(503, f"{_TOO_MANY_BYTES}. Try again later."))
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
        keep_alive = parser.should_keep_alive() and not self._spare
        self._refused = not keep_alive  # what the client sends after its last request is not one
        self._take(Turn(request, None, request.method, keep_alive, old_http, self._length))
        self._reset()

    def _request(self, body: bytes | None) -> HttpRequest:
        method = self._parser.get_method().decode("ascii")
        path, query = self._target()
        progress = Progress()
        progress.received = perf_counter()
        about = (body, self._client, self._scheme, None, progress)
        return HttpRequest(method, path, query, self._headers, *about)

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
        self._refuse(None, self._request(None))


class GuardedProtocol(HttpProtocol):
    """The same where clients need a key: a large body is not read of those that have none."""

    def on_headers_complete(self) -> None:
        if self._has_large_body() and self._shared.refuses(self._request(None)):
            self._too_large = True
        super().on_headers_complete()

    def _has_large_body(self) -> bool:
        said = dict(self._headers)
        length = said.get(b"content-length", b"0")
        return b"transfer-encoding" in said or self._expects or int(length) > _SMALL_BODY


class ProbeProtocol(HttpProtocol):
    """The same on the port of health, which has no TLS."""

    def __init__(self, shared: Shared, server_state: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(shared, server_state, loop)
        self._handle, self._scheme = shared.probes, "http"
