"""Routes that change which version of a model is served, and tell of it.

``POST /models/reload``, ``/models/{name}/rollback``, and those of the model repository extension of
V2: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeAlias

import orjson

from ..errors import InputTooLarge, UndecodableInput, UnsupportedMethod
from ..messages import ScoringResponse
from ..models import in_force
from ..scoring.runtime import Runtime, State
from ..script.call import JSON_HEADERS
from ..telemetry.request_ids import Ids
from .errors import message_response
from .messages import HttpRequest
from .model_routes import LOGGED, Found, Route, json_response, with_error

ADMIN = ("/models/", "/v2/repository/")
"""What paths begin with that change something, or tell more than a score: not for everybody."""
_MOST_BYTES = 64 * 1024
_STATUS = {"switched": 200, "unchanged": 200, "busy": 409, "impossible": 409, "refused": 422}
_NOT_FROM_HERE = (
    "Only this machine may change the model that is served, and no page of a browser. Send it from "
    "where the service runs."
)
Change: TypeAlias = Callable[[Mapping[str, str]], Awaitable[dict[str, Any]]]
"""What is asked for (``what``, ``model``, ``version``) → what has become of it (``outcome``)."""


class ChangeRoutes:
    """Finds the route of a path.

    Args:
        runtime: whose models they are.
        change: asks for a change.
        local_only: whether only programs on this machine may; not where a key is asked for.
    """

    def __init__(self, runtime: Runtime, change: Change, *, local_only: bool = True) -> None:
        self._runtime, self._change, self._local_only = runtime, change, local_only

    def __call__(self, path: str) -> Found | None:
        """None when it is no such path."""
        if not path.startswith(ADMIN):
            return None
        route = self._reload if path == "/models/reload" else self._route(path.split("/")[1:])
        return None if route is None else (self._allowed(route), None, LOGGED)

    def _route(self, parts: list[str]) -> Route | None:
        match parts:
            case ["models", name, "rollback"]:
                return partial(self._changed, {"what": "rollback", "model": name})
            case ["v2", "repository", "index"]:
                return self._index
            case ["v2", "repository", "models", name, "load"]:
                return partial(self._of_v2, {"what": "use", "model": name})
            case ["v2", "repository", "models", name, "unload"]:
                return partial(self._of_v2, {"what": "unload", "model": name})
        return None

    def _allowed(self, route: Route) -> Route:
        async def answered(request: HttpRequest, ids: Ids) -> ScoringResponse:
            if request.method != "POST":
                raise UnsupportedMethod("Send it with POST.")
            if self._local_only and not _is_local(request):
                response = message_response(403, _NOT_FROM_HERE)
            else:
                response = await route(request, ids)
            is_of_v2 = request.path.startswith(ADMIN[1]) and response.status >= 400
            return with_error(response) if is_of_v2 else response

        return answered

    async def _reload(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        wanted = _object(request).get("model", "")
        if not isinstance(wanted, str):
            raise UndecodableInput('"model" is to be a name, or name:version.')
        name, _, version = wanted.partition(":")
        ask = {"what": "use", "model": name, "version": version} if name else {"what": "reload"}
        return await self._changed(ask, request, ids)

    async def _changed(
        self, ask: Mapping[str, str], request: HttpRequest, ids: Ids
    ) -> ScoringResponse:
        outcome = await self._change(ask)
        return _with_message(outcome, _STATUS[outcome["outcome"]])

    async def _of_v2(
        self, ask: Mapping[str, str], request: HttpRequest, ids: Ids
    ) -> ScoringResponse:
        _object(request)
        outcome = await self._change(ask)
        if _STATUS[outcome["outcome"]] == 200:
            return ScoringResponse(200, b"", JSON_HEADERS[:1], -1)
        return message_response(400, outcome["reason"])

    async def _index(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        ready_only = _object(request).get("ready") is True
        listed = [each for each in self._listed() if not ready_only or each["state"] == "READY"]
        return ScoringResponse(200, orjson.dumps(listed), JSON_HEADERS[:1], -1)

    def _listed(self) -> list[dict[str, str]]:
        served = {
            (each.name, each.version): self._runtime.state_of(each) is State.HEALTHY
            for each in self._runtime.served
        }
        folder = self._runtime.settings.model_dir
        there = in_force.versions_there(folder) if in_force.registry_of(folder) else {}
        every = [(each.name, str(each.version)) for models in there.values() for each in models]
        return [
            {
                "name": name,
                "version": version,
                "state": "READY" if served.get((name, version)) else "UNAVAILABLE",
                "reason": "" if (name, version) in served else "not in force",
            }
            for name, version in dict.fromkeys([*served, *every])
        ]


def _is_local(request: HttpRequest) -> bool:
    """Whether a program on this machine sent it; a browser says of which page it is."""
    try:
        address = ip_address(request.client)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback and b"origin" not in dict(request.headers)


def _object(request: HttpRequest) -> dict[str, Any]:
    """The JSON object that was sent; an empty body is an empty one."""
    if request.body is None or len(request.body) > _MOST_BYTES:
        raise InputTooLarge(f"The body has more than {_MOST_BYTES} bytes.")
    try:
        value = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as error:
        raise UndecodableInput(f"The body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise UndecodableInput("The body is to be a JSON object.")
    return value


def _with_message(outcome: dict[str, Any], status: int) -> ScoringResponse:
    """An error has its ``message``, as all others: the cause, which is the last line."""
    said = {} if status < 400 else {"message": outcome["reason"].splitlines()[-1]}
    return json_response({**said, **outcome}, status)
