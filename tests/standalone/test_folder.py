"""What is special to watched folders: crashes, slow writers, several hosts, names, links, disks."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from scoring_runtime.errors import ConfigurationError, InputTrouble, TriggerTrouble
from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone.files import claim_name
from scoring_runtime.standalone.folder import Folder
from scoring_runtime.standalone.place import Document
from scoring_runtime.triggers.blob_paths import blob_paths
from tests.conftest import WriteScript
from tests.hosts.sites import Folders, calls, message, trouble
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import on_a_loop, until

PATIENCE = 90.0
# Root may read and write everything; without these capabilities it is as everybody.
AS_EVERYBODY = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
SCRIPT = """
import json, pathlib

CALLS = pathlib.Path(__file__).with_name("calls")

def init():
    pass

def run(data, request_headers):
    with CALLS.open("a") as calls:
        calls.write(json.dumps([request_headers["X-Blob-Name"], data]) + "\\n")
    if data.startswith("fail "):
        raise ValueError(f"as asked: {data[5:]}")
    if data.startswith("fill "):
        with open(data[5:], "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
    return {"length": len(data), "end": data[-10:]}
"""


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path, BLOB_MAX_ATTEMPTS="2")


@pytest.fixture
def script(write_script: WriteScript) -> Path:
    return write_script(SCRIPT)


def result(text: str) -> bytes:
    return json.dumps({"length": len(text), "end": text[-10:]}, separators=(",", ":")).encode()


def names_of(script: Path) -> list[str]:
    """The last parts of the names of the files that run() was called for."""
    return [name.rpartition("/")[2] for name, _ in calls(script)]


# --- crashes --------------------------------------------------------------------------------------


def test_what_a_kill_cut_off_while_it_was_written_is_no_document(folders: Folders, script: Path):
    """A document is written beside and renamed: what is left over of it is cleared away."""
    path = folders.put("a.json")
    with folders.host(script) as host:
        until(lambda: folders.document("a_out.json"))
        host.stop(signal.SIGKILL)
    # As if it had been cut off at its next input.
    time.sleep(0.01)
    path.write_text("two")
    until(lambda: time.time() - path.stat().st_mtime > 0.2)
    place = folders.place()
    [found] = place._listed_inputs()[0]
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
    folders.put("a.json")
    place = folders.place()
    place._prepare()
    time.sleep(0.15)
    [found] = place._listed_inputs()[0]
    first = place._claim(found, ())
    assert first is not None
    [claim_file] = folders.claims.iterdir()
    os.close(first._descriptor)  # type: ignore[attr-defined]  # as the end of its process does
    claim_file.write_text(note)
    [found] = place._listed_inputs()[0]
    assert found.dropped
    claim = place._claim(found, ())
    assert claim is not None and claim.attempts == 0


def test_trouble_while_an_input_is_claimed_leaves_it_to_be_claimed(folders: Folders):
    """Here the name of its document is too long; it could be a network folder that is away."""
    folders.put("a.json")
    place = folders.place()
    place._prepare()
    time.sleep(0.15)
    [found] = place._listed_inputs()[0]
    with contextlib.suppress(OSError):
        assert place._claim(found, ("output/" + "l" * 256,)) is None
    claim = place._claim(found, ())
    assert claim is not None
    asyncio.run(claim.release(done=True))


# --- writers --------------------------------------------------------------------------------------


UNPOLLED = {"BLOB_POLL_SECONDS": "600"}


@pytest.mark.parametrize("pause", [0.03, 0.25])
@pytest.mark.parametrize("how", [UNPOLLED, {}], ids=["told", "polled"])
def test_a_file_that_is_written_for_a_second_is_scored_once_as_a_whole(
    folders: Folders, script: Path, pause: float, how: dict[str, str]
):
    """As soon as its writer has closed it, however long that rests."""
    text = "0123456789" * (3 if pause < 0.1 else 1)
    with folders.host(script, **how) as host:
        until(lambda: "Watching" in host.log)
        with (folders.input / "a.json").open("w") as file:
            for each in text:
                file.write(each * 100)
                file.flush()
                time.sleep(pause)
            assert calls(script) == []
        until(lambda: folders.document("a_out.json"))
        time.sleep(0.3)
    assert [len(data) for _, data in calls(script)] == [len(text) * 100]


def test_a_file_that_is_moved_into_the_folder_is_scored_whatever_its_time(
    folders: Folders, script: Path, tmp_path: Path
):
    """`mv` and `cp -p` keep the time; a clock may be ahead; a replaced file may be older."""
    with folders.host(script, **UNPOLLED) as host:
        until(lambda: "Watching" in host.log)
        for number, moment in enumerate((time.time() + 3600, time.time() - 86400, 1, 0)):
            beside = tmp_path / "beside"
            beside.write_text("x" * number)
            os.utime(beside, (moment, moment))
            beside.rename(folders.input / "a.json")
            until(lambda: folders.document("a_out.json") == result("x" * number))  # noqa: B023
    assert [len(data) for _, data in calls(script)] == [0, 1, 2, 3]


@on_a_loop
async def test_a_file_that_is_open_for_writing_is_not_claimed_unless_it_rests_for_long(
    folders: Folders,
):
    place = folders.place()
    await place.open()

    async def is_claimed(age: float) -> bool:
        moment = time.time() - age
        os.utime(folders.input / "a.json", (moment, moment))
        [found] = [each async for each in place.inputs()]
        claim = await place.claim(found, ())
        if claim is not None:
            await claim.release(done=True)
        return claim is not None

    with (folders.input / "a.json").open("w") as file:
        file.write("x")
        file.flush()
        assert [await is_claimed(age) for age in (5, 3000)] == [False, True]
    assert await is_claimed(0.07)
    await place.close()


def test_a_file_is_found_though_nothing_tells_of_it(folders: Folders, script: Path, tmp_path: Path):
    """As in a network folder, or where watchfiles is not installed, which the log says."""
    (tmp_path / "hiding").mkdir()
    (tmp_path / "hiding" / "watchfiles.py").write_text("raise ModuleNotFoundError('watchfiles')")
    path = os.pathsep.join([str(tmp_path / "hiding"), *sys.path])
    with folders.host(script, PYTHONPATH=path) as host:
        until(lambda: "Watching" in host.log)
        for name in ("a", "sub/b"):
            folders.put(f"{name}.json")
            until(lambda: folders.document(f"{name}_out.json") == result("x"))  # noqa: B023
        assert host.log.count("at once with: pip install watchfiles") == 1


def test_a_file_is_scored_at_once_wherever_it_appears(folders: Folders, script: Path):
    """In a new folder too, and one after the other: the poll comes in ten minutes."""
    with folders.host(script, **UNPOLLED) as host:
        until(lambda: "Watching" in host.log)
        for number, name in enumerate(("a", "new/b", "new/deep/c", "a")):
            folders.put(f"{name}.json", b"x" * number)
            wanted = result("x" * number)
            until(lambda: folders.document(f"{name}_out.json") == wanted)  # noqa: B023
        folders.put(".hidden/d.json")
        folders.put("last.json")
        until(lambda: folders.document("last_out.json"))
    assert len(calls(script)) == 5


def test_every_file_of_a_type_that_is_read_is_scored_where_no_pattern_is_set(
    folders: Folders, script: Path
):
    """Each has a result of its own; any other is named once, with the setting that takes it."""
    names = ("a.json", "a.csv", "a.jsonl", "a.csv.json", "b.JSON", "sub/c.txt", "d.xml")
    for name in (*names, "notes.docx", "a.json.part", "none"):
        folders.put_long_ago(name, name.encode())
    with folders.host(script) as host:
        until(lambda: len(folders.documents()) >= len(names))
        folders.put("later.json")
        until(lambda: folders.document("later_out.json"))
    assert {name: folders.document(name) for name in folders.documents()} == {
        "a_out.json": result("a.json"),
        "a.csv_out.json": result("a.csv"),
        "a.jsonl_out.json": result("a.jsonl"),
        "a.csv.json_out.json": result("a.csv.json"),
        "b.JSON_out.json": result("b.JSON"),
        "sub/c.txt_out.json": result("sub/c.txt"),
        "d.xml_out.json": result("d.xml"),
        "later_out.json": result("x"),
    }
    said = [line.rpartition("/in/")[2] for line in host.log.splitlines() if "not scored" in line]
    why = "is not scored: its type is read only when a setting says so, such as BLOB_INPUT_PATH="
    assert sorted(said) == [
        f"a.json.part {why}input/{{blobname}}.part.",
        f"none {why}input/{{blobname}}.",
        f"notes.docx {why}input/{{blobname}}.docx.",
    ]


def test_an_error_document_says_what_the_log_says(folders: Folders, script: Path):
    """The text of the exception, without what looks like a secret, the request and the time."""
    secret = "AccountKey=bm90LWEtcmVhbC1rZXktYXQtYWxsLWp1c3QtYS10ZXN0"
    folders.put("a.json", f"fail {secret}".encode())
    folders.put("b.json", b"\xff")
    with folders.host(script) as host:
        a, b = (
            json.loads(until(lambda: folders.document(f"{name}_error.json")))  # noqa: B023
            for name in ("a", "b")
        )
        assert secret not in str(a)
        assert a["exception"] == "ValueError: as asked: AccountKey=***"
        assert a["message"].startswith("An unexpected error occurred in scoring script.")
        assert a["request_id"] in host.log
        said = datetime.now(UTC) - datetime.fromisoformat(a["time"])
        assert abs(said.total_seconds()) < PATIENCE
        assert set(a) == {"message", "exception", "request_id", "time"}
        assert set(b) == {"message", "request_id", "time"}


NAMES = ["a\nb.json", "tab\t.json", "quote\"'.json", "back\\slash.json", "-rf.json", "~.json"]


def test_names_that_only_files_can_have(folders: Folders, script: Path):
    """Not even one that is no text stops the others; a line end makes no line in the log."""
    for name in NAMES:
        folders.put(name, name.encode())
    with open(os.fsencode(folders.input) + b"/\xff.json", "wb") as file:
        file.write(b"no text")
    with folders.host(script) as host:
        until(lambda: len(list(folders.output.glob("*_out.json"))) == len(NAMES) + 1)
        assert trouble(host) == ""
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
        folders.put(f"{number}.json", b"one")
    one, other = folders.host(script), folders.host(script)
    one.start()
    other.start()
    try:
        until(lambda: len(folders.documents()) == 100)
        for number in range(100):
            folders.put(f"sub/{number}.json", b"two")
        until(lambda: len(folders.documents()) == 200)
        time.sleep(0.2)
        for number in range(20):
            folders.put(f"{number}.json", b"three")
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
        assert f"Watching {tmp_path}/new/inbox for files of every type that is read" in host.log


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
    assert document.read_bytes() == result("x")
    assert len(calls(script)) == 1


def folder_of(tmp_path: Path, **paths: str) -> Folder:
    environ = {
        name: str(tmp_path / value) if name.endswith("FOLDER") else value
        for name, value in paths.items()
    }
    settings = Settings.from_environ(environ)
    return Folder(settings, blob_paths(settings))


def test_the_watched_folder_is_there_before_the_model_is_loaded(tmp_path: Path) -> None:
    """So that a file can be dropped at once; a file in its place is refused."""
    folder_of(tmp_path, BLOB_INPUT_FOLDER="new/in").make()
    assert (tmp_path / "new" / "in").is_dir()
    (tmp_path / "a.json").touch()
    with pytest.raises(ConfigurationError, match=r"\(--watch\) is .*/a\.json, which is a file"):
        folder_of(tmp_path, BLOB_INPUT_FOLDER="a.json").make()


@pytest.mark.parametrize(
    "paths",
    [
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "in"},
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "in/out"},
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


# --- full disks, and trouble of one file ---------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system of 1 MB at the folder; calling what it gives fills it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)

    def fill() -> None:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("when", ["before it is claimed", "while it is scored"])
def test_a_full_disk_is_said_and_delays_its_inputs(folders: Folders, script: Path, when: str):
    """It goes on by itself, and run() is called once for each."""
    with (
        small_disk(folders.output) as fill,
        folders.host(script) as host,
    ):
        until(lambda: not trouble(host))
        if when == "before it is claimed":
            fill()
            folders.put_long_ago("a.json")
        else:
            folders.put_long_ago("a.json", f"fill {folders.output / 'filler'}".encode())
        said = until(lambda: trouble(host))
        assert "No space left on device" in said and "BLOB_OUTPUT_FOLDER" in said
        assert folders.document("a_out.json") is None
        (folders.output / "filler").unlink()
        until(lambda: folders.document("a_out.json"))
        until(lambda: not trouble(host))
        folders.put_long_ago("b.json")
        until(lambda: folders.document("b_out.json"))
        assert names_of(script) == ["a.json", "b.json"]
        assert host.log.count("No space left on device") == 1
        assert "a_error.json" not in os.listdir(folders.output)


def test_nothing_that_was_opened_stays_open_when_the_disk_is_full(folders: Folders):
    """And the input can be claimed as soon as there is space."""
    folders.put_long_ago("a.json")
    place = folders.place()

    async def scenario(fill: Callable[[], None]) -> None:
        await place.open()
        [found] = [each async for each in place.inputs()]
        claim = await place.claim(found, ())
        assert claim is not None
        await claim.count(1)
        fill()
        before = os.listdir("/proc/self/fd")
        document = Document("output/a_out.json", bytes(8192), "", {}, False)
        for act in (
            place.open,
            lambda: claim.write(document),
            lambda: place.leave(found, document),
        ):
            with pytest.raises(TriggerTrouble, match="No space left"):
                await act()
        await claim.release(done=True)
        (folders.output / "more").write_bytes(b"")
        fill()
        with pytest.raises(TriggerTrouble, match="No space left"):
            await place.claim(found, ())
        assert len(os.listdir("/proc/self/fd")) == len(before) - 1
        assert os.listdir(folders.output / ".scoring") == []
        (folders.output / "filler").unlink()
        assert await place.claim(found, ()) is not None

    with small_disk(folders.output) as fill:
        asyncio.run(scenario(fill))


def test_a_claim_is_let_go_although_a_process_that_run_has_forked_has_it_open(folders: Folders):
    """Here another descriptor of the same open file, as a forked process has."""
    folders.put_long_ago("a.json")

    async def scenario() -> None:
        place = folders.place()
        await place.open()
        [found] = [each async for each in place.inputs()]
        claim = await place.claim(found, ())
        assert claim is not None
        forked = os.dup(claim._descriptor)  # type: ignore[attr-defined]
        await claim.count(1)
        await claim.release(done=False)
        again = await place.claim(found, ())
        assert again is not None and again.attempts == 1
        os.close(forked)
        await again.release(done=True)

    asyncio.run(scenario())


def bad_output_is_a_folder(folders: Folders) -> None:
    folders.put_long_ago("bad.json")
    (folders.output / "bad_out.json").mkdir()


def bad_both_documents_are_folders(folders: Folders) -> None:
    bad_output_is_a_folder(folders)
    (folders.output / "bad_error.json").mkdir()


def bad_output_below_a_link(folders: Folders) -> None:
    folders.put_long_ago("sub/bad.json")
    elsewhere = folders.input.parent / "elsewhere"
    elsewhere.mkdir()
    (folders.output / "sub").symlink_to(elsewhere)


def bad_claim_is_a_link(folders: Folders) -> None:
    folders.put_long_ago("bad.json")
    (folders.output / ".scoring").mkdir()
    (folders.output / ".scoring" / claim_name("bad.json")).symlink_to(
        folders.put_long_ago("b.docx")
    )


def bad_input_is_unreadable(folders: Folders) -> None:
    folders.put_long_ago("bad.json").chmod(0)


def bad_names_are_too_long(folders: Folders) -> None:
    folders.put_long_ago("l" * 250 + ".json")


FOLDER_TROUBLES = [
    (bad_output_is_a_folder, 1, "Is a directory", "bad_error.json"),
    (bad_both_documents_are_folders, 1, "Is a directory", None),
    (bad_output_below_a_link, 0, "Not a directory", None),
    (bad_claim_is_a_link, 0, "symbolic link", "bad_error.json"),
    (bad_input_is_unreadable, 0, "Permission denied", "bad_error.json"),
    (bad_names_are_too_long, 0, "File name too long", None),
]


@pytest.mark.parametrize(("prepare", "runs", "why", "document"), FOLDER_TROUBLES)
def test_the_trouble_of_one_file_is_its_own(
    folders: Folders,
    script: Path,
    prepare: Callable[[Folders], None],
    runs: int,
    why: str,
    document: str | None,
):
    """The others are scored, the host is ready, and the log names it once; run() is called once."""
    prepare(folders)
    for number in range(3):
        folders.put_long_ago(f"{number}.json")
    host = folders.host(script)
    if os.geteuid() == 0:
        host._command = [*AS_EVERYBODY, *host._command]
    with host:
        until(lambda: all(folders.document(f"{number}_out.json") for number in range(3)))
        until(lambda: " is left" in host.log)
        time.sleep(0.5)
        assert trouble(host) == ""
        assert [each for each in names_of(script) if not re.match("[0-2]", each)] == [
            "bad.json"
        ] * runs
        [line] = [each for each in host.log.splitlines() if " is left" in each]
        assert why in line
        # What is left is found by its log line, and scored when it is put there again.
        if document is not None:
            assert why in message(folders.document(document))
        if prepare is bad_output_is_a_folder:
            (folders.output / "bad_out.json").rmdir()
            os.utime(folders.input / "bad.json", (2e9, 2e9))
            until(lambda: folders.document("bad_out.json"))
            until(lambda: folders.document("bad_error.json") is None)
    assert list((folders.input.parent / "elsewhere").glob("**/*")) == []


# --- links and special files ----------------------------------------------------------------------


def test_a_file_that_is_no_input_by_its_name_is_said_with_the_setting(
    folders: Folders, script: Path
) -> None:
    """Once, however often the folder is looked through; the others are scored."""
    folders.put_long_ago("notes.json")
    folders.put_long_ago("a.txt")
    with folders.host(script, BLOB_INPUT_PATH="input/{blobname}.txt") as host:
        until(lambda: folders.document("a_out.json"))
        folders.put_long_ago("b.txt")
        until(lambda: folders.document("b_out.json"))
    said = "notes.json is not scored: BLOB_INPUT_PATH, which is input/{blobname}.txt, says which "
    assert host.log.count(f"{said}files are inputs.") == 1


def test_links_and_special_files_are_no_inputs_and_named_once(folders: Folders, script: Path):
    """Whatever they lead to; the folder that is watched may be a link itself."""
    secret = folders.input.parent / "secret.json"
    secret.write_text("secret")
    for name in ("folder/b.json", ".hidden.json", ".git/a.json"):
        folders.put_long_ago(name)
    links = {
        "secret.json": str(secret),
        "environ.json": "/proc/self/environ",
        "again.json": "folder/b.json",
        "nowhere.json": "not-there",
        "loop.json": "loop.json",
        "long.json": "l" * 4000,
        "up": "..",
        "line\nend.json": "/dev/zero",
    }
    for name, target in links.items():
        (folders.input / name).symlink_to(target)
    os.mkfifo(folders.input / "pipe.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folders.input / "socket.json"))
    (folders.input.parent / "link").symlink_to(folders.input)
    environ = {**folders.environ, "BLOB_INPUT_FOLDER": str(folders.input.parent / "link")}
    with StandaloneHost(script, environ=environ) as host:
        folders.put_long_ago("c.json")
        until(lambda: folders.document("c_out.json"))
        until(lambda: folders.document("folder/b_out.json"))
        folders.put_long_ago("d.json")
        until(lambda: folders.document("d_out.json"))
        assert trouble(host) == ""
    assert sorted(names_of(script)) == ["b.json", "c.json", "d.json"]
    said = [line.rpartition("/in/")[2] for line in host.log.splitlines() if "not scored" in line]
    followed = [line for line in said if line.endswith("is not scored: a link is not followed.")]
    special = [line for line in said if line.endswith("is not scored: it is no regular file.")]
    names = [line.partition(" is not")[0] for line in followed]
    assert {*names} >= {each for each in links if each.isprintable()}
    assert len(names) == len(links)
    assert {line.partition(" ")[0] for line in special} == {"pipe.json", "socket.json"}
    assert len(said) == len(links) + 2
    assert not any(line.startswith("end.json") for line in host.log.splitlines())


def is_reached_by_a_link(path: Path, secret: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(secret.parent)


CHANGES: list[Callable[[Path, Path], object]] = [
    lambda path, secret: path.symlink_to(secret),
    lambda path, secret: os.mkfifo(path),
    lambda path, secret: path.mkdir(),
    is_reached_by_a_link,
]


@pytest.mark.parametrize("change", CHANGES, ids=["link", "pipe", "folder", "linked folder"])
def test_what_takes_the_place_of_an_input_after_it_was_listed_is_not_read(
    folders: Folders, change: Callable[[Path, Path], object]
):
    secret = folders.put_long_ago("elsewhere/a.json", b"secret")
    path = folders.put_long_ago("sub/a.json")

    async def scenario() -> None:
        place = folders.place()
        await place.open()
        found = {each.name: each async for each in place.inputs()}["sub/a.json"]
        claim = await place.claim(found, ())
        assert claim is not None
        path.unlink()
        change(path, secret)
        for act in (claim.read(), place.claim(found, ())):
            with contextlib.suppress(InputTrouble):
                assert await asyncio.wait_for(act, PATIENCE) is None
        await claim.release(done=True)

    asyncio.run(scenario())


def test_no_link_among_the_documents_is_followed_when_one_is_written(
    folders: Folders, script: Path
):
    """A link in a document's place is replaced, one in a half-written one's too."""
    target = folders.input.parent / "target"
    target.write_text("theirs")
    claims = folders.output / ".scoring"
    claims.mkdir()
    for link in (folders.output / "a_out.json", claims / f"{claim_name('a.json')}.tmp"):
        link.symlink_to(target)
    with folders.host(script):
        folders.put_long_ago("a.json")
        until(lambda: not (folders.output / "a_out.json").is_symlink())
        assert folders.document("a_out.json") == result("x")
    assert target.read_text() == "theirs"


def test_claims_in_a_linked_folder_are_said_by_readiness_until_it_is_gone(
    folders: Folders, script: Path
):
    elsewhere = folders.input.parent / "elsewhere"
    elsewhere.mkdir()
    (folders.output / ".scoring").symlink_to(elsewhere)
    folders.put_long_ago("a.json")
    with folders.host(script) as host:
        until(lambda: ".scoring" in trouble(host))  # at first it is connecting
        assert os.listdir(elsewhere) == []
        (folders.output / ".scoring").unlink()
        until(lambda: folders.document("a_out.json"))
        until(lambda: not trouble(host))


def test_a_folder_that_cannot_be_listed_is_named_and_hides_no_other(folders: Folders, script: Path):
    folders.put_long_ago("closed/a.json").parent.chmod(0)
    folders.put_long_ago("b.json")
    host = folders.host(script)
    if os.geteuid() == 0:
        host._command = [*AS_EVERYBODY, *host._command]
    try:
        with host:
            until(lambda: folders.document("b_out.json"))
            assert trouble(host) == ""
            (folders.input / "closed").chmod(0o700)
            until(lambda: folders.document("closed/a_out.json"))
    finally:
        (folders.input / "closed").chmod(0o700)
    assert host.log.count("closed is not scored: it cannot be listed: Permission denied.") == 1
