"""A new version in the place of the old one: no request is lost, and all workers switch or none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import joblib
import pytest
import tritonclient.http
from sklearn.dummy import DummyRegressor

from tests.hosts.redis import RedisServer
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.hosts.waiting import until
from tests.models_for_tests import ModelHost
from tests.standalone.changing import Changing, Clients

EXPECTED = {"a.json": {}, "a.expected.json": {"value": 2}}


def changed_under_load(folder: Path, slow: float, seconds: float, workers: int) -> None:
    """Good, corrupt, slow, too large for memory, killed for it, wrong golden answers, and back."""
    with Changing(folder, "--workers", str(workers)) as service:
        service.add(2, samples=EXPECTED, answer={"value": 2}, megabytes=20)
        service.add(3, answer={"value": 3}, megabytes=20)
        (service.place(3) / "model.json").write_bytes(b"\x80not a model")
        service.add(4, answer={"value": 4}, seconds=slow, megabytes=20)
        service.add(5, answer={"value": 5}, memory=True)
        service.add(6, answer={"value": 6}, killed=True, megabytes=200)
        service.add(7, samples=EXPECTED, answer={"value": 7})
        with Clients(service.host.port, 16, pause=0.01) as clients:
            until(lambda: clients.answered > 100)
            ends = time.monotonic() + seconds
            assert service.reload(2)["outcome"] == "switched"
            service.settled(workers)
            held = service.held
            for version, why in (
                (3, "UnicodeDecodeError"),
                (5, "MemoryError: cannot hold it"),
                (6, "ended with signal SIGKILL: too little memory?"),
                (7, "a.json: the answer['value'] is 7, expected is 2"),
            ):
                outcome = service.reload(version)
                assert (outcome["outcome"], service.in_force) == ("refused", "2")
                assert why in outcome["reason"]
            began = time.monotonic()
            assert service.reload(4)["outcome"] == "switched"
            assert time.monotonic() - began >= slow
            assert service.in_force == "4"
            assert service.post("/models/m/rollback").json()["models"] == [
                {"name": "m", "version": "2", "before": "4"}
            ]
            service.settled(workers)
            while time.monotonic() < ends:
                assert service.reload(4)["outcome"] == "switched"
                service.settled(workers)
                assert service.reload(2)["outcome"] == "switched"
                service.settled(workers)
            assert service.in_force == "2"
            assert service.held == pytest.approx(held, rel=0.1)
        assert clients.failures == []
        # With its next answer an old worker ends a connection: none sees two versions.
        assert clients.turns() == set()
        assert {"1", "2", "4"} == {version for seen in clients.seen for version in seen}
        assert "never awaited" not in service.host.log


@pytest.mark.parametrize("workers", [1, 2])
def test_changes_under_load_lose_no_request(tmp_path, workers):
    """Over 16 connections, whatever the new version does; memory is back within 10 %."""
    changed_under_load(tmp_path, slow=1.0, seconds=0, workers=workers)


@pytest.mark.long
def test_changes_under_load_for_a_minute_lose_no_request(tmp_path):
    """The same with a version that loads for 30 s, and one change after the other."""
    changed_under_load(tmp_path, slow=30.0, seconds=60, workers=2)


def test_a_worker_that_dies_before_the_switch_is_a_no(tmp_path):
    """All switch or none: with the first ready and the second killed, the old version goes on."""
    with Changing(tmp_path, "--workers", "2") as service:
        before = service.workers
        service.add(2, answer={"value": 2}, seconds=1)
        with Clients(service.host.port, 4, pause=0.01) as clients, ThreadPoolExecutor() as pool:
            asked = pool.submit(service.reload)
            until(lambda: len(service.workers - before) == 2)
            os.kill(max(service.workers - before), signal.SIGKILL)
            assert "SIGKILL" in asked.result()["reason"]
            until(lambda: service.workers == before)
        assert clients.failures == []
        assert {version for seen in clients.seen for version in seen} == {"1"}


def test_a_version_that_never_loads_is_refused_in_time(tmp_path):
    """And meanwhile another change is refused, at once."""
    with Changing(tmp_path, SCORING_RELOAD_SECONDS="2") as service:
        before, usual = service.workers, adjustment(os.getpid())
        service.add(2, answer={"value": 2}, seconds=1000)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(service.reload)
            until(lambda: len(service.workers) == 2)
            # For want of memory this one is killed, not those that serve.
            [new] = service.workers - before
            until(lambda: adjustment(new) == 1000)
            assert {adjustment(each) for each in before} == {usual}
            busy = service.post("/models/reload")
            assert (busy.status_code, busy.json()["outcome"]) == (409, "busy")
            assert "2 s (SCORING_RELOAD_SECONDS)" in asked.result()["reason"]
        assert service.in_force == "1"
        service.settled(1)
        service.add(3, answer={"value": 3})
        assert service.reload(3)["outcome"] == "switched"
        service.settled(1)
        assert {adjustment(each) for each in service.workers} == {usual}


def adjustment(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_files_that_change_while_they_are_loaded_are_not_taken(tmp_path):
    """As of a version that is still being copied."""
    with Changing(tmp_path) as service:
        service.add(2, answer={"value": 2}, seconds=1)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(service.reload)
            until(lambda: len(service.workers) == 2)
            (service.place(2) / "more.bin").write_bytes(b"x")
            assert "changed while it was loaded" in asked.result()["reason"]
        assert service.reload()["outcome"] == "switched"
        assert service.reload() == {
            "outcome": "unchanged",
            "models": [{"name": "m", "version": "2", "before": "2"}],
        }


def test_what_is_in_force_survives_kills_and_restarts(tmp_path):
    """Of a worker, whose successor loads that, and of the whole service, whose settings still name
    version 1; and so does a refusal, though the refused version is the newest there."""
    with Changing(tmp_path) as service:
        for version in (2, 3):
            service.add(version, answer={"value": version})
        assert service.reload(2)["survives_restart"] is True
        service.settled(1)
        (service.place(3) / "model.json").write_text("nothing")
        assert service.reload(3)["outcome"] == "refused"
        [worker] = service.workers
        os.kill(worker, signal.SIGKILL)
        until(lambda: service.workers not in ({worker}, set()))
        until(lambda: httpx.get(f"{service.host.url}/health/ready").status_code == 200)
        assert service.in_force == "2"
        os.kill(service.host.process.pid, signal.SIGKILL)
        service.host.process.wait()
        service.host.start()
        service.host.wait_ready()
        assert service.in_force == "2"
        assert "m/2 is in force" in service.host.log


def test_models_use_says_what_the_next_reload_takes(tmp_path):
    """Though there is a newer one; without a version the newest again. SIGHUP is a reload."""
    with Changing(tmp_path) as service:
        service.add(2, answer={"value": 2})
        service.add(3, answer={"value": 3})
        for said, version in (("m:2", "2"), ("m", "3")):
            registry = str(tmp_path / "azureml-models")
            used = subprocess.run(
                [
                    sys.executable, "-m", "scoring_runtime", "models", "use", said,
                    "--registry", registry,
                ],
                env=clean_environ(), capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert used.stdout.startswith(f"m:{version} is in force from the next")
            service.host.process.send_signal(signal.SIGHUP)
            until(lambda wanted=version: service.in_force == wanted)
        assert service.reload()["outcome"] == "unchanged"


def test_a_new_version_is_taken_by_itself(tmp_path):
    """With SCORING_RELOAD=auto: when it is whole. One that was refused is not tried again until its
    files are others; one that was gone back from is not taken."""
    with Changing(tmp_path, "--workers", "2", SCORING_RELOAD="auto") as service:
        service.add(2, answer={"value": 2})
        until(lambda: service.in_force == "2")
        slow = service.place(3)
        slow.mkdir()
        for part in range(6):  # as a copy that goes on; what is there first is no model
            (slow / f"part-{part}").write_bytes(b"x" * 1000)
            time.sleep(0.3)
        (slow / "model.json").write_text('{"answer": {"value": 3}}')
        until(lambda: service.in_force == "3")
        told = httpx.get(f"{service.host.url}/status").json()["changes"]
        assert (told["reload"], told["switched"], told["refused"]) == ("auto", 2, 0)
        assert service.post("/models/m/rollback").json()["outcome"] == "switched"
        service.add(4, answer={"value": 4})
        service.add(5, memory=True)
        service.settled(2)
        asked = service.host.log.count("A new version is being loaded")
        time.sleep(4)
        assert service.in_force == "2"
        assert service.host.log.count("A new version is being loaded") == asked
        service.reload(4)
        (service.place(5) / "model.json").touch()
        # Version 4 was named, and so stays; the newest is named by its absence.
        assert service.post("/models/reload", model="m").json()["outcome"] == "refused"
        assert service.in_force == "4"


def test_a_plain_folder_is_loaded_again(tmp_path):
    """It has no versions: a reload takes what is in it, and there is no way back. A script that was
    edited is taken too."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "value").write_text("1")
    script = tmp_path / "score.py"
    source = (
        "import os, pathlib\n"
        "def init(): pass\n"
        "def run(data): return float(text)\n"
        "text = pathlib.Path(os.environ['AZUREML_MODEL_DIR'], 'value').read_text()\n"
    )
    script.write_text(source)
    with StandaloneHost(script, "--model-dir", str(folder)) as host:

        def post(path: str) -> httpx.Response:
            return httpx.post(host.url + path, json={})

        assert post("/models/reload").json()["outcome"] == "unchanged"
        (folder / "value").write_text("2")
        answer = post("/models/reload").json()
        assert (answer["outcome"], answer["survives_restart"]) == ("switched", False)
        assert post("/score").json() == 2.0
        script.write_text(source.replace("float(text)", "-float(text)"))
        assert post("/models/reload").json()["outcome"] == "switched"
        assert post("/score").json() == -2.0
        back = post("/models/model/rollback")
        assert back.status_code == 409
        assert "is no registry of models" in back.json()["message"]
        assert not (tmp_path.parent / f"{tmp_path.name}.scoring").exists()


def test_with_an_end_after_so_many_requests_changes_lose_none_either(tmp_path):
    """Workers are replaced all the time, by the crew that serves then."""
    with Changing(tmp_path, "--workers", "2", SCORING_MAX_REQUESTS="150") as service:
        for version in (2, 3, 4):
            service.add(version, answer={"value": version})
        with Clients(service.host.port, 8, pause=0.002) as clients:
            for version in (2, 3, 4):
                until(lambda: "SCORING_MAX_REQUESTS" in service.host.log)
                until(lambda wanted=version: service.reload(wanted)["outcome"] != "busy")
                seen = clients.answered
                until(lambda more=seen: clients.answered > more + 500)
        assert clients.failures == []
        assert clients.turns() == set()
        assert service.in_force == "4"


def test_no_answer_of_another_version_comes_from_the_cache(tmp_path):
    """Redis keeps those of both: each is found again only by the version that gave it."""
    with (
        RedisServer() as redis,
        Changing(tmp_path, "--workers", "2", CACHE_URL=redis.url) as service,
    ):
        service.add(2, answer={"value": 2})
        for kept, version in ((1, 1), (2, 2), (2, 1), (2, 2)):
            assert service.reload(version)["outcome"] in ("switched", "unchanged")
            service.settled(2)
            for _ in range(6):  # by either worker
                reply = service.post("/score")
                assert reply.json()["value"] == version
                assert reply.headers["x-model-version"] == str(version)
            until(lambda: service.post("/score").headers["x-cache"] == "hit")
            # One for each version: what was kept then is found again now.
            until(lambda count=kept: redis.client().dbsize() == count)


def test_files_that_are_dropped_meanwhile_are_scored_once_each(tmp_path):
    """By the version that takes them; none is left by the old one, or scored by both."""
    drop, results = tmp_path / "drop", tmp_path / "results"
    drop.mkdir()
    folders = ("--watch", str(drop), "--output", str(results))
    with Changing(tmp_path, "--workers", "2", *folders, BLOB_POLL_SECONDS="0.1-0.5") as service:
        for version in (2, 3):
            service.add(version, answer={"value": version})
        for number in range(90):
            (drop / f"{number}.json").write_text("{}")
            if number in (30, 60):
                until(lambda: any(results.glob("*.json")))
                assert service.reload(2 if number == 30 else 3)["outcome"] == "switched"
        until(lambda: len([*results.glob("*_out.json")]) == 90)
        service.settled(2)
        answers = [json.loads(each.read_text())["value"] for each in results.glob("*.json")]
        assert len(answers) == 90
        assert {1, 3} <= {*answers} <= {1, 2, 3}
        scored = re.findall(r"- blob \S+ 200", service.host.log)
        assert len(scored) == 90


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A registry of two models without a script, and who serves it."""
    root = tmp_path_factory.mktemp("registry") / "azureml-models"
    for name in ("a", "b"):
        add_constant(root, name, 1)
    with ModelHost(root, environ={"SCORING_DEFAULT_MODEL": "a"}) as host:
        yield root, host


def add_constant(root: Path, name: str, value: int) -> None:
    """A version whose answers are its number."""
    place = root / name / str(value)
    place.mkdir(parents=True)
    model = DummyRegressor(strategy="constant", constant=value).fit([[0.0], [1.0]], [0.0, 1.0])
    joblib.dump(model, place / "model.joblib")


def test_the_repository_of_v2_as_triton_clients_use_it(two_models):
    """Index, unload and load; a model that is unloaded is not served, by any of its paths."""
    root, host = two_models
    with tritonclient.http.InferenceServerClient(host.url.removeprefix("http://")) as client:

        def index() -> dict[str, str]:
            listed = client.get_model_repository_index()
            return {f"{each['name']}:{each['version']}": each["state"] for each in listed}

        def score(path: str) -> Any:
            reply = httpx.post(f"{host.url}{path}", json={"data": [[1.0]]})
            return reply.json() if reply.status_code == 200 else reply.status_code

        assert index() == {"a:1": "READY", "b:1": "READY"}
        add_constant(root, "b", 2)
        assert index()["b:2"] == "UNAVAILABLE"
        client.load_model("b")
        assert index() == {"a:1": "READY", "b:1": "UNAVAILABLE", "b:2": "READY"}
        assert [score(each) for each in ("/score", "/score/b", "/score/b/2", "/score/b/1")] == [
            [1.0], [2.0], [2.0], 404,
        ]  # fmt: skip
        client.unload_model("b")
        assert index() == {"a:1": "READY", "b:1": "UNAVAILABLE", "b:2": "UNAVAILABLE"}
        assert [score("/score"), score("/score/b")] == [[1.0], 404]
        with pytest.raises(tritonclient.http.InferenceServerException, match="the only model"):
            client.unload_model("a")
        with pytest.raises(tritonclient.http.InferenceServerException, match="no model 'c'"):
            client.load_model("c")
        client.load_model("b")
        assert score("/score/b") == [2.0]


def test_ready_says_503_before_the_listener_closes(tmp_path):
    """SCORING_DRAIN_SECONDS after SIGTERM requests are still answered, on new connections too."""
    with Changing(tmp_path, "--workers", "2", SCORING_DRAIN_SECONDS="2") as service:
        with Clients(service.host.port, 8, pause=0.01) as clients:
            until(lambda: clients.answered > 50)
            service.host.process.terminate()
            began = time.monotonic()
            ready = f"{service.host.url}/health/ready"
            until(lambda: httpx.get(ready).status_code == 503)
            said = httpx.get(ready).json()
            assert "SCORING_DRAIN_SECONDS" in said["troubles"]["host"]
            assert time.monotonic() - began < 1.5
            assert service.in_force == "1"
            assert clients.failures == []
        assert service.host.process.wait(20) == 0
        assert 2 <= time.monotonic() - began < 10


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_sigterm_does_not_wait(tmp_path, workers):
    with Changing(tmp_path, "--workers", workers, SCORING_DRAIN_SECONDS="600") as service:
        service.host.process.terminate()
        until(lambda: httpx.get(f"{service.host.url}/health/ready").status_code == 503)
        service.host.process.terminate()
        assert service.host.process.wait(60) == 0


def test_a_worker_that_sees_two_sigterms_as_one_does_not_wait_either(tmp_path):
    with Changing(tmp_path, "--workers", "2", SCORING_DRAIN_SECONDS="600") as service:
        service.settled(2)
        stopped = min(service.workers)
        os.kill(stopped, signal.SIGSTOP)
        service.host.process.terminate()
        until(lambda: "SIGTERM: requests are taken" in service.host.log)
        service.host.process.terminate()
        service.settled(1)
        os.kill(stopped, signal.SIGCONT)
        assert service.host.process.wait(60) == 0


def test_preloaded_models_and_auto_exclude_each_other(tmp_path):
    """The start says so; and with manual, or off, there are no such routes."""
    script = tmp_path / "score.py"
    script.write_text("def init(): pass\ndef run(data): return 1")
    environ = {"WORKER_PRELOAD": "true", "WORKER_COUNT": "2"}
    host = StandaloneHost(script, environ={**environ, "SCORING_RELOAD": "auto"})
    host.start()
    assert host.process.wait(60) == 3
    assert "WORKER_PRELOAD and SCORING_RELOAD=auto exclude each other" in host.log
    host.stop()
    for more in (environ, {"SCORING_RELOAD": "off"}):
        with StandaloneHost(script, environ=more) as host:
            assert httpx.post(f"{host.url}/models/reload").status_code == 404
            assert httpx.post(f"{host.url}/v2/repository/index").status_code == 404
            host.process.send_signal(signal.SIGHUP)
            assert httpx.post(f"{host.url}/score").json() == 1
