"""Answers later from real processes: two with Redis, kills, Service Bus and blobs between."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from azure.storage.blob import BlobServiceClient

from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone import later
from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.redis import RedisServer
from tests.hosts.standalone import StandaloneHost

PATIENCE = 90.0
SCRIPT = """
import os, pathlib, time
calls = pathlib.Path(__file__).with_name("calls")
def init(): pass
def run(data):
    with calls.open("a") as file:
        file.write(f"{data} {os.getpid()}\\n")
    word, _, value = data.partition(" ")
    if word == "once" and calls.read_text().count(data) == 1:
        time.sleep(60)
    if word == "sleep":
        time.sleep(float(value))
    if word == "raise":
        raise ValueError("no")
    return {"got": data}
"""
LATER = {"prefer": "respond-async", "content-type": "application/json"}
BUS = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey=SAS_KEY_VALUE"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def script(write_script: WriteScript) -> Path:
    return write_script(SCRIPT)


def accepted(host: StandaloneHost, text: str, **headers: str) -> str:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.post(f"{host.url}/score", content=text, headers={**LATER, **more})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def settled(host: StandaloneHost, location: str) -> httpx.Response:
    until = time.monotonic() + PATIENCE
    while (answer := httpx.get(host.url + location)).status_code == 202:
        assert time.monotonic() < until, host.log
        time.sleep(0.05)
    return answer


def wait_for_call(script: Path, text: str) -> None:
    until = time.monotonic() + PATIENCE
    calls = script.with_name("calls")
    while not calls.exists() or text not in calls.read_text():
        assert time.monotonic() < until
        time.sleep(0.02)


def kill(host: StandaloneHost) -> None:
    """The supervisor first, so that it starts no other worker."""
    worker = host.worker
    os.kill(host.process.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    host.process.wait()


def test_redis_outlives_the_process_that_accepted(script: Path, redis: RedisServer) -> None:
    environ = {"CACHE_URL": redis.url, "CACHE_TTL_SECONDS": "0"}
    with (
        StandaloneHost(script, environ=environ) as one,
        StandaloneHost(script, environ=environ) as two,
    ):
        location = accepted(one, "once a")
        wait_for_call(script, "once a")
        waiting = [accepted(one, f"plain {n}") for n in range(20)]
        began = int(script.with_name("calls").read_text().split("once a ")[1].split()[0])
        kill(one if began == one.worker else two)
        alive = two if one.process.returncode is not None else one
        assert settled(alive, location).json() == {"got": "once a"}
        for n, each in enumerate(waiting):
            assert settled(alive, each).json() == {"got": f"plain {n}"}


def test_two_workers_share_redis(script: Path, redis: RedisServer) -> None:
    with StandaloneHost(script, "--workers", "2", environ={"CACHE_URL": redis.url}) as host:
        locations = [accepted(host, f"sleep 0.0{n}") for n in range(1, 9)]
        answers = [settled(host, each) for each in locations]
        assert [each.json() for each in answers] == [{"got": f"sleep 0.0{n}"} for n in range(1, 9)]
    lines = script.with_name("calls").read_text().split("\n")[:-1]
    assert len(lines) == len(set(lines)) == 8


def test_two_workers_without_redis_refuse(script: Path) -> None:
    with StandaloneHost(script, "--workers", "2") as host:
        answer = httpx.post(f"{host.url}/score", content="a", headers=LATER)
        assert answer.status_code == 400 and "CACHE_URL" in answer.json()["message"]


def test_keys_that_score_open_results(script: Path) -> None:
    environ = {"SCORING_KEYS": "app:0123456789abcdef"}
    with StandaloneHost(script, environ=environ) as host:
        key = {"x-functions-key": "0123456789abcdef"}
        answer = httpx.post(f"{host.url}/score", content="a", headers=LATER | key)
        location = host.url + answer.headers["location"]
        assert httpx.get(location).status_code == 401
        assert httpx.delete(location).status_code == 401
        assert httpx.get(location, headers={"x-functions-key": "f" * 16}).status_code == 401
        until = time.monotonic() + PATIENCE
        while (found := httpx.get(location, headers=key)).status_code == 202:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert found.json() == {"got": "a"}
        assert httpx.delete(location, headers=key).status_code == 204


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_service_bus_outlives_a_kill(script: Path, redis: RedisServer, store: str) -> None:
    with ServiceBusBroker() as broker:
        broker.add_queue("input", lock_seconds=3)
        broker.add_queue("output")
        environ = {
            "TriggerConnectionString": broker.connection_string,
            "SCORING_LATER_TRIGGER": "service_bus",
            "SERVICEBUS_MAX_CONCURRENT": "1",
        }
        if store == "redis":
            environ |= {"CACHE_URL": redis.url, "CACHE_TTL_SECONDS": "0"}
        with StandaloneHost(script, environ=environ, ready_path="/health/ready") as one:
            location = accepted(one, "once a", x_callback_queue="output")
            wait_for_call(script, "once a")
            cancelled = accepted(one, "never")
            assert httpx.delete(one.url + location).status_code == 409
            if store == "redis":
                assert httpx.delete(one.url + cancelled).status_code == 204
            kill(one)
        with StandaloneHost(script, environ=environ, ready_path="/health/ready") as two:
            until = time.monotonic() + PATIENCE
            while (answer := httpx.get(two.url + location)).status_code != 200:
                assert time.monotonic() < until, two.log
                assert answer.status_code == (202 if store == "redis" else 404)
                time.sleep(0.1)
            assert answer.json() == {"got": "once a"}
            broker.wait_for(lambda: not broker.messages("input"), PATIENCE)
            assert ("never" in script.with_name("calls").read_text()) == (store == "memory")
            too_large = httpx.post(f"{two.url}/score", content="x" * 300_000, headers=LATER)
            assert too_large.status_code == 413
        assert not broker.dead_letters("input")
        [reply] = broker.messages("output")
        assert f"/results/{reply.correlation_id}" == location
        assert reply.body == b'{"got":"once a"}'


def test_blobs_carry_inputs_and_answers(script: Path, azurite: Azurite) -> None:
    environ = {
        "TriggerConnectionString": azurite.connection_string,
        "BLOB_INPUT_PATH": "later-in/{blobname}.json",
        "BLOB_OUTPUT_PATH": "later-out/{blobname}_out.json",
        "BLOB_POLL_SECONDS": "0.2",
        "SCORING_LATER_TRIGGER": "blob",
    }
    service = BlobServiceClient.from_connection_string(azurite.connection_string)
    with service, StandaloneHost(script, environ=environ, ready_path="/health/live") as host:
        service.create_container("later-in")
        container = service.get_container_client("later-out")
        until = time.monotonic() + PATIENCE
        while httpx.get(f"{host.url}/health/ready").status_code != 200:
            assert time.monotonic() < until, host.log
            time.sleep(0.1)
        for text, name in (("raise", "answers/1"), ("plain", "answers/2")):
            headers = {**LATER, "x-callback-blob": f"later-out/{name}"}
            sent = httpx.post(f"{host.url}/score", content=text, headers=headers)
            assert sent.status_code == 202, sent.text
            answer = settled(host, sent.headers["location"])
            assert answer.status_code == (500 if text == "raise" else 200)
            kept = container.download_blob(name)
            assert kept.readall() == answer.content
            assert kept.properties.metadata["status"] == str(answer.status_code)
            assert kept.properties.metadata["laterid"] == sent.headers["location"][9:]
        for name in ("other/a", "later-out/", "later-out", "http://host/a", "later-in/x.json"):
            headers = {**LATER, "x-callback-blob": name}
            refused = httpx.post(f"{host.url}/score", content="a", headers=headers)
            assert refused.status_code == 400 and "x-callback-blob" in refused.json()["message"]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SCORING_LATER_TRIGGER": "service_bus"}, "SCORING_LATER_TRIGGER"),
        ({"SCORING_LATER_TRIGGER": "blob", "BLOB_INPUT_FOLDER": "/tmp"}, "SCORING_LATER_TRIGGER"),
        ({"TriggerConnectionString": BUS, "SCORING_LATER_QUEUES": "INPUT"}, "SCORING_LATER_QUEUES"),
    ],
)
def test_settings_that_contradict(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        later.check(Settings.from_environ(environ))
