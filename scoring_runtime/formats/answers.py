"""How a result is written, by Accept and by the request's own form."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from ..errors import NotAcceptable
from ..messages import Headers, ScoringRequest
from ..named_outputs import named_outputs
from .table import BY_TYPE, HEADER_LENGTH, JSON, OCTETS, SUPPORTED, Asked, codec, open_inference

_FAILED = (b"x-ms-run-function-failed", b"False")

Encode: TypeAlias = Callable[[Any], bytes]
Writer: TypeAlias = Callable[[Any], tuple[bytes, Headers]]


def writer(
    request: ScoringRequest, asked: Asked, encode: Encode, name: str, model: tuple[str, str]
) -> Writer:
    """What writes the result, as Accept and the request's own form ask.

    Args:
        request: its Accept header decides (RFC 9110 §12.5.1); without one it is JSON.
        asked: the request as read.
        encode: writes JSON.
        name: of a result that has none, where a format needs one.
        model: its name and version, which V2 answers show.

    Raises:
        NotAcceptable: it lists what there is.
    """
    accept = request.header(b"accept")
    if asked.infer is not None:
        if not _accepts(accept, JSON) and not _accepts(accept, OCTETS):
            raise NotAcceptable(_not_acceptable(accept, (JSON, OCTETS)))
        return _infer_writer(asked.infer, name, model)
    kind = negotiated(accept)
    if kind == JSON:
        if asked.predictions:
            return lambda result: (encode({"predictions": result}), _headers(JSON))
        return lambda result: (encode(result), _headers(JSON))
    found = codec(BY_TYPE[kind], NotAcceptable)
    return lambda result: (found.encode(named_outputs(result, name)), _headers(kind))


def negotiated(accept: bytes) -> str:
    """The content type to answer with, of :data:`SUPPORTED`.

    Raises:
        NotAcceptable: none of them is accepted.
    """
    if accept in (b"", b"*/*", b"application/json"):
        return JSON
    weights = _weights(accept)
    best = max(SUPPORTED, key=lambda kind: _weight(weights, kind))
    if _weight(weights, best) <= 0:
        raise NotAcceptable(_not_acceptable(accept, SUPPORTED))
    return best


def _infer_writer(infer: Any, name: str, model: tuple[str, str]) -> Writer:
    def write(result: Any) -> tuple[bytes, Headers]:
        outputs = named_outputs(result, name)
        body, length = open_inference().encode(outputs, infer, *model)
        if length is None:
            return body, _headers(JSON)
        return body, (*_headers(OCTETS), (HEADER_LENGTH, b"%d" % length))

    return write


def _headers(kind: str) -> Headers:
    return _HEADERS[kind]


_HEADERS: dict[str, Headers] = {
    kind: ((b"content-type", kind.encode()), _FAILED) for kind in (*SUPPORTED, OCTETS)
}


def _weights(accept: bytes) -> list[tuple[str, float]]:
    found = []
    for part in accept.decode("latin-1").lower().split(","):
        kind, *parameters = [each.strip() for each in part.split(";")]
        weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            found.append((kind, float(weight)))
        except ValueError:
            found.append((kind, 0.0))
    return found


def _weight(weights: list[tuple[str, float]], kind: str) -> float:
    """How much a content type is wanted: the most exact range that covers it decides."""
    names = BY_TYPE[kind].content_types if kind in BY_TYPE else (kind,)
    for ranges in (names, (kind.partition("/")[0] + "/*",), ("*/*", "*")):
        found = [weight for named, weight in weights if named in ranges]
        if found:
            return max(found)
    return 0.0


def _accepts(accept: bytes, kind: str) -> bool:
    return not accept or _weight(_weights(accept), kind) > 0


def _not_acceptable(accept: bytes, there: Collection[str]) -> str:
    shown = accept.decode("latin-1")[:100]
    return f"Accept {shown} names no format that there is. Supported: {', '.join(there)}."
