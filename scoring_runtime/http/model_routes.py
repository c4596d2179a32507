"""Routes with a model's name: ``/score/{name}[/{version}]`` and the Open Inference Protocol, V2.

V2 is https://github.com/kserve/open-inference-protocol (REST); its errors are ``{"error": …}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import orjson

from ..errors import NotStarted, UndecodableInput, UnsupportedMethod
from ..messages import ScoringResponse
from ..scoring.runtime import Runtime, State
from ..scoring.served import Served, chosen
from ..script.call import JSON_HEADERS
from ..telemetry.request_ids import Ids
from .errors import message_response
from .messages import HttpRequest

V2 = "/v2"
SCORE = "/score/"
_READ, _SENT = ("GET", "HEAD"), ("POST",)
SCORES = ("GET", "POST", "OPTIONS", "HEAD")
ALIVE = (State.TRANSITIONING, State.HEALTHY)
_NO_SUCH_PATH = (
    "There is no such path here. There are /v2, /v2/health/live, /v2/health/ready and, with or "
    "without /versions/{version}, /v2/models/{name} and its /ready and /infer."
)

Route: TypeAlias = Callable[[HttpRequest, Ids], Awaitable[ScoringResponse]]
QUIET, LOGGED, SCORING = range(3)
Found: TypeAlias = tuple[Route, tuple[str, ...] | None, int]
"""The route, its methods (None: it looks itself), and whether it is logged, or counted too."""
ScoreNamed: TypeAlias = Callable[[HttpRequest, Ids, str], Awaitable[ScoringResponse]]


class ModelRoutes:
    """Finds the route of a path; ``score`` scores with the model of a name, "" for the default."""

    def __init__(self, runtime: Runtime, score: ScoreNamed, version: str) -> None:
        self._runtime = runtime
        self._score = score
        self._version = version

    def __call__(self, path: str) -> Found | None:
        """None when it is no such path."""
        if path.startswith(SCORE):
            name, _, version = path[len(SCORE) :].partition("/")
            known = name and "/" not in version and not path.endswith("/")
            return (self._scoring(_identity(name, version)), SCORES, SCORING) if known else None
        if path == V2 or path.startswith(f"{V2}/"):
            found = self._open_inference(path.split("/")[2:])
            if found is None:
                return no_such_path, None, LOGGED
            route, methods, logged = found
            return _v2(route, methods or _READ), None, logged
        return None

    def _open_inference(self, parts: list[str]) -> Found | None:
        match parts:
            case []:
                return self._server, _READ, QUIET
            case ["health", "live"]:
                return self._live, _READ, QUIET
            case ["health", "ready"]:
                return self._ready, _READ, QUIET
            case ["models", name, "versions", version, *rest] if version:
                return self._model(name, version, rest)
            case ["models", name, *rest]:
                return self._model(name, "", rest)
        return None

    def _model(self, name: str, version: str, rest: list[str]) -> Found | None:
        wanted = _identity(name, version)

        async def metadata(request: HttpRequest, ids: Ids) -> ScoringResponse:
            return await self._metadata(chosen(self._runtime.served, wanted))

        async def ready(request: HttpRequest, ids: Ids) -> ScoringResponse:
            model = chosen(self._runtime.served, wanted)
            is_ready = self._runtime.state_of(model) is State.HEALTHY
            return json_response({"name": model.name, "ready": is_ready}, 200 if is_ready else 503)

        match rest:
            case []:
                return metadata, _READ, QUIET
            case ["ready"]:
                return ready, _READ, QUIET
            case ["infer"]:
                return self._scoring(wanted), _SENT, SCORING
        return None

    def _scoring(self, wanted: str) -> Route:
        async def route(request: HttpRequest, ids: Ids) -> ScoringResponse:
            assert request.progress is not None
            request.progress.model = wanted
            model = chosen(self._runtime.served, wanted)
            if request.path.startswith(V2):
                await self._check_takes_tensors(model)
            return await self._score(request, ids, model.identity)

        return route

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
        from ..formats.open_inference import model_metadata  # numpy: not every service has it

        shown = loaded.platform, loaded.inputs, loaded.outputs
        return json_response(model_metadata(model.name, versions, *shown))

    async def _server(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        from ..formats.open_inference import server_metadata

        return json_response(server_metadata("scoring-runtime", self._version))

    async def _live(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        is_live = self._runtime.state in ALIVE
        return json_response({"live": is_live}, 200 if is_live else 503)

    async def _ready(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        is_ready = self._runtime.readiness is State.HEALTHY
        return json_response({"ready": is_ready}, 200 if is_ready else 503)


def _identity(name: str, version: str) -> str:
    return f"{name}:{version}" if version else name


def json_response(value: dict[str, Any], status: int = 200) -> ScoringResponse:
    """``value`` with this status; ``run_ms`` is -1."""
    return ScoringResponse(status, orjson.dumps(value), JSON_HEADERS[:1], -1)


async def no_such_path(request: HttpRequest, ids: Ids) -> ScoringResponse:
    """Of a path below ``/v2``."""
    return with_error(message_response(404, _NO_SUCH_PATH))


def _v2(route: Route, methods: tuple[str, ...]) -> Route:
    async def answered(request: HttpRequest, ids: Ids) -> ScoringResponse:
        if request.method == "OPTIONS":
            return ScoringResponse(200, b"", ((b"allow", ", ".join(methods).encode()),), -1)
        if request.method not in methods:
            message = f"Send it with {' or '.join(methods)}."
            raise UnsupportedMethod(message, ", ".join(methods))
        return await route(request, ids)

    return answered


def with_error(response: ScoringResponse) -> ScoringResponse:
    """``{"message": …}`` as ``{"error": …}``, which clients of V2 read."""
    assert isinstance(response.body, bytes)
    message = orjson.loads(response.body)["message"]
    return response._replace(body=orjson.dumps({"error": message}))


def as_read(error: ScoringResponse, path: str) -> ScoringResponse:
    """An error in the form that clients of the path read."""
    return with_error(error) if path == V2 or path.startswith(f"{V2}/") else error
