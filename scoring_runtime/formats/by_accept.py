"""How a result is written, by Accept and by the request's own form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Any, TypeAlias

from ..errors import NotAcceptable
from ..messages import INFER_HEADER_LENGTH, Headers, ScoringRequest
from ..values.body import parse_json, werkzeug
from .by_content_type import BY_TYPE, JSON, OCTETS, SUPPORTED, Asked, codec, open_inference

_FAILED = (b"x-ms-run-function-failed", b"False")
_NOTHING = b", 	"

Encode: TypeAlias = Callable[[Any], bytes]
Writer: TypeAlias = Callable[[Any], tuple[bytes, Headers]]


def writer(
    request: ScoringRequest,
    asked: Asked,
    encode: Encode,
    name: str,
    model: tuple[str, str],
    nan: str = "null",
) -> Writer:
    """What writes the result, as Accept (RFC 9110 §12.5.1) and the request's own form ask.

    ``encode`` writes JSON, the default; ``name`` is that of a result without one, where a format
    needs one; V2 answers show the ``model``'s name and version, and NaN as ``nan`` says.

    Raises:
        NotAcceptable: it lists what there is.
    """
    accept = b",".join(value for key, value in request.headers if key == b"accept")
    if asked.infer is not None:
        if not _accepts(accept, JSON) and not _accepts(accept, OCTETS):
            raise NotAcceptable(_not_acceptable(accept, (JSON, OCTETS)))
        return _infer_writer(asked.infer, lambda result: _outputs(result, encode, name), model, nan)
    kind = negotiated(accept)
    if kind == JSON:
        if asked.predictions:
            return lambda result: (encode({"predictions": result}), _HEADERS[JSON])
        return lambda result: (encode(result), _HEADERS[JSON])
    found, headers = codec(BY_TYPE[kind], NotAcceptable), _HEADERS[kind]
    return lambda result: (found.encode(_outputs(result, encode, name)), headers)


def negotiated(accept: bytes) -> str:
    """The content type to answer with: of :data:`SUPPORTED`, or another name of one of them if
    only that is accepted.

    Raises:
        NotAcceptable: none of them is accepted.
    """
    if accept in (b"", b"*/*", b"application/json"):
        return JSON
    if not accept.strip(_NOTHING):
        return JSON
    quality = _quality(accept)
    best = max(_OFFERED, key=quality)
    if quality(best) <= 0:
        raise NotAcceptable(_not_acceptable(accept, SUPPORTED))
    return best


_OFFERED = (*SUPPORTED, *(kind for kind in BY_TYPE if kind not in SUPPORTED))
_HEADERS: dict[str, Headers] = {
    kind: ((b"content-type", kind.encode()), _FAILED) for kind in (*_OFFERED, OCTETS)
}


def _infer_writer(
    infer: Any, outputs: Callable[[Any], Any], model: tuple[str, str], nan: str
) -> Writer:
    def write(result: Any) -> tuple[bytes, Headers]:
        body, length = open_inference().encode(outputs(result), infer, *model, nan=nan)
        if length is None:
            return body, _HEADERS[JSON]
        return body, (*_HEADERS[OCTETS], (INFER_HEADER_LENGTH, b"%d" % length))

    return write


def _outputs(result: Any, encode: Encode, name: str) -> Any:
    """Arrays by name, with the values that the JSON answer has."""
    from ..values.named_outputs import named_outputs

    return named_outputs({} if result is None else _known(result, encode), name)


def _known(result: Any, encode: Encode) -> Any:
    """What is no array, table or plain value, as its JSON: models, dataclasses, sets, moments."""
    if isinstance(result, Mapping):
        return {key: _known(value, encode) for key, value in result.items()}
    if result is None or any(
        hasattr(result, each) for each in ("to_numpy", "toarray", "__array__")
    ):
        return result
    if isinstance(result, list | str | int | float) and not isinstance(result, Enum):
        return result
    return parse_json(encode(result), exact=False)


def _quality(accept: bytes) -> Callable[[str], float]:
    """How much a content type is wanted: the most exact range that covers it decides."""
    # Java's own clients leave the zero out: "*; q=.2".
    text = accept.decode("latin-1").lower().replace("q=.", "q=0.")
    found = werkzeug("http").parse_accept_header(text)
    kinds = [(kind.partition(";")[0].strip(), weight) for kind, weight in found]
    ranges = [("*/*" if kind == "*" else kind, weight) for kind, weight in kinds]
    quality: Callable[[str], float] = werkzeug("datastructures").MIMEAccept(ranges).quality
    return quality


def _accepts(accept: bytes, kind: str) -> bool:
    return not accept.strip(_NOTHING) or _quality(accept)(kind) > 0


def _not_acceptable(accept: bytes, there: Collection[str]) -> str:
    shown = accept.decode("latin-1")[:100]
    return f"Accept {shown} names no format that there is. Supported: {', '.join(there)}."
