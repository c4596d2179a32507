"""What is special to watched folders: crashes, slow writers, several hosts, names, the command."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone.folder import Folder
from scoring_runtime.triggers.blob_paths import blob_paths
from tests.conftest import WriteScript
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until

PATIENCE = 120.0
SCRIPT = """
    import json, pathlib, time

    CALLS = pathlib.Path(__file__).with_name("calls")

    def init():
        pass

    def run(data, request_headers):
        with CALLS.open("a") as calls:
            calls.write(json.dumps([request_headers["X-Blob-Name"], data]) + "\\n")
        if data == "slow at first" and len(CALLS.read_text().splitlines()) == 1:
            time.sleep(60)
        if data == "fail":
            raise ValueError("as asked")
        return {"length": len(data), "end": data[-10:]}
"""


class Folders:
    """A watched folder and that of the documents, with the paths of the defaults."""

    def __init__(self, folder: Path) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.claims = self.output / ".scoring"
        self.input.mkdir()
        self.options = ("--watch", str(self.input), "--output", str(self.output))
        self.environ = {"BLOB_POLL_SECONDS": "0.1"}

    def put(self, name: str, text: str) -> Path:
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def host(self, script: Path, **more: str) -> StandaloneHost:
        return StandaloneHost(script, *self.options, environ={**self.environ, **more})

    def document(self, name: str) -> Any:
        path = self.output / name
        return json.loads(path.read_bytes()) if path.exists() else None

    def holds(self, name: str, content: object) -> bool:
        return bool(self.document(name) == content)

    def documents(self) -> set[str]:
        files = {each for each in self.output.rglob("*.json") if each.is_file()}
        return {each.relative_to(self.output).as_posix() for each in files}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def script(write_script: WriteScript) -> Path:
    return write_script(SCRIPT)


def calls(script: Path) -> list[list[str]]:
    """The names and contents that run() was called with."""
    noted = script.with_name("calls")
    return [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []


def result(text: str) -> dict[str, Any]:
    return {"length": len(text), "end": text[-10:]}


# --- crashes --------------------------------------------------------------------------------------


def test_what_a_kill_cut_off_while_it_was_written_is_no_document(folders: Folders, script: Path):
    """A document is written beside and renamed: what is left over of it is cleared away."""
    name = "a.json"
    path = folders.put(name, "x")
    with folders.host(script) as host:
        until(lambda: folders.document("a_out.json"))
        host.stop(signal.SIGKILL)
    # As if it had been cut off at its next input.
    time.sleep(0.01)
    path.write_text("two")
    until(lambda: time.time() - path.stat().st_mtime > 0.2)
    settings = Settings.from_environ(
        {"BLOB_INPUT_FOLDER": str(folders.input), "BLOB_OUTPUT_FOLDER": str(folders.output)}
    )
    place = Folder(settings, blob_paths(settings))
    [found] = place._listed_inputs()
    claim = place._claim(found, ())
    assert claim is not None
    claim_file = next(folders.claims.iterdir())
    os.close(claim._descriptor)  # type: ignore[attr-defined]  # as the end of its process does
    claim_file.with_suffix(".tmp").write_bytes(b'{"leng')
    with folders.host(script):
        until(lambda: folders.document("a_out.json") == result("two"))
        until(lambda: list(folders.claims.iterdir()) == [])
    assert folders.documents() == {"a_out.json"}


@pytest.mark.parametrize("note", ["", "{", "[]", '{"etag": 1}', "\x00" * 100, "9" * 5000])
def test_a_claim_that_was_cut_off_while_it_was_written_is_taken_over(folders: Folders, note: str):
    """Its count of tries is lost, the input is not."""
    folders.put("a.json", "x")
    settings = Settings.from_environ(
        {"BLOB_INPUT_FOLDER": str(folders.input), "BLOB_OUTPUT_FOLDER": str(folders.output)}
    )
    place = Folder(settings, blob_paths(settings))
    place._prepare()
    time.sleep(0.15)
    [found] = place._listed_inputs()
    first = place._claim(found, ())
    assert first is not None
    [claim_file] = folders.claims.iterdir()
    os.close(first._descriptor)  # type: ignore[attr-defined]  # as the end of its process does
    claim_file.write_text(note)
    [found] = place._listed_inputs()
    assert found.dropped
    claim = place._claim(found, ())
    assert claim is not None and claim.attempts == 0


def test_trouble_while_an_input_is_claimed_leaves_it_to_be_claimed(folders: Folders):
    """Here the name of its document is too long; it could be a network folder that is away."""
    folders.put("a.json", "x")
    settings = Settings.from_environ(
        {"BLOB_INPUT_FOLDER": str(folders.input), "BLOB_OUTPUT_FOLDER": str(folders.output)}
    )
    place = Folder(settings, blob_paths(settings))
    place._prepare()
    time.sleep(0.15)
    [found] = place._listed_inputs()
    with contextlib.suppress(OSError):
        assert place._claim(found, ("output/" + "l" * 256,)) is None
    claim = place._claim(found, ())
    assert claim is not None
    asyncio.run(claim.release(done=True))


# --- writers --------------------------------------------------------------------------------------


def write_slowly(path: Path, text: str, pause: float, moments: list[float]) -> None:
    with path.open("w") as file:
        for each in text:
            file.write(each * 100)
            file.flush()
            moments.append(time.monotonic())
            time.sleep(pause)


@pytest.mark.parametrize("pause", [0.03, 0.25])
def test_a_file_that_is_written_for_a_second_ends_with_the_result_of_the_whole(
    folders: Folders, script: Path, pause: float
):
    """A part may be scored when the writer rests; the last version counts."""
    text = "0123" if pause > 0.1 else "0123456789" * 3
    with folders.host(script):
        moments: list[float] = []
        given = (folders.input / "a.json", text, pause, moments)
        writer = threading.Thread(target=write_slowly, args=given)
        writer.start()
        writer.join()
        whole = {"length": len(text) * 100, "end": text[-1] * 10}
        until(lambda: folders.document("a_out.json") == whole)
        time.sleep(0.3)
        assert folders.document("a_out.json") == whole
    # A machine that has much to do makes a writer rest too.
    if max(after - before for before, after in itertools.pairwise(moments)) < 0.09:
        assert [len(data) for _, data in calls(script)] == [len(text) * 100]


def test_a_file_that_is_moved_into_the_folder_is_scored_whatever_its_time(
    folders: Folders, script: Path, tmp_path: Path
):
    """`mv` and `cp -p` keep the time; a clock may be ahead; a replaced file may be older."""
    with folders.host(script):
        for number, moment in enumerate((time.time() + 3600, time.time() - 86400, 1, 0)):
            beside = tmp_path / "beside"
            beside.write_text("x" * number)
            os.utime(beside, (moment, moment))
            beside.rename(folders.input / "a.json")
            until(folders.holds, "a_out.json", result("x" * number))
    assert [len(data) for _, data in calls(script)] == [0, 1, 2, 3]


def test_only_files_that_are_meant_are_scored(folders: Folders, script: Path, tmp_path: Path):
    """No hidden ones, no folders, no links, no temporary names."""
    for name in (".hidden.json", ".git/a.json", "a.json.part", "a.txt", "folder.json/a.txt"):
        folders.put(name, "x")
    (folders.input / "nowhere.json").symlink_to(tmp_path / "not-there")
    os.mkfifo(folders.input / "pipe.json")
    target = tmp_path / "elsewhere"
    target.write_text("linked")
    (folders.input / "link.json").symlink_to(target)
    folders.put("b.json", "b")
    with folders.host(script):
        until(lambda: folders.documents())
        time.sleep(0.4)
    assert folders.documents() == {"b_out.json"}
    assert len(calls(script)) == 1


NAMES = ["a\nb.json", "tab\t.json", "quote\"'.json", "back\\slash.json", "-rf.json", "~.json"]


def test_names_that_only_files_can_have(folders: Folders, script: Path):
    """Not even one that is no text stops the others; a line end makes no line in the log."""
    for name in NAMES:
        folders.put(name, name)
    with open(os.fsencode(folders.input) + b"/\xff.json", "wb") as file:
        file.write(b"no text")
    with folders.host(script) as host:
        until(lambda: len(list(folders.output.glob("*_out.json"))) == len(NAMES) + 1)
        answered = httpx.get(f"{host.url}/health/ready", timeout=PATIENCE)
        assert answered.status_code == 200, answered.text
        host.stop()
    for name in NAMES:
        assert folders.document(f"{name.removesuffix('.json')}_out.json") == result(name)
    assert os.path.exists(os.fsencode(folders.output) + b"/\xff_out.json")
    seen = {name for name, _ in calls(script)}
    assert seen == {*(quote(f"input/{name}") for name in NAMES), "input/%3F.json"}
    assert [line for line in host.log.splitlines() if line.startswith("b.json")] == []
    assert "Traceback" not in host.log


# --- several hosts --------------------------------------------------------------------------------


def test_two_hosts_on_the_same_folders_do_each_input_once(folders: Folders, script: Path):
    """Those that are there at the start, those that come, and new versions; then errors."""
    for number in range(100):
        folders.put(f"{number}.json", "one")
    one, other = folders.host(script), folders.host(script)
    one.start()
    other.start()
    try:
        until(lambda: len(folders.documents()) == 100)
        for number in range(100):
            folders.put(f"sub/{number}.json", "two")
        until(lambda: len(folders.documents()) == 200)
        time.sleep(0.2)
        for number in range(20):
            folders.put(f"{number}.json", "three")
        until(lambda: len(calls(script)) >= 220)
        time.sleep(0.3)
    finally:
        assert [one.stop(), other.stop()] == [0, 0]
    done = collections.Counter(tuple(each) for each in calls(script))
    assert set(done.values()) == {1}
    assert collections.Counter(data for _, data in done) == {"one": 100, "two": 100, "three": 20}
    assert folders.document("5_out.json") == result("three")
    assert list(folders.claims.iterdir()) == []


# --- the command ----------------------------------------------------------------------------------


def test_folders_of_the_command_are_made_and_the_documents_go_beside_the_input(
    script: Path, tmp_path: Path
):
    """`--watch ./inbox` alone: `output` next to it, both relative to where one stands."""
    environ = {"BLOB_POLL_SECONDS": "0.1"}
    with StandaloneHost(script, "--watch", "./new/inbox", environ=environ, cwd=tmp_path) as host:
        until((tmp_path / "new" / "inbox").is_dir)
        (tmp_path / "new" / "inbox" / "a.json").write_text("x")
        until((tmp_path / "new" / "output" / "a_out.json").exists)
        assert f"Watching {tmp_path}/new/inbox for input/{{blobname}}.json" in host.log


def test_one_folder_may_hold_inputs_and_documents_when_they_differ(script: Path, tmp_path: Path):
    environ = {
        "BLOB_POLL_SECONDS": "0.1",
        "BLOB_INPUT_FOLDER": str(tmp_path / "all"),
        "BLOB_OUTPUT_FOLDER": str(tmp_path / "all"),
        "BLOB_INPUT_PATH": "input/{name}.in",
        "BLOB_OUTPUT_PATH": "output/done/{name}.json",
    }
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.in").write_text("x")
    with StandaloneHost(script, environ=environ):
        document = tmp_path / "all" / "done" / "a.json"
        until(document.exists)
        time.sleep(0.3)
    assert json.loads(document.read_bytes()) == result("x")
    assert len(calls(script)) == 1


def folder_of(tmp_path: Path, **paths: str) -> Folder:
    environ = {
        name: str(tmp_path / value) if name.endswith("FOLDER") else value
        for name, value in paths.items()
    }
    settings = Settings.from_environ(environ)
    return Folder(settings, blob_paths(settings))


@pytest.mark.parametrize(
    "paths",
    [
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "in"},
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "in/out"},
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "in/a/b"},
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "other/../in"},
    ],
)
def test_documents_that_would_be_inputs_are_refused(tmp_path: Path, paths: dict[str, str]):
    with pytest.raises(ConfigurationError, match=r"be inputs again: .*--output \(BLOB_OUTPUT_FO"):
        folder_of(tmp_path, **paths)


@pytest.mark.parametrize(
    "paths",
    [
        {"BLOB_INPUT_FOLDER": "in"},
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "out"},
        {"BLOB_INPUT_FOLDER": "data/in", "BLOB_OUTPUT_FOLDER": "data"},
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "in-out"},
        # Hidden folders are not watched.
        {"BLOB_INPUT_FOLDER": "in", "BLOB_INPUT_PATH": "input/x/{blobname}.json"},
    ],
)
def test_documents_elsewhere_are_allowed(tmp_path: Path, paths: dict[str, str]):
    assert str(tmp_path) in folder_of(tmp_path, **paths).where
