"""The HTTP trigger on Azure Functions: the same URLs and answers as the standalone host's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import azure.functions as func

from ..cache.build import Caching
from ..errors import ScoringRuntimeError, UndecodableInput
from ..http.endpoint import INPUTS, Endpoint, create
from ..http.later import RESULTS, Later, NotHere
from ..http.messages import Handle, HttpRequest, Reply
from ..messages import Progress
from ..scoring.runtime import Runtime
from .invocations import in_trace, name_invocation

_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
_KEYED = ("/score", "/swagger.json", "/metrics", "/v2", "/docs", "/status")
_KEYED_BELOW = (INPUTS, RESULTS, "/score/", "/v2/models")
# The host fails an answer of these that has a body.
_NO_BODY = (204, 304)
_OF_CORS = (b"access-control-allow-origin", b"vary")
_BODY_IS_LOST = (
    "The Functions host does not pass on a body that is sent in chunks (Transfer-Encoding). "
    "Send it with a Content-Length."
)


def register(
    app: func.FunctionApp, runtime: Runtime, cached: Caching, later: Later | NotHere | None = None
) -> None:
    """Add the routes: those that score or tell with a key, health and the rest without."""
    # The Functions host writes a line for each invocation itself.
    endpoint, handle = create(runtime, cached.score, cached.inputs, access_log=False, later=later)
    level = runtime.settings.auth_level.upper()
    routes = [
        ("score", "score", level),
        ("score_model", "score/{name}/{version?}", level),
        ("swagger", "swagger.json", level),
        ("v2_server", "v2", level),
        ("v2_models", "v2/models/{*path}", level),
        ("v2_health", "v2/health/{probe}", "ANONYMOUS"),
        ("metrics", "metrics", level),
        ("health", "health/{probe}", "ANONYMOUS"),
        ("web", "{*path}", "ANONYMOUS"),
    ]
    if runtime.settings.pages:
        routes += [("docs", "docs", level), ("status", "status", level)]
    runtime.asks_for_key = runtime.asks_for_key or level != "ANONYMOUS"
    if cached.inputs is not None:
        routes.append(("inputs", "inputs/{key}", level))
    if later is not None:
        routes.append(("results", "results/{id}", level))
    for name, route, auth in routes:
        handler = _handler(endpoint, handle if auth == level else _without_key(handle), runtime)
        handler = in_trace(handler, runtime)
        app.function_name(name)(app.route(route=route, methods=_METHODS, auth_level=auth)(handler))


def _handler(endpoint: Endpoint, handle: Handle, runtime: Runtime) -> Callable[..., Any]:
    async def invoke(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        request = decoded(req, context)
        if not request.body and _was_sent_in_chunks(request):
            reply = endpoint.failed(UndecodableInput(_BODY_IS_LOST), request)
        else:
            reply = await handle(request)
        if isinstance(reply.body, bytes):
            return encoded(reply, reply.body)
        try:
            return encoded(reply, await runtime.whole(_named(reply.body, context)))
        except ScoringRuntimeError as error:
            failed = endpoint.failed(error, _with_id_of(reply, request))
            failed.headers.extend(line for line in reply.headers if line[0] in _OF_CORS)
            return encoded(failed, await runtime.whole(failed.body))

    return invoke


def _without_key(handle: Handle) -> Handle:
    """Answers all but what asks for a key: the catch-all is given /%2573core as /%73core."""

    async def refuse_or_handle(request: HttpRequest) -> Reply:
        known = request.path not in _KEYED and not request.path.startswith(_KEYED_BELOW)
        return await handle(request if known else request._replace(path=""))

    return refuse_or_handle


def _was_sent_in_chunks(request: HttpRequest) -> bool:
    return any(name == b"transfer-encoding" for name, _ in request.headers)


def _named(body: Iterator[bytes], context: func.Context) -> Iterator[bytes]:
    # Other requests may have been scored between run() and its stream.
    name_invocation(context)
    yield from body


def _with_id_of(reply: Reply, request: HttpRequest) -> HttpRequest:
    """The request as if it had come with the id that has been made for it."""
    made = [line for line in reply.headers if line[0] == b"x-request-id"]
    return request._replace(headers=[*request.headers, *made])


def decoded(req: func.HttpRequest, context: func.Context) -> HttpRequest:
    """The host's request as plain data; its header names are in lower case already.

    The host has decoded the values as UTF-8.
    """
    progress = Progress()
    progress.received = perf_counter()
    scheme, path, query = _target(req.url)
    # The dict behind the library's mapping, which lowers each name again.
    headers = getattr(req.headers, "__http_headers__", req.headers)
    return HttpRequest(
        req.method,
        path,
        query,
        [(name.encode(), value.encode()) for name, value in headers.items()],
        req.get_body(),
        _client(headers["x-forwarded-for"]) if "x-forwarded-for" in headers else "",
        scheme,
        partial(name_invocation, context),
        progress,
    )


class _Response(func.HttpResponse):
    """What the worker reads of a response; its headers are a dict, werkzeug's a list."""

    status_code = 200
    headers: Any = None

    def __init__(self, status: int, headers: dict[str, Any], body: bytes) -> None:
        self.status_code, self.headers, self._body = status, headers, body

    def get_body(self) -> bytes:
        return self._body


class _Lines(dict[str, str]):
    """Header lines as the worker sends them, one a name; it takes the cookies by ``get_all``."""

    cookies: tuple[str, ...] = ()

    def get_all(self, name: str) -> tuple[str, ...]:
        """The cookies; the worker asks for no others."""
        return self.cookies


def encoded(reply: Reply, body: bytes) -> func.HttpResponse:
    """A reply, its body whole, as the host takes it.

    The worker keeps one value a header name, Set-Cookie apart: repeated lines are joined, which
    means the same (RFC 9110 §5.3).
    """
    lines = _Lines()
    for raw_name, raw_value in reply.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == "set-cookie":
            lines.cookies += (value,)
            name = "Set-Cookie"  # as the worker spells it
        elif name in lines:
            value = f"{lines[name]}, {value}"
        lines[name] = value
    lines.setdefault("content-type", "text/plain; charset=utf-8")
    return _Response(reply.status, lines, b"" if reply.status in _NO_BODY else body)


@lru_cache(64)
def _target(url: str) -> tuple[str, str, bytes]:
    """Scheme, path and query of the full URL that the host gives."""
    rest, _, query = url.partition("?")
    path = rest.split("/", 3)[3:] if "://" in rest else [rest.lstrip("/")]
    scheme = url.partition(":")[0]
    return scheme, "/" + unquote(path[0] if path else ""), query.partition("#")[0].encode()


def _client(forwarded_for: str) -> str:
    """The first address of X-Forwarded-For, to which Azure's front ends add a port."""
    first = forwarded_for.partition(",")[0].strip()
    if first.startswith("["):
        return first[1:].partition("]")[0]
    return first.partition(":")[0] if first.count(":") == 1 else first
