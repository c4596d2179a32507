"""The cache in whole hosts: every trigger, failures of Redis, TLS, cluster, processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.functions import FunctionsHost
from tests.hosts.redis import RedisServer, RedisServerWithTls
from tests.hosts.standalone import StandaloneHost, clean_environ, free_port
from tests.hosts.waiting import until

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


class Ways:
    """One script behind the standalone host with HTTP, blob and queue, and behind Functions."""

    def __init__(self, script: Path, redis: RedisServer, azurite: Azurite) -> None:
        self.script = script
        self.broker = ServiceBusBroker()
        self.storage = BlobServiceClient.from_connection_string(azurite.connection_string)
        name = f"cached{next(_NUMBERS)}"
        self.input, self.output = f"{name}-in", f"{name}-out"
        self.storage.create_container(self.input)
        self.environ = {
            "CACHE_URL": redis.url,
            "CACHE_TIMEOUT_MS": "5000",
            "TriggerConnectionString": azurite.connection_string,
            "BLOB_INPUT_PATH": f"{self.input}/{{blobname}}.json",
            "BLOB_OUTPUT_PATH": f"{self.output}/{{blobname}}_out.json",
            "BLOB_POLL_SECONDS": "0.1-0.2",
        }

    def __enter__(self) -> Ways:
        self.broker.__enter__()
        self.broker.add_queue("input", lock_seconds=30)
        self.broker.add_queue("output")
        self.environ["ServiceBusConnectionString"] = self.broker.connection_string
        self.host = StandaloneHost(self.script, environ=self.environ)
        self.host.__enter__()
        http = {"CACHE_URL": self.environ["CACHE_URL"], "SCORING_TRIGGERS": "http"}
        http["CACHE_TIMEOUT_MS"] = "5000"
        environ = clean_environ(AZUREML_ENTRY_SCRIPT=str(self.script), **http)
        self.functions = FunctionsHost(ROOT, {**environ, "FUNCTIONS_HOST_CHECK_KEYS": "1"})
        self.functions.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.functions.__exit__()
        self.host.stop()
        self.storage.close()
        self.broker.__exit__(*exc_info)

    def blob(self, name: str, body: bytes, **metadata: str) -> tuple[str, bytes]:
        """Which document an input ends in, and its bytes."""
        source = self.storage.get_blob_client(self.input, f"{name}.json")
        source.upload_blob(body, metadata=metadata)
        found: tuple[str, bytes] = until(lambda: self._document(name))
        return found

    def _document(self, name: str) -> tuple[str, bytes] | None:
        for kind in ("out", "error"):
            blob = self.storage.get_blob_client(self.output, f"{name}_{kind}.json")
            try:
                return kind, blob.download_blob().readall()
            except ResourceNotFoundError:
                continue
        return None

    def message(self, message_id: str, body: bytes, **properties: Any) -> Any:
        """The reply to a message."""
        kind = "application/json"
        self.broker.send(
            "input", body, message_id=message_id, content_type=kind, properties=properties
        )
        return until(
            lambda: next(
                (m for m in self.broker.messages("output") if m.correlation_id == message_id), None
            )
        )


_NUMBERS = iter(range(1000))


def test_a_result_is_found_through_every_trigger_and_host(
    server: RedisServer, azurite: Azurite, write_script: WriteScript
) -> None:
    """One run() for all; the same bytes."""
    script = write_script(COUNTING)
    with Ways(script, server, azurite) as ways:
        first = post(ways.host.url, b'{"a":1,"b":[1.5]}')
        assert first.headers["x-cache"] == "miss"
        until(lambda: post(ways.host.url, b'{"a":1,"b":[1.5]}').headers["x-cache"] == "hit")
        again = post(ways.host.url, b'{"b": [1.5], "a": 1}')
        same = ("content-type", "x-ms-run-fn-exec-ms", "x-ms-run-function-failed", "content-length")
        assert again.content == first.content
        assert {n: again.headers[n] for n in same} == {n: first.headers[n] for n in same}
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        assert int(again.headers["age"]) < 30
        assert ways.blob("equal", b'{"b":[1.5],"a":1}') == ("out", first.content)
        assert ways.message("1", b'{"a": 1, "b": [1.5]}').body == first.content
        keyed = {"x-functions-key": "test-key"}
        functions = post(ways.functions.url, b'{"a":1, "b":[1.5]}', **keyed)
        assert functions.content == first.content
        assert functions.headers["x-cache"] == "hit"
        assert calls(script) == 1


def test_an_input_by_key_is_scored_through_every_trigger(
    server: RedisServer, azurite: Azurite, write_script: WriteScript
) -> None:
    """PUT on one host, scored on both; an unknown key is named by each in its own way."""
    with Ways(write_script(COUNTING), server, azurite) as ways:
        put = httpx.put(f"{ways.host.url}/inputs/case-1", content=b'{"k":1}', headers=JSON)
        assert (put.status_code, put.json()) == (201, {"key": "case-1", "seconds": 3600})
        keyed = {"x-functions-key": "test-key"}
        scored = b'{"got":{"k":1}}'
        assert post(ways.host.url, b"", **{"x-input-key": "case-1"}).content == scored
        on_functions = post(ways.functions.url, b"", **{"x-input-key": "case-1"}, **keyed)
        assert on_functions.content == scored
        assert ways.blob("by-key", b"", x_input_key="case-1") == ("out", scored)
        assert ways.message("2", b"", **{"x-input-key": "case-1"}).body == scored

        unknown = post(ways.host.url, b"", **{"x-input-key": "nobody"})
        assert unknown.status_code == 404
        assert "'nobody'" in unknown.json()["message"]
        kind, error = ways.blob("unknown", b"", x_input_key="nobody")
        assert (kind, error) == ("error", unknown.content)
        reply = ways.message("3", b"", **{"x-input-key": "nobody"})
        assert (reply.body, reply.application_properties["status"]) == (unknown.content, 404)
        [dead] = until(lambda: ways.broker.dead_letters("input"))
        assert dead.application_properties["DeadLetterReason"] == "InputNotFound"
        assert "'nobody'" in dead.application_properties["DeadLetterErrorDescription"]

        inputs = f"{ways.functions.url}/inputs/case-1"
        assert httpx.put(inputs, content=b"1").status_code == 401
        assert httpx.delete(inputs, headers=keyed).status_code == 204
        assert httpx.delete(inputs, headers=keyed).status_code == 404
        assert httpx.get(f"{ways.functions.url}/metrics").status_code == 401
        metrics = httpx.get(f"{ways.functions.url}/metrics", headers=keyed).text
        assert "\nscoring_cache_misses_total " in metrics
        assert post(ways.host.url, b"", **{"x-input-key": "case-1"}).status_code == 404


def test_messages_and_blobs_that_name_a_key_wait_for_redis(
    azurite: Azurite, write_script: WriteScript
) -> None:
    """HTTP is answered 503; nothing is dead-lettered, and all is scored when it is back."""
    # What was PUT is there at once when it is back: whoever looks first finds it.
    lasting = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    with lasting as redis, Ways(write_script(COUNTING), redis, azurite) as ways:
        put = f"{ways.host.url}/inputs/later"
        assert httpx.put(put, content=b"7", headers=JSON, timeout=60).status_code == 201
        redis.stop(signal.SIGKILL)
        answer = post(ways.host.url, b"", **{"x-input-key": "later"})
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
        assert until(lambda: ways._document("waits")) == ("out", b'{"got":7}')
        assert {m.body for m in ways.broker.messages("output")} == {b'{"got":7}'}
        assert ways.broker.dead_letters("input") == []


# --- failures of Redis under load -----------------------------------------------------------------


class Answered(NamedTuple):
    status: int
    state: str


class Load:
    """`with Load(url) as load:` about 100 requests a second of 20 bodies until the end."""

    def __init__(self, url: str) -> None:
        self.answers: list[Answered] = []
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
                state = answer.headers.get("x-cache", "")
                self.answers.append(Answered(answer.status_code, state))

    def wait_for_hits(self, count: int) -> None:
        """Wait until so many more are hits."""
        at = len(self.answers)
        until(lambda: [each.state for each in self.answers[at:]].count("hit") >= count)

    def __enter__(self) -> Load:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        for each in self._threads:
            each.join()


def paused(server: RedisServer, gone: Callable[[], object]) -> None:
    server.pause()
    gone()
    server.go_on()


def killed(server: RedisServer, gone: Callable[[], object]) -> None:
    server.stop(signal.SIGKILL)
    gone()
    server.start()


def restarted(server: RedisServer, gone: Callable[[], object]) -> None:
    server.stop()
    server.start()


def flushed(server: RedisServer, gone: Callable[[], object]) -> None:
    with server.client() as client:
        client.flushall()


def full(server: RedisServer, gone: Callable[[], object]) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        client.flushall()
        gone()
        client.config_set("maxmemory", "0")


def locked(server: RedisServer, gone: Callable[[], object]) -> None:
    """It refuses the password, from its next connections on."""
    with server.client() as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)
        gone()
        client.config_set("requirepass", server.password)


LONG = (paused, restarted, flushed, locked)


@pytest.mark.parametrize(
    "act", [killed, full, *(pytest.param(each, marks=pytest.mark.long) for each in LONG)]
)
def test_whatever_happens_to_redis_no_request_fails(
    act: Callable[[RedisServer, Callable[[], object]], None], write_script: WriteScript
) -> None:
    """Every answer is a 200 with a result; hits resume; one line for each change of state."""
    with RedisServer(password="hunter2") as server:
        environ = {"CACHE_URL": server.url, "CACHE_TIMEOUT_MS": "500"}
        with (
            StandaloneHost(write_script(COUNTING), environ=environ) as host,
            Load(host.url) as load,
        ):
            load.wait_for_hits(50)
            said = "refuses commands (OOM" if act is full else "does not answer ("
            act(server, lambda: until(lambda: said in host.log))
            load.wait_for_hits(50)
            until(lambda: "\nscoring_cache_breaker_open 0\n" in metrics_of(host.url))
            log = host.log
    assert {each.status for each in load.answers} == {200}
    assert {each.state for each in load.answers} <= {"hit", "miss"}
    assert log.count("does not answer (") == log.count("answers again")
    assert log.count("refuses commands (") <= 1
    assert "hunter2" not in log


def metrics_of(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=60).text


def test_a_process_killed_while_it_scores_does_not_hold_up_the_next_request(
    server: RedisServer, write_script: WriteScript
) -> None:
    """Its mark in Redis ends soon, for it was renewed by a living process only."""
    script = write_script(
        """
        import pathlib, time

        beside = pathlib.Path(__file__)

        def init():
            pass

        def run(data):
            beside.with_name("begun").touch()
            if not beside.with_name("quick").exists():
                time.sleep(600)
            return 1
        """
    )
    environ = {"CACHE_URL": server.url, "CACHE_TIMEOUT_MS": "5000"}
    with (
        StandaloneHost(script, environ=environ) as other,
        StandaloneHost(script, environ=environ) as killed,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(post, killed.url, b"1")
        until(script.with_name("begun").exists)
        time.sleep(2)  # the mark has been renewed by now
        script.with_name("quick").touch()
        with server.client() as client:
            [key] = client.keys("scoring:*")
            assert 0 < client.pttl(key) <= 1000
        killed.stop(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            asked.result(60)
        began = time.monotonic()
        assert post(other.url, b"1").json() == 1
        assert time.monotonic() - began < 4


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


def test_a_hundred_equal_requests_over_two_processes_call_run_twice_at_most(
    server: RedisServer, write_script: WriteScript
) -> None:
    script = write_script(COUNTING.replace("0.003", "0.5"))
    environ = {"CACHE_URL": server.url, "CACHE_TIMEOUT_MS": "5000"}
    with (
        StandaloneHost(script, environ=environ) as one,
        StandaloneHost(script, environ=environ) as other,
    ):
        for host in (one, other):  # connected
            until(partial(is_hit, host.url, b"0"))
        before = calls(script)

        async def scenario() -> set[bytes]:
            async with httpx.AsyncClient(timeout=120) as client:
                asked = [
                    client.post(f"{host.url}/score", content=b"[1]", headers=JSON)
                    for _ in range(50)
                    for host in (one, other)
                ]
                return {answer.content for answer in await asyncio.gather(*asked)}

        assert asyncio.run(scenario()) == {b'{"got":[1]}'}
        assert 1 <= calls(script) - before <= 2


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


@pytest.mark.parametrize(
    ("url", "workers"),
    [
        ("redis://:hunter2@host:port", "1"),
        ("memory://", "2"),
    ],
)
def test_a_cache_that_cannot_be_stops_the_start(
    url: str, workers: str, write_script: WriteScript
) -> None:
    """With a sentence; what one process keeps in its memory the others would not find."""
    script = write_script(COUNTING)
    command = [sys.executable, "-m", "scoring_runtime", "serve", "--entry-script", str(script)]
    done = subprocess.run(
        [*command, "--workers", workers, "--port", str(free_port())],
        env=clean_environ(CACHE_URL=url, SCORING_HOST="127.0.0.1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert "CACHE_URL" in last
    assert "redis://host:6379" in last
    assert ("WORKER_COUNT is 2" in last) == (url == "memory://")
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_memory_and_several_processes_of_functions_are_refused(write_script: WriteScript) -> None:
    environ = {"AZUREML_ENTRY_SCRIPT": str(write_script(COUNTING)), "CACHE_URL": "memory://"}
    app = FunctionsHost(ROOT, clean_environ(**environ, FUNCTIONS_WORKER_PROCESS_COUNT="4"))
    with pytest.raises(RuntimeError, match="FUNCTIONS_WORKER_PROCESS_COUNT is 4"), app:
        pass


def test_the_settings_do_not_show_the_address_with_its_password() -> None:
    command = [sys.executable, "-m", "scoring_runtime", "settings", "--json"]
    environ = clean_environ(CACHE_URL="redis://:hunter2@h", REDIS_PASSWORD="hunter2")
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    rows = {row["name"]: row["value"] for row in json.loads(done.stdout)}
    assert (rows["CACHE_URL"], rows["REDIS_PASSWORD"]) == ("***", "***")
    assert "hunter2" not in done.stdout
