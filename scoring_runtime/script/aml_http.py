"""What an entry script gets and gives when it wants HTTP itself: rawhttp, AMLRequest, AMLResponse.

The names and behaviour are those of ``azureml.contrib.services`` and
``azureml_inference_server_http.api``, on werkzeug instead of Flask.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from werkzeug.wrappers import Request, Response

from ..errors import ResponseNotSendable
from ..messages import Headers, ScoringRequest

RAW_MARK = "__scoring_raw_http__"
_HOLDS_COMMAS = frozenset(
    {"set-cookie", "date", "expires", "last-modified", "retry-after", "content-type"}
)

# RFC 9110 §5.1 and §5.5: a name is a token, a value has no control characters but the tab.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = re.compile(r"[\0-\x08\n-\x1f\x7f]")
_Run = TypeVar("_Run", bound=Callable[..., Any])


def rawhttp(func: _Run) -> _Run:
    """Mark ``run()``: it is given the request itself, whatever its method, and never text."""
    setattr(func, RAW_MARK, True)
    return func


class AMLRequest(Request):
    """The request that a ``@rawhttp`` run() is given; a werkzeug ``Request``.

    Scripts use ``method headers args form files data get_data() json get_json() content_type
    query_string url path stream cookies``.
    """


class AMLResponse(Response):
    """A response that goes out as it is.

    Args:
        message: ``None`` gives ``{}`` as JSON; with ``json_str`` any value that ``json.dumps``
            takes; otherwise text, bytes or an iterable of them (sent as a stream).
        status_code: the HTTP status.
        response_headers: a value is split at commas into repeated headers, except where a comma
            is part of the value (dates, cookies, the content type).
        json_str: send ``message`` as JSON.
        run_function_failed: what ``x-ms-run-function-failed`` says.

    Raises:
        TypeError: ``message`` with ``json_str`` has no JSON form.
        ResponseNotSendable: a header has a newline in it, or a name that is none; a ValueError.
    """

    default_mimetype = "text/html"

    def __init__(
        self,
        message: Any,
        status_code: int,
        response_headers: Mapping[str, Any] | None = None,
        json_str: bool = False,
        run_function_failed: bool = False,
    ) -> None:
        if message is None or json_str:
            text = json.dumps({} if message is None else message)
            super().__init__(text, status=status_code, mimetype="application/json")
        else:
            super().__init__(message, status=status_code)
        self.headers["x-ms-run-function-failed"] = str(run_function_failed)
        for name, value in (response_headers or {}).items():
            text = str(value).strip()
            _check_header(name, text)
            self._add(name, text)

    def _add(self, name: str, value: str) -> None:
        if name.lower() == "content-type":
            self.headers["Content-Type"] = value
        elif name.lower() in _HOLDS_COMMAS:
            self.headers.add(name, value)
        else:
            for part in value.split(","):
                self.headers.add(name, part.strip())


def to_aml_request(request: ScoringRequest, body: bytes) -> AMLRequest:
    """The WSGI view (PEP 3333) of a request whose content encoding has been undone."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": request.query.decode("latin-1"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.client,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in _merged(request.headers):
        key = name.upper().replace("-", "_")
        prefix = "" if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_"
        environ[prefix + key] = value
    if body or "CONTENT_LENGTH" in environ:
        environ["CONTENT_LENGTH"] = str(len(body))
    _name_server(environ)
    # Not in environ itself: they would keep each other, and the body, from being freed.
    return AMLRequest(environ, populate_request=False)


def header_mapping(headers: Headers) -> dict[str, str]:
    """Headers as ``request_headers`` has them: title case, repeated lines joined by commas."""
    return {name.title(): value for name, value in _merged(headers)}


def _check_header(name: str, value: str) -> None:
    if not _NAME.fullmatch(name) or _CONTROLS.search(value):
        raise ResponseNotSendable(
            f"run() answered with the header {name!r}, whose name or value holds a newline, or "
            "another character that it may not."
        )


def response_parts(response: Response) -> tuple[bytes | Iterator[bytes], Headers]:
    """Body (bytes, or an iterator for a stream) and header lines of a werkzeug response.

    Raises:
        ResponseNotSendable: its status or a header is none of HTTP.
    """
    if not 200 <= response.status_code <= 999:  # those below end no request (RFC 9110 §15.2)
        raise ResponseNotSendable(
            f"run() answered with the status {response.status_code}; allowed are 200 to 999."
        )
    headers = list(response.get_wsgi_headers({}).items())
    for name, value in headers:
        _check_header(name, value)
    lines = tuple(
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in headers
        if name.lower() != "content-length"
    )
    if response.is_streamed or response.direct_passthrough:
        return iter(response.iter_encoded()), lines
    return response.get_data(), lines


def _merged(headers: Headers) -> Iterable[tuple[str, str]]:
    merged: dict[str, str] = {}
    for name, value in headers:
        if b"_" in name:  # X_User would pass for X-User, which a proxy may have checked
            continue
        key, text = name.decode("latin-1"), value.decode("latin-1")
        merged[key] = f"{merged[key]},{text}" if key in merged else text
    return merged.items()


def _name_server(environ: dict[str, Any]) -> None:
    host = str(environ.get("HTTP_HOST", "localhost"))
    name, colon, port = host.rpartition(":")
    environ["SERVER_NAME"] = name if colon and port.isdecimal() else host
    environ["SERVER_PORT"] = port if colon and port.isdecimal() else "80"
