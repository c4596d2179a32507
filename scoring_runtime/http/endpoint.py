"""The whole HTTP surface on plain data: hosts decode requests and encode replies."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, time
from typing import Any

from ..cache.inputs import StoredInputs
from ..connections.named import triggers
from ..errors import InputNotFound, NotStarted, ScoringRuntimeError
from ..messages import Headers, OwnHeaders, Progress, Score, ScoringRequest, ScoringResponse
from ..release import VERSION
from ..scoring.runtime import Runtime, State
from ..scoring.served import named
from ..script.call import JSON_HEADERS
from ..telemetry.access import AccessLog
from ..telemetry.logs import lines_of, log
from ..telemetry.metrics import FAILED, Inputs, outcome_of, outcome_of_status
from ..telemetry.request_ids import NO_IDS, BadIds, Ids, RandomIds, ids_of
from ..values.body import query_pairs
from ..values.wording import too_large
from .changes import Change, ChangeRoutes
from .cors import with_cors
from .errors import INTERNAL, error_response, forget, message_response, not_allowed
from .keys import Guard, guarding
from .later import RESULTS, Later, NotHere
from .messages import Handle, HttpRequest, Reply
from .model_routes import (
    ALIVE,
    LOGGED,
    QUIET,
    SCORES,
    SCORING,
    Found,
    ModelRoutes,
    Route,
    as_read,
    json_response,
    no_such_path,
)
from .page import page_routes
from .spans import with_spans

# The texts that clients know: werkzeug's descriptions of 404 and 405.
_NOT_FOUND = (
    "The requested URL was not found on the server. If you entered the URL manually please check "
    "your spelling and try again."
)
_NOT_ALLOWED = "The method is not allowed for the requested URL."
# The ids are ours; framing and connection belong to the host.
_RESERVED = frozenset(
    {b"x-request-id", b"x-ms-request-id", b"content-length", b"transfer-encoding", b"connection"}
)
_TEXT_HEADERS: Headers = ((b"content-type", b"text/html; charset=utf-8"),)
_OPTIONS_HEADERS: Headers = (*_TEXT_HEADERS, (b"x-ms-run-function-failed", b"False"))
_ALLOW_HEADERS: Headers = (*_TEXT_HEADERS, (b"allow", b"OPTIONS, HEAD, GET"))
INPUTS = "/inputs/"
_READ = ("GET", "HEAD", "OPTIONS")


class Endpoint:
    """Answers every path; calling it never raises."""

    guard: Guard | None = None
    """What asks for keys, if anything does."""
    later: Later | NotHere | None = None
    """What answers later, if anything does."""

    def __init__(
        self,
        runtime: Runtime,
        score: Score | None = None,
        inputs: StoredInputs | None = None,
        *,
        access_log: bool = True,
        change: Change | None = None,
    ) -> None:
        self._runtime = runtime
        self._inputs = inputs
        self._settings = runtime.settings
        self._score: Score = score or runtime.score
        self._access = AccessLog(enabled=access_log)
        self._new_id = RandomIds()
        self._is_cached = runtime.settings.cached
        self._always: Headers = ()
        if runtime.settings.server_version_header:
            self._always = ((b"x-ms-server-version", f"scoring-runtime/{VERSION}".encode()),)
        self._routes: dict[str, Found] = {
            "/score": (self._scored, SCORES, SCORING),
            "/": (self._healthy, _READ, QUIET),
            "/swagger.json": (self._document, _READ, LOGGED),
            "/health/live": (self._live, _READ, QUIET),
            "/health/ready": (self._ready, _READ, QUIET),
            "/metrics": (self._measured, _READ, QUIET),
        }
        if runtime.settings.pages:
            pages = page_routes(runtime, self._healthy)
            self._routes |= {path: (route, _READ, QUIET) for path, route in pages.items()}
        self._changes: Callable[[str], Found | None] = _no_route
        if change is not None:
            keyed = runtime.settings.asks_for_keys
            self._changes = ChangeRoutes(runtime, change, local_only=not keyed)
        self._of_model: dict[str, Headers] = {}
        if not runtime.settings.strict_compat:
            meant = named(runtime.served, runtime.settings)
            self._of_model = {wanted: model.lines for wanted, model in meant.items()}
        self._models: ModelRoutes | None = None
        self._counted: Inputs | None = None
        if "http" in triggers(runtime.settings):
            self._counted = runtime.metrics.inputs("http")
            self._recent = runtime.recent.of("http")
            self._models = ModelRoutes(runtime, self._scored, VERSION)
        else:
            del self._routes["/score"]

    async def __call__(self, request: HttpRequest, found: Found | None = None) -> Reply:
        """The answer of the path's route, or of ``found`` in its place."""
        if request.progress is None:
            progress = Progress()
            progress.received = perf_counter()
            request = request._replace(progress=progress)
        route, methods, kind = (
            found or self._routes.get(request.path) or self._route_of(request.path)
        )
        headers = dict(request.headers)
        if len(headers) != len(request.headers):
            headers = _joined(request.headers)
        ids, outcome = NO_IDS, -1
        try:
            ids = ids_of(headers, self._new_id)
            if methods is not None and request.method not in methods:
                response = not_allowed(_NOT_ALLOWED, ", ".join(methods))
            elif methods is _READ and request.method == "OPTIONS":
                response = ScoringResponse(200, b"", _ALLOW_HEADERS, -1)
            else:
                route = _preferring(route, headers[b"prefer"]) if b"prefer" in headers else route
                response = await route(request, ids)
        except ScoringRuntimeError as error:
            ids = error.ids if isinstance(error, BadIds) else ids
            outcome = outcome_of(error)
            with lines_of(ids.request.decode("latin-1")):
                response = as_read(error_response(error), request.path)
        except Exception as error:
            outcome = FAILED
            with lines_of(ids.request.decode("latin-1")):
                log.exception("Encountered Exception while answering %s", request.path)
            forget(error)
            response = as_read(message_response(500, INTERNAL), request.path)
        of_model = self._ended(request, response, ids, outcome, kind) if kind else ()
        return self._reply(response, ids, headers, of_model)

    def knows(self, path: str) -> bool:
        """Whether there is a route of this path."""
        route, _, _ = self._routes.get(path) or self._route_of(path)
        return route not in (_not_found, no_such_path)

    async def unknown(self, request: HttpRequest) -> Reply:
        """The answer of a path that has no route."""
        return await self(request, _UNKNOWN)

    def failed(self, error: ScoringRuntimeError, request: HttpRequest) -> Reply:
        """The answer when a reply's stream has ended in an error before anything was sent."""
        headers = dict(request.headers)
        return self._reply(error_response(error), ids_of(headers, self._new_id), headers)

    def flush_log(self) -> None:
        """Write the access lines that wait."""
        self._access.flush()

    def scored_later(
        self, request: HttpRequest, response: ScoringResponse, ids: Ids, outcome: int
    ) -> Headers:
        """Count and log what was answered 202 before; the headers that tell of its model."""
        return self._ended(request, response, ids, outcome, SCORING)

    # --- routes -------------------------------------------------------------------------------

    async def _scored(self, request: HttpRequest, ids: Ids, model: str = "") -> ScoringResponse:
        body = self._whole_body(request)
        if request.method == "OPTIONS" and not await self._runtime.takes_any_method():
            return ScoringResponse(200, b"", _OPTIONS_HEADERS, -1)
        scoring = ScoringRequest(
            body,
            request.headers,
            request.method,
            request.path,
            request.query,
            request.client,
            request.scheme,
            ids.request.decode("latin-1"),
            request.enter,
            model,
            False,
            request.progress,
        )
        score = self._score if not request.progress.prefer else self._accepted  # type: ignore[union-attr]
        return await score(scoring)

    async def _accepted(self, request: ScoringRequest) -> ScoringResponse:
        """That it will be scored, if its client prefers not to wait."""
        accepted = None
        if self.later is not None and request.progress is not None:
            accepted = await self.later.accepted(request, request.progress.prefer)
        return accepted or await self._score(request)

    def _whole_body(self, request: HttpRequest) -> bytes:
        limit = self._settings.max_body_bytes
        if request.body is None or len(request.body) > limit:
            raise too_large("The body", limit, "SCORING_MAX_BODY_BYTES")
        return request.body

    def _route_of(self, path: str) -> Found:
        if self._inputs is not None and path.startswith(INPUTS) and len(path) > len(INPUTS):
            return self._kept_input, ("PUT", "DELETE"), LOGGED
        if self.later is not None and path.startswith(RESULTS) and len(path) > len(RESULTS):
            return self.later.result, ("GET", "HEAD", "DELETE"), LOGGED
        found = self._changes(path)
        if found is None and self._models is not None:
            found = self._models(path)
        return found or _UNKNOWN

    async def _kept_input(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        assert self._inputs is not None
        key = request.path[len(INPUTS) :]
        if request.method == "DELETE":
            if not await self._inputs.delete(key):
                raise InputNotFound(f"No input is kept under the key {key!r}.")
            return ScoringResponse(204, b"", (), -1)
        body = self._whole_body(request)
        seconds = await self._inputs.put(key, ScoringRequest(body, request.headers))
        return json_response({"key": key, "seconds": seconds}, 201)

    async def _measured(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        accept = dict(request.headers).get(b"accept", b"").decode("latin-1")
        body, content_type = await self._runtime.measured(accept)
        return ScoringResponse(200, body, ((b"content-type", content_type.encode()),), -1)

    async def _healthy(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        await self._runtime.settled()
        if self._runtime.state is State.HEALTHY:
            return ScoringResponse(200, b"Healthy", _TEXT_HEADERS, -1)
        return message_response(503, f"The service is {self._runtime.state.value}.")

    async def _live(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        state = self._runtime.state
        return json_response({"state": state.value}, 200 if state in ALIVE else 503)

    async def _ready(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        state = self._runtime.readiness
        shown: dict[str, Any] = {"state": state.value}
        if self._runtime.troubles:
            shown["troubles"] = self._runtime.troubles
        return json_response(shown, 200 if state is State.HEALTHY else 503)

    async def _document(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        await self._runtime.settled()
        if self._runtime.state is State.FAILED:
            raise NotStarted("The entry script could not be started; its log says why.")
        query = dict(query_pairs(request.query)[::-1])
        document = self._runtime.documents.get(query.get("version", "2"))
        return ScoringResponse(200, document, JSON_HEADERS, -1)

    # --- the reply ----------------------------------------------------------------------------

    def _reply(
        self,
        response: ScoringResponse,
        ids: Ids,
        asked: dict[bytes, bytes],
        of_model: Headers = (),
    ) -> Reply:
        status, body, lines, run_ms = response
        if type(lines) is not OwnHeaders:
            own = {name for name, _ in of_model}
            lines = [line for line in lines if line[0] not in _RESERVED and line[0] not in own]
        headers = [*lines, *of_model, *self._always]
        if run_ms >= 0:
            headers.append((b"x-ms-run-fn-exec-ms", b"%.3f" % run_ms))
        request, ms_request, client = ids
        if request:
            headers.append((b"x-request-id", request))
        if ms_request:
            headers.append((b"x-ms-request-id", ms_request))
        if client:
            headers.append((b"x-ms-client-request-id", client))
        if b"traceid" in asked:
            headers.append((b"traceid", asked[b"traceid"]))
        if status == 503 and run_ms < 0:  # not one that run() chose
            headers.append((b"retry-after", b"1"))
        return Reply(status, headers, body)

    def _ended(
        self, request: HttpRequest, response: ScoringResponse, ids: Ids, outcome: int, kind: int
    ) -> Headers:
        """Count and log it, before it is answered; the headers that name the model."""
        progress = request.progress
        assert progress is not None
        seconds = perf_counter() - progress.received
        status, body, _, run_ms = response
        model = cache = ""
        of_model: Headers = ()
        # A browser's question before its request is none.
        asked = progress.begun or request.method != "OPTIONS"
        if kind == SCORING and asked and not progress.later:
            assert self._counted is not None
            if outcome < 0:
                outcome = outcome_of_status(status)
            of_model = self._of_model.get(progress.model, ())
            model = self._counted.ended(progress, outcome, seconds, run_ms / 1000)
            request_id = ids.request.decode("latin-1")
            self._recent.add(request.path, status, outcome, seconds, run_ms, progress, request_id)
            if self._is_cached:
                cache = _cache_state(response)
        if not self._access.is_kept:
            return of_model
        length = len(body) if isinstance(body, bytes) else "N/A"
        method, path, query, client = request.method, request.path, request.query, request.client
        request_id = ids.request.decode("latin-1")
        self._access.add(
            (
                time(), method, path, query, status, seconds, length,
                "http", client, model, cache, progress.caller, request_id,
            )
        )  # fmt: skip
        return of_model


def _cache_state(response: ScoringResponse) -> str:
    said = (value for name, value in response.headers if name == b"x-cache")
    return next(said, b"").decode("latin-1")


def _no_route(path: str) -> Found | None:
    """Nothing can be changed here."""
    return None


def _preferring(route: Route, said: bytes) -> Route:
    async def preferring(request: HttpRequest, ids: Ids) -> ScoringResponse:
        assert request.progress is not None
        request.progress.prefer = said
        return await route(request, ids)

    return preferring


async def _not_found(request: HttpRequest, ids: Ids) -> ScoringResponse:
    return message_response(404, _NOT_FOUND)


_UNKNOWN: Found = (_not_found, None, LOGGED)


def _joined(lines: Headers) -> dict[bytes, bytes]:
    """Repeated lines as one, joined by commas (RFC 9110 §5.3)."""
    joined: dict[bytes, bytes] = {}
    for name, value in lines:
        joined[name] = joined[name] + b"," + value if name in joined else value
    return joined


def create(
    runtime: Runtime,
    score: Score | None = None,
    inputs: StoredInputs | None = None,
    *,
    access_log: bool = True,
    change: Change | None = None,
    later: Later | NotHere | None = None,
) -> tuple[Endpoint, Handle]:
    """The endpoint of a runtime, and the same with the wrappers its settings ask for.

    With ``change`` there are the routes that ask for a change of the model.
    """
    endpoint = Endpoint(runtime, score, inputs, access_log=access_log, change=change)
    if later is not None:
        endpoint.later, later.ended = later, endpoint.scored_later
    handle: Handle = endpoint
    if (guarded := guarding(runtime.settings)) is not None:
        endpoint.guard = handle = guarded(endpoint, runtime.metrics)
        runtime.asks_for_key = True
    if origins := runtime.settings.cors_origins:
        handle = with_cors(handle, origins)
    if runtime.spans is not None:
        handle = with_spans(handle, runtime.spans)
    return endpoint, handle
