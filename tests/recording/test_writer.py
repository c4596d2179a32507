"""The thread that writes: what is whole, what is dropped, what is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.recording import writer as module
from scoring_runtime.recording.writer import Part, Writer
from tests.hosts.standalone import clean_environ
from tests.hosts.waiting import until

ROOT = Path(__file__).parents[2]
TARGET = "requests/2026/12/01/"


class Count:
    """A metric."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        self.value += amount


class Writing:
    """``with Writing(folder) as writing:`` a writer with its counts."""

    def __init__(self, folder: Path, most_bytes: int = 1 << 20, seconds: float = 60.0) -> None:
        self.kept, self.dropped = Count(), Count()
        counts: Any = (self.kept, self.dropped)
        self.writer = Writer(folder, most_bytes, seconds, *counts)

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def put(self, text: str, target: str = TARGET, head: bytes = b"") -> None:
        self.writer.put(lambda: Part(target, text.encode() + b"\n", head), len(text))

    @property
    def done(self) -> float:
        return self.kept.value + self.dropped.value


def lines(folder: Path) -> list[str]:
    found = (path.read_text().splitlines() for path in sorted(folder.rglob("*.jsonl")))
    return [line for each in found for line in each]


def test_lines_are_written_in_order_and_without_closing(tmp_path: Path) -> None:
    """Soon: what is killed afterwards has them."""
    with Writing(tmp_path) as writing:
        for number in range(100):
            writing.put(str(number))
        until(lambda: writing.kept.value == 100)
        assert lines(tmp_path) == [str(number) for number in range(100)]
        [path] = tmp_path.rglob("*.jsonl")
        assert path.parent == tmp_path / "requests/2026/12/01"
        assert writing.writer.finished() == []
    assert writing.writer.finished() == [path]


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    with Writing(tmp_path) as writing:
        writing.put("last")
    assert lines(tmp_path) == ["last"]


def test_a_segment_ends_by_age_and_by_size(tmp_path: Path) -> None:
    """Then it is finished, and another begins."""
    with Writing(tmp_path, most_bytes=1 << 16, seconds=0.1) as writing:
        writing.put("first")
        until(writing.writer.finished)
        for _ in range(3):
            before = writing.done
            writing.put("x" * 5000)  # more than a sixteenth
            until(lambda before=before: writing.done > before)
        assert len(list(tmp_path.rglob("*.jsonl"))) == 4


def test_what_comes_too_quickly_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By number and by bytes; the log says so once, not for each."""
    monkeypatch.setattr(module, "_MOST_WAITING", 10)
    with Writing(tmp_path) as writing:
        monkeypatch.setattr(module, "_MOST_BYTES", 1000)
        writing.writer.put(lambda: Part(TARGET, b"x\n"), 1001)
        for number in range(500):
            writing.put(str(number))
        until(lambda: writing.done == 501)
        assert writing.dropped.value >= 1
    assert len(lines(tmp_path)) == writing.kept.value
    said = [each for each in caplog.messages if "records were not kept" in each]
    assert 1 <= len(said) <= 2  # when it began, and at the end
    assert "they come quicker than they are written" in said[0]


def test_a_record_that_cannot_be_made_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Part:
        raise KeyError("x")

    with Writing(tmp_path) as writing:
        writing.put("before")
        writing.writer.put(fail, 1)
        writing.put("after")
        until(lambda: writing.done == 3)
    assert lines(tmp_path) == ["before", "after"]
    assert "1 records were not kept: a record cannot be made: KeyError: 'x'." in caplog.messages


def test_the_oldest_files_are_removed_above_the_limit(tmp_path: Path) -> None:
    """Those of other processes only when they have not changed for long."""
    old, others = tmp_path / "requests/a-other-1.jsonl", tmp_path / "requests/b-other-2.jsonl"
    old.parent.mkdir()
    for path in (old, others):
        path.write_bytes(b"x" * 300_000)
    os.utime(old, (1e9, 1e9))
    with Writing(tmp_path, most_bytes=500_000, seconds=0.05) as writing:
        writing.put("new")
        until(lambda: not old.exists())
        assert others.exists()
        for _ in range(20):
            before = writing.done
            writing.put("y" * 30_000)
            until(lambda before=before: writing.done > before)
        until(lambda: sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl")) < 540_000)
        assert writing.dropped.value == 0
        assert others.exists()


def test_where_nothing_may_be_removed_nothing_more_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when another process has filled the folder."""
    (tmp_path / "other.jsonl").write_bytes(b"x" * 200_000)
    with Writing(tmp_path, most_bytes=100_000) as writing:
        until(lambda: writing.writer._is_full)
        writing.put("no")
        until(lambda: writing.dropped.value == 1)
    assert "it holds as much as SCORING_RECORD_MAX_MB allows" in caplog.text


def test_a_folder_that_cannot_be_looked_through_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is written to as before."""

    def fail(*_: object) -> None:
        raise OSError(5, "as asked")

    monkeypatch.setattr(Writer, "_files", fail)
    with Writing(tmp_path) as writing:
        until(lambda: "cannot be looked through: as asked" in caplog.text)
        writing.put("a")
        until(lambda: writing.kept.value == 1)
        assert writing.dropped.value == 0


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """By the limit of a file's size: then writes are cut short, and fail."""
    code = """
        import resource, signal, sys, time
        from pathlib import Path
        from scoring_runtime.recording.writer import Part, Writer
        from tests.recording.test_writer import Count
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        kept, dropped = Count(), Count()
        writer = Writer(Path(sys.argv[1]), 1 << 30, 60, kept, dropped)
        for number in range(300):
            writer.put(lambda n=number: Part("requests/", b"%03d" % n + b"x" * 100 + b"\\n"), 104)
            time.sleep(0.001)
        writer.close()
        print(kept.value, dropped.value)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        cwd=ROOT, env=clean_environ(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    kept, dropped = map(float, done.stdout.split())
    assert kept + dropped == 300
    assert dropped > 100
    assert "cannot be written to" in done.stderr
    assert "disk is full" in done.stderr or "File too large" in done.stderr
    found = lines(tmp_path)
    assert len(found) == kept
    assert {len(line) for line in found} == {103}


# --- files of several processes -------------------------------------------------------------------


def test_a_file_of_all_begins_with_its_head_once(tmp_path: Path) -> None:
    """Other columns go to a file beside it."""
    with Writing(tmp_path) as one, Writing(tmp_path) as two:
        for number in range(50):
            one.put(f"{number},1", "m/data.csv", b"a,b\n")
            two.put(f"{number},2", "m/data.csv", b"a,b\n")
        two.put("9", "m/data.csv", b"c\n")
    first, *rest = (tmp_path / "m/data.csv").read_text().splitlines()
    assert first == "a,b"
    assert sorted(rest) == sorted(f"{number},{who}" for number in range(50) for who in (1, 2))
    [other] = (tmp_path / "m").glob("data-*.csv")
    assert other.read_text() == "c\n9\n"


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes, which are ended at the end."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, env=clean_environ())
        processes.append(process)
        return process

    yield start
    for each in processes:
        each.kill()
        each.wait()


def test_several_processes_write_whole_lines_to_one_file(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Also when they are killed in the middle of it."""
    code = """
        import sys, time
        from pathlib import Path
        from scoring_runtime.recording.writer import Part, Writer
        from tests.recording.test_writer import Count
        writer = Writer(Path(sys.argv[1]), 1 << 30, 60, Count(), Count())
        line = sys.argv[2].encode() * 5000 + b"\\n"
        while True:
            writer.put(lambda: Part("data.csv", line, b"head\\n"), len(line))
            time.sleep(0.0002)
    """
    processes = [started(code, tmp_path, letter) for letter in "abc"]
    path = tmp_path / "data.csv"
    has = partial(_has_all, path, "abc")
    until(has)
    for each in processes:
        each.kill()
        each.wait()
    first, *rest, last = path.read_text().split("\n")
    assert (first, last) == ("head", "")
    assert {(len(line), len(set(line))) for line in rest} == {(5000, 1)}


def _has_all(path: Path, letters: str) -> bool:
    return path.exists() and set(letters) <= set(path.read_text())
