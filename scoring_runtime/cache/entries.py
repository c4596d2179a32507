"""Keys and values of the cache: digests, and bytes that are recognised when they come back.

A value is ``SRV1``, a 16-byte digest of the rest, the length of a JSON head (4 bytes, big endian),
the head, the body. What is not exactly that is a miss; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from ..messages import INFER_HEADER_LENGTH, ScoringRequest, ScoringResponse
from ..values.body import is_json_type

_MAGIC = b"SRV1"
_DIGEST = 16
_START = len(_MAGIC) + _DIGEST
# Above it the body itself makes the key: reading it would hold up the event loop.
_LARGEST_READ = 64 * 1024
_WHITE_SPACE = b" \t\n\r"


class Kept(NamedTuple):
    """A value that came back: its head, its body, and its age in whole seconds."""

    head: dict[str, Any]
    body: bytes
    age: int


def key_of(request: ScoringRequest, version: bytes, model: bytes = b"") -> str:
    """The key of a request's result: 40 hexadecimal digits.

    It is made of ``version`` (what scores), the ``model`` that the request's resolves to, method,
    query, content type and encoding, Accept, the length of a V2 head, and the body; never of ids.
    JSON bodies (up to 64 KiB) that differ only in white space have the same key; not in the order
    of names, which is that of columns, and which run() may see.
    """
    digest = hashlib.blake2b(version, digest_size=20)
    kind, encoding = request.header(b"content-type"), request.header(b"content-encoding")
    body = request.body
    if not encoding and len(body) <= _LARGEST_READ and is_json_type(kind):
        body = _canonical(body)
    accept = b",".join(value for name, value in request.headers if name == b"accept")
    if accept == b"*/*":  # which is what none means (RFC 9110 §12.5.1)
        accept = b""
    length = request.header(INFER_HEADER_LENGTH)
    if request.path.startswith("/v2/"):  # bodies mean something else there
        model += b"/v2"
    head = (request.method.encode(), request.query, kind, encoding, accept, length, model)
    for part in head:
        digest.update(len(part).to_bytes(8, "big") + part)
    digest.update(body)
    return digest.hexdigest()


def pack(head: dict[str, Any], body: bytes, key: str) -> bytes:
    """A value to be kept under ``key``; its head gets the time."""
    text = orjson.dumps({**head, "at": time.time()})
    content = len(text).to_bytes(4, "big") + text + body
    return _MAGIC + _digest(key, content) + content


def unpack(value: bytes, key: str) -> Kept | None:
    """What :func:`pack` made for this key; None for anything else."""
    content = value[_START:]
    if value[: len(_MAGIC)] != _MAGIC or value[len(_MAGIC) : _START] != _digest(key, content):
        return None
    end = 4 + int.from_bytes(content[:4], "big")
    head = orjson.loads(content[4:end])
    return Kept(head, content[end:], max(0, int(time.time() - head["at"])))


def pack_response(response: ScoringResponse, body: bytes, key: str) -> bytes:
    """A response as a value."""
    lines = [[name.decode("latin-1"), text.decode("latin-1")] for name, text in response.headers]
    head = {"status": response.status, "headers": lines, "run_ms": response.run_ms}
    return pack(head, body, key)


def unpack_response(value: bytes, key: str) -> tuple[ScoringResponse, int] | None:
    """The response and its age in seconds; None when the value is none of ours."""
    kept = unpack(value, key)
    return None if kept is None else (response_of(kept), kept.age)


def response_of(kept: Kept) -> ScoringResponse:
    """The response that a value holds."""
    head = kept.head
    lines = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in head["headers"]]
    return ScoringResponse(head["status"], kept.body, lines, head["run_ms"])


def _canonical(body: bytes) -> bytes:
    """What bodies that differ only in form have in common.

    Those with numbers, strings or names that orjson writes otherwise are left as they are: run()
    may see the difference.
    """
    with suppress(ValueError, TypeError):
        whole = orjson.dumps(orjson.loads(body))
        bare = body.translate(None, _WHITE_SPACE)
        # White space in strings is left out on both sides: what is read alike has as much there.
        if bare == whole or bare == whole.translate(None, _WHITE_SPACE):
            return whole
    return body


def _digest(key: str, content: bytes) -> bytes:
    digest = hashlib.blake2b(key.encode(), digest_size=_DIGEST)
    digest.update(content)
    return digest.digest()
