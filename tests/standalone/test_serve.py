"""The life of the standalone host: start, health, workers, signals, and how it says why not."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hosts.standalone import StandaloneHost, free_port
from tests.hosts.waiting import until

PATIENCE = 30.0
ECHO = "def init(): pass\ndef run(data): return data"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that are sent while the test goes on."""
    with ThreadPoolExecutor(16) as executor:
        yield executor


def post(host: StandaloneHost, content: bytes = b"", path: str = "/score") -> httpx.Response:
    return httpx.post(host.url + path, content=content, timeout=PATIENCE)


def get(host: StandaloneHost, path: str) -> httpx.Response:
    return httpx.get(host.url + path, timeout=PATIENCE)


def at_once(check: Callable[[Any], None], cases: Iterable[Any]) -> None:
    """``check(case)`` for each, all at the same time: they wait more than they work."""
    cases = list(cases)
    with ThreadPoolExecutor(len(cases)) as executor:
        futures = [executor.submit(check, case) for case in cases]
    failed = []
    for case, future in zip(cases, futures, strict=True):
        if error := future.exception():
            error.add_note(f"with {case}")
            failed.append(error)
    if failed:
        raise BaseExceptionGroup("not in every case", failed)


def answers(host: StandaloneHost, path: str = "/health/live") -> bool:
    with contextlib.suppress(httpx.TransportError):
        return get(host, path).status_code < 600
    return False


def ended(host: StandaloneHost) -> tuple[int, str]:
    """Exit code and output of a host that is to end by itself."""
    try:
        code = host.process.wait(PATIENCE)
    finally:
        host.stop(signal.SIGKILL)
    return code, host.log


# --- what is loaded ---------------------------------------------------------------------------


def test_garbage_collection_does_not_look_at_what_is_loaded(write_script):
    """Its pass over the objects of scikit-learn takes 45 ms, for which all requests wait."""
    script = write_script(
        "import gc, sklearn.pipeline\n"
        "def init(): pass\n"
        "def run(data): return [gc.get_freeze_count(), len(gc.get_objects())]"
    )
    with StandaloneHost(script) as host:
        aside, looked_at = post(host).json()
    assert aside > 20 * looked_at


# --- health ---------------------------------------------------------------------------------------


def test_health_answers_while_run_is_busy(write_script, pool):
    """A run() that computes for seconds in Python makes no orchestrator end the process."""
    script = write_script(
        "import time\n"
        "def init(): pass\n"
        "def run(data):\n"
        "    end = time.perf_counter() + 2\n"
        "    while time.perf_counter() < end: pass\n"
    )
    with StandaloneHost(script) as host:
        busy = pool.submit(post, host)
        time.sleep(0.2)
        took = []
        while not busy.done():
            for path in ("/health/live", "/health/ready", "/"):
                started = time.perf_counter()
                assert get(host, path).status_code == 200
                took.append(time.perf_counter() - started)
        assert busy.result().status_code == 200
    assert len(took) >= 9
    assert max(took) < 0.5


INIT_WAITS = """
import time, pathlib
go = pathlib.Path(__file__).with_name("go")
def init():
    while not go.exists(): time.sleep(0.01)
    {end}
def run(data): return data
"""


def test_while_init_is_slow_live_is_200_ready_is_503_and_requests_wait(write_script, pool):
    """Row 65 of the contract."""

    def check(workers: str) -> None:
        script = write_script(INIT_WAITS.format(end=""), f"{workers}/score.py")
        host = StandaloneHost(script, "--workers", workers)
        host.start()
        try:
            until(lambda: answers(host))
            for _ in range(4):
                assert get(host, "/health/live").json() == {"state": "Transitioning"}
                ready = get(host, "/health/ready")
                assert (ready.status_code, ready.json()) == (503, {"state": "Transitioning"})
                assert ready.headers["retry-after"] == "1"
            waiting = [pool.submit(get, host, "/"), pool.submit(post, host, b"early")]
            time.sleep(0.3)
            assert not any(each.done() for each in waiting)
            script.with_name("go").touch()
            assert [each.result().text for each in waiting] == ["Healthy", '"early"']
            until(lambda: get(host, "/health/ready").status_code == 200)
            assert get(host, "/health/ready").json() == {"state": "Healthy"}
        finally:
            script.with_name("go").touch()
            code = host.stop()
        assert code == 0

    at_once(check, ["1", "2"])


def test_the_health_port_alone_opens_nothing(write_script):
    second = free_port()
    with StandaloneHost(write_script(ECHO), "--health-port", str(second)) as host:
        assert get(host, "/").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{second}/")


# --- SIGTERM --------------------------------------------------------------------------------------

SLOW = """
import pathlib, time
folder = pathlib.Path(__file__).parent
def init(): pass
def run(data):
    if data:
        (folder / f"begun {data}").touch()
        while not (folder / "go").exists(): time.sleep(0.01)
    return data
"""  # it notes that it has begun and waits for the file ``go``


def refused(host: StandaloneHost) -> bool:
    try:
        socket.create_connection(("127.0.0.1", host.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_finishes_what_is_in_flight_and_refuses_what_is_new(write_script, pool):
    """Row 62; SIGINT too, with one process and with workers."""

    def check(case: tuple[str, signal.Signals]) -> None:
        workers, number = case
        script = write_script(SLOW, f"{number.name}{workers}/score.py")
        with StandaloneHost(script, "--workers", workers) as host:
            in_flight = [pool.submit(post, host, b"1"), pool.submit(post, host, b"2")]
            until(lambda: list(script.parent.glob("begun *")))
            time.sleep(0.2)  # the other waits in this worker's queue, or runs in the other one
            host.process.send_signal(number)
            until(lambda: refused(host))
            assert not any(each.done() for each in in_flight)
            assert host.process.poll() is None
            script.with_name("go").touch()
            replies = [each.result() for each in in_flight]
            assert [each.status_code for each in replies] == [200, 200]
            assert [each.json() for each in replies] == ["1", "2"]
            assert [each.headers["connection"] for each in replies] == ["close", "close"]
            assert host.process.wait(PATIENCE) == 0
        assert host.log.count("POST /score 200 ") == 2
        assert "Traceback" not in host.log

    at_once(check, itertools.product(["1", "2"], [signal.SIGTERM, signal.SIGINT]))


def test_sigterm_closes_idle_connections_and_does_not_wait_for_their_clients(write_script):
    script = write_script(ECHO)

    def check(workers: str) -> None:
        with StandaloneHost(script, "--workers", workers) as host:
            with httpx.Client() as client:
                assert client.get(host.url).status_code == 200
                started = time.monotonic()
                host.process.send_signal(signal.SIGTERM)
                assert host.process.wait(PATIENCE) == 0
            assert time.monotonic() - started < 5

    at_once(check, ["1", "2"])


def test_a_run_that_does_not_end_is_waited_for_no_longer_than_told(write_script, pool):
    def check(workers: str) -> None:
        script = write_script(SLOW, f"{workers}/score.py")
        environ = {"SCORING_SHUTDOWN_SECONDS": "1"}
        with StandaloneHost(script, "--workers", workers, environ=environ) as host:
            request = pool.submit(post, host, b"1")
            until(script.with_name("begun 1").exists)
            started = time.monotonic()
            host.process.send_signal(signal.SIGTERM)
            assert host.process.wait(PATIENCE) == 0
            assert 0.9 < time.monotonic() - started < 10
            assert isinstance(request.exception(), httpx.TransportError)

    at_once(check, ["1", "2"])


def test_sigterm_while_init_runs_ends_the_process(write_script):
    script = write_script("import time\ndef init(): time.sleep(600)\ndef run(data): return data")

    def check(workers: str) -> None:
        host = StandaloneHost(script, "--workers", workers)
        host.start()
        try:
            until(lambda: answers(host))
            host.process.send_signal(signal.SIGTERM)
            assert host.process.wait(PATIENCE) == 0
        finally:
            host.stop(signal.SIGKILL)

    at_once(check, ["1", "2"])


def test_sigterm_at_any_moment_of_the_start_of_workers_ends_them_all(write_script):
    """A worker that is just being forked is neither missed, nor does it stop its siblings only."""
    script = write_script(ECHO)

    def check(delay: float) -> None:
        host = StandaloneHost(script, "--workers", "4")
        host.start()
        try:
            until(lambda: "Server Routes" in host.log)
            time.sleep(delay)
            host.process.send_signal(signal.SIGTERM)
            host.process.wait(PATIENCE)
            until(lambda: refused(host), seconds=5)
        finally:
            host.stop(signal.SIGKILL)

    at_once(check, [0.0, 0.01, 0.03, 0.1])


# --- what cannot start ----------------------------------------------------------------------------

KEY = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="
BUS = f"Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=a;SharedAccessKey={KEY}"
GOOD_RUN = "def run(data): return data"
BROKEN = f"def init():\n    x = 1\n    raise LookupError('no such weights')\n{GOOD_RUN}"


def test_a_script_that_cannot_start_ends_the_host_with_a_diagnosis(tmp_path):
    """Row 62: exit 3; what failed, where, what the model folder has; the cause at the end, once.

    The texts are those of tests/scoring/test_diagnosis.py.
    """
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "model.pkl").touch()
    script = tmp_path / "score.py"
    script.write_text(BROKEN)

    def check(case: tuple[str, Path]) -> None:
        workers, path = case
        model = ("--model-dir", str(tmp_path / "model"))
        host = StandaloneHost(path, *model, "--workers", workers)
        host.start()
        code, log = ended(host)
        assert code == 3
        rule = "=" * 51 + "\n"
        assert log.count(rule) == 2
        last = log.rstrip().splitlines()[-1]
        if path != script:
            assert last.startswith("Cause: No such file or directory: the entry script ")
            assert last.endswith(f"{tmp_path} contains: model, score.py.")
            return
        text = log[log.index(rule) :]
        assert "User's init function failed" in text
        assert re.search(r"^Where: \S+score\.py:3 in init$", text, re.MULTILINE)
        assert "\nmodel/\n    sub/\n        model.pkl\n" in text
        assert last == "Cause: LookupError: no such weights"

    at_once(check, itertools.product(["1", "2"], [script, tmp_path / "absent.py"]))


@pytest.mark.parametrize("preload", ["false", "true"])
def test_a_failing_init_is_not_tried_again_and_again(write_script, tmp_path, preload):
    """No boot loop: each worker tries once, or the parent does."""
    script = write_script(
        f"def init():\n    open({str(tmp_path / 'tries')!r}, 'a').write('x')\n    1 / 0\n{GOOD_RUN}"
    )
    host = StandaloneHost(script, "--workers", "2", environ={"WORKER_PRELOAD": preload})
    host.start()
    code, log = ended(host)
    assert code == 3
    assert log.rstrip().endswith("Cause: ZeroDivisionError: division by zero")
    tries = (tmp_path / "tries").read_text()
    assert tries == "x" if preload == "true" else tries in ("x", "xx")


def test_requests_that_wait_for_an_init_that_fails_are_told(write_script, pool):
    def check(workers: str) -> None:
        source = INIT_WAITS.format(end="raise OSError('no weights')")
        script = write_script(source, f"{workers}/score.py")
        host = StandaloneHost(script, "--workers", workers)
        host.start()
        try:
            until(lambda: answers(host))
            waiting = [pool.submit(get, host, "/"), pool.submit(post, host, b"early")]
            time.sleep(0.2)
        finally:
            script.with_name("go").touch()
        code, log = ended(host)
        for each in waiting:
            reply = each.result()
            assert reply.status_code == 503
            assert "weights" not in reply.text
        assert code == 3
        assert "Cause: OSError: no weights" in log

    at_once(check, ["1", "2"])


@pytest.mark.parametrize("health", [False, True], ids=["port", "health port"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_exit_1_with_a_clear_message(write_script, workers, health):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        environ = {"SEPERATE_HEALTH_ENDPOINT": "true", "HEALTH_PORT": str(port)} if health else {}
        taken = [] if health else ["--port", str(port)]
        host = StandaloneHost(write_script(ECHO), *taken, "--workers", workers, environ=environ)
        host.start()
        code, log = ended(host)
    assert code == 1
    assert log.rstrip().splitlines()[-1] == (
        f"scoring-runtime: Cannot listen on 127.0.0.1:{port}: Address already in use. Choose "
        "another port with --port (or HEALTH_PORT), or stop what uses it."
    )
    assert "Traceback" not in log


def test_of_hosts_that_start_together_on_one_port_one_serves(write_script):
    """The others end with the same message, whether bind() or listen() refuses them."""
    script, port = write_script(ECHO), str(free_port())
    hosts = [StandaloneHost(script, "--port", port) for _ in range(4)]
    for host in hosts:
        host.start()
    try:
        until(lambda: sum(host.process.poll() is None for host in hosts) == 1)
        (winner,) = (host for host in hosts if host.process.poll() is None)
        until(lambda: "ready for serving traffic" in winner.log)
        reply = httpx.post(f"http://127.0.0.1:{port}/score", content=b"x")
        assert reply.json() == "x"
        for host in hosts:
            code = host.stop()
            if host is winner:
                assert code == 0
            else:
                assert code == 1
                message = (
                    f"scoring-runtime: Cannot listen on 127.0.0.1:{port}: Address already in use."
                )
                assert host.log.rstrip().splitlines()[-1].startswith(message)
                assert "Traceback" not in host.log
    finally:
        for host in hosts:
            host.stop(signal.SIGKILL)


@pytest.mark.parametrize(
    ("options", "environ", "code", "last"),
    [
        (("--host", "192.0.2.1"), {}, 1, "scoring-runtime: Cannot listen on 192.0.2.1:"),
        (
            (),
            {"SCORING_NAN": "maybe"},
            3,
            "Cause: SCORING_NAN has the value 'maybe' (from the environment), which is not all",
        ),
        (
            (),
            {"TriggerConnectionString": BUS, "SCORING_TRIGGERS": "blob"},
            3,
            "Cause: TriggerConnectionString (the connection that BLOB_CONNECTION names) is not a",
        ),
        (
            ("--watch", "in", "--output", "in/out"),
            {},
            3,
            "Cause: The documents in ",
        ),
    ],
)
def test_what_the_machine_or_the_settings_refuse_is_said_at_the_end(
    write_script, options, environ, code, last
):
    host = StandaloneHost(write_script(ECHO), *options, environ=environ)
    host.start()
    found, log = ended(host)
    assert found == code
    assert log.rstrip().splitlines()[-1].startswith(last)
    assert "Traceback" not in log
    assert KEY not in log


# --- several workers ------------------------------------------------------------------------------

PIDS = """
import os, time, pathlib, signal
with open({notes!r}, "a") as notes: notes.write(f"import {{os.getpid()}}\\n")
def init():
    with open({notes!r}, "a") as notes: notes.write(f"init {{os.getpid()}}\\n")
def run(data):
    if data == "stuck": time.sleep(600)
    if data == "wait":
        while not pathlib.Path({go!r}).exists(): time.sleep(0.01)
    return os.getpid()
"""


@pytest.fixture
def pids_script(write_script: Any, tmp_path: Path) -> Path:
    """run() answers with its process id; imports and inits are noted in the file ``notes``."""
    source = PIDS.format(notes=str(tmp_path / "notes"), go=str(tmp_path / "go"))
    path: Path = write_script(source)
    return path


def serving(host: StandaloneHost, enough: Callable[[set[int]], object]) -> set[int]:
    """The process ids that answer, asked until there are enough."""

    def ask(_: int) -> int:
        with contextlib.suppress(httpx.TransportError):
            reply = post(host)
            if reply.status_code == 200:
                pid: int = reply.json()
                return pid
        return 0

    found: set[int] = set()
    until = time.monotonic() + PATIENCE
    with ThreadPoolExecutor(16) as executor:
        while not enough(found):
            assert time.monotonic() < until, f"only {found} answer"
            found |= set(executor.map(ask, range(32))) - {0}
    return found


def both(host: StandaloneHost) -> set[int]:
    return serving(host, lambda pids: len(pids) == 2)


@pytest.mark.parametrize(("preload", "workers"), [(False, 2), (True, 1), (True, 2)])
def test_each_worker_loads_the_script_itself_or_the_parent_once(
    pids_script, tmp_path, preload, workers
):
    """Row 16 of the contract: WORKER_PRELOAD runs init() once in the parent, if there are more."""
    environ = {"WORKER_PRELOAD": str(preload).lower(), "WORKER_COUNT": str(workers)}
    with StandaloneHost(pids_script, environ=environ) as host:
        pids = serving(host, lambda found: len(found) == workers)
        assert host.process.pid not in pids
        loaded = {host.process.pid} if preload and workers > 1 else pids
        notes = (tmp_path / "notes").read_text().splitlines()
        assert sorted(notes) == sorted(f"{n} {p}" for p in loaded for n in ("import", "init"))


def test_children_that_init_begins_in_the_parent_are_no_workers(write_script):
    """Their end starts no further worker."""
    script = write_script(
        "import os, subprocess\n"
        "def init(): subprocess.Popen(['sleep', '0.3'])\n"
        "def run(data): return os.getpid()"
    )
    environ = {"WORKER_PRELOAD": "true", "WORKER_COUNT": "2"}
    with StandaloneHost(script, environ=environ) as host:
        pids = both(host)
        time.sleep(0.8)
        assert both(host) == pids
        assert "starting another" not in host.log


def test_a_worker_that_dies_is_replaced_and_service_goes_on(pids_script):
    def check(case: tuple[signal.Signals, str]) -> None:
        number, how = case
        with StandaloneHost(pids_script, "--workers", "2") as host:
            victim, other = both(host)
            os.kill(victim, number)
            until(lambda: f"Worker {victim} ended with {how}; starting another." in host.log)
            now = both(host)
            assert other in now
            assert victim not in now
            assert host.stop() == 0

    hows = ["signal SIGKILL", "signal SIGSEGV", "exit code 0"]
    at_once(check, zip([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], hows, strict=True))


DIES = """
import ctypes, os, signal
def init(): pass
def run(data):
    if data.startswith("exit"): os._exit(int(data[5:]))
    if data == "segfault": ctypes.string_at(0)
    if data == "killed": os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()
"""
DEATHS = {
    "exit 3": "exit code 3",
    "segfault": "signal SIGSEGV",
}


def test_a_worker_that_crashes_while_it_scores_is_replaced_and_its_request_named(write_script):
    """The only one too, and with the exit code that means at the start that it cannot."""
    script = write_script(DIES)

    def check(case: tuple[str, tuple[str, str]]) -> None:
        workers, (body, how) = case
        with StandaloneHost(script, "--workers", workers) as host:
            pid = post(host).json()
            line = rf"Worker ([0-9]+) ended with {how}; starting another\."
            headers = {"x-request-id": "the one that kills"}
            with pytest.raises(httpx.TransportError):
                httpx.post(f"{host.url}/score", content=body, headers=headers, timeout=PATIENCE)
            named = r" The last request that it began to score was the one that kills\.$"
            until(lambda: re.search(line + named, host.log, re.MULTILINE))
            dead = int(re.findall(line, host.log)[0])
            assert (dead == pid) or workers == "2"
            assert serving(host, lambda pids: len(pids) == int(workers)).isdisjoint({dead})
            assert host.stop() == 0

    at_once(check, itertools.product(["1", "2"], DEATHS.items()))


def test_a_worker_that_keeps_crashing_is_started_again_after_growing_pauses(write_script, tmp_path):
    """And SIGTERM ends the pause."""
    script = write_script(
        f"""
        import os, signal
        if os.path.exists({str(tmp_path / "crash")!r}):
            os.kill(os.getpid(), signal.SIGSEGV)
        def init(): ...
        {GOOD_RUN}
        """
    )
    with StandaloneHost(script) as host:
        (tmp_path / "crash").touch()
        os.kill(host.worker, signal.SIGSEGV)
        ends = r"ended with signal SIGSEGV; starting another(.*)\."
        until(lambda: re.findall(ends, host.log)[3:])
        assert re.findall(ends, host.log)[:4] == ["", " in 1 s", " in 2 s", " in 4 s"]
        started = time.monotonic()
        host.process.terminate()
        assert host.process.wait(PATIENCE) == 0
        assert time.monotonic() - started < 3.5


def test_sighup_neither_ends_nor_reloads_anything(write_script, tmp_path):
    """And what a script leaves to be done at the end is done at the end."""
    done = tmp_path / "done"
    script = write_script(
        "import atexit, os, pathlib\n"
        f"def init(): atexit.register(pathlib.Path({str(done)!r}).touch)\n"
        "def run(data): return os.getpid()"
    )
    with StandaloneHost(script) as host:
        pid = host.worker
        for each in (host.process.pid, pid):
            os.kill(each, signal.SIGHUP)
        assert post(host).json() == pid
        assert host.process.poll() is None
        assert not done.exists()
        assert host.stop() == 0
    assert done.exists()


def test_a_killed_service_leaves_nothing_behind(write_script, tmp_path, pool):
    """SIGKILL of the process that was started ends its worker at once, whatever it does."""
    noted = tmp_path / "noted"
    script = write_script(
        "import pathlib, re\ndef init(): pass\n"
        f"def run(data):\n    pathlib.Path({str(noted)!r}).touch()\n"
        "    re.match('(a+)+$', 'a' * 64 + 'b')  # for ever, and no other thread runs meanwhile\n"
    )
    with StandaloneHost(script) as host:
        worker = host.worker
        pool.submit(post, host)
        until(noted.exists)
        host.process.kill()
        host.process.wait()
        until(lambda: gone(worker))
        until(lambda: refused(host))  # its threads end after the process's first one


def gone(pid: int) -> bool:
    """Whether a process is a zombie: where nobody is init, nobody waits for an orphan."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_a_worker_that_is_stuck_past_its_deadline_is_replaced(pids_script, pool):
    """The requests behind it are answered in time, and the service does not stop."""
    environ = {"SCORING_TIMEOUT_MS": "300", "WORKER_COUNT": "2"}
    with StandaloneHost(pids_script, environ=environ) as host:
        before = both(host)
        reply = post(host, b"stuck")
        assert (reply.status_code, reply.json()["message"]) == (500, "Scoring timeout after 300 ms")
        until(
            lambda: (
                "run() has not returned after its deadline; this worker is replaced." in host.log
            )
        )
        ended = r"Worker ([0-9]+) ended with exit code 5; starting another\."
        until(lambda: re.search(ended, host.log))
        stuck = {int(pid) for pid in re.findall(ended, host.log)}
        now = serving(host, lambda pids: len(pids) == 2)
        assert now & before == before - stuck
        assert len(stuck) == 1
        assert "Traceback" not in host.log


def test_one_process_that_is_stuck_is_not_live_until_run_returns(pids_script, tmp_path):
    """The orchestrator may replace it; without one it serves again by itself."""
    with StandaloneHost(pids_script, environ={"SCORING_TIMEOUT_MS": "200"}) as host:
        assert post(host, b"wait").status_code == 500
        for path in ("/health/live", "/health/ready"):
            reply = get(host, path)
            assert (reply.status_code, reply.json()) == (503, {"state": "Unhealthy"})
        assert get(host, "/").status_code == 503
        (tmp_path / "go").touch()
        until(lambda: get(host, "/health/live").status_code == 200)
        assert post(host).json() == host.worker


# --- settings at work -----------------------------------------------------------------------------


DEADLINES = [
    ({"SCORING_TIMEOUT_MS": "300"}, 300),
    ({"SCORING_TIMEOUT_MS": "300", "WORKER_TIMEOUT": "7"}, 300),
    ({"SCORING_TIMEOUT_MS": "0", "WORKER_TIMEOUT": "0.25"}, 250),
]


def test_the_deadline_is_answered_in_time(write_script):
    """Row 42: WORKER_TIMEOUT is answered in JSON."""
    script = write_script("import time\ndef init(): pass\ndef run(data): time.sleep(3)")

    def check(case: tuple[dict[str, str], int]) -> None:
        environ, milliseconds = case
        with StandaloneHost(script, environ=environ) as host:
            started = time.monotonic()
            reply = post(host)
            took = time.monotonic() - started
            host.stop(signal.SIGKILL)
        assert reply.status_code == 500
        assert reply.json() == {"message": f"Scoring timeout after {milliseconds} ms"}
        assert reply.headers["x-ms-run-function-failed"] == "True"
        assert milliseconds / 1000 <= took < 2.5

    at_once(check, DEADLINES)


def test_without_uvloop_it_serves_on_the_loop_of_asyncio(write_script, tmp_path):
    """Windows has none; only [server] brings it."""
    write_script("raise ModuleNotFoundError(\"No module named 'uvloop'\")", "without/uvloop.py")
    path = os.pathsep.join([str(tmp_path / "without"), *sys.path])
    script = write_script(
        "import asyncio\ndef init(): pass\n"
        "async def run(data): return type(asyncio.get_running_loop()).__module__"
    )
    with StandaloneHost(script, environ={"PYTHONPATH": path}) as host:
        assert post(host, b"x").json().startswith("asyncio.")
        assert host.stop() == 0
        assert "Traceback" not in host.log


def test_sys_exit_and_interrupts_in_run_end_no_process(write_script):
    """Row 41 of the contract: JSON 500, and the same process goes on."""
    script = write_script(
        "import os, sys\n"
        "from scoring_runtime import AMLResponse\n"
        "def init(): pass\n"
        "def parts():\n    yield b'x'\n    sys.exit(4)\n"
        "def run(data):\n"
        "    if data == 'exit': sys.exit(3)\n"
        "    if data == 'interrupt': raise KeyboardInterrupt\n"
        "    if data == 'stream': return AMLResponse(parts(), 200)\n"
        "    return os.getpid()"
    )
    with StandaloneHost(script) as host:
        for body in (b"exit", b"interrupt"):
            reply = post(host, body)
            assert reply.status_code == 500
            assert reply.json()["message"].startswith("An unexpected error occurred in scoring")
        with pytest.raises(httpx.RemoteProtocolError):
            post(host, b"stream")
        assert post(host).json() == host.worker


def test_what_the_script_prints_and_logs_is_in_the_log(write_script):
    script = write_script(
        "import logging\nprint('at import')\n"
        "def init(): print('in', 'init', sep='-')\n"
        "def run(data):\n    print('in run')\n    logging.getLogger('mine').info('logged')\n"
    )
    with StandaloneHost(script) as host:
        httpx.post(f"{host.url}/score", headers={"x-request-id": "id-7"})
        host.stop()
        log = host.log
    for line in (r"azmlinfsrv\.print - at import", r"azmlinfsrv\.print - in-init",
                 r"azmlinfsrv\.print - in run \[id-7\]", r"mine - logged \[id-7\]",
                 r"azmlinfsrv - POST /score 200 [0-9.]+ms 2 trigger=http .* \[id-7\]"):  # fmt: skip
        stamp = r"^[0-9-]{10} [0-9:]{8},[0-9]{3} I \[[0-9]+\] "
        assert re.search(stamp + line + "$", log, re.MULTILINE), (line, log)
    assert "Users's init has completed successfully" in log
    assert re.search(r"Worker with pid [0-9]+ ready for serving traffic", log)


def test_the_only_worker_that_was_never_ready_is_not_started_again(write_script):
    """init() ends the process itself: whoever started the service is told, once."""
    script = write_script("import os\ndef init(): os._exit(7)\ndef run(data): ...")
    host = StandaloneHost(script)
    host.start()
    assert host.process.wait(60) == 3
    assert host.log.count("Invoking user's init function") == 1
    assert host.log.splitlines()[-1] == "The worker ended with exit code 7 before it was ready."
    host.stop()
