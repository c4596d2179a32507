"""The HTTP trigger on Azure Functions, in Microsoft's worker library."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from scoring_runtime.functions.http import encoded
from scoring_runtime.http.messages import Reply
from tests.hosts.functions import FunctionsHost
from tests.hosts.standalone import clean_environ

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parents[1] / "entry_scripts" / "functions_raw.py"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def host() -> Iterator[FunctionsHost]:
    environ = clean_environ(
        AZUREML_ENTRY_SCRIPT=str(SCRIPT),
        SCORING_MAX_BODY_BYTES=str(60 * 1024 * 1024),
        AML_CORS_ORIGINS="https://here",
    )
    with FunctionsHost(ROOT, environ) as started:
        yield started


def ask(host: FunctionsHost, do: str, body: bytes = b"", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{host.url}/score?do={do}", content=body, headers=names, timeout=60)


def test_the_functions_are_async(host: FunctionsHost):
    """So that one thread of the worker has any number of requests in flight."""
    ask(host, "echo")
    httpx.get(host.url, timeout=60)
    kinds = re.findall(r"Function name: (\w+), Function Type: (\w+)", host.log)
    assert {("score", "async"), ("web", "async")} <= set(kinds)
    assert {kind for _, kind in kinds} == {"async"}


def test_50_mb_survive_both_ways(host: FunctionsHost):
    body = bytes(range(256)) * (50 * 4096)
    assert len(body) == 50 * 1024 * 1024
    assert ask(host, "echo", body).content == body


def test_a_body_over_the_limit_is_413(host: FunctionsHost):
    limit = 60 * 1024 * 1024
    assert len(ask(host, "echo", bytes(limit)).content) == limit
    answer = ask(host, "echo", bytes(limit + 1))
    assert answer.status_code == 413
    assert "SCORING_MAX_BODY_BYTES" in answer.json()["message"]


def test_a_body_that_the_host_has_lost_is_not_scored_as_an_empty_one(host: FunctionsHost):
    """The Functions host passes on no body of a request without a content-length."""
    answer = httpx.post(f"{host.url}/score?do=echo", content=iter([b"a chunk"]), timeout=60)
    assert answer.status_code == 400
    assert "Send it with a Content-Length" in answer.json()["message"]
    assert "x-request-id" in answer.headers


def test_a_stream_that_fails_is_a_500_of_ours(host: FunctionsHost):
    """Nothing has been sent yet, so the client is told, and without the details."""
    answer = ask(host, "broken", x_request_id="mine", origin="https://here")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-ms-run-function-failed"] == "True"
    assert answer.headers["access-control-allow-origin"] == "https://here"
    assert list(answer.json()) == ["message"]
    assert "details" not in answer.text
    assert "the details are for the log" in host.log


def test_a_stream_that_fails_keeps_the_id_that_its_run_had(host: FunctionsHost):
    answer = ask(host, "broken")
    assert UUID.fullmatch(answer.headers["x-request-id"])
    assert answer.headers["x-ms-request-id"] == answer.headers["x-request-id"]
    assert answer.headers["x-request-id"] == ask(host, "last_request_id").json()


def test_several_cookies_are_several_headers(host: FunctionsHost):
    """With their attributes, which may change their order on the way through the worker."""
    lines = ask(host, "cookies").headers.get_list("set-cookie")
    assert sorted(line.lower().split("; ")[0] for line in lines) == ["a=1", "b=2", "c=3"]
    found = {line[0]: set(line.lower().split("; ")[1:]) for line in lines}
    assert found == {
        "a": {"max-age=60", "path=/p", "secure", "samesite=lax"},
        "b": {"httponly", "domain=a.example", "path=/"},
        "c": {"expires=wed, 01 jan 2031 00:00:00 gmt", "path=/"},
    }


def test_repeated_lines_are_joined(host: FunctionsHost):
    """Both ways: the worker keeps one line a name, and joined by commas they mean the same."""
    assert ask(host, "repeated").headers.get_list("x-many") == ["a, b, c"]
    url, lines = f"{host.url}/score?do=headers", [("x-many", "a"), ("x-many", "b")]
    assert httpx.get(url, headers=lines, timeout=60).json()["X-Many"] == "a,b"


@pytest.mark.parametrize(("status", "body"), [(200, b"b"), (204, b""), (304, b""), (500, b"b")])
def test_statuses_without_a_body_are_given_none(status: int, body: bytes):
    """The host's web server would fail the answer."""
    assert encoded(Reply(status, [], b""), b"b").get_body() == body


def test_run_is_given_the_request_headers(host: FunctionsHost):
    """By the names that scripts know; values beyond ASCII as the bytes that were sent."""
    headers = {b"X-Own": "grüße €".encode(), b"content-type": b"text/x"}
    seen = httpx.post(
        f"{host.url}/score?do=headers", content=b"b", headers=headers, timeout=60
    ).json()
    assert seen["X-Own"].encode("latin-1").decode() == "grüße €"
    assert seen["Content-Type"] == "text/x"
    assert seen["Content-Length"] == "1"
    assert seen["Host"] == host.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("target", "path", "args"),
    [
        ("/score?do=see&a=1&a=2&b=%C3%BC", "/score", {"a": ["1", "2"], "b": ["ü"]}),
        ("/score?do=see&a=%26%3D%3F%23&b=x+y", "/score", {"a": ["&=?#"], "b": ["x y"]}),
        ("/score?do=see&a=b?c://d&e=", "/score", {"a": ["b?c://d"], "e": [""]}),
        ("/sc%6Fre?do=see", "/score", {}),
    ],
    ids=["repeated", "escaped", "unescaped", "path"],
)
def test_the_script_sees_the_request_as_it_was(
    target: str, path: str, args: dict[str, list[str]], host: FunctionsHost
):
    answer = httpx.get(host.url + target, headers={"x-own": "h"}, timeout=60).json()
    assert answer.pop("url").startswith(f"{host.url}/score?do=see")
    wanted = {"do": ["see"], **args}
    assert answer == {"method": "GET", "path": path, "args": wanted, "own": "h", "client": ""}


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3, 10.9.9.9", "10.1.2.3"),
        ("10.1.2.3:50123", "10.1.2.3"),
        ("10.1.2.3:50123, 10.9.9.9:443", "10.1.2.3"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:50123, 10.9.9.9", "2001:db8::1"),
    ],
)
def test_the_client_is_the_first_address_that_was_forwarded(
    forwarded_for: str, client: str, host: FunctionsHost
):
    """Azure's front ends add a port to it."""
    assert ask(host, "see", x_forwarded_for=forwarded_for).json()["client"] == client


def test_lines_that_a_script_logs_belong_to_its_invocation(host: FunctionsHost):
    """The worker ties a line to the id that the logging thread has; each call has its own."""
    ids = [ask(host, "invocation").json() for _ in range(3)]
    assert all(UUID.fullmatch(each) for each in ids)
    assert len(set(ids)) == 3


def test_lines_of_a_stream_belong_to_the_invocation_of_its_run(host: FunctionsHost):
    """Also when others were scored between the two."""
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ask(host, "streamed_invocation").text, range(6)))
    pairs = [answer.split() for answer in answers]
    assert all(UUID.fullmatch(of_run) and of_run == of_stream for of_run, of_stream in pairs)
    assert len({of_run for of_run, _ in pairs}) == 6


def test_two_requests_at_once_and_health_while_run_is_busy(host: FunctionsHost, tmp_path: Path):
    """run() computes until health has answered."""
    began, until = tmp_path / "began", tmp_path / "until"
    what = f"busy&began={began}&until={until}"
    with ThreadPoolExecutor() as pool:
        busy = [pool.submit(ask, host, what, str(n).encode()) for n in (1, 2)]
        try:
            while not began.exists():
                assert not any(each.done() for each in busy)
                time.sleep(0.02)
            for path in ("/", "/health/live", "/health/ready"):
                assert httpx.get(host.url + path, timeout=60).status_code == 200
            assert not any(each.done() for each in busy)
        finally:
            until.touch()
        assert [each.result().content for each in busy] == [b"1", b"2"]
