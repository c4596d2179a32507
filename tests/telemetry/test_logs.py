"""Logging: format, level, logging.json, print(), and the access log."""

from __future__ import annotations

import asyncio
import builtins
import io
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.errors import ConfigurationError
from scoring_runtime.telemetry import logs
from scoring_runtime.telemetry.access import AccessLog
from scoring_runtime.telemetry.logs import (
    LineFormatter,
    RootAccessFilter,
    Tally,
    configure_logging,
    log,
    redirect_print,
    request_id,
    script_log,
    swagger_log,
)

LINE = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ([A-Z]) \[(\d+)\] ([\w.]+) - (.*)", re.DOTALL
)
MOMENT = 1704164645.678  # 2024-01-02 03:04:05.678 UTC
OWN = ("azmlinfsrv", "azmlinfsrv.user_script", "azmlinfsrv.swagger", "azmlinfsrv.print")
TOUCHED = (*OWN, "uvicorn.error", "of.the.user", "")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Loggers, print and the request id are put back."""
    loggers = [logging.getLogger(name) for name in TOUCHED]
    before = [
        (each, each.level, each.handlers[:], each.filters[:], each.propagate, each.disabled)
        for each in loggers
    ]
    real_print, token = builtins.print, request_id.set("")
    yield
    for each, level, handlers, filters, propagate, disabled in before:
        each.setLevel(level)
        each.handlers[:], each.filters[:] = handlers, filters
        each.propagate, each.disabled = propagate, disabled
    builtins.print = real_print
    request_id.reset(token)


def parsed(text: str) -> list[tuple[str, str, str]]:
    """(level, logger, message) of each line, all of which must have the format."""
    found = []
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        assert match is not None, line
        assert int(match[3]) == os.getpid()
        found.append((match[2], match[4], match[5]))
    return found


# --- the format -----------------------------------------------------------------------------------


def record(name: str = "azmlinfsrv.user_script", message: str = "hello") -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "x.py", 1, message, (), None)
    made.created, made.msecs, made.process = MOMENT, 678.0, 42
    return made


@pytest.mark.keep
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_the_format_is_in_utc(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 56: whatever the zone of the machine."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        line = LineFormatter().format(record())
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert line == "2024-01-02 03:04:05,678 W [42] azmlinfsrv.user_script - hello"


def test_lines_of_a_request_end_with_its_id() -> None:
    request_id.set("abc-1")
    assert LineFormatter().format(record()).endswith(" - hello [abc-1]")
    assert LineFormatter().format(record("of.the.user")).endswith(" - hello [abc-1]")
    two = LineFormatter().format(record(message="Traceback:\n  File"))
    assert two.endswith(" - Traceback: [abc-1]\n  File [abc-1]")


def test_the_format_can_be_another() -> None:
    formatter = LineFormatter("{asctime}|{message}", "%H:%M", style="{")
    assert formatter.format(record()) == "03:04|hello"


# --- the default configuration --------------------------------------------------------------------


@pytest.mark.fix
def test_every_logger_writes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows 56, 57: the server's loggers, and the root, which the old server left alone."""
    configure_logging("INFO", [])
    configure_logging("INFO", [])  # the second replaces the first
    log.info("one")
    script_log.warning("two %s", 2)
    swagger_log.error("three")
    logging.info("four")
    logging.getLogger("of.the.user").info("five")
    log.debug("not this")
    out, err = capsys.readouterr()
    assert parsed(out) == [
        ("I", "azmlinfsrv", "one"),
        ("W", "azmlinfsrv.user_script", "two 2"),
        ("E", "azmlinfsrv.swagger", "three"),
        ("I", "root", "four"),
        ("I", "of.the.user", "five"),
    ]
    assert err == ""


@pytest.mark.fix
@pytest.mark.parametrize(
    ("level", "seen"),
    [("DEBUG", "DIWEC"), ("INFO", "IWEC"), ("CRITICAL", "C")],
)
def test_the_level_is_honoured(level: str, seen: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 52: it changed nothing; of the server's loggers and of the script's alike."""
    configure_logging(level, [])
    for each in (script_log, logging.getLogger("of.the.user")):
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(each, name)("x")
    assert "".join(found[0] for found in parsed(capsys.readouterr().out)) == seen * 2


def test_the_stream_can_be_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", [], "stderr")
    log.info("one")
    logging.warning("two")
    out, err = capsys.readouterr()
    assert out == ""
    assert [message for *_, message in parsed(err)] == ["one", "two"]


def test_the_stream_is_the_one_of_the_moment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging("INFO", [])
    other = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", other)
        log.info("there")
    log.info("here")
    assert [message for *_, message in parsed(other.getvalue())] == ["there"]
    assert [message for *_, message in parsed(capsys.readouterr().out)] == ["here"]


def test_the_servers_warnings_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", [])
    logging.getLogger("uvicorn.error").info("not this")
    logging.getLogger("uvicorn.error").warning("this")
    out, err = capsys.readouterr()
    assert out == ""
    assert parsed(err) == [("W", "uvicorn.error", "this")]


# --- logging.json ---------------------------------------------------------------------------------


def own_config(level: str = "INFO", **more: Any) -> dict[str, Any]:
    """A configuration as users wrote it for the old server."""
    old = "azureml_inference_server_http.log_config"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {"class": f"{old}.AMLLogFormatter", "format": "OWN %(levelname)s %(message)s"}
        },
        "filters": {"probe": {"()": f"{old}.RootAccessFilter"}},
        "handlers": {
            "out": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "lines",
                "filters": ["probe"],
            }
        },
        "loggers": {"azmlinfsrv": {"level": level, "handlers": ["out"], "propagate": False}},
        **more,
    }


def write(folder: Path, config: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "logging.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.keep
def test_own_configuration_with_the_old_class_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 56: the old formatter and filter are ours now; the package need not be there."""
    path = write(tmp_path, own_config())
    configure_logging("ERROR", [tmp_path])
    log.info("one")
    log.info('"GET / HTTP/1.1" 200')
    log.debug("not this")
    formatter = log.handlers[0].formatter
    assert type(formatter) is LineFormatter
    assert type(log.handlers[0].filters[0]) is RootAccessFilter
    assert capsys.readouterr().out.splitlines() == [
        f"OWN INFO Loaded logging config from {path}",
        "OWN INFO one",
    ]


@pytest.mark.keep
def test_the_first_place_with_a_file_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 56: the app root, then next to the script, then the default."""
    none, first, second = tmp_path / "none", tmp_path / "first", tmp_path / "second"
    none.mkdir()
    write(second, own_config("ERROR"))
    configure_logging("INFO", [none, tmp_path / "missing", second])
    assert log.level == logging.ERROR
    write(first, own_config("WARNING"))
    configure_logging("INFO", [none, first, second])
    assert log.level == logging.WARNING
    configure_logging("DEBUG", [none])
    assert log.level == logging.DEBUG
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{", "Expecting property name"),
        ("{}", "dictionary doesn't specify a version"),
        ('{"version": 2}', "Unsupported version: 2"),
        ('{"version": 1, "loggers": {"a": {"handlers": ["nope"]}}}', "Unable to configure logger"),
    ],
)
def test_a_file_that_is_no_configuration_stops_the_start(
    config: str, problem: str, tmp_path: Path
) -> None:
    path = write(tmp_path, config)
    with pytest.raises(ConfigurationError) as caught:
        configure_logging("INFO", [tmp_path])
    message = str(caught.value)
    assert message.startswith(f"{path} is not a logging configuration: {problem}")
    assert caught.value.__cause__ is not None


# --- print ----------------------------------------------------------------------------------------


@pytest.mark.keep
def test_print_goes_to_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Row 57: one record for each call, at INFO, by the logger azmlinfsrv.print."""
    configure_logging("INFO", [])
    redirect_print()
    print("one", 2, None)
    print("100 %s", "b", sep="-", end="!")
    print("c", "d", sep=None, flush=True)
    print()
    print("to stdout", file=sys.stdout)
    print("to none", file=None)
    out, err = capsys.readouterr()
    assert parsed(out) == [
        ("I", "azmlinfsrv.print", "one 2 None"),
        ("I", "azmlinfsrv.print", "100 %s-b"),
        ("I", "azmlinfsrv.print", "c d"),
        ("I", "azmlinfsrv.print", ""),
        ("I", "azmlinfsrv.print", "to stdout"),
        ("I", "azmlinfsrv.print", "to none"),
    ]
    assert err == ""


@pytest.mark.keep
def test_print_to_another_file_stays_print(capsys: pytest.CaptureFixture[str]) -> None:
    """Row 57: only what goes to stdout is redirected."""
    configure_logging("INFO", [])
    redirect_print()
    file = io.StringIO()
    print("a", 1, sep="-", end="!", file=file)
    print("error", file=sys.stderr, flush=True)
    out, err = capsys.readouterr()
    assert (file.getvalue(), out, err) == ("a-1!", "", "error\n")


def test_redirecting_twice_redirects_once() -> None:
    real = builtins.print
    redirect_print()
    once = builtins.print
    redirect_print()
    assert builtins.print is once is not real
    assert once.__wrapped__ is real  # type: ignore[attr-defined]
    assert once.__name__ == "print"


# --- the access log -------------------------------------------------------------------------------


def stamp(moment: float) -> str:
    """How the format writes a moment."""
    whole = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
    return f"{whole},{int(moment * 1000) % 1000:03d}"


def logged(moments: list[float]) -> list[str]:
    """Add a line at each of these moments, then flush; the lines as they were added."""
    lines = [
        f"POST /score 200 0.508ms {number} trigger=http client=::1 model=m:1 cache=hit [i{number}]"
        for number in range(len(moments))
    ]

    async def add() -> None:
        access = AccessLog()
        clock = iter(moments)
        for number in range(len(lines)):
            about = ("http", "::1", "m:1", "hit", "", f"i{number}")
            access.add((next(clock), "POST", "/score", b"", 200, 0.000508, number, *about))
        access.flush()

    asyncio.run(add())
    return lines


ABOUT = ("blob", "", "", "", "", "1")
MOMENTS = [MOMENT, MOMENT + 0.001, MOMENT + 0.3219, MOMENT + 0.322, MOMENT + 61.5, MOMENT + 61.5]
MOMENTS += [1704165645.0, 1704165645.0004, 1704165645.9999]


def test_each_line_is_written_once_with_its_own_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Written together, yet each with the time it was noted at, across a change of second."""
    configure_logging("INFO", [])
    request_id.set("none of theirs")
    lines = logged(MOMENTS)
    assert capsys.readouterr().out.splitlines() == [
        f"{stamp(moment)} I [{os.getpid()}] azmlinfsrv - {line}"
        for moment, line in zip(MOMENTS, lines, strict=True)
    ]


def test_own_configuration_gets_every_line_with_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = own_config()
    config["formatters"]["lines"]["format"] = "%(asctime)s OWN %(message)s"
    write(tmp_path, config)
    configure_logging("INFO", [tmp_path])
    capsys.readouterr()
    lines = logged(MOMENTS)
    assert capsys.readouterr().out.splitlines() == [
        f"{stamp(moment)} OWN {line}" for moment, line in zip(MOMENTS, lines, strict=True)
    ]


def test_lines_go_up_to_the_root_when_the_logger_propagates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As any record: once for each handler on the way that is not above its level."""
    configure_logging("WARNING", [])
    logged([MOMENT])
    configure_logging("INFO", [])
    log.handlers[0].setLevel("WARNING")
    logged([MOMENT])
    assert capsys.readouterr().out == ""
    log.handlers[0].setLevel("INFO")
    log.propagate = True
    logged([MOMENT])
    assert len(capsys.readouterr().out.splitlines()) == 2
    log.handlers.clear()
    logged([MOMENT])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_lines_are_written_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    """Within 50 ms, without a flush; and again for the next ones."""
    configure_logging("INFO", [])

    async def two_rounds() -> list[int]:
        access = AccessLog()
        counts = []
        for _ in range(2):
            access.add((time.time(), "blob", "one", b"", 200, 0, 1, *ABOUT))
            access.add((time.time(), "blob", "two", b"", 200, 0, 1, *ABOUT))
            counts.append(len(capsys.readouterr().out.splitlines()))
            await asyncio.sleep(0.2)
            counts.append(len(capsys.readouterr().out.splitlines()))
        return counts

    assert asyncio.run(two_rounds()) == [0, 2, 0, 2]


def test_many_lines_do_not_pile_up(capsys: pytest.CaptureFixture[str]) -> None:
    """512 of them are written at once; the rest with the flush; none is lost or repeated."""
    configure_logging("INFO", [])

    async def add() -> int:
        access = AccessLog()
        for number in range(1300):
            access.add((time.time(), "blob", "line", b"", 200, 0, number, *ABOUT))
        before = len(capsys.readouterr().out.splitlines())
        access.flush()
        access.flush()
        return before

    assert asyncio.run(add()) == 1024
    rest = [message for *_, message in parsed(capsys.readouterr().out)]
    assert rest == [
        f"blob line 200 0.000ms {number} trigger=blob [1]" for number in range(1024, 1300)
    ]


def test_warnings_that_come_in_floods_are_one_line_a_minute_with_their_count(caplog):
    tally = Tally()
    for now in range(200):
        for _ in range(3):
            tally.add("one kind")
        if now == 70:
            tally.add("another")
        tally.flush(float(now))
    tally.flush(math.inf)
    said = [record.getMessage() for record in caplog.records if record.name == "azmlinfsrv"]
    assert said == [
        "one kind (3 since the last such line)",
        "one kind (180 since the last such line)",
        "another (1 since the last such line)",
        "one kind (180 since the last such line)",
        "one kind (180 since the last such line)",
        "one kind (57 since the last such line)",
    ]


# --- what clients say -----------------------------------------------------------------------------

FORGED = (
    "a\n2026-01-01 00:00:00,000 E [1] azmlinfsrv - forged\r\x1b[31m\x85\u2028\u2029\u202e\x7f\0"
)


def forged_lines(text: str) -> list[str]:
    """The lines that begin as a record does and are none of ours, and what could colour them."""
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)
    return [line for line in text.split("\n") if line.startswith("2026-01-01 00:00:00,000 E [1]")]


@pytest.mark.parametrize(
    ("logger", "handler"),
    [(each, where) for each in (log, swagger_log, script_log) for where in ("default", "own")]
    + [(logging.getLogger("asyncio"), "default")],
    ids=lambda each: getattr(each, "name", each),
)
def test_no_text_of_a_client_looks_like_a_record(
    handler: str, logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the message, in an error's traceback and in the id, whatever formats the record."""
    if handler == "own":
        write(tmp_path, own_config())
    configure_logging("INFO", [tmp_path])
    request_id.set(f"id{FORGED}")
    logger.error("%s is odd", FORGED)
    try:
        raise ValueError(FORGED) from KeyError(FORGED)
    except ValueError:
        logger.exception("Encountered Exception while scoring %s", FORGED)
    out = capsys.readouterr().out
    assert forged_lines(out) == []
    assert r"\r\x1b[31m\x85\u2028\u2029\u202e\x7f\x00" in out
    assert re.search(r"^    Traceback \(most recent call last\): \[id", out, re.MULTILINE)


def test_what_a_script_says_itself_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", [])
    redirect_print()
    print("two\nlines", "\x1b[32mgreen")
    logging.getLogger("of.the.user").info("three\n\nlines")
    out = capsys.readouterr().out
    assert "two\nlines \x1b[32mgreen\n" in out
    assert "three\n\nlines\n" in out


def test_an_access_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", [])

    async def add() -> None:
        access = AccessLog()
        for path in ("/score", f"/{FORGED}", "/grüße"):
            access.add((time.time(), "POST", path, b"", 404, 0, 1, *ABOUT))
        access.flush()

    asyncio.run(add())
    out = capsys.readouterr().out
    assert forged_lines(out) == []
    first, odd, last = (message for *_, message in parsed(out))
    end = " 404 0.000ms 1 trigger=blob [1]"
    assert (first, last) == (f"POST /score{end}", f"POST /grüße{end}")
    assert odd.startswith(r"POST /a\n2026-01-01 00:00:00,000 E [1] azmlinfsrv - forged\r\x1b")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("input/a b.json", "input/a b.json"),
        ("日本語 😀 é", "日本語 😀 é"),
        ("a\tb\nc", r"a\tb\nc"),
        ("\udc80", r"\udc80"),
        ("a\u200db", r"a\u200db"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert logs.printable(text) == shown
