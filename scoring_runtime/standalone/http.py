"""The HTTP trigger of the standalone host: an ASGI application and its protocol limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..endpoint import Endpoint, Handle, HttpRequest, Reply
from ..runtime import Runtime

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]

# gunicorn's limits, which clients of the old server have lived with.
MAX_HEADER_LINE = 8190
MAX_REQUEST_LINE = 4094
MAX_HEADERS = 100
_MAX_HEAD = MAX_HEADER_LINE * MAX_HEADERS
_LINGER_SECONDS = 2.0


class BodyTooLarge(Exception):
    """More came than ``SCORING_MAX_BODY_BYTES``; the rest is not read."""


def create_app(runtime: Runtime, endpoint: Endpoint, handle: Handle) -> App:
    """The ASGI application that answers with ``handle``."""
    limit = runtime.settings.max_body_bytes

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = scope["headers"]
        try:
            body = await _read(headers, receive, limit)
        except BodyTooLarge:
            await _refuse(endpoint.too_large(headers), receive, send)
            return
        client = scope["client"]
        reply = await handle(
            HttpRequest(
                scope["method"],
                scope["path"],
                scope["query_string"],
                headers,
                body,
                client[0] if client else "",
                scope["scheme"],
            )
        )
        if isinstance(reply.body, bytes):
            await _send_whole(reply, reply.body, send)
        else:
            await send({"type": "http.response.start", **_start(reply)})
            async for chunk in runtime.chunks(reply.body):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    return app


async def _read(headers: list[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise BodyTooLarge
    message = await receive()
    if not message.get("more_body"):
        first: bytes = message.get("body", b"")
        return first if len(first) <= limit else _too_large()
    parts = bytearray(message["body"])
    while message.get("more_body"):
        message = await receive()
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise BodyTooLarge
    return bytes(parts)


def _too_large() -> bytes:
    raise BodyTooLarge


def _start(reply: Reply) -> dict[str, Any]:
    return {"status": reply.status, "headers": reply.headers}


async def _send_whole(reply: Reply, body: bytes, send: Send) -> None:
    if reply.status not in (204, 304):
        reply.headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", **_start(reply)})
    await send({"type": "http.response.body", "body": body})


async def _refuse(reply: Reply, receive: Receive, send: Send) -> None:
    """Answer, then throw away what still arrives for a moment.

    Closing while the client sends would reset the connection, and it would never see the answer.
    """
    assert isinstance(reply.body, bytes)
    reply.headers.append((b"connection", b"close"))
    reply.headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", **_start(reply)})
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on the request line and the headers."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD and not self._body_began(data):
                self._refuse(431, "The request's headers are too large.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._in_head = 0, True

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(value) > MAX_HEADER_LINE or len(self.headers) >= MAX_HEADERS:
            self._refuse(
                431,
                f"A header line has more than {MAX_HEADER_LINE} bytes, or there are more than "
                f"{MAX_HEADERS} of them.",
            )
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.transport.is_closing():
            return
        if len(self.url) > MAX_REQUEST_LINE:
            self._refuse(414, f"The request line is longer than {MAX_REQUEST_LINE} bytes.")
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def _body_began(self, data: bytes) -> bool:
        return b"\r\n\r\n" in data

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        body = orjson.dumps({"message": message})
        reason = {414: "URI Too Long", 431: "Request Header Fields Too Large"}[status]
        self.transport.write(
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self.transport.close()
