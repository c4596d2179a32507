"""Local services: started in a process of their own, watched, found again, and ended.

About 12 s.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scoring_runtime.errors import LocalServiceError, ServiceExists
from scoring_runtime.local_services import (
    record as local_record,
)
from scoring_runtime.local_services import (
    service as local_service,
)
from scoring_runtime.local_services.process import Process, free_port, is_free, started_at
from scoring_runtime.local_services.record import Record
from scoring_runtime.local_services.service import LocalService
from scoring_runtime.packaging.model_files import from_path
from scoring_runtime.packaging.specification import Environment, Specification
from tests.conftest import WriteScript
from tests.hosts.standalone import worker_of

ECHO = """
    def init():
        print("echo begins")

    def run(data):
        return data
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder with a name that is no ASCII; its services are ended after the test."""
    folder = tmp_path / "Dienste für Köln"
    folder.mkdir()
    yield folder
    for service in local_service.listing(folder):
        service.delete()


Deploy = Callable[..., LocalService]


@pytest.fixture
def deploy(root: Path, write_script: WriteScript) -> Deploy:
    """``deploy(name, source, **options)`` starts a service with that script and waits for it."""

    def start(
        name: str = "echo", source: str = ECHO, wait: bool = True, **options: object
    ) -> LocalService:
        wanted = Specification(entry_script=write_script(source, f"{name}/score.py"))
        service = local_service.deploy(root, name, wanted, **options)  # type: ignore[arg-type]
        if wait:
            service.wait()
        return service

    return start


def record_of(root: Path, name: str) -> dict[str, object]:
    path = root / local_service.SERVICES / name / local_record.RECORD
    document: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return document


# --- from deploy() to delete() --------------------------------------------------------------------


def test_a_service_is_deployed_scores_and_is_deleted(root: Path, deploy: Deploy) -> None:
    """Transitioning, then Healthy; after delete() neither process, port nor folder is left."""
    lines: list[str] = []
    service = deploy(wait=False)
    assert service.state == local_service.TRANSITIONING
    service.wait(lines.append)
    assert service.state == local_service.HEALTHY
    answer = service.score('"Grüße"'.encode())
    assert (answer.status, json.loads(answer.body)) == (200, '"Grüße"')
    assert any("echo begins" in line for line in lines)
    assert lines == service.log().splitlines()[: len(lines)]
    record = service.record
    assert started_at(record.process.pid) == record.process.started
    service.delete()
    assert not record.process.is_alive
    assert is_free(record.port)
    assert list((root / local_service.SERVICES).iterdir()) == []
    assert service.state == local_service.FAILED
    service.delete()


PROGRAM = """
import sys
from pathlib import Path
from scoring_runtime.local_services import service as local_service
from scoring_runtime.packaging.specification import Specification
wanted = Specification(entry_script=Path("score.py"))
sys.stdin.read()
try:
    made = local_service.deploy(Path(sys.argv[1]), sys.argv[2], wanted)
    print(made.record.process.pid)
except local_service.LocalServiceError as error:
    print(error)
"""


def deployed_by_programs(root: Path, name: str, count: int) -> list[str]:
    """What programs of their own print that deploy the same name at once."""
    (root.parent / "score.py").write_text("def init(): pass\ndef run(data): return data\n")
    programs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(root), name],
            cwd=root.parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(count)
    ]
    for program in programs:
        assert program.stdin is not None
        program.stdin.close()
        program.stdin = None
    return [program.communicate(timeout=60)[0].strip() for program in programs]


def test_a_service_outlives_the_program_that_started_it(root: Path) -> None:
    """And another program finds it by its name, asks it and ends it."""
    [said] = deployed_by_programs(root, "lives-on", 1)
    service = local_service.find(root, "lives-on")
    assert said == str(service.record.process.pid)
    service.wait()
    assert service.score(b"1").body == b'"1"'
    assert [each.record.name for each in local_service.listing(root)] == ["lives-on"]
    service.delete()
    assert local_service.listing(root) == []


def test_of_programs_that_deploy_the_same_name_at_once_one_does(root: Path) -> None:
    """The others are refused; no process is left behind."""
    said = deployed_by_programs(root, "race", 3)
    service = local_service.find(root, "race")
    said.remove(str(service.record.process.pid))
    refused = r"A service race already exists, .*|The service race was started by another .*"
    assert [text for text in said if not re.fullmatch(refused, text)] == []
    service.wait()
    assert service.score(b"1").body == b'"1"'


# --- what it is started with ----------------------------------------------------------------------

REPORT = """
    import json, os, sys

    def init():
        pass

    def run(data):
        names = json.loads(data)
        return {name: os.environ.get(name) for name in names}
"""


def test_settings_of_this_program_are_not_the_services(
    root: Path, write_script: WriteScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: what is set here for another service does not reach it."""
    monkeypatch.setenv("AZUREML_MODEL_DIR", "/of/something/else")
    monkeypatch.setenv("SCORING_MAX_BODY_BYTES", "1")
    monkeypatch.setenv("OF_THE_USER", "kept")
    wanted = Specification(
        entry_script=write_script(REPORT),
        triggers=("http", "blob"),
        input_path="in/{blobname}",
        environment=Environment(variables={"GREETING": "Grüß Gott"}),
    )
    service = local_service.deploy(root, "settings", wanted)
    service.wait()
    names = ["AZUREML_MODEL_DIR", "OF_THE_USER", "GREETING", "SCORING_TRIGGERS"]
    assert json.loads(service.score(json.dumps(names).encode()).body) == {
        "AZUREML_MODEL_DIR": None,
        "OF_THE_USER": "kept",
        "GREETING": "Grüß Gott",
        "SCORING_TRIGGERS": "http",
    }


def test_a_secret_reaches_the_service_and_no_file(root: Path, write_script: WriteScript) -> None:
    """Also after a restart; another program gives it from its own environment."""
    secret = "AccountKey=bm90LWEtcmVhbC1rZXktYXQtYWxsLWp1c3QtYS10ZXN0"
    variables = {"MY_STORAGE_CONNECTION_STRING": f"AccountName=a;{secret};EndpointSuffix=x"}
    wanted = Specification(
        entry_script=write_script(REPORT), environment=Environment(variables=variables)
    )
    service = local_service.deploy(root, "secret", wanted)
    service.wait()
    body = json.dumps(list(variables)).encode()
    assert json.loads(service.score(body).body) == variables
    service.restart()
    service.wait()
    assert json.loads(service.score(body).body) == variables
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert service.record.required == tuple(variables)


# --- names and ports ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "ab", "a" * 33, "Echo", "1abc", "ab-", "../abc", "abc\n"],
    ids=ascii,
)
def test_a_name_that_is_not_allowed(root: Path, name: str) -> None:
    """Nothing is made, and the message says what is allowed, as Azure ML's rule has it."""
    for allowed in ("abc", "a" * 32, "a-1", "my-service2"):
        local_service.check_name(allowed)
    with pytest.raises(LocalServiceError) as caught:
        local_service.deploy(root, name, Specification(entry_script=Path("score.py")))
    assert str(caught.value) == (
        f"{name!r} is not a name for a service: it must have 3 to 32 lowercase letters (a-z), "
        "digits or dashes, start with a letter, and end with a letter or digit."
    )
    assert list(root.iterdir()) == []


def test_a_service_that_is_not_there(root: Path, deploy: Deploy) -> None:
    """The message lists those there are."""
    with pytest.raises(LocalServiceError) as caught:
        local_service.find(root, "other")
    assert str(caught.value) == f"There is no service 'other' in {root}. There are: none."
    deploy()
    with pytest.raises(LocalServiceError) as caught:
        local_service.find(root, "../echo")
    assert str(caught.value) == f"There is no service '../echo' in {root}. There are: echo."


def test_a_port_that_is_in_use(root: Path, deploy: Deploy) -> None:
    """Nothing is started, and nothing of the service is left."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LocalServiceError) as caught:
            deploy(port=port)
    assert str(caught.value) == (
        f"Port {port} is in use: choose another one, none for a free one, or stop what uses it."
    )
    assert list(root.iterdir()) == []


def test_a_name_that_is_taken(root: Path, deploy: Deploy) -> None:
    """A running service is replaced only with overwrite, on its port; one that ended always is."""
    first = deploy()
    process, port = first.record.process, first.record.port
    with pytest.raises(ServiceExists) as caught:
        deploy(source="def init(): pass\ndef run(data): return 2\n")
    assert str(caught.value) == (
        f"A service echo already exists, on port {port}: update or delete it, choose another name, "
        "or overwrite it."
    )
    assert process.is_alive
    second = deploy(source="def init(): pass\ndef run(data): return 2\n", overwrite=True)
    assert not process.is_alive
    assert (second.record.port, second.score(b"0").body) == (port, b"2")
    os.kill(second.record.process.pid, signal.SIGKILL)
    wait_until_gone(second.record.process)
    third = deploy(source="def init(): pass\ndef run(data): return 3\n")
    assert third.score(b"0").body == b"3"
    assert first.record == third.record


def wait_until_gone(process: Process) -> None:
    while process.is_alive:
        time.sleep(0.01)


# --- failing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (
            "def init(): raise ValueError('no weights')\ndef run(data): return data\n",
            "Cause: ValueError: no weights",
        ),
        (
            "import a_package_that_is_not_here\ndef init(): pass\ndef run(data): return data\n",
            "Cause: ModuleNotFoundError: No module named 'a_package_that_is_not_here'",
        ),
        (
            "import os\ndef init(): os._exit(7)\ndef run(data): return data\n",
            "The process has ended.",
        ),
    ],
    ids=["init raises", "missing package", "the process ends itself"],
)
def test_a_script_that_fails(deploy: Deploy, source: str, cause: str) -> None:
    """The state is Failed, and what wait() raises ends with the cause."""
    service = deploy("fails", source, wait=False)
    with pytest.raises(LocalServiceError) as caught:
        service.wait()
    text = str(caught.value)
    assert text.startswith(f"The local service fails on port {service.record.port} has failed.\n")
    assert text.splitlines()[-1] == cause
    assert service.state == local_service.FAILED
    assert text.splitlines()[-2] in service.log()


def test_a_host_that_was_killed(deploy: Deploy) -> None:
    """The state is Failed, a request says so, and restart() brings it back on its port."""
    service = deploy()
    port = service.record.port
    os.kill(service.record.process.pid, signal.SIGKILL)
    wait_until_gone(service.record.process)
    assert service.state == local_service.FAILED
    with pytest.raises(LocalServiceError) as caught:
        service.score(b"1")
    text = str(caught.value)
    assert text.startswith(f"The local service echo on port {port} did not answer ([Errno ")
    assert text.endswith("); it is Failed. Its log may say why.")
    service.restart()
    service.wait()
    assert (service.record.port, service.score(b"1").body) == (port, b'"1"')


def test_a_host_that_does_not_answer_in_time(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is Unhealthy, wait() ends, and delete() ends it although it takes no signal."""
    monkeypatch.setattr(local_service, "_PROBE_SECONDS", 0.2)
    service = deploy()
    process = service.record.process
    for each in (process.pid, worker_of(process.pid)):
        os.kill(each, signal.SIGSTOP)
    assert service.state == local_service.UNHEALTHY
    with pytest.raises(LocalServiceError) as caught:
        service.wait(timeout=0)
    assert str(caught.value).startswith(
        f"The local service echo on port {service.record.port} is Unhealthy after 0 seconds; "
        "expected is Healthy. The end of its log:\n"
    )
    monkeypatch.setattr(local_service, "GRACE_SECONDS", 0.2)
    service.delete()
    assert not process.is_alive


# --- processes that are not the service -----------------------------------------------------------


def test_a_process_id_that_is_another_program_now(root: Path, deploy: Deploy) -> None:
    """It is not taken for the service, and delete() leaves it alone."""
    service = deploy()
    own = service.record.process
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as bystander:
        stale = Process(bystander.pid, own.started)
        local_record.write(folder_of(root, "echo"), replace(service.record, process=stale))
        found = local_service.find(root, "echo")
        assert found.state == local_service.FAILED
        found.delete()
        assert bystander.poll() is None
    assert own.is_alive
    os.kill(own.pid, signal.SIGKILL)


def folder_of(root: Path, name: str) -> Path:
    return root / local_service.SERVICES / name


def test_a_zombie_does_not_run() -> None:
    """A process that ended is gone, though nobody has waited for it."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert started_at(child.pid) == 0
    assert started_at(child.pid) == 0


def test_a_folder_that_was_deleted(root: Path, deploy: Deploy) -> None:
    """Whoever has the service can still end it; others do not find it; no state raises."""
    service = deploy()
    shutil.rmtree(folder_of(root, "echo"))
    assert service.state in local_service.STATES
    assert (service.log(), local_service.listing(root)) == ("", [])
    process = service.record.process
    service.delete()
    assert not process.is_alive


def test_a_record_that_was_damaged(root: Path, deploy: Deploy) -> None:
    """It is left out of the list, and finding it says what to do."""
    service = deploy(wait=False)
    folder = folder_of(root, "echo")
    (folder / local_record.RECORD).write_text("{}")
    assert local_service.listing(root) == []
    with pytest.raises(LocalServiceError) as caught:
        local_service.find(root, "echo")
    assert str(caught.value) == (
        f"{folder / local_record.RECORD} is not what was written when the service was started: "
        f"delete {folder}, and deploy the service again."
    )
    service.delete()


# --- restarting -----------------------------------------------------------------------------------


def test_a_changed_script_is_served_after_a_restart(
    root: Path, deploy: Deploy, write_script: WriteScript
) -> None:
    """Until then the old one is; the log begins anew; one context is left. Also on another port."""
    service = deploy()
    write_script("def init(): pass\ndef run(data): return 'new'\n", "echo/score.py")
    assert service.score(b"1").body == b'"1"'
    service.restart()
    service.wait()
    assert service.score(b"1").body == b'"new"'
    assert "echo begins" not in service.log()
    names = sorted(path.name for path in folder_of(root, "echo").iterdir())
    assert names == [".lock", "context-2", "log.txt", "service.json"]
    assert record_of(root, "echo")["generation"] == 2
    old, new = service.record.port, free_port()
    service.restart(port=new)
    service.wait()
    assert (service.record.port, service.score(b"1").body) == (new, b'"new"')
    assert is_free(old)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(LocalServiceError):
        service.restart(port=other.getsockname()[1])
    assert service.score(b"1").body == b'"new"'


def test_what_cannot_be_packaged_is_not_started_and_leaves_the_service_as_it_is(
    root: Path, deploy: Deploy, tmp_path: Path
) -> None:
    """It goes on, on its port, with its script; the packager's sentence is the message."""
    wanted = Specification(entry_script=root / "missing.py")
    with pytest.raises(LocalServiceError) as caught:
        local_service.deploy(root, "nothing", wanted)
    assert str(root / "missing.py") in str(caught.value)
    assert list((root / local_service.SERVICES).iterdir()) == []
    service = deploy()
    before = service.record
    (tmp_path / "echo/score.py").unlink()
    with pytest.raises(LocalServiceError):
        service.restart()
    assert service.record == before
    assert service.state == local_service.HEALTHY
    assert service.score(b"1").body == b'"1"'


def test_the_service_is_told_to_end_and_answers_what_is_in_flight(
    deploy: Deploy, tmp_path: Path
) -> None:
    """A restart ends the host with SIGTERM: a request that runs is answered by the old script."""
    slow = """
        import time

        def init():
            pass

        def run(data):
            open(data, "w").close()
            time.sleep(0.5)
            return "done"
    """
    service = deploy("slow", slow)
    begun = tmp_path / "begun"
    code = (
        "import http.client, sys\n"
        f"c = http.client.HTTPConnection('127.0.0.1', {service.record.port})\n"
        f"c.request('POST', '/score', {str(begun)!r}.encode())\n"
        "print(c.getresponse().read().decode())\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        while not begun.exists():
            assert client.poll() is None
            time.sleep(0.01)
        service.restart()
        assert client.communicate(timeout=30)[0] == '"done"\n'


# --- the record -----------------------------------------------------------------------------------


def test_what_is_noted_is_read_again(tmp_path: Path) -> None:
    """Everything but the values of secrets."""
    wanted = Specification(
        target="standalone",
        models=(from_path("m", 2, tmp_path),),
        entry_script=tmp_path / "a.py",
        source_dir=tmp_path,
        environment=Environment(
            requirements=("numpy==2.1", "scipy"),
            options=("--pre",),
            python="3.12",
            variables={"A": "ü", "KEY": "secret"},
            wheels=(tmp_path / "w.whl",),
            notes=("left out: x.",),
        ),
    )
    record = Record("abc", 8890, wanted, Process(1, 2.5), 3, "then", "now", ("KEY",))
    local_record.write(tmp_path, record)
    environment = replace(wanted.environment, variables={"A": "ü"})
    assert local_record.read(tmp_path) == replace(
        record, specification=replace(wanted, environment=environment)
    )
    assert b"secret" not in (tmp_path / local_record.RECORD).read_bytes()


def test_the_log_by_lines(root: Path, tmp_path: Path) -> None:
    """All of it, or its last lines; none of a service that has written nothing."""
    record = Record("abc", 1, Specification())
    service = LocalService(tmp_path, record)
    assert (service.log(), service.log(3)) == ("", "")
    (tmp_path / "log.txt").write_text("a\nb\nü\n", encoding="utf-8")
    assert [service.log(), service.log(0), service.log(2), service.log(9)] == [
        "a\nb\nü\n",
        "",
        "b\nü\n",
        "a\nb\nü\n",
    ]
