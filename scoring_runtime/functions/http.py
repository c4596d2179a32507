"""The HTTP trigger on Azure Functions: the same URLs and answers as the standalone host's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import azure.functions as func

from ..endpoint import Endpoint, create
from ..errors import ScoringRuntimeError
from ..http_messages import Handle, HttpRequest, Reply
from ..runtime import Runtime

_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")


def register(app: func.FunctionApp, runtime: Runtime) -> None:
    """Add the routes: /score and /swagger.json with a key, health and the rest without."""
    # The Functions host writes a line for each invocation itself.
    endpoint, handle = create(runtime, access_log=False)
    level = runtime.settings.auth_level.upper()
    for name, route, auth in (
        ("score", "score", level),
        ("swagger", "swagger.json", level),
        ("health", "health/{probe}", "ANONYMOUS"),
        ("web", "{*path}", "ANONYMOUS"),
    ):
        handler = _handler(endpoint, handle, runtime)
        app.function_name(name)(app.route(route=route, methods=_METHODS, auth_level=auth)(handler))


def _handler(endpoint: Endpoint, handle: Handle, runtime: Runtime) -> Callable[..., Any]:
    async def invoke(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        request = decoded(req, context)
        reply = await handle(request)
        if isinstance(reply.body, bytes):
            return encoded(reply, reply.body)
        try:
            return encoded(reply, await runtime.whole(reply.body))
        except ScoringRuntimeError as error:
            failed = endpoint.failed(error, request)
            return encoded(failed, await runtime.whole(failed.body))

    return invoke


def decoded(req: func.HttpRequest, context: func.Context) -> HttpRequest:
    """The host's request as plain data; its header names are in lower case already."""
    path, query = _target(req.url)
    return HttpRequest(
        req.method,
        path,
        query,
        [(n.encode("latin-1"), v.encode("latin-1", "replace")) for n, v in req.headers.items()],
        req.get_body(),
        req.headers.get("x-forwarded-for", "").partition(",")[0],
        req.url.partition(":")[0],
        partial(_name_invocation, context),
    )


def encoded(reply: Reply, body: bytes) -> func.HttpResponse:
    """A reply, its body whole, as the host takes it.

    The worker keeps one value a header name, Set-Cookie apart: repeated lines are joined, which
    means the same (RFC 9110 §5.3).
    """
    headers: Mapping[str, str] = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers
    }
    if len(headers) < len(reply.headers):
        headers = _Lines(reply.headers)
    return func.HttpResponse(body, status_code=reply.status, headers=headers)


class _Lines(Mapping[str, str]):
    """Header lines as a mapping whose items may repeat Set-Cookie."""

    def __init__(self, lines: list[tuple[bytes, bytes]]) -> None:
        self._merged: dict[str, str] = {}
        self._cookies: list[str] = []
        for raw_name, raw_value in lines:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if name == "set-cookie":
                self._cookies.append(value)
            elif name in self._merged:
                self._merged[name] += f", {value}"
            else:
                self._merged[name] = value

    def items(self) -> Any:
        return [*self._merged.items(), *(("set-cookie", value) for value in self._cookies)]

    def __getitem__(self, name: str) -> str:
        return self._merged[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged)

    def __len__(self) -> int:
        return len(self._merged)


def _target(url: str) -> tuple[str, bytes]:
    """Path and query of the full URL that the host gives."""
    rest, _, query = url.partition("?")
    path = rest.split("/", 3)[3:] if "://" in rest else [rest.lstrip("/")]
    return "/" + _unquoted(path[0] if path else ""), query.partition("#")[0].encode(
        "latin-1", "replace"
    )


def _unquoted(path: str) -> str:
    if "%" not in path:
        return path
    from urllib.parse import unquote

    return unquote(path)


def _name_invocation(context: func.Context) -> None:
    # The worker gives a log line to an invocation by this attribute of the thread that logs it.
    local: Any = context.thread_local_storage
    local.invocation_id = context.invocation_id
