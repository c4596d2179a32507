"""Every line of a request is found by its id, in whole hosts, as text and as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import WriteScript
from tests.hosts.functions import host_of
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until

TALKING = """
    import logging, sys, threading
    from concurrent.futures import ThreadPoolExecutor
    from multiprocessing.pool import ThreadPool

    def init():
        global pool, lazy
        print("in init")
        pool, lazy = ThreadPoolExecutor(2), None

    def say(where, data):
        print(f"{where} {data}")

    def run(data):
        global lazy
        print(f"print {data}")
        logging.getLogger("mine").warning("two\\nlines %s", data)
        thread = threading.Thread(target=say, args=("thread", data))
        thread.start()
        thread.join()
        pool.submit(say, "pool", data).result()
        lazy = lazy or ThreadPool(1)
        lazy.map(print, [f"other {data}"])
        if data.startswith("fail"):
            raise ValueError(f"a mistake\\nin {data}")
        return data
"""
SAID = ("print good", "two", "lines good", "thread good", "pool good")


def ask(url: str, body: str, request: str = "", **query: str) -> str:
    """The id of an answer."""
    headers = {"x-request-id": request} if request else {}
    answer = httpx.post(f"{url}/score", content=body, headers=headers, params=query, timeout=60)
    return answer.headers["x-request-id"]


def lines_of(log: str, request: str) -> list[str]:
    """The lines that grep finds."""
    return [line for line in log.splitlines() if request in line]


def times_said(lines: list[str]) -> list[int]:
    """How many lines say each of what the script says."""
    return [len([line for line in lines if each in line]) for each in SAID]


def test_text_lines_and_each_line_of_a_traceback_end_with_the_id(write_script: WriteScript):
    """One for each: what a request says; those of others do not have it."""
    with StandaloneHost(write_script(TALKING)) as host:
        good = ask(host.url, "good")
        ask(host.url, "fail", "my-id", code="k3y", x="1")
        httpx.get(f"{host.url}/nothing", headers={"x-request-id": "lost"}, timeout=60)
        assert host.stop() == 0
        log = host.log
    found = lines_of(log, good)
    assert all(line.endswith(f" [{good}]") for line in found)
    assert times_said(found) == [1] * 5
    assert len(found) == len(SAID) + 1  # and the access line
    failed = "\n".join(lines_of(log, "[my-id]"))
    assert failed.count("Traceback (most recent call last):") == 1
    assert re.search(r"^ +in fail \[my-id\]$", failed, re.MULTILINE)
    assert log.count("ValueError: a mistake") == 1
    about = "trigger=http client=127.0.0.1 model=model:1 "
    assert re.search(rf"POST /score\?code=\*\*\*&x=1 500 [\d.]+ms \d+ {about}", failed)
    assert "k3y" not in log
    assert re.search(r"GET /nothing 404 [\d.]+ms \d+ trigger=http client=127.0.0.1 \[lost\]", log)
    assert re.search("other good$", log, re.MULTILINE)  # a pool's thread has no request's id
    times = [line[:23] for line in log.splitlines() if re.match(r"\d{4}-", line)]
    assert times == sorted(times)


def test_as_json_a_record_is_a_line_and_a_traceback_one_of_them(write_script: WriteScript):
    environ = {"SCORING_LOG_FORMAT": "json", "CACHE_URL": "memory://"}
    with StandaloneHost(write_script(TALKING), environ=environ) as host:
        ask(host.url, "a", "first")
        until(lambda: _states(host, "again", "hit"))
        ask(host.url, "fail", "bad")
        assert host.stop() == 0
        records: list[dict[str, Any]] = [json.loads(line) for line in host.log.splitlines()]
    assert {"time", "level", "process", "logger", "message"} <= set.intersection(*map(set, records))
    assert all(re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", each["time"]) for each in records)
    first = [each for each in records if each.get("request_id") == "first"]
    assert [each["message"].split()[0] for each in first] == [
        "print",
        "two",
        "thread",
        "pool",
        "POST",
    ]
    about = {"status": 200, "model": "model", "version": "1", "trigger": "http", "cache": "miss"}
    assert first[-1].items() >= about.items()
    [traceback] = [each for each in records if "Traceback" in each["message"]]
    assert traceback["request_id"] == "bad"
    assert traceback["message"].count("\n") > 3


def _states(host: StandaloneHost, request: str, state: str) -> bool:
    ask(host.url, "a", request)
    lines = (json.loads(line) for line in host.log.splitlines())
    return any(each.get("cache") == state and each["request_id"] == request for each in lines)


def test_on_functions_the_lines_have_it_too(write_script: WriteScript):
    """Also those that threads write; what init() prints is not of a request."""
    with host_of(write_script(TALKING)) as host:
        good, bad = ask(host.url, "good"), ask(host.url, "fail")
        until(lambda: "ValueError: a mistake" in host.log)
        log = host.log
    assert times_said(lines_of(log, good)) == [1] * 5
    assert all(line.endswith(f"[{good}]") for line in lines_of(log, good))
    assert len([line for line in lines_of(log, bad) if "Traceback" in line]) == 1
    assert "in init\n" in log


@pytest.mark.parametrize("file", ["good", "fail"])
def test_an_error_document_names_the_id_that_the_log_has_with_the_traceback(
    file: str, write_script: WriteScript, tmp_path: Path
):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"{file}.json").write_text(file)
    environ = {"BLOB_INPUT_FOLDER": str(folder), "BLOB_MAX_ATTEMPTS": "1"}
    with StandaloneHost(write_script(TALKING), environ=environ) as host:
        documents = until(lambda: list((tmp_path / "output").glob("*.json")))
        assert host.stop() == 0
        log = host.log
    [access] = re.findall(r"blob input/\w+\.json \d+ .* trigger=blob model=model:1 \[(\S+)\]", log)
    found = lines_of(log, access)
    assert len([line for line in found if "Traceback" in line]) == (file == "fail")
    assert len([line for line in found if f"print {file}" in line]) == 1
    if file == "fail":
        assert json.loads(documents[0].read_text())["request_id"] == access
        assert any("cannot be scored" in line for line in found)


def test_a_logging_json_that_disables_others_does_not_silence_the_host(write_script: WriteScript):
    """Nor one that says nothing of the host's lines; the script's own go where it says."""
    script = write_script(TALKING)
    own = {"version": 1, "disable_existing_loggers": True, "loggers": {"mine": {"level": "ERROR"}}}
    script.with_name("logging.json").write_text(json.dumps(own))
    with StandaloneHost(script) as host:
        ask(host.url, "fail", "bad")
        assert host.stop() == 0
    assert "ready for serving traffic" in host.log
    assert len(lines_of(host.log, "POST /score 500")) == 1
    assert "Traceback (most recent call last): [bad]" in host.log
    assert "two\nlines" not in host.log
