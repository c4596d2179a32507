"""The HTTP surface on plain data: routes, ids, errors → statuses, CORS, access lines."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime import ScoringRequest, ScoringResponse, Settings, build, errors
from scoring_runtime.http.endpoint import Endpoint, create
from scoring_runtime.http.messages import HttpRequest, Reply
from scoring_runtime.messages import Score
from scoring_runtime.scoring.runtime import Runtime, State
from scoring_runtime.script.openapi import NoSuchDocument
from scoring_runtime.telemetry.request_ids import RandomIds

pytestmark = pytest.mark.anyio
PATIENCE = 20.0
UUID4 = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NOT_FOUND = (
    "The requested URL was not found on the server. If you entered the URL manually please check "
    "your spelling and try again."
)
NOT_ALLOWED = "The method is not allowed for the requested URL."
INTERNAL = "An unexpected internal error occurred. Check the logs for more info."
RUN_FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."
ECHO = "def init(): pass\ndef run(data): return data"
RAW = """
from scoring_runtime import rawhttp
def init(): pass
@rawhttp
def run(request): return [request.method, request.get_data(as_text=True)]
"""
gate = threading.Event()


@pytest.fixture(autouse=True)
def closed_gate() -> Iterator[None]:
    gate.clear()
    yield
    gate.set()


@pytest.fixture
async def serving(write_script: Any) -> AsyncIterator[Callable[..., Any]]:
    """``await serving(source, score=None, **environ)``: what sends to a started script."""
    made: list[Sender] = []

    async def serve(source: str, score: Score | None = None, **environ: str) -> Sender:
        path: Path = write_script(f"from tests.http.test_endpoint import gate\n{source}")
        settings = Settings.from_environ(
            {"AZUREML_ENTRY_SCRIPT": str(path), "AML_APP_ROOT": str(path.parent), **environ}
        )
        runtime = build(settings)
        endpoint, handle = create(runtime, score)
        runtime.start()
        made.append(Sender(handle, runtime, endpoint))
        return made[-1]

    yield serve
    gate.set()
    for each in made:
        await each.runtime.stop(PATIENCE)
        each.endpoint.flush_log()


class Sender:
    """Sends requests; its answers have their headers as a mapping and their JSON parsed."""

    def __init__(self, handle: Any, runtime: Runtime, endpoint: Endpoint) -> None:
        self.handle, self.runtime, self.endpoint = handle, runtime, endpoint

    async def __call__(
        self, method: str, path: str, body: bytes | None = b"", query: bytes = b"", **headers: str
    ) -> Answer:
        lines = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        return Answer(await self.handle(HttpRequest(method, path, query, lines, body)))


class Answer:
    def __init__(self, reply: Reply) -> None:
        self.status, self.body, self.lines = reply.status, reply.body, reply.headers
        self.headers = dict(reply.headers)
        assert len(self.headers) == len(reply.headers), f"a header twice: {reply.headers}"

    @property
    def json(self) -> Any:
        assert isinstance(self.body, bytes)
        return json.loads(self.body)

    @property
    def message(self) -> str:
        assert self.headers[b"content-type"] == b"application/json"
        assert list(self.json) == ["message"]
        text: str = self.json["message"]
        return text


# --- routes ---------------------------------------------------------------------------------------

ROUTES = [
    # method, path, status, body (JSON, or bytes)
    ("POST", "/score", 200, "in"),
    ("GET", "/score", 200, "{}"),
    ("OPTIONS", "/score", 200, b""),
    ("HEAD", "/score", 405, None),
    ("PUT", "/score", 405, NOT_ALLOWED),
    ("DELETE", "/score", 405, NOT_ALLOWED),
    ("PATCH", "/score", 405, NOT_ALLOWED),
    ("GET", "/", 200, b"Healthy"),
    ("HEAD", "/", 200, b"Healthy"),
    ("OPTIONS", "/", 200, b""),
    ("POST", "/", 405, NOT_ALLOWED),
    ("DELETE", "/", 405, NOT_ALLOWED),
    ("GET", "/health/live", 200, {"state": "Healthy"}),
    ("HEAD", "/health/ready", 200, {"state": "Healthy"}),
    ("OPTIONS", "/health/live", 200, b""),
    ("GET", "/health/ready", 200, {"state": "Healthy"}),
    ("POST", "/health/ready", 405, NOT_ALLOWED),
    ("POST", "/swagger.json", 405, NOT_ALLOWED),
    ("OPTIONS", "/swagger.json", 200, b""),
    ("GET", "/score/", 404, NOT_FOUND),
    ("POST", "/Score", 404, NOT_FOUND),
    ("GET", "/health", 404, NOT_FOUND),
    ("POST", "/nothing", 404, NOT_FOUND),
    ("BREW", "/nothing", 404, NOT_FOUND),
    ("BREW", "/score", 405, NOT_ALLOWED),
    ("GET", "", 404, NOT_FOUND),
]


@pytest.mark.parametrize(("method", "path", "status", "body"), ROUTES)
async def test_routes(serving, method, path, status, body):
    """Rows 2, 4 and 29 of the contract."""

    send = await serving(ECHO)
    await send.runtime.started()
    answer = await send(method, path, b"in" if method == "POST" else b"")
    assert answer.status == status
    if isinstance(body, bytes):
        assert answer.body == body
        assert answer.headers[b"content-type"] == b"text/html; charset=utf-8"
    elif status >= 400:
        assert (status == 405) is (b"allow" in answer.headers)
        assert answer.message == (body or "Method not allowed")
    else:
        assert answer.json == body
        assert answer.headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize("path", ["/", "/swagger.json", "/health/live", "/health/ready"])
async def test_options_lists_what_is_allowed(serving, path):
    send = await serving(ECHO)
    answer = await send("OPTIONS", path)
    assert answer.headers[b"allow"] == b"OPTIONS, HEAD, GET"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
async def test_rawhttp_sees_every_method_that_is_routed(serving, method):
    send = await serving(RAW)
    answer = await send(method, "/score", b"x")
    assert (answer.status, answer.json) == (200, [method, "x"])
    assert (await send("PUT", "/score")).status == 405


@pytest.mark.parametrize(
    ("query", "version"),
    [(b"", "2.0"), (b"x=1&version=3", "3.0.3"), (b"version=3&version=2", "3.0.3")],
)
async def test_swagger_by_version(serving, query, version):
    send = await serving(ECHO)
    answer = await send("GET", "/swagger.json", query=query)
    assert answer.status == 200
    assert (answer.json.get("swagger") or answer.json.get("openapi")) == version


# --- states ---------------------------------------------------------------------------------------


async def test_while_init_runs_live_is_200_ready_503_and_the_rest_waits(serving):
    send = await serving("def init(): gate.wait(20)\ndef run(data): return data")
    for path, status in (("/health/live", 200), ("/health/ready", 503)):
        answer = await send("GET", path)
        assert (answer.status, answer.json) == (status, {"state": "Transitioning"})
        assert answer.headers.get(b"retry-after") == (b"1" if status == 503 else None)
    asked = [("GET", "/"), ("POST", "/score"), ("OPTIONS", "/score"), ("GET", "/swagger.json")]
    waiting = [asyncio.create_task(send(*each)) for each in asked]
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in waiting)
    gate.set()
    assert [each.status for each in await asyncio.gather(*waiting)] == [200] * 4


async def test_when_init_has_failed_everything_is_503_and_names_no_folder(serving, tmp_path):
    send = await serving(
        f"def init():\n    gate.wait(20)\n    open({str(tmp_path / 'no model')!r})\n"
        "def run(data): pass"
    )
    waiting = [
        asyncio.create_task(send(*each))
        for each in (("GET", "/"), ("POST", "/score"), ("GET", "/swagger.json"))
    ]
    await asyncio.sleep(0.02)
    gate.set()
    answers = await asyncio.gather(*waiting)
    answers += [await send("GET", "/swagger.json"), await send("POST", "/score")]
    for answer in answers:
        assert answer.status == 503
        assert answer.headers[b"retry-after"] == b"1"
        assert str(tmp_path) not in answer.message
        assert "no model" not in answer.message
    assert answers[0].message == "The service is Failed."
    for path in ("/health/live", "/health/ready"):
        assert (await send("GET", path)).json == {"state": "Failed"}
        assert (await send("GET", path)).status == 503


async def test_a_run_past_its_deadline_makes_health_503_until_it_returns(serving):
    """Row 40 of the contract."""

    send = await serving(
        "def init(): pass\ndef run(data): return data and gate.wait(20)",
        SCORING_TIMEOUT_MS="300",
    )
    answer = await send("POST", "/score", b"x")
    assert (answer.status, answer.message) == (500, "Scoring timeout after 300 ms")
    assert answer.headers[b"x-ms-run-function-failed"] == b"True"
    assert (await send("GET", "/")).message == "The service is Unhealthy."
    for path in ("/health/live", "/health/ready"):
        answer = await send("GET", path)
        assert (answer.status, answer.json) == (503, {"state": "Unhealthy"})
    gate.set()
    while send.runtime.state is not State.HEALTHY:
        await asyncio.sleep(0.005)
    assert (await send("GET", "/health/live")).status == 200


# --- errors ---------------------------------------------------------------------------------------

SECRET = "what went wrong in the folder of this machine"
# What clients are told of, by its status; the texts of all others are for operators.
STATUSES: dict[type[Exception], int] = {
    errors.InputError: 400,
    errors.UndecodableInput: 400,
    errors.SchemaMismatch: 400,
    errors.UnsupportedContentType: 415,
    errors.UnsupportedMethod: 405,
    errors.NotAcceptable: 406,
    errors.UnknownModel: 404,
    errors.InputTooLarge: 413,
    errors.RequestIdTooLong: 431,
    errors.InputNotFound: 404,
    errors.KeyRefused: 401,
    errors.KeyMissing: 401,
    errors.KeyTooWeak: 403,
    NoSuchDocument: 404,
    errors.RunError: 500,
    errors.RunFailed: 500,
    errors.RunTimeout: 500,
    errors.NotBegun: 500,
    errors.WrongBatchLength: 500,
    errors.ResultNotSerializable: 500,
    errors.ResponseNotSendable: 500,
    errors.NotServing: 503,
    errors.QueueFull: 503,
    errors.Stopping: 503,
    errors.NotStarted: 503,
    errors.StoreAway: 503,
}
EVERY_ERROR = [each for each in vars(errors).values() if isinstance(each, type)]


@pytest.mark.parametrize(
    "kind", [*EVERY_ERROR, NoSuchDocument, ValueError, TimeoutError], ids=lambda kind: kind.__name__
)
async def test_an_error_becomes_its_status_and_one_message(serving, caplog, kind):
    async def score(request: ScoringRequest) -> ScoringResponse:
        raise kind(SECRET)

    send = await serving(ECHO, score)
    answer = await send("POST", "/score", x_request_id="r")
    status = STATUSES.get(kind, 500)
    assert answer.status == status
    assert answer.message == (SECRET if kind in STATUSES else INTERNAL)
    failed = b"True" if issubclass(kind, errors.RunError) else b"False"
    assert answer.headers[b"x-ms-run-function-failed"] == failed
    assert answer.headers[b"x-request-id"] == b"r"
    assert answer.headers.get(b"retry-after") == (b"1" if status == 503 else None)
    assert b"x-ms-run-fn-exec-ms" not in answer.headers
    if kind not in STATUSES:
        assert SECRET in caplog.text, "the operator has to be told"


FAILING = """
    from scoring_runtime import InputError
    def init(): pass
    class Odd:
        def __repr__(self): return __file__
    def run(data):
        if data == "raise": raise ValueError(__file__)
        if data == "refuse": raise InputError("age: expected a number, got 'x'")
        if data == "open": open(__file__ + ".missing")
        if data == "odd": return {"a": [Odd()]}
        return data
    """


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"raise", 500, RUN_FAILED),
        (b"open", 500, RUN_FAILED),
        (b"refuse", 400, "age: expected a number, got 'x'"),
        (b"\xff\xfe", 400, "Input cannot be decoded as UTF-8: 'utf-8' codec can't decode byte"),
        (b"odd", 500, "The result of run() cannot be sent as JSON: result['a'][0] is of type"),
    ],
    ids=lambda value: value.decode("latin-1") if isinstance(value, bytes) else "",
)
async def test_no_stack_trace_and_no_path_of_the_machine_is_in_an_answer(
    serving, tmp_path, body, status, text
):
    send = await serving(textwrap.dedent(FAILING))
    answer = await send("POST", "/score", body)
    assert answer.status == status
    assert answer.message.startswith(text)
    for secret in ("Traceback", "score.py", str(tmp_path), "/site-packages", "line "):
        assert secret not in answer.message
    assert (await send("POST", "/score", b"fine")).json == "fine"


async def test_a_full_queue_is_503_with_retry_after(serving):
    send = await serving(
        "def init(): pass\ndef run(data): return data and gate.wait(20)",
        SCORING_QUEUE_SIZE="1",
    )
    first = asyncio.create_task(send("POST", "/score", b"wait"))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(send("POST", "/score", b""))
    await asyncio.sleep(0)
    answer = await send("POST", "/score", b"")
    assert answer.status == 503
    assert answer.headers[b"retry-after"] == b"1"
    assert answer.message.startswith("1 requests wait already (SCORING_QUEUE_SIZE).")
    gate.set()
    assert [(await each).status for each in (first, second)] == [200, 200]


async def test_retry_after_is_not_added_to_a_503_that_the_script_chose(serving):
    send = await serving(
        "from scoring_runtime import AMLResponse\n"
        "def init(): pass\ndef run(data): return AMLResponse('later', 503)",
    )
    answer = await send("POST", "/score")
    assert answer.status == 503
    assert b"retry-after" not in answer.headers


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 413)])
async def test_the_largest_body_is_scored_and_one_byte_more_refused(serving, size, status):
    send = await serving(ECHO, SCORING_MAX_BODY_BYTES="100")
    answer = await send("POST", "/score", b"x" * size)
    assert answer.status == status
    if status == 413:
        assert answer.message == ("The body is larger than 100 bytes (SCORING_MAX_BODY_BYTES).")


async def test_a_body_that_its_host_has_not_read_is_too_large(serving):
    send = await serving(ECHO, SCORING_MAX_BODY_BYTES="100", AML_CORS_ORIGINS="https://here")
    answer = await send("POST", "/score", None, x_request_id="big", origin="https://here")
    assert answer.status == 413
    assert answer.message == "The body is larger than 100 bytes (SCORING_MAX_BODY_BYTES)."
    assert answer.headers[b"x-request-id"] == b"big"
    assert answer.headers[b"access-control-allow-origin"] == b"https://here"
    long = await send("POST", "/score", None, x_request_id="x" * 101)
    assert long.status == 431
    assert b"x-request-id" not in long.headers


# --- headers --------------------------------------------------------------------------------------


async def test_the_headers_of_a_scored_answer(serving):
    """Row 36 of the contract: flag, time with three decimals, ids, version."""

    send = await serving(ECHO)
    answer = await send("POST", "/score", b"x")
    assert answer.headers.pop(b"content-type") == b"application/json"
    assert answer.headers.pop(b"x-ms-run-function-failed") == b"False"
    assert re.fullmatch(rb"[0-9]+\.[0-9]{3}", answer.headers.pop(b"x-ms-run-fn-exec-ms"))
    assert UUID4.fullmatch(answer.headers[b"x-request-id"])
    assert answer.headers.pop(b"x-request-id") == answer.headers.pop(b"x-ms-request-id")
    assert re.fullmatch(rb"scoring-runtime/[0-9.]+", answer.headers.pop(b"x-ms-server-version"))
    assert answer.headers == {b"x-model-name": b"model", b"x-model-version": b"1"}


async def test_the_time_is_that_of_run(serving):
    send = await serving("import time\ndef init(): pass\ndef run(data): time.sleep(0.06)")
    answer = await send("POST", "/score", b"x")
    assert 60 <= float(answer.headers[b"x-ms-run-fn-exec-ms"]) < 5000


@pytest.mark.parametrize(("value", "sent"), [("True", True), ("no", False)])
async def test_the_version_header_can_be_switched_off(serving, value, sent):
    """Row 51 of the contract."""

    send = await serving(ECHO, SERVER_VERSION_LOG_RESPONSE_ENABLED=value)
    answer = await send("POST", "/score")
    assert (b"x-ms-server-version" in answer.headers) is sent


async def test_a_script_cannot_overwrite_ids_or_framing(serving):
    send = await serving(
        "from scoring_runtime import AMLResponse\n"
        "def init(): pass\n"
        "def run(data): return AMLResponse('x', 200, {'X-Request-Id': 'evil', 'x-own': 'kept',\n"
        "    'x-ms-request-id': 'evil', 'Content-Length': '999', 'Transfer-Encoding': 'chunked',\n"
        "    'Connection': 'upgrade'})",
    )
    answer = await send("POST", "/score", x_request_id="mine")
    assert answer.headers[b"x-request-id"] == b"mine"
    assert answer.headers[b"x-ms-request-id"] == b"mine"
    for name in (b"content-length", b"transfer-encoding", b"connection"):
        assert name not in answer.headers
    assert answer.headers[b"x-own"] == b"kept"


# request ids → x-request-id, x-ms-request-id, x-ms-client-request-id; None: made, "": not sent
IDS = [
    ({}, None, None, ""),
    ({"x_request_id": "A"}, "A", "A", ""),
    ({"x_ms_request_id": "B"}, None, "B", "B"),
    ({"x_ms_client_request_id": "C"}, None, "C", "C"),
    ({"x_ms_request_id": "B", "x_ms_client_request_id": "C"}, None, "B", "C"),
    ({"x_request_id": "A", "x_ms_client_request_id": "C"}, "A", "C", "C"),
    ({"x_request_id": "a" * 100}, "a" * 100, "a" * 100, ""),
]


@pytest.mark.parametrize("path", ["/score", "/", "/health/live", "/swagger.json", "/nothing"])
@pytest.mark.parametrize(("sent", "request_id", "ms", "client"), IDS)
async def test_request_ids(serving, sent, request_id, ms, client, path):
    """Rows 6 and 37 of the contract, on every path."""

    send = await serving(ECHO)
    answer = await send("GET", path, **sent)
    got = {name: value.decode() for name, value in answer.headers.items()}
    made = got[b"x-request-id"]
    assert made == request_id or (request_id is None and UUID4.fullmatch(made.encode()))
    assert got[b"x-ms-request-id"] == (made if ms is None else ms)
    assert got.get(b"x-ms-client-request-id", "") == client


@pytest.mark.parametrize(
    ("sent", "text", "echoed"),
    [
        ({"x_request_id": "a" * 101}, "x-request-id must not exceed 100 characters", None),
        (
            {"x_request_id": "A", "x_ms_request_id": "c" * 101},
            "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters",
            b"A",
        ),
    ],
)
async def test_an_id_that_is_too_long_is_431_and_not_echoed(serving, sent, text, echoed):
    """Row 38 of the contract."""

    send = await serving(ECHO)
    answer = await send("POST", "/score", **sent)
    assert (answer.status, answer.message) == (431, text)
    assert answer.headers.get(b"x-request-id") == echoed
    assert b"x-ms-request-id" not in answer.headers
    assert b"x-ms-client-request-id" not in answer.headers


async def test_traceid_is_echoed(serving):
    send = await serving(ECHO)
    assert (await send("POST", "/score", traceid="t-1")).headers[b"traceid"] == b"t-1"
    assert b"traceid" not in (await send("POST", "/score")).headers


async def test_the_script_sees_the_id_of_its_request(serving):
    send = await serving(
        "from scoring_runtime.telemetry.logs import request_id\n"
        "def init(): pass\ndef run(data): return request_id.get()",
    )
    answers = [await send("POST", "/score", x_request_id="A"), await send("POST", "/score")]
    for answer in answers:
        assert answer.json.encode() == answer.headers[b"x-request-id"]


def test_made_ids_are_random_uuids_of_version_4():
    new_id = RandomIds()
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(UUID4.fullmatch(each) for each in ids)
    assert {each[19:20] for each in ids} == {b"8", b"9", b"a", b"b"}
    assert RandomIds()() not in ids


# --- CORS -----------------------------------------------------------------------------------------

PAGE, OTHER = "https://page.example", "https://other.example"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed", "vary"),
    [
        ("", PAGE, None, None),
        (PAGE, PAGE, PAGE, None),
        (PAGE, None, PAGE, None),
        (PAGE, OTHER, None, None),
        (f"{PAGE}, {OTHER}", OTHER, OTHER, "Origin"),
        (f"{PAGE},{OTHER}", "https://third.example", None, None),
        ("*", OTHER, OTHER, "Origin"),
        ("*", None, "*", None),
    ],
)
async def test_cors_origins(serving, origins, origin, allowed, vary):
    """Row 50: a page of a foreign origin still gets 200; it is the browser that refuses."""

    send = await serving(ECHO, AML_CORS_ORIGINS=origins)
    answer = await send("GET", "/", **({"origin": origin} if origin else {}))
    assert answer.status == 200
    got = answer.headers.get(b"access-control-allow-origin", b"").decode() or None
    assert got == allowed
    assert (answer.headers.get(b"vary", b"").decode() or None) == vary


@pytest.mark.parametrize(
    ("asked", "methods", "headers"),
    [
        ({"access_control_request_method": "POST"}, b"GET, POST", None),
        (
            {
                "access_control_request_method": "post",
                "access_control_request_headers": "x-b, authorization",
            },
            b"GET, POST",
            b"authorization, x-b",
        ),
        ({"access_control_request_method": "DELETE"}, None, None),
        ({}, None, None),
    ],
)
async def test_preflight(serving, asked, methods, headers):
    send = await serving(ECHO, AML_CORS_ORIGINS=PAGE)
    answer = await send("OPTIONS", "/score", origin=PAGE, **asked)
    assert answer.status == 200
    assert answer.headers[b"access-control-allow-origin"] == PAGE.encode()
    assert answer.headers.get(b"access-control-allow-methods") == methods
    assert answer.headers.get(b"access-control-allow-headers") == headers


# --- the access log -------------------------------------------------------------------------------


async def test_one_line_for_each_scored_request_and_none_for_health(serving, caplog):
    """Row 58 of the contract."""
    caplog.set_level(logging.INFO, "azmlinfsrv")

    send = await serving(
        "from scoring_runtime import AMLResponse\n"
        "def init(): pass\n"
        "def run(data): return AMLResponse(iter([b'x']), 200) if data == 'stream' else data",
    )
    await send.runtime.started()
    caplog.clear()
    await send("POST", "/score", b"abc")
    await send("GET", "/score", query=b"a=1&b=%20")
    await send("POST", "/score", b"\xff")
    await send("PUT", "/score")
    await send("POST", "/score", b"stream")
    for path in ("/", "/health/live", "/health/ready", "/nothing", "/metrics"):
        await send("GET", path)
    send.endpoint.flush_log()
    lines = [each.getMessage() for each in caplog.records if each.name == "azmlinfsrv"]
    patterns = [
        r"POST /score 200 [0-9]+\.[0-9]{3}ms 5",
        r"GET /score\?a=1&b=%20 200 [0-9]+\.[0-9]{3}ms 26",
        r"POST /score 400 [0-9]+\.[0-9]{3}ms [0-9]+",
        r"PUT /score 405 [0-9]+\.[0-9]{3}ms [0-9]+",
        r"POST /score 200 [0-9]+\.[0-9]{3}ms N/A",
        r"GET /nothing 404 [0-9]+\.[0-9]{3}ms [0-9]+",
    ]
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        about = "" if "nothing" in pattern else " model=model:1"
        assert re.fullmatch(rf"{pattern} trigger=http{about} \[[0-9a-f-]{{36}}\]", line), line


async def test_the_deprecated_id_header_is_warned_about(serving, caplog):
    send = await serving(ECHO)
    await send("POST", "/score", x_ms_request_id="B")
    assert "x-ms-request-id header has been deprecated" in caplog.text
