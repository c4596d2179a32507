"""Folders and containers: the trigger's claims and receipts, once."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

from tests.batch.jobs import command, summary
from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.hosts.waiting import until

COUNTS = """
import os, pathlib, time
calls = pathlib.Path(__file__).with_name("calls")
def init():
    pass
def run(data):
    with calls.open("a") as file:
        file.write(data + "\\n")
    time.sleep(0.02)
    if "raise" in data:
        raise RuntimeError("broken")
    return data.upper()
"""


@pytest.fixture
def script(write_script: WriteScript) -> Path:
    return write_script(COUNTS)


def drop(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.txt").write_text(f"n{number}")


def test_a_folder_is_scored_once_beside_a_running_trigger(script: Path, tmp_path: Path) -> None:
    """The batch takes what the trigger does not, and ends when all is done, by whomever."""
    drop(tmp_path / "in", 80)
    places = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    watch = ("--watch", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    with StandaloneHost(script, *watch):
        told = summary("--entry-script", script, *places, "--workers", "2")
    assert (told["total"], told["left"]) == (80, 0)
    assert told["scored"] + told["before"] == 80
    assert len([*(tmp_path / "out").glob("*_out.json")]) == 80
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sorted(calls) == sorted(f"n{number}" for number in range(80))
    again = summary("--entry-script", script, *places)
    assert (again["scored"], again["before"]) == (0, 80)
    assert len((tmp_path / "calls").read_text().splitlines()) == 80


def test_what_cannot_be_scored_is_counted_now_and_later(script: Path, tmp_path: Path) -> None:
    drop(tmp_path / "in", 3)
    (tmp_path / "in" / "1.txt").write_text("raise")
    places = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--run-max-try", "2")
    told = summary("--entry-script", script, *places, "--workers", "1", code=4)
    assert (told["scored"], told["failed"], told["reasons"]) == (2, 1, {"RunFailed": 1})
    again = summary("--entry-script", script, *places, code=2)
    assert again["reasons"] == {"in an earlier run": 1}
    for most, code in (("0", 4), ("1", 0)):
        summary("--entry-script", script, *places, "--error-threshold", most, code=code)


def test_follow_goes_on_until_it_is_stopped(script: Path, tmp_path: Path) -> None:
    drop(tmp_path / "in", 1)
    words = ("--entry-script", script, "--input", tmp_path / "in", "--output", tmp_path / "out")
    with subprocess.Popen(
        command(*words, "--follow", "--workers", "1", "--json"),
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        until((tmp_path / "out" / "0.txt_out.json").exists)
        (tmp_path / "in" / "1.txt").write_text("n1")
        until((tmp_path / "out" / "1.txt_out.json").exists)
        before = (tmp_path / "out" / "0.txt_out.json").read_bytes()
        (tmp_path / "in" / "0.txt").write_text("another")
        until(lambda: (tmp_path / "out" / "0.txt_out.json").read_bytes() != before)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    found = json.loads(said)
    assert (found["total"], found["scored"], found["before"]) == (2, 3, 0)


@pytest.mark.parametrize("how", ["name", "url", "template"])
def test_a_container_is_scored_once(
    how: str, script: Path, azurite: Azurite, tmp_path: Path
) -> None:
    """By its connection; every type that is read, or a pattern."""
    source, target = f"in-{uuid.uuid4()}", f"out-{uuid.uuid4()}"
    with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        container = service.create_container(source)
        for number in range(6):
            container.upload_blob(f"{number}.txt", f"n{number}")
        container.upload_blob("other.zip", "zip")
        url = f"{container.url.rpartition('/')[0]}/"
        places = {
            "name": (source, target),
            "url": (url + source, url + target),
            "template": (f"{source}/{{blobname}}.txt", f"{target}/{{blobname}}.txt_out.json"),
        }[how]
        told = summary(
            *("--entry-script", script, "--workers", "2"),
            *("--input", places[0], "--output", places[1]),
            TriggerConnectionString=azurite.connection_string,
        )
        assert told["total"] == 6 and told["left"] == 0
        found = {each.name for each in service.get_container_client(target).list_blobs()}
    assert found == {f"{number}.txt_out.json" for number in range(6)}


def test_a_place_that_stays_away_ends_it(script: Path) -> None:
    """Within a minute, with a sentence."""
    away = (
        "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=YQ==;"
        "BlobEndpoint=http://127.0.0.1:9/a;"
    )
    words = ("--entry-script", script, "--input", "input", "--output", "output", "--workers", "1")
    told = summary(*words, code=4, TriggerConnectionString=away)
    assert "cannot be reached" in told["why"]
