"""The routes beside ``/score``, as the Swagger and OpenAPI documents tell of them.

Which there are follows from what is served; the old server's documents know none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..connections.named import triggers
from ..settings.settings import Settings

Json = dict[str, Any]
JSON, TEXT = "application/json", "text/plain"
_KEY = {
    "FunctionKey": {
        "type": "apiKey",
        "name": "x-functions-key",
        "in": "header",
        "description": "A key of the service; on Azure Functions of the app, or of the function.",
    }
}
BEARER = {
    "Bearer": {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "description": "For example: Bearer abc123",
    }
}
UNAUTHORIZED = {"401": "A key is needed, or the one that was sent is none."}
ERRORS = {
    "400": "The input cannot be decoded, or does not fit.",
    "413": "The body is too large.",
    "415": "No format of that content type is read.",
    "500": "run() raised, or took too long; the log says why, by the id of the request.",
    "503": "It is not ready, or too many requests wait; Retry-After says when to come back.",
}
"""What a request to score can end in, beside its answer; each has an ErrorResponse."""


class Service(NamedTuple):
    """What is served: names and versions; whether V2 can score; whether a key is asked for."""

    models: Sequence[tuple[str, str]] = ()
    takes_tensors: bool = False
    asks_for_key: bool = False

    @property
    def names(self) -> list[str]:
        """The models' names, each once."""
        return list(dict.fromkeys(name for name, _ in self.models))


def schemes(settings: Settings, service: Service) -> Json:
    """The ways to send a key, each of which will do; none where none is asked for. On Azure
    Functions a key of the app can be sent in one way only."""
    if not service.asks_for_key:
        return {}
    return _KEY | BEARER if settings.asks_for_keys else _KEY


def asks(security: Json) -> Json:
    """Of an operation: each of the ways to send a key will do."""
    return {"security": [{key: []} for key in security]} if security else {}


class _Route(NamedTuple):
    """``answers``: status → what it is, and its schema's name; that of a text is empty."""

    path: str
    method: str
    operation: str
    description: str
    answers: Mapping[str, tuple[str, str]]
    body: str | None = None
    text: bool = False


def _routes(settings: Settings, service: Service) -> Iterator[_Route]:
    state = {"200": ("Yes.", "ServiceState"), "503": ("No.", "ServiceState")}
    yield _Route("/health/live", "get", "IsLive", "Whether the process works.", state)
    yield _Route("/health/ready", "get", "IsReady", "Whether it can score.", state)
    numbers = {"200": ("In the format of Prometheus, or OpenMetrics.", "")}
    yield _Route("/metrics", "get", "GetMetrics", "The metrics.", numbers, text=True)
    if settings.pages:
        shown = {"200": ("What is served, what came in, and the settings.", "ServiceStatus")}
        yield _Route("/status", "get", "GetStatus", "What the page at / shows.", shown)
    if settings.cached:
        yield from _inputs()
    if settings.later_seconds and "http" in triggers(settings) and not settings.strict_compat:
        yield from _results()
    if service.models and "http" in triggers(settings):
        yield from _open_inference(service)


def _inputs() -> Iterator[_Route]:
    kept = {"201": ("It is kept.", "KeptInput"), "413": (ERRORS["413"], "ErrorResponse")}
    text = "Keep an input, to be scored by x-input-key."
    yield _Route("/inputs/{key}", "put", "PutInput", text, kept, "AnyInput")
    gone = {"204": ("It is gone.", ""), "404": ("None is kept there.", "ErrorResponse")}
    yield _Route("/inputs/{key}", "delete", "DeleteInput", "Forget an input.", gone)


def _results() -> Iterator[_Route]:
    """Of https://www.rfc-editor.org/rfc/rfc7240#section-4.1."""
    pending = ("It is not there yet; Retry-After says when to ask again.", "PendingResult")
    unknown = ("There is none (any more).", "ErrorResponse")
    answers = {"200": ("The answer, with the status that it has.", "AnyInput"), "202": pending}
    failed = {status: (text, "ErrorResponse") for status, text in ERRORS.items()}
    text = "The answer to a POST with Prefer: respond-async."
    every = {**answers, **failed, "404": unknown}
    yield _Route("/results/{id}", "get", "GetResult", text, every)
    begun = {"204": ("It is gone.", ""), "404": unknown, "409": ("It has begun.", "ErrorResponse")}
    text = "Cancel what has not begun, or forget an answer."
    yield _Route("/results/{id}", "delete", "DeleteResult", text, begun)


def _open_inference(service: Service) -> Iterator[_Route]:
    """https://github.com/kserve/open-inference-protocol (REST)."""
    unknown = {"404": ("There is no such model.", "V2Error")}
    server = {"200": ("Name, version and extensions.", "V2Metadata")}
    yield _Route("/v2", "get", "V2Server", "The server's metadata.", server)
    metadata = {"200": ("Inputs and outputs.", "V2Metadata"), **unknown}
    yield _Route("/v2/models/{name}", "get", "V2Model", "The model's metadata.", metadata)
    ready = {"200": ("It is.", "V2Metadata"), "503": ("It is not.", "V2Metadata"), **unknown}
    yield _Route("/v2/models/{name}/ready", "get", "V2Ready", "Whether it can score.", ready)
    if service.takes_tensors:
        failed = {status: (text, "V2Error") for status, text in ERRORS.items()}
        answers = {"200": ("The outputs.", "V2Answer"), **unknown, **failed}
        text = "Score tensors by name."
        yield _Route("/v2/models/{name}/infer", "post", "V2Infer", text, answers, "V2Request")


_TENSORS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array", "items": {}},
        },
        "required": ["name", "datatype", "shape"],
    },
}
_SCHEMAS: Mapping[str, Json] = {
    "ServiceState": {
        "type": "object",
        "properties": {"state": {"type": "string"}, "troubles": {"type": "object"}},
        "example": {"state": "Healthy"},
    },
    "ServiceStatus": {"type": "object"},
    "AnyInput": {},
    "KeptInput": {
        "type": "object",
        "properties": {"key": {"type": "string"}, "seconds": {"type": "integer"}},
        "example": {"key": "iris", "seconds": 3600},
    },
    "PendingResult": {
        "type": "object",
        "properties": {"id": {"type": "string"}, "state": {"type": "string"}},
        "example": {"id": "Zk3b0hYlqXo1Tn8v5cQw2A", "state": "pending"},
    },
    "V2Metadata": {"type": "object"},
    "V2Request": {"type": "object", "properties": {"inputs": _TENSORS}, "required": ["inputs"]},
    "V2Answer": {"type": "object", "properties": {"outputs": _TENSORS}},
    "V2Error": {
        "type": "object",
        "properties": {"error": {"type": "string"}},
        "example": {"error": "There is no model 'x' here. Served: iris."},
    },
}


def more_paths(settings: Settings, service: Service, *, swagger2: bool) -> dict[str, Json]:
    """The operations by path and method, in the form of Swagger 2 or of OpenAPI 3."""
    found: dict[str, Json] = {}
    asking = asks(schemes(settings, service))
    refused = {status: (text, "ErrorResponse") for status, text in UNAUTHORIZED.items()}
    tell = _operation2 if swagger2 else _operation3
    for route in _routes(settings, service):
        if not asking or route.path.startswith("/health"):
            operation = tell(route, service)
        else:
            answers = {**route.answers, **refused}
            operation = tell(route._replace(answers=answers), service) | asking
        found.setdefault(route.path, {})[route.method] = operation
    return found


def more_schemas(settings: Settings, service: Service) -> dict[str, Json]:
    """The schemas that those operations name."""
    used = {name for route in _routes(settings, service) for _, name in route.answers.values()}
    used |= {route.body for route in _routes(settings, service) if route.body}
    return {name: schema for name, schema in _SCHEMAS.items() if name in used}


def _operation2(route: _Route, service: Service) -> Json:
    def answer(description: str, name: str) -> Json:
        schema = {"$ref": f"#/definitions/{name}"} if name else None
        return {"description": description} | ({"schema": schema} if schema else {})

    parameters = [{**about, **schema} for about, schema in _in_path(route, service)]
    if route.body:
        body = {"$ref": f"#/definitions/{route.body}"}
        parameters.append({"name": "body", "in": "body", "required": True, "schema": body})
    produces = {"produces": [TEXT if route.text else JSON]}
    return _common(route, service, parameters) | produces | _answers(route, answer)


def _operation3(route: _Route, service: Service) -> Json:
    def content(kind: str, schema: Json) -> Json:
        return {"content": {kind: {"schema": schema}}}

    def named(name: str) -> Json:
        return content(JSON, {"$ref": f"#/components/schemas/{name}"})

    def answer(description: str, name: str) -> Json:
        text = content(TEXT, {"type": "string"}) if route.text else {}
        return {"description": description} | (named(name) if name else text)

    parameters = [{**about, "schema": schema} for about, schema in _in_path(route, service)]
    body = {"requestBody": {"required": True, **named(route.body)}} if route.body else {}
    return _common(route, service, parameters) | body | _answers(route, answer)


def _common(route: _Route, service: Service, parameters: list[Json]) -> Json:
    found: Json = {"operationId": route.operation, "description": route.description}
    return found | ({"parameters": parameters} if parameters else {})


def _answers(route: _Route, answer: Any) -> Json:
    return {"responses": {status: answer(*told) for status, told in route.answers.items()}}


def _in_path(route: _Route, service: Service) -> Iterator[tuple[Json, Json]]:
    """The parameters in the path, each with its schema."""
    schemas: dict[str, Json] = {
        "name": {"type": "string", "enum": service.names},
        "key": {"type": "string"},
        "id": {"type": "string"},
    }
    for name, schema in schemas.items():
        if f"{{{name}}}" in route.path:
            yield {"name": name, "in": "path", "required": True}, schema
