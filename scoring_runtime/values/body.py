"""Body bytes → the values that become the arguments of ``run()``."""

from __future__ import annotations

import gc
import importlib
import json
import re
import threading
import zlib
from typing import Any
from urllib.parse import parse_qsl

import orjson

from ..errors import InputTooLarge, UndecodableInput, UnsupportedContentType
from ..messages import ScoringRequest

JSON_TYPE = b"application/json"
_importing = threading.Lock()
_PIECE = 8 * 1024
_LARGE = 1024 * 1024
# Each costs time though nothing comes out of it: a body of empty members, or of many codings.
_MOST_MEMBERS = 250_000
_MOST_CODINGS = 3
_ALL_DIGITS_ZERO = bytes(ord("0") if chr(i).isdecimal() and i < 128 else i for i in range(256))
_NINETEEN_DIGITS = b"0" * 19
_DIGITS = re.compile(rb"0+")
_BEFORE_INTEGERS = frozenset(b"[,: \t\r\n\v\f")


def decompressed(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Undo the Content-Encoding (RFC 9110 §8.4) ``gzip``, ``deflate`` or ``identity``; three at
    most.

    Raises:
        InputTooLarge: more than ``limit`` bytes come out; it stops there.
        UndecodableInput: the body is not in that encoding.
        UnsupportedContentType: another encoding, or more than three.
    """
    names = [each.strip().lower() for each in encoding.split(b",")]
    if len(names) > _MOST_CODINGS:
        raise UnsupportedContentType(
            f"Content-Encoding lists {len(names)} codings. Allowed: at most {_MOST_CODINGS}."
        )
    for name in reversed(names):
        if name in (b"gzip", b"x-gzip", b"deflate"):
            body = _inflate(body, name.decode(), limit)
        elif name not in (b"", b"identity"):
            raise UnsupportedContentType(
                f"Content-Encoding {name.decode('latin-1')} cannot be read. "
                "Allowed: gzip, deflate, identity."
            )
    return body


def decoded_body(request: ScoringRequest, limit: int) -> bytes:
    """The body without its Content-Encoding; raises as :func:`decompressed`."""
    encoding = request.header(b"content-encoding")
    return decompressed(request.body, encoding, limit) if encoding else request.body


def text(body: bytes) -> str:
    """The body as UTF-8 text, a byte order mark kept.

    Raises:
        UndecodableInput: it is not UTF-8.
    """
    try:
        return str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise UndecodableInput(f"Input cannot be decoded as UTF-8: {error}") from None


def werkzeug(name: str) -> Any:
    """A module of werkzeug, imported when first needed.

    Its modules import each other in a circle: two threads that begin at different ones would each
    get the other's half-made.
    """
    with _importing:
        return importlib.import_module(f"werkzeug.{name}")


def query_pairs(query: bytes) -> list[tuple[str, str]]:
    """The names and values of a query string in order; what is not UTF-8 stays percent-encoded."""
    werkzeug("urls")  # registers the error handler named below
    text = query.decode("latin-1")
    return parse_qsl(text, keep_blank_values=True, errors="werkzeug.url_quote")


def query_values(query: bytes) -> dict[str, Any]:
    """A query string as an object: each value as JSON if it is JSON, else text; repeats a list."""
    values: dict[str, list[Any]] = {}
    for name, value in query_pairs(query):
        values.setdefault(name, []).append(_json_or_text(value))
    return {name: many[0] if len(many) == 1 else many for name, many in values.items()}


def query_text(query: bytes) -> str:
    """A query string as the JSON text of :func:`query_values`."""
    return json.dumps(query_values(query))


def is_json_type(content_type: bytes) -> bool:
    """``application/json`` or ``application/*+json``, parameters aside."""
    kind = content_type.split(b";", 1)[0].strip().lower()
    return kind == JSON_TYPE or (kind.startswith(b"application/") and kind.endswith(b"+json"))


def json_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; UTF-8, -16 or -32, NaN and Infinity accepted.

    Raises:
        UndecodableInput: empty, not JSON, or another kind of value.
    """
    if not body:
        raise UndecodableInput("POST body is empty. Expecting a JSON dictionary.")
    try:
        value = parse_json(body)
    except RecursionError:
        raise UndecodableInput(
            "POST body could not be decoded as JSON: it is nested too deeply."
        ) from None
    except ValueError as error:
        raise UndecodableInput(f"POST body could not be decoded as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UndecodableInput("POST body should be a JSON dictionary.")
    return value


def parse_json(body: bytes, *, exact: bool = True) -> Any:
    """``json.loads``, by orjson where that gives the same.

    orjson refuses NaN and UTF-16, and turns integers beyond 64 bits into floats; those go to the
    standard library. Without ``exact`` they may be floats: no array holds such integers.

    Raises:
        ValueError: not JSON.
        RecursionError: nested too deeply.
    """
    collects = len(body) > _LARGE and gc.isenabled()
    if collects:  # which looks at all that was made so far, again and again
        gc.disable()
    try:
        if not exact or not has_big_integer(body):
            try:
                return orjson.loads(body)
            except orjson.JSONDecodeError:
                pass
        return json.loads(body)
    finally:
        if collects:
            gc.enable()


def has_big_integer(body: bytes) -> bool:
    """Whether an integer of 19 digits or more may be in it, which 64 bits may not hold."""
    zeros = body.translate(_ALL_DIGITS_ZERO)
    at = zeros.find(_NINETEEN_DIGITS)
    while at >= 0:
        before = at - 1 if zeros[at - 1 : at] != b"-" else at - 2
        if before < 0 or zeros[before] in _BEFORE_INTEGERS:
            return True
        run = _DIGITS.match(zeros, at)
        assert run is not None
        at = zeros.find(_NINETEEN_DIGITS, run.end())
    return False


def _inflate(body: bytes, name: str, limit: int) -> bytes:
    if not body:
        return b""
    # 47: zlib or gzip header found by itself; -15: the bare deflate that some clients send.
    for window in (47, -15) if name == "deflate" else (31,):
        try:
            return _inflate_members(body, window, limit)
        except (zlib.error, EOFError) as error:
            problem = error
    raise UndecodableInput(
        f"Content-Encoding is {name} but the body is not: {problem or 'it ends too early'}."
    )


def _inflate_members(body: bytes, window: int, limit: int) -> bytes:
    parts: list[bytes] = []
    left, at, members, view = limit, 0, 0, memoryview(body)
    while at < len(view):
        members += 1
        if members > _MOST_MEMBERS:
            raise InputTooLarge(
                f"The compressed body has more than {_MOST_MEMBERS} members; it is to have one."
            )
        member = zlib.decompressobj(window)
        while not member.eof:
            # In pieces: what follows a member is copied out of the piece, not out of the body.
            piece = view[at : at + _PIECE]
            if not piece:
                raise EOFError("it ends too early")
            part = member.decompress(piece, left + 1)
            at += len(piece) - len(member.unused_data) - len(member.unconsumed_tail)
            left -= len(part)
            if left < 0:
                raise InputTooLarge(
                    f"The body is larger than {limit} bytes once decompressed "
                    "(SCORING_MAX_BODY_BYTES)."
                )
            parts.append(part)
    return b"".join(parts)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
