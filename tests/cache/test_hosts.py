"""The cache in whole hosts: every trigger, failures of Redis, TLS, cluster, processes."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.functions import FunctionsHost
from tests.hosts.redis import RedisServer, RedisServerWithTls
from tests.hosts.standalone import StandaloneHost, clean_environ, free_port
from tests.hosts.waiting import until
from tests.hosts.ways import Ways

ROOT = Path(__file__).parents[2]
JSON = {"content-type": "application/json"}
COUNTING = """
    import json, pathlib, time

    def init():
        pass

    def run(data):
        with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
            calls.write("x")
        time.sleep(0.003)
        return {"got": json.loads(data)}
"""


def calls(script: Path) -> int:
    path = script.with_name("calls")
    return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def post(url: str, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/score", content=body, headers={**JSON, **headers}, timeout=120)


def is_hit(url: str, body: bytes) -> bool:
    return post(url, body).headers["x-cache"] == "hit"


# --- every trigger --------------------------------------------------------------------------------


def ways_of(script: Path, redis: RedisServer, azurite: Azurite) -> Ways:
    """One script on both hosts with every trigger."""
    cache = {"CACHE_URL": redis.url, "CACHE_TIMEOUT_MS": "5000"}
    keyed = {"AZUREML_ENTRY_SCRIPT": str(script), "FUNCTIONS_HOST_CHECK_KEYS": "1"}
    return Ways(
        azurite,
        lambda environ: StandaloneHost(script, environ={**environ, **cache}),
        lambda environ: FunctionsHost(ROOT, clean_environ(**environ, **cache, **keyed)),
    )


def test_a_result_is_found_through_every_trigger_and_host(
    server: RedisServer, azurite: Azurite, write_script: WriteScript
) -> None:
    """One run() for all; the same bytes."""
    script = write_script(COUNTING)
    with ways_of(script, server, azurite) as ways:
        first = post(ways.standalone.url, b'{"a":1,"b":[1.5]}')
        assert first.headers["x-cache"] == "miss"
        until(lambda: post(ways.standalone.url, b'{"a":1,"b":[1.5]}').headers["x-cache"] == "hit")
        again = post(ways.standalone.url, b'{"a": 1, "b": [1.5]}')
        same = ("content-type", "x-ms-run-fn-exec-ms", "x-ms-run-function-failed", "content-length")
        assert again.content == first.content
        assert {n: again.headers[n] for n in same} == {n: first.headers[n] for n in same}
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        assert int(again.headers["age"]) < 30
        assert ways.blob("equal", b'{"a": 1,"b":[1.5]}', {}) == ("out", first.content)
        assert ways.message(b'{"a": 1, "b": [1.5]}', {})[0].body == first.content
        keyed = {"x-functions-key": "test-key"}
        functions = post(ways.functions.url, b'{"a":1, "b":[1.5]}', **keyed)
        assert functions.content == first.content
        assert functions.headers["x-cache"] == "hit"
        assert calls(script) == 1


def test_an_input_by_key_is_scored_through_every_trigger(
    server: RedisServer, azurite: Azurite, write_script: WriteScript
) -> None:
    """PUT on one host, scored on both; an unknown key is named by each in its own way."""
    with ways_of(write_script(COUNTING), server, azurite) as ways:
        put = httpx.put(f"{ways.standalone.url}/inputs/case-1", content=b'{"k":1}', headers=JSON)
        assert (put.status_code, put.json()) == (201, {"key": "case-1", "seconds": 3600})
        keyed = {"x-functions-key": "test-key"}
        scored = b'{"got":{"k":1}}'
        assert post(ways.standalone.url, b"", **{"x-input-key": "case-1"}).content == scored
        on_functions = post(ways.functions.url, b"", **{"x-input-key": "case-1"}, **keyed)
        assert on_functions.content == scored
        assert ways.blob("by-key", b"", {"x_input_key": "case-1"}) == ("out", scored)
        assert ways.message(b"", {"x-input-key": "case-1"})[0].body == scored

        unknown = post(ways.standalone.url, b"", **{"x-input-key": "nobody"})
        assert unknown.status_code == 404
        assert "'nobody'" in unknown.json()["message"]
        kind, error = ways.blob("unknown", b"", {"x_input_key": "nobody"})
        assert (kind, error) == ("error", unknown.content)
        reply, [dead] = ways.message(b"", {"x-input-key": "nobody"})
        assert (reply.body, reply.application_properties["status"]) == (unknown.content, 404)
        assert dead.application_properties["DeadLetterReason"] == "InputNotFound"
        assert "'nobody'" in dead.application_properties["DeadLetterErrorDescription"]

        inputs = f"{ways.functions.url}/inputs/case-1"
        assert httpx.put(inputs, content=b"1").status_code == 401
        assert httpx.delete(inputs, headers=keyed).status_code == 204
        assert httpx.delete(inputs, headers=keyed).status_code == 404
        assert httpx.get(f"{ways.functions.url}/metrics").status_code == 401
        metrics = httpx.get(f"{ways.functions.url}/metrics", headers=keyed).text
        assert "\nscoring_cache_misses_total " in metrics
        assert post(ways.standalone.url, b"", **{"x-input-key": "case-1"}).status_code == 404


def test_messages_and_blobs_that_name_a_key_wait_for_redis(
    azurite: Azurite, write_script: WriteScript
) -> None:
    """HTTP is answered 503; nothing is dead-lettered, and all is scored when it is back."""
    # What was PUT is there at once when it is back: whoever looks first finds it.
    lasting = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    with lasting as redis, ways_of(write_script(COUNTING), redis, azurite) as ways:
        put = f"{ways.standalone.url}/inputs/later"
        assert httpx.put(put, content=b"7", headers=JSON, timeout=60).status_code == 201
        redis.stop(signal.SIGKILL)
        answer = post(ways.standalone.url, b"", **{"x-input-key": "later"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        source = ways.storage.get_blob_client(ways.input, "waits.json")
        source.upload_blob(b"", metadata={"x_input_key": "later"})
        for number in range(5):
            ways.broker.send(
                "input", b"", message_id=f"w{number}", properties={"x-input-key": "later"}
            )
        time.sleep(2)
        redis.start()
        until(lambda: len(ways.broker.messages("output")) == 5)
        assert until(lambda: ways.document("waits")) == ("out", b'{"got":7}')
        assert {m.body for m in ways.broker.messages("output")} == {b'{"got":7}'}
        assert ways.broker.dead_letters("input") == []


# --- failures of Redis under load -----------------------------------------------------------------


class Load:
    """`with Load(url) as load:` about 100 requests a second of 20 bodies until the end."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[int, str]] = []
        self._url = url
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(4)]

    def _ask(self, first: int) -> None:
        with httpx.Client(timeout=60) as client:
            for number in itertools.count(first):
                if self._ended.wait(0.04):
                    return
                body = b"%d" % (number % 20)
                answer = client.post(f"{self._url}/score", content=body, headers=JSON)
                self.answers.append((answer.status_code, answer.headers["x-cache"]))

    def wait_for_hits(self, count: int) -> None:
        """Wait until so many more are hits."""
        at = len(self.answers)
        until(lambda: self.answers[at:].count((200, "hit")) >= count)

    def __enter__(self) -> Load:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        for each in self._threads:
            each.join()


def test_while_redis_is_killed_and_back_no_request_fails(write_script: WriteScript) -> None:
    """Every answer is a 200 with a result; hits resume; one line for each change of state."""
    with RedisServer(password="hunter2") as server:
        environ = {"CACHE_URL": server.url, "CACHE_TIMEOUT_MS": "500"}
        with (
            StandaloneHost(write_script(COUNTING), environ=environ) as host,
            Load(host.url) as load,
        ):
            load.wait_for_hits(50)
            server.stop(signal.SIGKILL)
            until(lambda: "does not answer (" in host.log)
            server.start()
            load.wait_for_hits(50)
            until(lambda: "\nscoring_cache_breaker_open 0.0\n" in metrics_of(host.url))
            log = host.log
    assert set(load.answers) <= {(200, "hit"), (200, "miss")}
    assert log.count("does not answer (") == log.count("answers again")
    assert "hunter2" not in log


def metrics_of(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=60).text


# --- how it is reached ----------------------------------------------------------------------------


def test_tls_password_and_user_of_a_real_redis(tmp_path: Path, write_script: WriteScript) -> None:
    """By URL and by the single settings; the certificate is checked."""
    script = write_script(COUNTING)
    with RedisServerWithTls(tmp_path, password="hunter2") as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "scorer", "on", ">pw2", "~*", "+@all")
        single = {
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(server.port),
            "SSL_CERT_FILE": str(server.ca),
        }
        named = {**single, "REDIS_USERNAME": "scorer", "REDIS_PASSWORD": "pw2"}
        for environ in ({"CACHE_URL": server.url}, {**single, "REDIS_KEY": "hunter2"}, named):
            prefix = {"CACHE_PREFIX": f"{len(environ)}:"}
            with StandaloneHost(script, environ={**environ, **prefix}) as host:
                until(partial(is_hit, host.url, b"1"))
        untrusted = {**single, "REDIS_PASSWORD": "hunter2", "SSL_CERT_FILE": "/dev/null"}
        with StandaloneHost(script, environ=untrusted) as host:
            for _ in range(8):
                assert post(host.url, b"2").status_code == 200
            until(lambda: "does not answer" in host.log)
            assert "hunter2" not in host.log


def test_a_cluster_is_reached_by_its_url(write_script: WriteScript) -> None:
    # Its second port is the first and 10,000, unless it is told another.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with RedisServer(*options) as server:
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            until(lambda: "'cluster_state': 'ok'" in str(client.execute_command("CLUSTER INFO")))
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        with StandaloneHost(write_script(COUNTING), environ={"CACHE_URL": url}) as host:
            until(lambda: post(host.url, b"1").headers["x-cache"] == "hit")


def test_a_script_gets_the_client_of_the_settings(
    server: RedisServer, write_script: WriteScript
) -> None:
    """``redis_client``: a synchronous one; None without a server."""
    script = write_script(
        """
        from scoring_runtime import redis_client

        def init():
            if redis_client is not None:
                redis_client.set("from-init", "1")

        def run(data):
            return redis_client and redis_client.get("from-init").decode()
        """
    )
    for environ, expected in (
        ({"CACHE_URL": server.url}, b'"1"'),
        ({"CACHE_URL": "memory://"}, b"{}"),
        ({}, b"{}"),
    ):
        with StandaloneHost(script, environ=environ) as host:
            assert post(host.url, b"1").content == expected


def test_memory_and_several_workers_are_refused(write_script: WriteScript) -> None:
    """With a sentence: what one process keeps in its memory the others would not find."""
    script = write_script(COUNTING)
    command = [sys.executable, "-m", "scoring_runtime", "serve", "--entry-script", str(script)]
    done = subprocess.run(
        [*command, "--workers", "2", "--port", str(free_port())],
        env=clean_environ(CACHE_URL="memory://", SCORING_HOST="127.0.0.1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert all(each in last for each in ("CACHE_URL", "redis://host:6379", "WORKER_COUNT is 2"))
    assert "Traceback" not in done.stderr


def test_memory_and_several_processes_of_functions_are_refused(write_script: WriteScript) -> None:
    environ = {"AZUREML_ENTRY_SCRIPT": str(write_script(COUNTING)), "CACHE_URL": "memory://"}
    app = FunctionsHost(ROOT, clean_environ(**environ, FUNCTIONS_WORKER_PROCESS_COUNT="4"))
    with pytest.raises(RuntimeError, match="FUNCTIONS_WORKER_PROCESS_COUNT is 4"), app:
        pass
