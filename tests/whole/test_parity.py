"""One table of requests through both hosts: same status, same body, same headers.

The standalone host as a process, and Microsoft's Functions worker library behind the test host.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.hosts.functions import FunctionsHost
from tests.hosts.standalone import StandaloneHost, clean_environ

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# What belongs to a connection and not to an answer, or to the front that the tests put before the
# worker library.
TRANSPORT = {"date", "server", "content-length", "transfer-encoding", "connection"}
JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True)
class Case:
    """One request and the status it must have."""

    name: str
    script: str
    status: int
    method: str = "POST"
    path: str = "/score"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


CASES = [
    Case("text", "text", 200, body='{"say": "grüße"}'.encode()),
    Case("empty text", "text", 200),
    Case("text that is not UTF-8", "text", 400, body=b"\xff\xfe"),
    Case("query", "text", 200, "GET", "/score?a=1&b=x&b=%C3%BC&c=%5B1%5D"),
    Case("options", "text", 200, "OPTIONS"),
    Case("put", "text", 405, "PUT", body=b"x"),
    Case("slash", "text", 404, path="/score/"),
    Case("unknown path", "text", 404, "GET", "/a/b/c"),
    Case("percent-encoded path", "text", 200, path="/sc%6Fre", body=b"x"),
    Case("gzip", "text", 200, body=gzip.compress(b"small"), headers={"content-encoding": "gzip"}),
    Case("form", "text", 200, body=b"a=1", headers=FORM),
    Case("too large", "text", 413, body=bytes(200_001)),
    Case("fails", "text", 500, body=b"fail"),
    Case("aborts", "text", 418, body=b"abort"),
    Case("not serialisable", "text", 500, body=b"object"),
    Case("root", "text", 200, "GET", "/"),
    Case("live", "text", 200, "GET", "/health/live"),
    Case("ready", "text", 200, "GET", "/health/ready"),
    Case("swagger", "text", 200, "GET", "/swagger.json"),
    Case("swagger 3.1", "schema", 200, "GET", "/swagger.json?version=3.1"),
    Case("swagger 4", "schema", 404, "GET", "/swagger.json?version=4"),
    Case("id", "text", 200, body=b"x", headers={"x-request-id": "mine"}),
    Case(
        "both ids",
        "text",
        200,
        body=b"x",
        headers={"x-ms-request-id": "o", "x-ms-client-request-id": "c"},
    ),
    Case("id too long", "text", 431, body=b"x", headers={"x-request-id": "i" * 101}),
    Case("trace id", "text", 200, body=b"x", headers={"traceid": "t"}),
    Case("origin", "text", 200, body=b"x", headers={"origin": "https://here"}),
    Case(
        "preflight",
        "text",
        200,
        "OPTIONS",
        headers={"origin": "https://here", "access-control-request-method": "POST"},
    ),
    Case("schema", "schema", 200, body=b'{"data": [[1, 2]], "name": "n"}', headers=JSON),
    Case("schema by query", "schema", 200, "GET", "/score?data=%5B%5B1,2%5D%5D&name=n"),
    Case("schema type", "schema", 400, body=b'{"data": [["a", "b"]], "name": "n"}', headers=JSON),
    Case("schema content type", "schema", 415, body=b"{}", headers={"content-type": "text/xml"}),
    Case("all bytes", "raw", 200, body=bytes(range(256))),
    Case("no bytes", "raw", 200),
    Case("raw get", "raw", 200, "GET", "/score?a=1&a=2"),
    Case("raw options", "raw", 200, "OPTIONS"),
    Case("raw put", "raw", 405, "PUT", body=b"x"),
    *(
        Case(f"status {n}", "raw", n, body=b"x", path=f"/score?status={n}")
        for n in (201, 204, 302, 404, 503)
    ),
    Case("stream", "raw", 200, body=b"x", path="/score?stream=1"),
    Case("repeated headers", "raw", 200, body=b"x", path="/score?headers=1"),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, tuple[str, str]]]:
    """The URLs of the standalone host and of the Functions host, for each script."""
    settings = {"SCORING_MAX_BODY_BYTES": "200000", "AML_CORS_ORIGINS": "https://here"}
    with ExitStack() as stack:
        urls = {}
        for name in sorted({case.script for case in CASES}):
            script = SCRIPTS / f"parity_{name}.py"
            # The documents tell of a key where one is asked for.
            open_to_all = {"SCORING_AUTH_LEVEL": "anonymous", **settings}
            environ = clean_environ(AZUREML_ENTRY_SCRIPT=str(script), **open_to_all)
            standalone = stack.enter_context(StandaloneHost(script, environ=settings))
            functions = stack.enter_context(FunctionsHost(ROOT, environ))
            urls[name] = (standalone.url, functions.url)
        yield urls


def answer(url: str, case: Case) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers, with what must differ from call to call made equal."""
    with httpx.Client(follow_redirects=False, timeout=30) as client:
        response = client.request(
            case.method, url + case.path, content=case.body or None, headers=case.headers
        )
    headers = {
        name: ", ".join(response.headers.get_list(name))
        for name in response.headers
        if name not in TRANSPORT
    }
    for name, value in headers.items():
        if name == "x-ms-run-fn-exec-ms":
            assert re.fullmatch(r"\d+\.\d{3}", value)
            headers[name] = "milliseconds"
        elif name.endswith("request-id") and UUID.fullmatch(value):
            same = value == headers["x-request-id"] or headers["x-request-id"] == "uuid"
            headers[name] = "uuid" if same else "another uuid"
    return response.status_code, response.content, headers


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_hosts_answer_alike(case: Case, hosts: dict[str, tuple[str, str]]):
    standalone, functions = (answer(url, case) for url in hosts[case.script])
    assert standalone[0] == case.status
    assert functions == standalone
