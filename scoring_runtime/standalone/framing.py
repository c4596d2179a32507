"""How a reply is written in HTTP/1.x (RFC 9112)."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from ..http.messages import HttpRequest, Reply

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
NO_BODY = (204, 304)


class Turn:
    """One request, or one answer that is already known, in its turn on a connection."""

    __slots__ = ("keep_alive", "method", "old_http", "reply", "request", "size")

    def __init__(
        self,
        request: HttpRequest | None,
        reply: Reply | None,
        method: str,
        keep_alive: bool,
        old_http: bool = False,
        size: int = 0,
    ) -> None:
        self.request = request
        self.reply = reply
        self.method = method
        self.keep_alive = keep_alive
        self.old_http = old_http
        self.size = size

    @property
    def lingers(self) -> bool:
        """Whether it refuses what the client may still be sending."""
        return self.request is None or self.request.body is None


def head(reply: Reply, turn: Turn, defaults: bytes, more: bytes, keep_alive: bool) -> list[bytes]:
    """Status line and header lines: the reply's, the ``defaults`` that all have, and ``more``."""
    parts = [_STATUS_LINES.get(reply.status) or b"HTTP/1.1 %d \r\n" % reply.status, defaults]
    for name, value in reply.headers:
        parts += (name, b": ", value, b"\r\n")
    parts.append(more)
    if not keep_alive:
        parts.append(b"connection: close\r\n\r\n")
    else:
        parts.append(b"connection: keep-alive\r\n\r\n" if turn.old_http else b"\r\n")
    return parts


def chunk(data: bytes, turn: Turn) -> bytes:
    """A part of a stream; HTTP/1.0 has no chunks, its streams end with the connection."""
    return data if turn.old_http else b"%x\r\n%b\r\n" % (len(data), data)


def plain(status: int, message: str) -> Reply:
    """An error that is found before a request is whole."""
    headers = [(b"content-type", b"application/json")]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    return Reply(status, headers, orjson.dumps({"message": message}))
