"""Routes with a model's name: ``/score/{name}[/{version}]`` and the Open Inference Protocol, V2.

V2 is https://github.com/kserve/open-inference-protocol (REST); its errors are ``{"error": …}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, TypeAlias

import orjson

from ..errors import NotStarted, ScoringRuntimeError, UndecodableInput, UnsupportedMethod
from ..messages import ScoringResponse
from ..scoring.runtime import Runtime, State
from ..scoring.served import Served, chosen
from ..script.call import JSON_HEADERS
from ..telemetry.request_ids import Ids
from .errors import error_response, message_response
from .messages import HttpRequest

V2 = "/v2"
SCORE = "/score/"
_READ, _SENT = ("GET", "HEAD"), ("POST",)
SCORES = ("GET", "POST", "OPTIONS", "HEAD")
EVERY = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT")
_NO_SUCH_PATH = (
    "There is no such path here. There are /v2, /v2/health/live, /v2/health/ready and, with or "
    "without /versions/{version}, /v2/models/{name} and its /ready and /infer."
)

Route: TypeAlias = Callable[[HttpRequest, Ids], Awaitable[ScoringResponse]]
Found: TypeAlias = tuple[Route, tuple[str, ...], bool]
ScoreNamed: TypeAlias = Callable[[HttpRequest, Ids, str], Awaitable[ScoringResponse]]


class ModelRoutes:
    """Finds the route of a path.

    Args:
        runtime: what is served.
        score: scores a request with the model of a name, "" for the default.
        version: of the server, which V2 clients ask for.
    """

    def __init__(self, runtime: Runtime, score: ScoreNamed, version: str) -> None:
        self._runtime = runtime
        self._score = score
        self._version = version

    def __call__(self, path: str) -> Found | None:
        """The route, its methods, and whether it is logged; None when it is no such path."""
        if path.startswith(SCORE):
            name, _, version = path[len(SCORE) :].partition("/")
            known = name and "/" not in version and not path.endswith("/")
            return (self._scoring(_identity(name, version)), SCORES, True) if known else None
        if path == V2 or path.startswith(f"{V2}/"):
            found = self._open_inference(path.split("/")[2:])
            if found is None:
                return _no_such_path, EVERY, False
            route, methods, logged = found
            return _v2(route, methods), EVERY, logged
        return None

    def _open_inference(self, parts: list[str]) -> Found | None:
        match parts:
            case []:
                return self._server, _READ, False
            case ["health", "live"]:
                return self._live, _READ, False
            case ["health", "ready"]:
                return self._ready, _READ, False
            case ["models", name, "versions", version, *rest] if version:
                return self._model(name, version, rest)
            case ["models", name, *rest]:
                return self._model(name, "", rest)
        return None

    def _model(self, name: str, version: str, rest: list[str]) -> Found | None:
        wanted = _identity(name, version)

        async def metadata(request: HttpRequest, ids: Ids) -> ScoringResponse:
            return await self._metadata(self._named(wanted))

        async def ready(request: HttpRequest, ids: Ids) -> ScoringResponse:
            model = self._named(wanted)
            state = self._runtime.state_of(model)
            shown = {"name": model.name, "ready": state is State.HEALTHY}
            return _json(shown, 200 if state is State.HEALTHY else 503)

        match rest:
            case []:
                return metadata, _READ, False
            case ["ready"]:
                return ready, _READ, False
            case ["infer"]:
                return self._scoring(wanted), _SENT, True
        return None

    def _scoring(self, wanted: str) -> Route:
        async def route(request: HttpRequest, ids: Ids) -> ScoringResponse:
            model = self._named(wanted)
            if request.path.startswith(V2):
                await self._check_takes_tensors(model)
            return await self._score(request, ids, model.identity)

        return route

    def _named(self, wanted: str) -> Served:
        return chosen(self._runtime.served, wanted)

    async def _check_takes_tensors(self, model: Served) -> None:
        await self._runtime.settled()
        if self._runtime.state is State.FAILED or self._runtime.loaded(model).takes_tensors:
            return
        raise UndecodableInput(
            f"The model {model.name} is an entry script that takes the body as it is, not "
            "tensors: POST it to /score. With @input_schema (and without SCORING_STRICT_COMPAT) "
            "it takes V2 too."
        )

    async def _metadata(self, model: Served) -> ScoringResponse:
        await self._runtime.settled()
        if self._runtime.state is State.FAILED:
            raise NotStarted("The model could not be started; the log says why.")
        loaded = self._runtime.loaded(model)
        versions = [each.version for each in self._runtime.served if each.name == model.name]
        made = _protocol().model_metadata(
            model.name, versions, loaded.platform, loaded.inputs, loaded.outputs
        )
        return _json(made)

    async def _server(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        return _json(_protocol().server_metadata("scoring-runtime", self._version))

    async def _live(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        alive = self._runtime.state in (State.TRANSITIONING, State.HEALTHY)
        return _json({"live": alive}, 200 if alive else 503)

    async def _ready(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        ready = self._runtime.readiness is State.HEALTHY
        return _json({"ready": ready}, 200 if ready else 503)


def _identity(name: str, version: str) -> str:
    return f"{name}:{version}" if version else name


def _protocol() -> Any:
    return import_module("scoring_runtime.formats.open_inference")


def _json(value: dict[str, Any], status: int = 200) -> ScoringResponse:
    return ScoringResponse(status, orjson.dumps(value), JSON_HEADERS[:1], -1)


async def _no_such_path(request: HttpRequest, ids: Ids) -> ScoringResponse:
    return with_error(message_response(404, _NO_SUCH_PATH))


def _v2(route: Route, methods: tuple[str, ...]) -> Route:
    async def answered(request: HttpRequest, ids: Ids) -> ScoringResponse:
        if request.method == "OPTIONS":
            return ScoringResponse(200, b"", ((b"allow", ", ".join(methods).encode()),), -1)
        try:
            if request.method not in methods:
                raise UnsupportedMethod(f"Send it with {' or '.join(methods)}.")
            return await route(request, ids)
        except ScoringRuntimeError as error:
            return with_error(error_response(error))

    return answered


def with_error(response: ScoringResponse) -> ScoringResponse:
    """``{"message": …}`` as ``{"error": …}``, which clients of V2 read."""
    assert isinstance(response.body, bytes)
    message = orjson.loads(response.body)["message"]
    return response._replace(body=orjson.dumps({"error": message}))
