"""The HTTP trigger on Azure Functions, in Microsoft's worker library."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from scoring_runtime.functions.http import encoded
from scoring_runtime.http_messages import Reply
from tests.functions_host import FunctionsHost
from tests.standalone_host import clean_environ

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "entry_scripts" / "functions_raw.py"


@pytest.fixture(scope="module")
def host() -> Iterator[FunctionsHost]:
    environ = clean_environ(
        AZUREML_ENTRY_SCRIPT=str(SCRIPT), SCORING_MAX_BODY_BYTES=str(60 * 1024 * 1024)
    )
    with FunctionsHost(ROOT, environ) as started:
        yield started


def ask(host: FunctionsHost, do: str, body: bytes = b"", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{host.url}/score?do={do}", content=body, headers=names, timeout=60)


@pytest.mark.parametrize(
    "body",
    [b"", bytes(range(256)), b"\xff\xfe\x00", b'{"a": 1}'],
    ids=["none", "all", "bad", "json"],
)
def test_bytes_survive_both_ways(body: bytes, host: FunctionsHost):
    answer = ask(host, "echo", body)
    assert answer.content == body
    assert answer.headers["content-type"] == "application/octet-stream"


def test_50_mb_survive_both_ways(host: FunctionsHost):
    body = bytes(range(256)) * (50 * 4096)
    assert len(body) == 50 * 1024 * 1024
    assert ask(host, "echo", body).content == body


def test_a_body_over_the_limit_is_413(host: FunctionsHost):
    answer = ask(host, "echo", bytes(60 * 1024 * 1024 + 1))
    assert answer.status_code == 413
    assert "SCORING_MAX_BODY_BYTES" in answer.json()["message"]


def test_a_stream_becomes_one_body(host: FunctionsHost):
    assert ask(host, "stream").content == b"".join(bytes([n]) * 1000 for n in range(100))


def test_a_stream_that_fails_is_a_500_of_ours(host: FunctionsHost):
    """Nothing has been sent yet, so the client is told, and without the details."""
    answer = ask(host, "broken", x_request_id="mine")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-ms-run-function-failed"] == "True"
    assert list(answer.json()) == ["message"]
    assert "details" not in answer.text
    assert "the details are for the log" in host.log


def test_several_cookies_are_several_headers(host: FunctionsHost):
    cookies = ask(host, "cookies").headers.get_list("set-cookie")
    assert sorted(cookie.split(";")[0] for cookie in cookies) == ["a=1", "b=2"]


def test_repeated_lines_are_joined_and_cookies_are_not():
    """The worker keeps one line a name; joined by a comma it means the same."""
    lines = [(b"x-many", b"a"), (b"x-many", b"b"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    response = encoded(Reply(201, lines, b""), b"body")
    assert response.status_code == 201
    assert response.get_body() == b"body"
    assert response.headers.get_all("x-many") == ["a, b"]
    assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]


def test_the_script_sees_the_request_as_it_was(host: FunctionsHost):
    answer = httpx.get(
        f"{host.url}/score?do=see&a=1&a=2&b=%C3%BC",
        headers={"x-own": "h", "x-forwarded-for": "10.1.2.3, 10.9.9.9"},
    ).json()
    assert answer == {
        "method": "GET",
        "path": "/score",
        "args": {"do": ["see"], "a": ["1", "2"], "b": ["ü"]},
        "own": "h",
        "client": "10.1.2.3",
    }


def test_lines_that_a_script_logs_belong_to_its_invocation(host: FunctionsHost):
    """The worker ties a line to the id that the logging thread has; each call has its own."""
    ids = {ask(host, "invocation").json() for _ in range(3)}
    assert len(ids) == 3
    assert None not in ids


def test_two_requests_at_once_and_health_while_run_is_busy(host: FunctionsHost):
    with ThreadPoolExecutor() as pool:
        busy = [pool.submit(ask, host, "busy", str(n).encode()) for n in (1, 2)]
        time.sleep(0.3)
        began = time.monotonic()
        assert httpx.get(f"{host.url}/health/live").status_code == 200
        assert time.monotonic() - began < 1
        assert not any(each.done() for each in busy)
        assert [each.result().content for each in busy] == [b"1", b"2"]


def test_a_script_that_exits_fails_its_request_alone(host: FunctionsHost):
    answer = ask(host, "exit")
    assert answer.status_code == 500
    assert answer.headers["x-ms-run-function-failed"] == "True"
    assert ask(host, "echo", b"still here").content == b"still here"
    assert host.process.poll() is None
