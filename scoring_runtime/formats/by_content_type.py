"""One table of formats, and what a body holds by its Content-Type.

The same for models without a script and for scripts with a schema.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol, runtime_checkable

import orjson

from ..errors import SchemaMismatch, UndecodableInput, UnsupportedContentType, UnsupportedMethod
from ..messages import INFER_HEADER_LENGTH, ScoringRequest
from ..values.body import decoded_body, is_json_type, werkzeug
from ..values.content import Content, Limits, Rows
from ..values.wording import short
from . import mlflow_json
from .guarded_json import GUARDED_BYTES, parse

JSON, OCTETS = "application/json", "application/octet-stream"


class Format(NamedTuple):
    """One row: its content types (the first is written), and the module."""

    content_types: tuple[str, ...]
    module: str


_FORMATS = (
    Format(("text/csv", "application/csv"), "csv"),
    Format(("application/jsonl", "application/x-ndjson", "application/jsonlines"), "json_lines"),
    Format(("application/x-npy",), "npy"),
)
_INFER = Format(("The Open Inference Protocol",), "open_inference")
BY_TYPE = {kind: each for each in _FORMATS for kind in each.content_types}
SUPPORTED = (JSON, *(each.content_types[0] for each in _FORMATS))
_READABLE = (*SUPPORTED, f"{OCTETS} with Inference-Header-Content-Length (V2)")
_HINTS = {
    "application/x-www-form-urlencoded": (
        "curl sends it unless told otherwise: add -H 'Content-Type: application/json'"
    ),
    "application/vnd.apache.parquet": "scoring-runtime batch --input FILE reads it",
}
# The headers that decide how a body is read and answered, and the lines that decide nothing else.
_DECIDING = {b"content-type", b"content-encoding", b"accept", INFER_HEADER_LENGTH}
_USUAL = {
    (b"content-type", JSON.encode()),
    (b"accept", JSON.encode()),
    (b"accept", b"*/*"),
}


class Asked(NamedTuple):
    """What a request holds and asks for.

    ``infer`` is the V2 request it is, if it is one. ``predictions`` asks for the result under that
    name, as MLflow's and TensorFlow's servers give it.
    """

    content: Content
    params: Mapping[str, Any] = {}
    method: str = ""
    predictions: bool = False
    infer: Any = None


def plain_rows(request: ScoringRequest) -> list[Any] | None:
    """The rows of the usual request, seen in one look: POST, JSON of one list, alone or as
    ``data``, that is answered in JSON. None of any other, which :func:`read` and the answer's
    writer have to look at."""
    if request.method != "POST" or request.query or request.path.startswith("/v2/"):
        return None
    for line in request.headers:
        if line[0] in _DECIDING and line not in _USUAL:
            return None
    if len(request.body) > GUARDED_BYTES:
        return None
    try:
        value = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return None
    if type(value) is dict and len(value) == 1:
        value = value.get("data")
    return value if type(value) is list else None


@runtime_checkable
class OwnBodies(Protocol):
    """A model whose framework has a server of its own: it reads JSON and CSV, and writes JSON."""

    def read_json(self, value: Any, limits: Limits) -> Asked:
        """What a JSON value holds that is no V2 request; raises any :class:`.InputError`."""
        ...

    def read_csv(self, text: str, limits: Limits) -> Asked:
        """What a text with comma-separated values holds; raises the same."""
        ...

    def encode(self, result: Any, nan: str) -> bytes:
        """The result as JSON, NaN and Infinity as ``SCORING_NAN`` says."""
        ...


def read(
    request: ScoringRequest,
    limits: Limits,
    *,
    names: Collection[str] = (),
    csv_header: bool | None = None,
    as_text: bool = False,
    own: OwnBodies | None = None,
) -> Asked:
    """What the body holds, by its Content-Type (none is JSON), once decompressed.

    ``names``, ``csv_header`` and ``as_text`` are those of :func:`.csv.decode`; ``own`` reads JSON
    and CSV instead.

    Raises:
        UnsupportedMethod, UnsupportedContentType, UndecodableInput, SchemaMismatch, InputTooLarge.
    """
    if request.method != "POST":
        raise UnsupportedMethod("Send the input with POST.")
    body = decoded_body(request, limits.bytes)
    said = request.header(b"content-type")
    if length := request.header(INFER_HEADER_LENGTH):
        return _infer(body, limits, length)
    if request.path.startswith("/v2/"):
        return _infer(body, limits, b"", _json(body, limits))
    if not said or is_json_type(said):
        return _of_json(body, limits, own)
    found = BY_TYPE.get(_kind(said))
    if found is None:
        raise UnsupportedContentType(_unsupported(said))
    reader = codec(found, UnsupportedContentType)
    if found.module != "csv":
        return Asked(reader.decode(body, limits))
    header = _csv_header(_parameter(said, "header"), csv_header)
    charset = _parameter(said, "charset") or "utf-8"
    if own is not None:
        return own.read_csv(_csv_text(body, reader, header, charset), limits)
    options = {"header": header, "names": names, "charset": charset, "as_text": as_text}
    return Asked(reader.decode(body, limits, **options))


def _of_json(body: bytes, limits: Limits, own: OwnBodies | None) -> Asked:
    value = _json(body, limits, exact=own is not None)
    if own is not None and not open_inference().is_infer_request(value):
        return own.read_json(value, limits)
    return read_json(value, limits)


def read_json(value: Any, limits: Limits) -> Asked:
    """What a JSON value holds: V2, or data under one of the names that clients use."""
    if isinstance(value, list):
        if not value or not isinstance(value[0], dict):
            return Asked(Rows(value))
        value = {"data": value}
    if not isinstance(value, dict):
        raise UndecodableInput("The body is neither a JSON object nor a list of rows.")
    if isinstance(value.get("inputs"), list) and open_inference().is_infer_request(value):
        return _infer(b"", limits, b"", value)
    content, params = mlflow_json.decode(value, limits)
    method = value.get("method", "")
    if not isinstance(method, str):
        raise SchemaMismatch(f"method is {short(method)}; expected is a name as text.")
    return Asked(content, params, method, any(kind in value for kind in mlflow_json.KINDS))


def is_known(content_type: bytes) -> bool:
    """Whether there is a format of this content type, installed or not."""
    return is_json_type(content_type) or _kind(content_type) in BY_TYPE


def _csv_header(said: str, default: bool | None) -> bool | None:
    if said not in ("", "present", "absent"):
        raise UnsupportedContentType(
            f"header={said[:20]} of text/csv is not known. Allowed: header=present, header=absent "
            "(RFC 4180), or neither."
        )
    return {"present": True, "absent": False}.get(said, default)


def supported() -> str:
    """A sentence that lists the content types that can be read."""
    return f"Supported: {', '.join(_READABLE)}."


def _json(body: bytes, limits: Limits, *, exact: bool = False) -> Any:
    if not body:
        raise UndecodableInput("The body is empty.")
    return parse(body, limits, "The body", exact=exact)


def _csv_text(body: bytes, reader: Any, header: bool | None, charset: str) -> str:
    if header is False:
        raise UnsupportedContentType("This model takes CSV with a line of names, as MLflow does.")
    reader.check_charset(charset)
    try:
        return body.decode(charset)
    except UnicodeError as error:
        raise UndecodableInput(f"The CSV body is not {charset}: {error}.") from None


def _infer(body: bytes, limits: Limits, length: bytes, value: Any = None) -> Asked:
    module = open_inference()
    header_length = module.header_length(length, body) if length else None
    infer = module.decode(body, header_length, limits, value)
    return Asked(infer.tensors, infer.params, "", False, infer)


def open_inference() -> Any:
    """The module of the Open Inference Protocol.

    Raises:
        UnsupportedContentType: what it needs is missing.
    """
    return codec(_INFER, UnsupportedContentType)


@cache
def codec(found: Format, error: type[Exception]) -> Any:
    """The module that reads and writes a format; ``error`` when what it needs is missing."""
    try:
        return import_module(f"scoring_runtime.formats.{found.module}")
    except ModuleNotFoundError as missing:
        raise error(
            f"{found.content_types[0]} needs {missing.name}, which is not installed here: pip "
            "install 'scoring-runtime[sklearn]'."
        ) from None


def _kind(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


def _parameter(content_type: bytes, name: str) -> str:
    if b";" not in content_type:
        return ""
    parameters = werkzeug("http").parse_options_header(content_type.decode("latin-1"))[1]
    return str(parameters.get(name, "")).lower()


def hint(kind: str) -> str:
    """What to do with a content type that is not read, in brackets; empty if nothing."""
    return f" ({_HINTS[kind]})" if kind in _HINTS else ""


def _unsupported(said: bytes) -> str:
    shown = said.decode("latin-1")[:100]
    return f"Content-Type {shown} cannot be read{hint(_kind(said))}. {supported()}"
