"""Answers later: ``Prefer: respond-async``, ``/results/{id}``, in memory and in Redis."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime import ScoringRequest, ScoringResponse, Settings, build
from scoring_runtime.cache.build import caching
from scoring_runtime.cache.shelf import MemoryShelf, RedisShelf, Removed, Shelf
from scoring_runtime.connections import redis as connections
from scoring_runtime.errors import TriggerTrouble, UndecodableInput
from scoring_runtime.http.endpoint import create
from scoring_runtime.http.later import Callback, _packed, later_of, preferences
from scoring_runtime.http.messages import HttpRequest
from tests.hosts.redis import RedisServer
from tests.http.test_endpoint import Answer

pytestmark = pytest.mark.anyio
PATIENCE = 20.0
ID = "A" * 22
SCRIPT = """
from azureml.contrib.services.aml_response import AMLResponse
from tests.http.test_later import gate, seen
def init(): pass
def run(data):
    seen.append(data)
    gate.wait(20)
    if data == "fail": raise ValueError("no")
    if data == "odd": return AMLResponse("short", 418, {"x-own": "1"})
    if data == "large": return "x" * 20_000
    return data.upper()
"""
gate = threading.Event()
seen: list[str] = []


@pytest.fixture(autouse=True)
def open_gate() -> Iterator[None]:
    seen.clear()
    gate.set()
    yield
    gate.set()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, redis_server: RedisServer) -> dict[str, str]:
    if request.param == "memory":
        return {}
    redis_server.client().flushall()
    return {"CACHE_URL": redis_server.url, "CACHE_TIMEOUT_MS": "2000"}


class Client:
    def __init__(self, handle: Any, later: Any, runtime: Any, cached: Any) -> None:
        self._handle, self.later, self.runtime, self.cached = handle, later, runtime, cached

    async def __call__(
        self, method: str, path: str, body: bytes = b"", *lines: tuple[str, str]
    ) -> Answer:
        headers = [(name.encode(), value.encode()) for name, value in lines]
        return Answer(await self._handle(HttpRequest(method, path, b"", headers, body)))

    async def post(
        self, body: bytes, prefer: str = "respond-async", path: str = "/score", **more: str
    ) -> Answer:
        lines = [(name.replace("_", "-"), value) for name, value in more.items()]
        return await self("POST", path, body, ("prefer", prefer), *lines)

    async def settled(self, location: str) -> Answer:
        until = time.monotonic() + PATIENCE
        while (answer := await self("GET", location)).status == 202:
            assert answer.headers[b"retry-after"] == b"1"
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        return answer


@pytest.fixture
async def serving(write_script: Any) -> AsyncIterator[Callable[..., Any]]:
    made: list[Client] = []

    async def serve(
        *, one: bool = True, callbacks: dict[bytes, Callback] | None = None, **environ: str
    ) -> Client:
        path: Path = write_script(SCRIPT)
        given = {"AZUREML_ENTRY_SCRIPT": str(path), "AML_APP_ROOT": str(path.parent)}
        runtime = build(Settings.from_environ(given | environ))
        cached = caching(runtime)
        later = later_of(runtime, cached.score, one_process=one, callbacks=callbacks or {})
        handle = create(runtime, cached.score, cached.inputs, later=later)[1]
        runtime.start()
        made.append(Client(handle, later, runtime, cached))
        return made[-1]

    yield serve
    gate.set()
    connections.use(Settings())  # for the tests after these
    for each in made:
        if each.later is not None:
            await each.later.stop()
        await each.runtime.stop(PATIENCE)
        if each.later is not None:
            await each.later.close()
        await each.cached.close()


def location_of(answer: Answer) -> str:
    assert answer.status == 202, answer.body
    location = answer.headers[b"location"].decode()
    assert answer.headers[b"preference-applied"] == b"respond-async"
    assert answer.headers[b"retry-after"] == b"1"
    assert location == f"/results/{answer.json['id']}"
    return location


# --- the header -----------------------------------------------------------------------------------

PREFER = {
    b"respond-async": (True, 0),
    b"RESPOND-ASYNC ; foo=bar": (True, 0),
    b"return=minimal, respond-async, wait=10": (True, 10),
    b"wait=10,respond-async": (True, 10),
    b'wait="7", respond-async': (True, 7),
    b"respond-async,wait=5,wait=9": (True, 5),
    b"wait=5": (False, 5),
    b"respond-async, wait=999999": (True, 60),
    b"respond-async, wait=99999999999999999999": (True, 0),
    b"respond-async, wait=-1": (True, 0),
    b"respond-async, wait=1.5": (True, 0),
    b"respond-async, wait=": (True, 0),
    b"": (False, 0),
    b",,;=,": (False, 0),
    b"respond-asynchronous": (False, 0),
    b"respond async": (False, 0),
    b'foo="a, respond-async"': (False, 0),
    b'foo="a\\", respond-async", x': (False, 0),
    b"foo; respond-async": (False, 0),
    b'"' * 4001: (False, 0),
    b"\xff\x00, respond-async": (True, 0),
}


@pytest.mark.parametrize("said", list(PREFER))
async def test_preferences_are_read_as_the_rfc_has_them(said: bytes) -> None:
    assert tuple(preferences(said)) == PREFER[said]


async def test_hostile_preferences_take_no_time() -> None:
    began = time.perf_counter()
    for each in (b'a"' * 30_000, b'"\\' * 30_000, b"," * 60_000, b'="";' * 15_000):
        preferences(each)
    assert time.perf_counter() - began < 2


async def test_without_the_preference_nothing_changes(serving: Any) -> None:
    client = await serving()
    for prefer in ("wait=5", "return=minimal", ""):
        answer = await client.post(b"a", prefer)
        assert (answer.status, answer.json) == (200, "A")
    read = await client("GET", "/score", b"", ("prefer", "respond-async"))
    assert read.status != 202


@pytest.mark.parametrize(
    "environ", [{"SCORING_LATER_SECONDS": "0"}, {"SCORING_STRICT_COMPAT": "true"}]
)
async def test_it_is_ignored_where_it_is_off(serving: Any, environ: dict[str, str]) -> None:
    client = await serving(**environ)
    assert (await client.post(b"a")).status == 200
    assert (await client("GET", f"/results/{ID}")).status == 404


# --- the answer -----------------------------------------------------------------------------------


async def test_an_answer_comes_later(serving: Any, store: dict[str, str]) -> None:
    client = await serving(**store)
    gate.clear()
    location = location_of(await client.post(b"a"))
    assert (await client("GET", location)).status == 202
    gate.set()
    answer = await client.settled(location)
    assert (answer.status, answer.json) == (200, "A")
    assert float(answer.headers[b"x-ms-run-fn-exec-ms"]) > 0
    assert (await client("GET", location)).json == "A"
    head = await client("HEAD", location)
    assert (head.status, head.headers[b"content-type"]) == (200, b"application/json")


@pytest.mark.parametrize("body", [b"fail", b"odd", b"\xff\xfe", b"ok"])
async def test_it_is_what_a_client_that_waits_would_get(
    serving: Any, store: dict[str, str], body: bytes
) -> None:
    client = await serving(**store)
    waited = await client("POST", "/score", body, ("cache-control", "no-store"))
    later = await client.settled(location_of(await client.post(body, cache_control="no-store")))
    assert (later.status, later.body) == (waited.status, waited.body)
    varies = {b"x-request-id", b"x-ms-request-id", b"x-ms-run-fn-exec-ms", b"x-cache"}
    kept, own = ({n: v for n, v in each.lines if n not in varies} for each in (later, waited))
    assert kept == own


async def test_who_waits_a_while_gets_the_answer_itself(
    serving: Any, store: dict[str, str]
) -> None:
    client = await serving(**store)
    answer = await client.post(b"a", "respond-async, wait=20")
    assert (answer.status, answer.json) == (200, "A")
    gate.clear()
    began = time.monotonic()
    location = location_of(await client.post(b"b", "respond-async, wait=1"))
    assert time.monotonic() - began >= 1
    gate.set()
    assert (await client.settled(location)).json == "B"


async def test_one_of_v2_is_refused_in_its_form(serving: Any) -> None:
    client = await serving()
    answer = await client.post(b"{}", path="/v2/models/model/infer")
    assert answer.status == 400 and list(answer.json) == ["error"]
    assert (await client.post(b"{}", path="/v2/models/other/infer")).status == 404


async def test_a_later_answer_is_counted_once(serving: Any) -> None:
    client = await serving()
    await client.settled(location_of(await client.post(b"a")))
    text = (await client("GET", "/metrics")).body.decode()
    counted = [line for line in text.splitlines() if 'outcome="scored",trigger="http"' in line]
    counted += [line for line in text.splitlines() if 'trigger="http",outcome="scored"' in line]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in counted) == 1, text


# --- DELETE, bounds -------------------------------------------------------------------------------


async def test_what_has_not_begun_is_cancelled(serving: Any, store: dict[str, str]) -> None:
    client = await serving(**store)
    gate.clear()
    first = location_of(await client.post(b"first"))
    others = [location_of(await client.post(f"{n}".encode())) for n in range(5)]
    until = time.monotonic() + PATIENCE
    while "first" not in seen:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    assert (await client("DELETE", first)).status == 409
    assert (await client("DELETE", others[-1])).status == 204
    assert (await client("DELETE", others[-1])).status == 404
    assert (await client("GET", others[-1])).status == 404
    gate.set()
    assert (await client.settled(others[-2])).json == "3"
    assert "4" not in seen
    assert (await client("DELETE", first)).status == 204
    assert (await client("GET", first)).status == 404


async def test_cancelling_races_with_beginning(serving: Any, store: dict[str, str]) -> None:
    """Each is either cancelled and never seen, or seen and answered."""
    client = await serving(**store)
    locations = [location_of(await client.post(f"n{n}".encode())) for n in range(60)]
    gone = await asyncio.gather(*(client("DELETE", each) for each in reversed(locations)))
    cancelled = {f"n{59 - n}" for n, each in enumerate(gone) if each.status == 204}
    answered = [await client.settled(each) for each in locations]
    for n, answer in enumerate(answered):
        assert answer.status in (200, 404)
        assert answer.status == 404 or answer.json == f"N{n}"
    done_first = {f"n{n}" for n in range(60)} & set(seen) & cancelled
    assert len(seen) == len(set(seen))
    assert {f"n{n}" for n, each in enumerate(answered) if each.status == 404} == cancelled
    assert done_first <= cancelled


@pytest.mark.parametrize("id", ["x", "A" * 21, "A" * 23, "A" * 21 + "/", "../score", "%2e", ID])
async def test_unknown_ids(serving: Any, store: dict[str, str], id: str) -> None:
    client = await serving(**store)
    for method in ("GET", "DELETE", "HEAD"):
        assert (await client(method, f"/results/{id}")).status == 404
    assert (await client("POST", f"/results/{ID}")).status == 405


async def test_a_full_shelf_is_503(serving: Any, store: dict[str, str]) -> None:
    client = await serving(**store, SCORING_LATER_MAX="3")
    gate.clear()
    kept = [location_of(await client.post(b"a")) for _ in range(3)]
    full = await client.post(b"a")
    assert full.status == 503 and "SCORING_LATER_MAX" in full.message
    assert full.headers[b"retry-after"] == b"1"
    gate.set()
    await client.settled(kept[0])
    assert (await client("DELETE", kept[0])).status == 204
    location_of(await client.post(b"a"))


async def test_bytes_are_bounded(serving: Any, store: dict[str, str]) -> None:
    client = await serving(**store, SCORING_LATER_MAX_BYTES="10000")
    assert (await client.post(b"x" * 20_000)).status == 503
    answer = await client.settled(location_of(await client.post(b"large")))
    assert answer.status == 500 and "SCORING_LATER_MAX_BYTES" in answer.message


async def test_ten_thousand_at_once(serving: Any, store: dict[str, str]) -> None:
    client = await serving(**store, SCORING_LATER_MAX="5000")
    gate.clear()
    answers = await asyncio.gather(*(client.post(b"a") for _ in range(10_000)))
    statuses = [each.status for each in answers]
    # On a busy machine Redis may not answer some in time.
    assert 4000 <= statuses.count(202) <= 5000
    assert statuses.count(202) + statuses.count(503) == 10_000
    waiting = asyncio.create_task(client("POST", "/score", b"now"))
    await asyncio.sleep(0.05)
    gate.set()
    assert (await asyncio.wait_for(waiting, 5)).json == "NOW"  # it does not queue behind them
    last = next(each for each in answers[4999::-1] if each.status == 202)
    assert (await client.settled(location_of(last))).json == "A"


async def test_an_answer_is_forgotten_after_its_time(serving: Any, store: dict[str, str]) -> None:
    client = await serving(**store, SCORING_LATER_SECONDS="1")
    location = location_of(await client.post(b"a"))
    assert (await client.settled(location)).status == 200
    until = time.monotonic() + PATIENCE
    while (answer := await client("GET", location)).status == 200:
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    assert answer.status == 404 and "SCORING_LATER_SECONDS" in answer.message


async def test_several_processes_need_redis(serving: Any, redis_server: RedisServer) -> None:
    alone = await serving(one=False)
    refused = await alone.post(b"a")
    assert refused.status == 400
    assert "CACHE_URL" in refused.message and "REDIS_HOST" in refused.message
    assert (await alone("POST", "/score", b"a")).json == "A"
    assert (await alone("GET", f"/results/{ID}")).status == 404
    workers = await serving(WORKER_COUNT="2")
    assert (await workers.post(b"a")).status == 400
    shared = await serving(one=False, CACHE_URL=redis_server.url, CACHE_TIMEOUT_MS="2000")
    location_of(await shared.post(b"a"))


async def test_an_absent_redis_is_503(serving: Any) -> None:
    with RedisServer() as server:
        client = await serving(CACHE_URL=server.url)
    assert (await client.post(b"a")).status == 503


# --- callbacks ------------------------------------------------------------------------------------


class Recorder:
    def __init__(self, failures: int = 0) -> None:
        self.failures, self.got = failures, list[tuple[str, str, ScoringResponse]]()

    def check(self, name: str) -> None:
        if name != "known":
            raise UndecodableInput(f"x-callback-queue is {name!r}")

    async def deliver(self, name: str, id: str, response: ScoringResponse) -> None:
        if self.failures:
            self.failures -= 1
            raise TriggerTrouble("away")
        self.got.append((name, id, response))


async def test_a_callback_gets_the_answer_too(serving: Any) -> None:
    recorder = Recorder(failures=1)
    client = await serving(callbacks={b"x-callback-queue": recorder})
    location = location_of(await client.post(b"fail", x_callback_queue="known"))
    answer = await client.settled(location)
    [(name, id, response)] = recorder.got
    assert (name, f"/results/{id}") == ("known", location)
    assert (response.status, response.body) == (500, answer.body)


async def test_callbacks_that_are_not_allowed(serving: Any) -> None:
    client = await serving(callbacks={b"x-callback-queue": Recorder()})
    for header, value, said in (
        ("x_callback_queue", "http://169.254.169.254/", "169.254"),
        ("x_callback_blob", "output/a", "BLOB_CONNECTION"),
    ):
        answer = await client.post(b"a", **{header: value})
        assert answer.status == 400 and said in answer.message
    assert not seen


# --- Redis ----------------------------------------------------------------------------------------


async def test_any_process_answers_and_takes_over(
    serving: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_server.client().flushall()
    environ = {"CACHE_URL": redis_server.url, "CACHE_TIMEOUT_MS": "2000"}
    monkeypatch.setattr("scoring_runtime.cache.shelf.LEASE_SECONDS", 0.3)
    dead = RedisShelf(Settings.from_environ(environ))
    client = await serving(**environ)
    await client.later.stop()
    location = location_of(await client.post(b"a"))
    taken = await dead.take()  # and then it was killed
    assert taken is not None and location.endswith(taken.id)
    other = await serving(**environ)
    assert (await other.settled(location)).json == "A"
    assert (await client("GET", location)).json == "A"
    await dead.close()


async def test_what_kills_each_process_ends(
    serving: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_server.client().flushall()
    environ = {"CACHE_URL": redis_server.url, "CACHE_TIMEOUT_MS": "2000"}
    monkeypatch.setattr("scoring_runtime.cache.shelf.LEASE_SECONDS", 0.0)
    dead = RedisShelf(Settings.from_environ(environ))
    client = await serving(**environ)
    await client.later.stop()
    location = location_of(await client.post(b"a"))
    for tries in range(1, 6):
        taken = await dead.take()
        assert taken is not None and taken.tries == tries
    other = await serving(**environ)
    answer = await other.settled(location)
    assert answer.status == 500 and "5 tries" in answer.message and not seen
    await dead.close()


@pytest.fixture
async def shelf(store: dict[str, str]) -> AsyncIterator[Shelf]:
    made: Shelf = MemoryShelf(60, 2, 1000)
    if store:
        limits = {"SCORING_LATER_MAX": "2", "SCORING_LATER_MAX_BYTES": "1000"}
        made = RedisShelf(Settings.from_environ({**store, **limits}))
    yield made
    await made.close()


async def test_room_is_given_back(shelf: Shelf) -> None:
    for _ in range(5):
        assert await shelf.add("a", b"x" * 600)
        assert not await shelf.add("b", b"x" * 600)
        assert await shelf.finish("a", b"x" * 900)
        assert not await shelf.finish("a", b"x" * 1001)
        assert await shelf.remove("a") is Removed.GONE
        assert await shelf.add("a", b"") and await shelf.add("b", b"")
        assert not await shelf.add("c", b"")
        assert await shelf.remove("a") is await shelf.remove("b") is Removed.GONE


async def test_one_that_comes_by_a_trigger(shelf: Shelf) -> None:
    assert await shelf.begin("lost")  # nothing is known of it after a new start
    assert await shelf.add("a", b"", waits=False)
    assert await shelf.take() is None
    assert await shelf.remove("a", b"mark") is Removed.GONE
    assert not await shelf.begin("a")
    assert await shelf.get("a") == b"mark"
    assert await shelf.remove("a") is Removed.UNKNOWN
    assert await shelf.add("b", b"", waits=False) and await shelf.begin("b")
    assert await shelf.remove("b") is Removed.BEGUN
    await shelf.give_back("b")
    assert await shelf.remove("b") is Removed.GONE


async def test_what_is_given_back_waits_again(shelf: Shelf) -> None:
    assert await shelf.add("a", b"1")
    taken = await shelf.take()
    assert taken == ("a", b"1", 1)
    await shelf.give_back("a")
    until = time.monotonic() + PATIENCE
    while (taken := await shelf.take()) is None:
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    assert taken.id == "a"


async def test_a_user_of_redis_needs_only_what_the_page_says(redis_server: RedisServer) -> None:
    page = Path(__file__).parents[2].joinpath("docs/http.md").read_text()
    allowed = page.split("The user needs `")[1].split("`")[0].split()
    client = redis_server.client()
    asked = ("ACL", "SETUSER", "app", "reset", "on", ">pw", "~scoring:*", *allowed)
    client.execute_command(*asked)  # type: ignore[no-untyped-call]
    url = redis_server.url.replace("redis://", "redis://app:pw@")
    shelf = RedisShelf(Settings.from_environ({"CACHE_URL": url}))
    assert await shelf.add("acl", b"1") and (await shelf.take()) is not None
    await shelf.hold("acl")
    await shelf.give_back("acl")
    assert await shelf.finish("acl", b"2") and await shelf.get("acl") == b"2"
    assert await shelf.remove("acl") is Removed.GONE
    await shelf.close()


def test_what_opens_something_is_not_kept() -> None:
    """Neither in Redis nor in a message: whatever asks for it, the platform's keys too."""
    headers = [
        (b"authorization", b"Bearer s3cr3t"),
        (b"cookie", b"session=s3cr3t"),
        (b"x-functions-key", b"s3cr3t"),
        (b"content-type", b"text/plain"),
        (b"prefer", b"respond-async"),
    ]
    query = b"a=1&code=s3cr3t&%63ode=s3cr3t&b=2"
    packed = _packed(ScoringRequest(b"body", headers, query=query), ID)
    assert b"s3cr3t" not in packed
    assert b"text/plain" in packed and b"a=1&b=2" in packed
