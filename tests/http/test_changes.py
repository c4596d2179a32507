"""Routes that change the model: for programs on this machine alone; what they ask and answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from scoring_runtime.http.changes import ADMIN, ChangeRoutes
from scoring_runtime.http.endpoint import Endpoint
from scoring_runtime.http.messages import HttpRequest
from scoring_runtime.scoring.runtime import build
from scoring_runtime.settings.settings import Settings
from scoring_runtime.telemetry.request_ids import NO_IDS

pytestmark = pytest.mark.anyio
SWITCHED = {"outcome": "switched", "models": []}
ASKS: dict[str, tuple[bytes, dict[str, str]]] = {
    "/models/reload": (b"", {"what": "reload"}),
    "/models/reload?": (b'{"model": "iris"}', {"what": "use", "model": "iris", "version": ""}),
    "/models/reload??": (b'{"model": "a:2"}', {"what": "use", "model": "a", "version": "2"}),
    "/models/iris/rollback": (b"", {"what": "rollback", "model": "iris"}),
    "/v2/repository/models/iris/load": (b"", {"what": "use", "model": "iris"}),
    "/v2/repository/models/iris/unload": (b"{}", {"what": "unload", "model": "iris"}),
}


class Supervisor:
    """What is asked for, and what it says has become of it."""

    def __init__(self, **outcome: Any) -> None:
        self.outcome, self.asked = outcome or SWITCHED, list[Mapping[str, str]]()

    async def change(self, ask: Mapping[str, str]) -> dict[str, Any]:
        self.asked.append(ask)
        return dict(self.outcome)


async def sent(
    path: str,
    body: bytes | None = b"",
    supervisor: Supervisor | None = None,
    client: str = "127.0.0.1",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    method: str = "POST",
) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    runtime = build(Settings())
    change = supervisor.change if supervisor is not None else None
    endpoint = Endpoint(runtime, change=change)
    reply = await endpoint(HttpRequest(method, path.rstrip("?"), b"", headers, body, client))
    assert isinstance(reply.body, bytes)
    return reply.status, json.loads(reply.body) if reply.body else None


@pytest.mark.parametrize("path", ASKS)
async def test_what_each_route_asks_for(path):
    supervisor = Supervisor()
    body, ask = ASKS[path]
    status, answer = await sent(path, body, supervisor)
    assert (status, supervisor.asked) == (200, [ask])
    assert answer == (None if path.startswith("/v2/") else SWITCHED)


@pytest.mark.parametrize("path", [*ASKS, "/v2/repository/index"])
async def test_only_programs_on_this_machine_may(path):
    """Neither another machine, nor a page that a browser on this one shows."""
    supervisor = Supervisor()
    for client in ("10.0.0.1", "", "fe80::1", "::ffff:10.0.0.1", "nobody"):
        status, answer = await sent(path, b"", supervisor, client)
        assert status == 403
        assert "this machine" in answer["error" if path.startswith("/v2/") else "message"]
    for origin in (b"http://127.0.0.1:5001", b"null"):
        assert (await sent(path, b"", supervisor, headers=((b"origin", origin),)))[0] == 403
    assert supervisor.asked == []
    for client in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
        assert (await sent(path, b"", supervisor, client))[0] == 200


async def test_where_a_key_is_asked_for_others_may_too():
    """Who has no key does not come so far."""
    supervisor = Supervisor()
    routes = ChangeRoutes(build(Settings()), supervisor.change, local_only=False)
    found = routes("/models/reload")
    assert found is not None
    request = HttpRequest("POST", "/models/reload", b"", (), b"", "10.0.0.1")
    assert (await found[0](request, NO_IDS)).status == 200


@pytest.mark.parametrize("path", [*ASKS, "/v2/repository/index"])
async def test_where_nothing_can_be_changed_there_are_no_such_routes(path):
    assert (await sent(path))[0] == 404
    assert path.startswith(ADMIN)


@pytest.mark.parametrize("path", [*ASKS, "/v2/repository/index"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_nothing_is_changed_by_looking(path, method):
    supervisor = Supervisor()
    assert (await sent(path, b"", supervisor, method=method))[0] == 405
    assert supervisor.asked == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "The body is no JSON"),
        (b"[]", "is to be a JSON object"),
        (b'{"model": 1}', '"model" is to be a name'),
        (b'{"model": "%b"}' % (b"x" * 65536), "more than 65536 bytes"),
        (None, "more than 65536 bytes"),
    ],
)
async def test_a_body_that_is_none_is_refused(body, said):
    supervisor = Supervisor()
    status, answer = await sent("/models/reload", body, supervisor)
    assert status == (413 if "bytes" in said else 400)
    assert said in answer["message"]
    assert supervisor.asked == []


@pytest.mark.parametrize(
    ("outcome", "status"), [("refused", 422), ("busy", 409), ("impossible", 409)]
)
async def test_what_has_not_become_of_it(outcome, status):
    """The message is the cause, the reason the whole diagnosis; clients of V2 read "error"."""
    supervisor = Supervisor(outcome=outcome, reason="What failed\nCause: that")
    answer = await sent("/models/reload", b"", supervisor)
    told = {"message": "Cause: that", "outcome": outcome, "reason": "What failed\nCause: that"}
    assert answer == (status, told)
    answer = await sent("/v2/repository/models/iris/load", b"", supervisor)
    assert answer == (400, {"error": "What failed\nCause: that"})


@pytest.mark.parametrize(
    "path", ["/models", "/models/", "/models/a/b/rollback", "/models/a", "/v2/repository/x"]
)
async def test_other_paths_are_not_there(path):
    assert (await sent(path, b"", Supervisor()))[0] == 404
