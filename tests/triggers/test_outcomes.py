"""What becomes of an input for which no client waits, and how a blob becomes a request."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote

import pytest

from scoring_runtime import errors
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.scoring.runtime import Runtime, build
from scoring_runtime.settings.settings import Settings
from scoring_runtime.triggers.outcomes import (
    Health,
    Outcome,
    Scoring,
    Verdict,
    blob_request,
    content_type_of,
    failed,
)
from tests.conftest import WriteScript

JSON = "application/json"
INTERNAL = b'{"message": "An unexpected internal error occurred. Check the logs for more info."}'

SCRIPT = """
import sys, time
from scoring_runtime import AMLResponse, InputError, rawhttp

def init():
    pass

def parts(last):
    yield b"a "
    yield b"b "
    yield last()

def fail():
    raise ValueError("details")

def refuse():
    raise InputError("not this one")

ANSWERS = {
    b"value": lambda: {"a": 1},
    b"nothing": lambda: None,
    b"stream": lambda: AMLResponse(parts(lambda: b"c"), 200),
    b"stream fails": lambda: AMLResponse(parts(fail), 200),
    b"stream refuses": lambda: AMLResponse(parts(refuse), 200),
    b"fail": fail,
    b"exit": lambda: sys.exit(0),
    b"object": object,
    b"refuse": refuse,
    b"slow": lambda: time.sleep(0.6),
    b"long": lambda: AMLResponse("x" * 5000, 422),
    b"moved": lambda: AMLResponse("there", 302),
    b"typed": lambda: AMLResponse("a,b", 201, {"Content-Type": "text/csv"}),
}

@rawhttp
def run(request):
    body = request.get_data()
    if body.startswith(b"status "):
        return AMLResponse("chosen: \\u00fc", int(body[7:]))
    return ANSWERS[body]()
"""


@asynccontextmanager
async def started(write_script: WriteScript, **environ: str) -> AsyncIterator[Runtime]:
    script = write_script(SCRIPT)
    runtime = build(Settings.from_environ({"AZUREML_ENTRY_SCRIPT": str(script), **environ}))
    runtime.start()
    await runtime.started()
    try:
        yield runtime
    finally:
        await runtime.stop(5)


def scored(write_script: WriteScript, *bodies: bytes, **environ: str) -> list[Outcome]:
    async def scenario() -> list[Outcome]:
        async with started(write_script, **environ) as runtime:
            score = Scoring(runtime, "blob")
            return [await score(ScoringRequest(each), "blob input/a.json") for each in bodies]

    return asyncio.run(scenario())


def message(text: str) -> bytes:
    return b'{"message": "%s"}' % text.encode()


SCORED, REFUSED, FAILED = Verdict
TEXT = "text/html; charset=utf-8"
CHOSEN = "chosen: ü".encode()

OUTCOMES = {
    b"value": Outcome(SCORED, 200, b'{"a":1}', JSON),
    b"nothing": Outcome(SCORED, 200, b"{}", JSON),
    b"stream": Outcome(SCORED, 200, b"a b c", TEXT),
    b"moved": Outcome(SCORED, 302, b"there", TEXT),
    b"typed": Outcome(SCORED, 201, b"a,b", "text/csv"),
    b"status 399": Outcome(SCORED, 399, CHOSEN, TEXT),
    b"status 400": Outcome(REFUSED, 400, CHOSEN, TEXT, "Status400", "chosen: ü"),
    b"status 499": Outcome(REFUSED, 499, CHOSEN, TEXT, "Status499", "chosen: ü"),
    b"status 500": Outcome(FAILED, 500, CHOSEN, TEXT, "Status500", "chosen: ü"),
    b"long": Outcome(REFUSED, 422, b"x" * 5000, TEXT, "Status422", "x" * 1000),
    b"refuse": Outcome(REFUSED, 400, message("not this one"), JSON, "InputError", "not this one"),
    b"stream refuses": Outcome(
        REFUSED, 400, message("not this one"), JSON, "InputError", "not this one"
    ),
}


def test_the_outcome_of_each_answer_of_the_script(write_script):
    """Up to 399 it is a result, up to 499 the client's fault, from 500 on another try may help."""
    found = [each[:8] for each in scored(write_script, *OUTCOMES)]  # but how it is counted
    assert found == [each[:8] for each in OUTCOMES.values()]


def test_a_run_that_gives_no_result_has_failed_and_its_details_are_not_told(write_script):
    bodies = [b"fail", b"exit", b"stream fails", b"object", b"unknown"]
    found = scored(write_script, *bodies)
    assert [(each.verdict, each.status, each.content_type) for each in found] == [
        (FAILED, 500, JSON)
    ] * len(bodies)
    assert [each.reason for each in found] == [
        *["RunFailed"] * 3,
        "ResultNotSerializable",
        "RunFailed",
    ]
    assert [each.body for each in found] == [message(each.description) for each in found]
    assert b"details" not in b"".join(each.body for each in found)


def test_a_run_past_its_deadline_has_failed(write_script):
    [found] = scored(write_script, b"slow", SCORING_TIMEOUT_MS="200")
    assert (found.verdict, found.status, found.reason) == (FAILED, 500, "RunTimeout")


def test_the_deadline_is_that_of_run_alone(write_script):
    """Blobs and messages wait for each other, and for HTTP that fills the queue."""

    async def scenario() -> list[Outcome]:
        settings = {"SCORING_TIMEOUT_MS": "1500", "SCORING_QUEUE_SIZE": "1"}
        async with started(write_script, **settings) as runtime:
            score = Scoring(runtime, "blob")
            requests = [ScoringRequest(b"slow")] * 5
            return await asyncio.gather(*(score(each, "blob input/a") for each in requests))

    assert [each.verdict for each in asyncio.run(scenario())] == [SCORED] * 5


def test_a_trouble_that_passes_is_logged_and_one_that_lasts_is_shown(monkeypatch, caplog):
    monkeypatch.setattr("scoring_runtime.triggers.outcomes._GRACE_SECONDS", 0.2)
    trouble = errors.TriggerTrouble("The queue is away.")

    async def scenario() -> None:
        shown: dict[str, str] = {}
        health = Health(shown, "service_bus", "connecting")
        assert shown == {"service_bus": "connecting"}
        health.has_trouble(trouble)  # before it has worked
        assert shown == {"service_bus": "The queue is away."}
        health.is_well()
        assert shown == {}
        for _ in range(2):
            health.has_trouble(trouble)
            assert shown == {}
            health.is_well()
        await asyncio.sleep(0.3)
        assert shown == {}
        health.has_trouble(trouble)
        await asyncio.sleep(0.3)
        assert shown == {"service_bus": "The queue is away."}
        health.is_well()
        health.is_well()
        assert shown == {}

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    said = [each.getMessage() for each in caplog.records if each.name == "azmlinfsrv"]
    assert said == ["The queue is away.", "The Service Bus trigger works again."] * 4


def test_an_input_that_cannot_be_taken_now_raises_and_has_no_outcome(write_script):
    async def scenario() -> None:
        async with started(write_script) as runtime:
            await runtime.stop(5)
            with pytest.raises(errors.Stopping):
                await Scoring(runtime, "blob")(ScoringRequest(b"value"), "blob input/a.json")

    asyncio.run(scenario())


def test_an_unexpected_error_has_failed_and_is_logged(write_script, caplog):
    async def broken(request: ScoringRequest) -> None:
        raise ZeroDivisionError("for the log")

    async def scenario() -> Outcome:
        async with started(write_script) as runtime:
            score = Scoring(runtime, "blob", broken)  # type: ignore[arg-type]
            return await score(ScoringRequest(b"value", request_id="id-1"), "blob input/a.json")

    found = asyncio.run(scenario())
    assert (found.verdict, found.status, found.body) == (FAILED, 500, INTERNAL)
    assert found.reason == "InternalError"
    [record] = [each for each in caplog.records if each.exc_info]
    assert "while scoring id-1" in record.getMessage()


def test_each_try_is_a_line_in_the_access_log(write_script, caplog):
    """Of one that has it."""

    async def scenario() -> None:
        async with started(write_script) as runtime:
            for score in (Scoring(runtime, "blob"), Scoring(runtime, "blob", access_log=False)):
                await score(ScoringRequest(b"value"), "blob input/a.json")
                await score(ScoringRequest(b"fail"), "blob input/b.json")
                score.flush_log()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    text = "\n".join(each.getMessage() for each in caplog.records)
    good, bad = (line for line in text.splitlines() if "blob input/" in line)
    assert good.partition("blob ")[2].startswith("input/a.json 200 ")
    assert re.search(r"[0-9]ms 7 trigger=blob model=model:1$", good)
    assert bad.partition("blob ")[2].startswith("input/b.json 500 ")


def _leaves(kind: type[errors.ScoringRuntimeError]) -> list[type[errors.ScoringRuntimeError]]:
    own = (each for each in kind.__subclasses__() if each.__module__ == errors.__name__)
    below = [each for direct in own for each in _leaves(direct)]
    return [kind, *below]


@pytest.mark.parametrize("kind", [*_leaves(errors.InputError), *_leaves(errors.RunError)])
def test_every_input_error_is_refused_with_a_client_status_and_a_run_error_has_failed(kind):
    found = failed(kind("the sentence"))
    if issubclass(kind, errors.InputError):
        assert found.verdict is Verdict.REFUSED
        assert 400 <= found.status < 500
    else:
        assert (found.verdict, found.status) == (Verdict.FAILED, 500)
    assert found[2:6] == (message("the sentence"), JSON, kind.__name__, "the sentence")


# --- blobs as requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "name", "content_type"),
    [
        ("application/json", "a.csv", "application/json"),
        ("text/csv", "a.json", "text/csv"),
        ("", "a.CSV", "text/csv"),
        ("", "", "application/json"),
        ("application/octet-stream", "a.json", "application/json"),
        ("Application/Octet-Stream ; x=y", "a.json", "application/json"),
        ("application/octet-stream", "a.unknown", "application/octet-stream"),
        ("application/octet-stream", "", "application/json"),
        ("text/plain; charset=utf-8", "a.txt", "text/plain"),
    ],
)
def test_the_content_type_is_what_was_said_unless_that_says_nothing(said, name, content_type):
    assert content_type_of(said, name) == content_type


@pytest.mark.parametrize(
    "name",
    [
        "input/sample_input.json",
        "input/grüße €/漢字 😀.json",
        "input/a b%20#?&+;=\"'.json",
        "input/line\r\nend: x.json",
        "input/" + "x" * 1000 + ".json",
    ],
)
def test_the_blob_name_header_is_ascii_and_can_be_read_back(name):
    request = blob_request(name, b"body", "", "", request_id="id")
    value = request.header(b"x-blob-name").decode("ascii")
    assert unquote(value) == name
    assert not set(value) & set(" \r\n\"'#?")
    # As file names on Linux can be.
    request = blob_request("input/\udcff.json", b"", "", "", request_id="id")
    assert request.header(b"x-blob-name") == b"input/%3F.json"


def test_a_blob_is_posted_with_what_its_storage_says_of_it():
    body = bytes(range(256))
    found = blob_request("input/a.json", body, "", "gzip", request_id="id-1")
    assert found == ScoringRequest(
        body,
        [
            (b"content-type", b"application/json"),
            (b"content-encoding", b"gzip"),
            (b"x-blob-name", b"input/a.json"),
            (b"x-request-id", b"id-1"),
        ],
        request_id="id-1",
    )
    plain = blob_request("input/a.json", b"", "text/csv", "", request_id="id-1")
    assert [name for name, _ in plain.headers] == [b"content-type", b"x-blob-name", b"x-request-id"]
