"""Keys on both hosts: no spelling of path, header or query gets round one; nothing tells one."""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.conftest import WriteScript
from tests.hosts.functions import host_of
from tests.hosts.standalone import StandaloneHost, free_port
from tests.hosts.waiting import until

KEY, ADMIN = "app-0123456789abcdef", "ops-fedcba9876543210"
KEYS = {"SCORING_KEYS": f"app:{KEY}", "SCORING_ADMIN_KEYS": f"ops:{ADMIN}"}
NOTING = """
from pathlib import Path
from scoring_runtime import rawhttp
def init(): pass
@rawhttp
def run(request):
    with Path(__file__).with_name("called").open("a") as file:
        file.write(f"{request.url} {dict(request.headers)}\\n")
    return {"seen": sorted(request.headers.keys())}
"""
PROTECTED = ("score", "score/model/1", "v2/models/model/infer", "metrics", "status", "inputs/a")
# How the path of a route is written; {} is the route.
SPELLINGS = (
    "/{}", "//{}", "///{}", "/{}/", "/{}//", "/./{}", "/../{}", "/a/../{}", "/health/../{}",
    "/health/live/../../{}", "/health/ready/{}", "/;/{}", "/{};a=b", "/{}?", "/{}#", "/{}%00",
    "/{}%20", "/%20{}", "/%2e/{}", "/%2e%2e/{}", "/health%2f..%2f{}", "/%2F{}", "/{}%2F",
    "/%5C{}", "\\\\{}", "/{}%3f", "/{}%23", "/\u00e4{}", "http://other/{}", "http://a@b/{}",
    "/health/live?/{}", "/v2/health/live/{}", "/{}.json", "/{}%0d%0aX-Functions-Key:a",
    "*{}", "/{}%09", "/.{}", "/{}..;/", "/api/{}", "/admin/host/{}",
)  # fmt: skip
# What is sent in place of a key.
CREDENTIALS = (
    "", "x-functions-key: ", "x-functions-key: *", "x-functions-key: null", "Authorization: Bearer",
    "Authorization: Bearer ", "Authorization: Basic Og==", "authorization: bearer undefined",
    "X-Functions-Key: app", f"X-Functions-Key: {KEY[:-1]}", f"X-Functions-Key: {KEY.upper()}",
    "X-Original-URL: /health/live", "X-Rewrite-URL: /health/live", "X-Forwarded-Prefix: /health",
    "X-HTTP-Method-Override: OPTIONS", "X-Forwarded-For: 127.0.0.1", "Host: 127.0.0.1",
    "x-ms-client-principal: e30=", "Origin: null\r\nAccess-Control-Request-Method: POST",
)  # fmt: skip
QUERIES = ("", "?code", "?code=", "?code=%00", f"?code={KEY[:-1]}", "?Code[]=1", "?code=a&code=b")


def spelled(route: str) -> Iterator[str]:
    """The route, each character of it percent-encoded, once or twice, and in upper case."""
    yield from (each.format(route) for each in SPELLINGS)
    yield "/" + "".join(f"%{ord(each):02X}" for each in route)
    yield "/" + "".join(f"%25{ord(each):02x}" for each in route)
    yield f"/{route.upper()}"
    yield f"/{route.title()}"


def exchange(address: tuple[str, int], raw: bytes) -> int:
    """The status of what bytes are answered with; 0 for a connection that is ended instead."""
    with socket.create_connection(address, 30) as wire:
        wire.sendall(raw)
        wire.settimeout(30)
        data = b""
        while b"\r\n" not in data:
            try:
                part = wire.recv(4096)
            except ConnectionResetError:
                break
            if not part:
                break
            data += part
    found = re.match(rb"HTTP/1\.[01] (\d{3})", data)
    return int(found[1]) if found else 0


def raw(method: str, target: str, lines: str) -> bytes:
    host = "" if lines.lower().startswith("host:") else "Host: x\r\n"
    more = f"{lines}\r\n" if lines else ""
    end = "Content-Length: 2\r\nConnection: close\r\n\r\n[]"
    return f"{method} {target} HTTP/1.1\r\n{host}{more}{end}".encode()


def attempts() -> list[tuple[str, str, str]]:
    """Every spelling with each method; every credential, every query, and some of both at once."""
    methods = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH")
    found = [
        (method, target, "")
        for route in PROTECTED
        for target in spelled(route)
        for method in methods
    ]  # fmt: skip
    sent = [(lines, "") for lines in CREDENTIALS] + [("", query) for query in QUERIES]
    sent += zip(CREDENTIALS, itertools.cycle(QUERIES))
    found += [
        (method, f"/{route}{query}", lines)
        for route, (lines, query), method in itertools.product(PROTECTED, sent, ("POST", "OPTIONS"))
    ]
    return found


def statuses(url: str, tries: list[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 0)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda each: exchange(address, raw(*each)), tries)
        return dict(zip(tries, found, strict=True))


def is_health(target: str) -> bool:
    """Those that are written so that they end up at an open route, whatever follows."""
    path = re.sub(r"^http://[^/]*", "", target).partition("?")[0].partition("#")[0]
    return path in ("/", "/health/live", "")


def check_nothing_is_open(url: str, script: Path) -> None:
    """No request without a key is answered with more than a refusal, and none reaches run()."""
    tries = [*dict.fromkeys(each for each in attempts() if not is_health(each[1]))]
    assert len({target for _, target, _ in tries}) > 30 * len(PROTECTED)
    found = statuses(url, tries)
    allowed = {0, 400, 401, 404, 405}
    assert {each: status for each, status in found.items() if status not in allowed} == {}
    plain = {each: found[each] for each in found if each[1] in {f"/{r}" for r in PROTECTED}}
    assert set(plain.values()) == {401}
    assert not script.with_name("called").exists()
    answer = httpx.post(f"{url}/score", json=[], headers={"x-functions-key": KEY})
    assert answer.status_code == 200
    assert script.with_name("called").read_text().count("\n") == 1


def test_no_spelling_gets_round_a_key_on_the_standalone_host(write_script: WriteScript) -> None:
    script = write_script(NOTING)
    environ = {**KEYS, "CACHE_URL": "memory://", "AML_CORS_ORIGINS": "https://a.example"}
    with StandaloneHost(script, environ=environ) as host:
        tries = [each for each in attempts() if "Access-Control-Request-Method" in each[2]]
        asked = statuses(host.url, [each for each in tries if each[0] == "OPTIONS"])
        assert set(asked.values()) == {200}  # by the host itself: a browser's first question
    with StandaloneHost(script, environ={**KEYS, "CACHE_URL": "memory://"}) as host:
        check_nothing_is_open(host.url, script)
        for key, status in ((KEY, 403), (ADMIN, 201)):
            headers = {"x-functions-key": key}
            answer = httpx.put(f"{host.url}/inputs/a", json=1, headers=headers)
            assert answer.status_code == status
    assert "Traceback" not in host.log


def test_no_spelling_gets_round_a_key_on_functions(write_script: WriteScript) -> None:
    """Whose own keys are off here: this is what stands behind them."""
    script = write_script(NOTING)
    environ = {**KEYS, "CACHE_URL": "memory://", "SCORING_AUTH_LEVEL": "anonymous"}
    with host_of(script, **environ) as host:
        check_nothing_is_open(host.url, script)


def test_on_functions_both_keys_are_asked_for(write_script: WriteScript) -> None:
    """The app's as it always was, and this one beside it."""
    script = write_script(NOTING)
    with host_of(script, **KEYS, FUNCTIONS_HOST_CHECK_KEYS="1") as host:
        both = {"x-functions-key": "test-key", "authorization": f"Bearer {KEY}"}
        for headers, status in (
            (both, 200),
            ({"x-functions-key": "test-key"}, 401),
            ({"authorization": f"Bearer {KEY}"}, 401),
        ):
            assert httpx.post(f"{host.url}/score", json=1, headers=headers).status_code == status


# --- nothing tells a key --------------------------------------------------------------------------


def test_logs_errors_metrics_and_pages_hold_no_key(write_script: WriteScript) -> None:
    """Whatever is sent, right or wrong, and whatever the script prints of its request."""
    printed = "    print(request.url, dict(request.headers))\n    return {"
    script = write_script(NOTING.replace("    return {", printed))
    wrong = "wrong-0123456789abcdef"
    told: list[str] = []
    with StandaloneHost(script, environ={**KEYS, "AZUREML_LOG_LEVEL": "DEBUG"}) as host:
        for sent in (KEY, ADMIN, wrong):
            for path in ("/score", "/metrics", "/status", "/docs", "/nowhere", "/swagger.json"):
                for headers, query in (
                    ({"x-functions-key": sent}, ""),
                    ({"authorization": f"Bearer {sent}"}, ""),
                    ({"accept": "text/html"}, f"?code={sent}"),
                ):
                    answer = httpx.post(f"{host.url}{path}{query}", json=1, headers=headers)
                    told += [answer.text, str(answer.headers)]
                    answer = httpx.get(f"{host.url}{path}{query}", headers=headers)
                    told += [answer.text, str(answer.headers)]
    told += [host.log, script.with_name("called").read_text()]
    assert " key=app [" in host.log
    assert " key=ops [" in host.log
    for secret in (KEY, ADMIN, wrong):
        assert [each for each in told if secret in each] == []


def test_a_refused_start_shows_no_key(write_script: WriteScript) -> None:
    environ = {"SCORING_KEYS": "app:0123456789abcde", "SCORING_ADMIN_KEYS": f"ops:{ADMIN}"}
    host = StandaloneHost(write_script(NOTING), environ=environ)
    host.start()
    assert host.process.wait(60) == 3
    log = host.log
    host.stop()
    assert "SCORING_KEYS, entry 1: the key has 15 characters; allowed are 16 to 1024." in log
    assert "Traceback" not in log
    assert "0123456789abcde" not in log
    assert ADMIN not in log


# --- the standalone host --------------------------------------------------------------------------


def test_the_body_of_a_refused_request_is_not_read(write_script: WriteScript) -> None:
    """The answer comes before it, and before 100 Continue; of a small one the connection stays."""
    with StandaloneHost(write_script(NOTING), environ=KEYS) as host:
        address = ("127.0.0.1", host.port)
        for more in ("Content-Length: 90000000", "Transfer-Encoding: chunked"):
            for expect in ("", "Expect: 100-continue\r\n"):
                head = f"POST /score HTTP/1.1\r\nHost: x\r\n{expect}{more}\r\n\r\n"
                assert exchange(address, head.encode()) == 401
        with httpx.Client(base_url=host.url) as client:
            for _ in range(3):
                answer = client.post("/score", content=b"x" * 1000)
                assert answer.status_code == 401
                assert "connection" not in answer.headers
        held = psutil.Process(host.worker).memory_info().rss
        with ThreadPoolExecutor(8) as pool:
            body = b"x" * 20_000_000
            sent = [pool.submit(_refused, host.url, body) for _ in range(16)]
            assert {each.result() for each in sent} <= {401, 0}
        assert psutil.Process(host.worker).memory_info().rss - held < 40_000_000
        big = {"x-functions-key": KEY}
        answer = httpx.post(f"{host.url}/score", content=b"x" * 1_000_000, headers=big)
        assert answer.status_code == 200


def _refused(url: str, body: bytes) -> int:
    try:
        return httpx.post(f"{url}/score", content=body, timeout=60).status_code
    except httpx.TransportError:  # it was closed while this still sent
        return 0


def test_a_renewed_file_counts_in_every_worker(write_script: WriteScript, tmp_path: Path) -> None:
    """And scoring goes on meanwhile with the key that is in both files."""
    file = tmp_path / "keys.txt"
    file.write_text(f"app:{KEY}\n")
    environ = {"SCORING_KEYS_FILE": str(file), "WORKER_COUNT": "2"}
    new = "new-0123456789abcdef"
    with StandaloneHost(write_script(NOTING), environ=environ) as host:

        def status(key: str) -> int:
            headers = {"x-functions-key": key}
            return httpx.post(f"{host.url}/score", json=1, headers=headers).status_code

        assert [status(KEY), status(new)] == [200, 401]
        for text, statuses_ in (
            (f"app:{KEY}\nnew:{new}\n", [200, 200]),
            (f"app:{KEY}\nnew:short\n", [200, 200]),
            (f"new:{new}\n", [401, 200]),
        ):
            other = tmp_path / "other.txt"
            other.write_text(text)
            other.replace(file)
            time.sleep(0.2)
            for _ in range(20):
                assert [status(KEY), status(new)] == statuses_
    assert f"stay as they were: SCORING_KEYS_FILE, {file}, line 2: the key has 5 char" in host.log


def test_the_second_port_has_health_and_metrics_only(write_script: WriteScript) -> None:
    """Health without a key, metrics with an administrator's; no page, no score, no 401 for what is
    not there."""
    second = free_port()
    environ = {**KEYS, "SEPERATE_HEALTH_ENDPOINT": "true", "HEALTH_PORT": str(second)}
    with StandaloneHost(write_script(NOTING), environ=environ) as host:
        url, admin = f"http://127.0.0.1:{second}", {"x-functions-key": ADMIN}
        assert httpx.get(f"{url}/", headers={"accept": "text/html"}).text == "Healthy"
        for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(url + path).status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 401
        accept = {"accept": "application/openmetrics-text"}
        answer = httpx.get(f"{url}/metrics", headers=admin | accept)
        assert answer.text.rstrip().endswith("# EOF")
        for path in ("/score", "/status", "/docs", "/swagger.json", "/v2", "/nowhere"):
            answers = [httpx.post(url + path, json=1), httpx.get(url + path, headers=admin)]
            assert {each.status_code for each in answers} == {404}
        assert httpx.get(f"{host.url}/status", headers=admin).status_code == 200


def listens_at(host: StandaloneHost) -> set[str]:
    process = psutil.Process(host.process.pid)
    return {each.laddr.ip for each in process.net_connections() if each.status == "LISTEN"}


@pytest.mark.parametrize(
    ("environ", "address", "said"),
    [
        ({}, "127.0.0.1", "this machine only (SCORING_HOST), without a key and without TLS\n"),
        (
            {"SCORING_KEYS": f"app:{KEY}"},
            "0.0.0.0",
            "every machine that reaches 0.0.0.0 (SCORING_HOST), without TLS\n"
            "Scoring:        with a key (SCORING_KEYS)\n"
            "All else:       closed (set SCORING_ADMIN_KEYS); health without\n",
        ),
        (
            {**KEYS, "SCORING_HOST": "127.0.0.1", "SCORING_METRICS_OPEN": "true"},
            "127.0.0.1",
            "this machine only (SCORING_HOST), without TLS\n"
            "Scoring:        with a key (SCORING_KEYS) or an administrator's key "
            "(SCORING_ADMIN_KEYS)\n"
            "All else:       with an administrator's key; health and /metrics without\n",
        ),
        (
            {"SCORING_HOST": "0.0.0.0"},
            "0.0.0.0",
            "every machine that reaches 0.0.0.0 (SCORING_HOST), without a key and without TLS\n",
        ),
    ],
)
def test_without_keys_it_is_open_to_this_machine_only(
    environ: dict[str, str], address: str, said: str, write_script: WriteScript
) -> None:
    """Unless it is told where to listen; and the banner says what is open to whom."""
    host = StandaloneHost(write_script(NOTING), environ=environ)
    host._command = [each for each in host._command if each not in ("--host", "127.0.0.1")]
    with host:
        until(lambda: listens_at(host) == {address})
        assert f"\nOpen to:        {said}Documentation:" in host.log


def test_the_access_line_as_json_has_the_name_of_the_key(write_script: WriteScript) -> None:
    environ = {**KEYS, "SCORING_LOG_FORMAT": "json"}
    with StandaloneHost(write_script(NOTING), environ=environ) as host:
        httpx.post(f"{host.url}/score", json=1, headers={"x-functions-key": KEY})
        httpx.post(f"{host.url}/score", json=1)

        def lines() -> list[Any]:
            found = [json.loads(line) for line in host.log.splitlines() if '"status"' in line]
            return found if len(found) == 2 else []

        found = [(each["status"], each.get("key")) for each in until(lines)]
        assert found == [(200, "app"), (401, None)]
