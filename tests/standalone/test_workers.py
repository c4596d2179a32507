"""Several workers: connections spread evenly, one model in memory, worn ones replaced."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import joblib
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC

from scoring_runtime import Settings
from scoring_runtime.no_code.loading import load_before_fork
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import on_a_loop, until
from tests.models_for_tests import ModelHost

PIDS = "import os\ndef init(): pass\ndef run(data): return os.getpid()"


def workers_of(host: StandaloneHost) -> set[int]:
    """Their process ids."""
    pid = host.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def all_ready(host: StandaloneHost, count: int) -> None:
    until(lambda: host.log.count("ready for serving traffic") == count)


# --- connections ----------------------------------------------------------------------------------


async def connections(
    port: int, count: int
) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(count)))


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, bytes]:
    """Head and body of the answer to a request."""
    writer.write(b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return head, await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))


def spread(host: StandaloneHost, count: int) -> list[int]:
    """How many of so many connections, made at once, each worker has."""

    async def ask() -> list[int]:
        opened = await connections(host.port, count)
        pids = [body for _, body in await asyncio.gather(*(answer(*each) for each in opened))]
        for _, writer in opened:
            writer.close()
        return sorted(Counter(pids).values())

    return asyncio.run(asyncio.wait_for(ask(), 100))


@pytest.mark.parametrize("workers", [2, 3])
def test_each_worker_gets_as_many_connections(write_script, workers):
    """16 at once, and again after those have ended."""
    with StandaloneHost(write_script(PIDS), "--workers", str(workers)) as host:
        all_ready(host, workers)
        seen = [spread(host, 16) for _ in range(9)]
        assert all(len(each) == workers for each in seen)
        # A worker that the machine holds up for long is helped out by the others.
        apart = [each[-1] - each[0] for each in seen]
        assert statistics.median(apart) <= 2, seen


def test_a_worker_that_does_not_come_is_no_trouble(write_script):
    """It is stopped, with fewer connections than the other, which takes them then."""
    with StandaloneHost(write_script(PIDS), "--workers", "2") as host:
        all_ready(host, 2)
        stopped = min(workers_of(host))
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert spread(host, 64) == [64]
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert len(spread(host, 64)) == 2


# --- one model ------------------------------------------------------------------------------------

ROWS = np.random.default_rng(0).normal(size=(300, 6))
CLASSES = (ROWS[:, 0] > 0) + (ROWS[:, 1] > 0.5)
MODELS: dict[str, Callable[[], object]] = {
    "forest": lambda: RandomForestClassifier(20, n_jobs=-1, random_state=0).fit(ROWS, CLASSES),
    "neighbours": lambda: KNeighborsRegressor(algorithm="kd_tree").fit(ROWS, ROWS),
    "openmp": lambda: HistGradientBoostingClassifier(max_iter=5).fit(ROWS, CLASSES),
    "vectors": lambda: SVC().fit(ROWS, CLASSES),
}


def answers_of(host: StandaloneHost, times: int) -> dict[str, set[tuple[int, bytes]]]:
    """What each model is answered by, asked so many times on connections of their own."""
    body = json.dumps({"data": ROWS[:50].tolist()})
    found: dict[str, set[tuple[int, bytes]]] = {}
    for name in MODELS:
        replies = [
            httpx.post(f"{host.url}/score/{name}", content=body, timeout=60) for _ in range(times)
        ]
        found[name] = {(reply.status_code, reply.content) for reply in replies}
    return found


def mapped(host: StandaloneHost, path: Path) -> set[bool]:
    """Whether its workers have the file in their memory as it is."""
    return {str(path) in Path(f"/proc/{pid}/maps").read_text() for pid in workers_of(host)}


def test_shared_models_answer_the_same_bytes(tmp_path):
    """By fork, with models that start threads of OpenMP; or mapped by several workers, from a file
    that is not compressed."""
    registry = tmp_path / "azureml-models"
    paths = {name: registry / name / "1" / "model.joblib" for name in (*MODELS, "packed")}
    for name, path in paths.items():
        path.parent.mkdir(parents=True)
        packed = {"compress": 3} if name == "packed" else {}
        joblib.dump(MODELS.get(name, MODELS["neighbours"])(), path, **packed)
    found = []
    for count, preload in (("1", "false"), ("2", "true"), ("2", "false")):
        environ = {"WORKER_COUNT": count, "WORKER_PRELOAD": preload, "OMP_NUM_THREADS": "2"}
        with ModelHost(registry, environ=environ) as host:
            all_ready(host, int(count))
            found.append(answers_of(host, 8 if count == "2" else 1))
            if preload == "false":
                assert mapped(host, paths["neighbours"]) == {count == "2"}
                assert mapped(host, paths["packed"]) == {False}
            loads = host.log.count("Loading the ")
            assert "Warning" not in host.log
        assert loads == len(paths) * (2 if (count, preload) == ("2", "false") else 1)
    assert found[0] == found[1] == found[2]
    assert {status for each in found[0].values() for status, _ in each} == {200}


FORKED = """
import os, signal, sys
import joblib
from scoring_runtime.scoring.runtime import load_before_fork
from scoring_runtime.settings.settings import Settings

load_before_fork(Settings(model_dir=sys.argv[1], worker_count=2))
if (pid := os.fork()) == 0:
    signal.alarm(50)
    joblib.load(sys.argv[1] + "/model.joblib").predict([[0.0] * 6] * 50)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_sample_scored_before_the_fork_starts_no_thread(tmp_path):
    """For one of OpenMP that was not forked the thread that began it would wait for ever."""
    joblib.dump(MODELS["openmp"](), tmp_path / "model.joblib")
    (tmp_path / "sample_input.json").write_text(json.dumps({"data": ROWS[:50].tolist()}))
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "2"}, check=True)


def test_what_may_start_threads_is_loaded_by_each_worker(tmp_path):
    """Parts of packages that are not known to keep still, as XGBoost's, and other kinds."""
    estimator = FunctionTransformer(on_a_loop).fit(ROWS)
    joblib.dump(make_pipeline(estimator, KNeighborsRegressor()), tmp_path / "model.joblib")
    settings = Settings(worker_count=2)
    assert load_before_fork(tmp_path, settings, lambda model: model) is None
    (tmp_path / "model.joblib").rename(tmp_path / "model.onnx")
    assert load_before_fork(tmp_path, settings, lambda model: model) is None


# --- recycling ------------------------------------------------------------------------------------

WORN = r"Worker ([0-9]+) ended with exit code 0, replaced: it "


class Client:
    """Asks again and again on one connection, which it opens anew only when told that it closes."""

    def __init__(self, port: int) -> None:
        self.answers: list[tuple[str, bytes]] = []
        self.ended = False
        self._port = port

    async def ask(self, until: Callable[[], bool], pause: float) -> None:
        while not until():
            ((reader, writer),) = await connections(self._port, 1)
            while True:
                self.answers.append(await answer(reader, writer))
                if "connection: close" in self.answers[-1][0]:
                    assert await reader.read() == b""
                    break
                if until():
                    break
                await asyncio.sleep(pause)
            writer.close()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=pytest.mark.long)])
def test_workers_are_replaced_by_requests_without_a_lost_one(write_script, workers, seconds):
    """Busy connections and one that asks now and then, each answered, none ended unannounced."""
    environ = {"SCORING_MAX_REQUESTS": "300"}
    with StandaloneHost(write_script(PIDS), "--workers", workers, environ=environ) as host:

        def replaced() -> list[tuple[str, str]]:
            return re.findall(WORN + r"had scored ([0-9]+) requests", host.log)

        async def load() -> list[Client]:
            end = asyncio.get_running_loop().time() + seconds

            def enough() -> bool:
                return len(replaced()) >= 4 and asyncio.get_running_loop().time() > end

            clients = [Client(host.port) for _ in range(16)]
            pauses = [0.3, *itertools.repeat(0.002, 15)]
            asking = (each.ask(enough, pause) for each, pause in zip(clients, pauses, strict=True))
            await asyncio.wait_for(asyncio.gather(*asking), seconds + 100)
            return clients

        clients = asyncio.run(load())
        assert {head.partition("\r\n")[0] for c in clients for head, _ in c.answers} == {
            "HTTP/1.1 200 OK"
        }
        scored = {body.decode() for c in clients for _, body in c.answers}
        assert scored >= {pid for pid, _ in replaced()}
        assert all(int(count) >= 300 for _, count in replaced())
        assert host.stop() == 0
        assert "ERROR" not in host.log and "Traceback" not in host.log
        assert re.findall(r" E \[", host.log) == []


LEAKS = """
import os
def init(): pass
def run(data):
    global kept
    if data == "leak": kept = b"x" * 300_000_000
    if data == "slow":
        import pathlib, time
        go = pathlib.Path(__file__).with_name("go")
        pathlib.Path(__file__).with_name("begun").touch()
        while not go.exists(): time.sleep(0.01)
    return os.getpid()
"""


@on_a_loop
async def test_a_worker_that_holds_too_much_ends_with_its_last_request(write_script):
    """It still scores, while its successor takes what is new."""
    script = write_script(LEAKS)
    async with httpx.AsyncClient(timeout=100) as client:
        with StandaloneHost(script, environ={"SCORING_MAX_RSS_MB": "250"}) as host:
            url, first = f"{host.url}/score", host.worker
            assert (await client.post(url, content="leak")).json() == first
            slow = asyncio.create_task(client.post(url, content="slow"))
            while not script.with_name("begun").exists():
                await asyncio.sleep(0.02)
            await asyncio.to_thread(until, lambda: "this one ends what it has begun" in host.log)
            other = (await client.post(url)).json()
            assert other != first and not slow.done()
            script.with_name("go").touch()
            reply = await slow
            assert (reply.json(), reply.headers["connection"]) == (first, "close")
            await asyncio.to_thread(until, lambda: re.search(WORN + "held [0-9]{3} MB", host.log))
            assert workers_of(host) == {other}


def test_a_worker_goes_on_while_its_successor_cannot_start(write_script, tmp_path):
    broken = tmp_path / "broken"
    script = write_script(
        f"import os\ndef init(): assert not os.path.exists({str(broken)!r})\n"
        "def run(data): return os.getpid()"
    )
    with StandaloneHost(script, environ={"SCORING_MAX_REQUESTS": "1"}) as host:
        broken.touch()
        first = httpx.post(host.url + "/score").json()
        until(lambda: host.log.count("was to replace another, ended with exit code 3") >= 2)
        assert "Cause: AssertionError" in host.log
        assert httpx.post(host.url + "/score").json() == first
        broken.unlink()
        until(lambda: httpx.post(host.url + "/score").json() != first)


def test_files_are_scored_once_each_while_workers_are_replaced(write_script, tmp_path):
    """What a worker has begun, it ends; its successor takes the rest."""
    (tmp_path / "in").mkdir()
    script = write_script("import os\ndef init(): pass\ndef run(data): return [data, os.getpid()]")
    options = ("--watch", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    written = [0]
    with StandaloneHost(script, *options, environ={"SCORING_MAX_REQUESTS": "20"}) as host:

        def enough() -> bool:
            for _ in range(10):
                written[0] += 1
                (tmp_path / "in" / f"{written[0]}.json").write_text(str(written[0]))
            return len(re.findall(WORN, host.log)) >= 3

        until(enough)
        results = tmp_path / "out"
        until(lambda: len(list(results.glob("*_out.json"))) == written[0])
        answers = {p.name: json.loads(p.read_text()) for p in results.glob("*_out.json")}
        assert host.stop() == 0
    assert {name: text for name, (text, _) in answers.items()} == {
        f"{each}_out.json": str(each) for each in range(1, written[0] + 1)
    }
    assert len({pid for _, pid in answers.values()}) >= 3
    assert list(results.glob("*error*")) == []
    assert len(re.findall(" blob .* 200 ", host.log)) in (0, written[0])


def test_a_bound_below_what_the_worker_needs_is_none(write_script):
    environ = {"SCORING_MAX_RSS_MB": "5"}
    with StandaloneHost(write_script(PIDS), environ=environ) as host:
        until(lambda: "SCORING_MAX_RSS_MB is 5, but this worker holds " in host.log)
        assert httpx.post(host.url + "/score").json() == host.worker
