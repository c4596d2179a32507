"""What people see: lists of commands, helps, versions, tables, quiet answers, closed pipes."""

from __future__ import annotations

import argparse
import logging
import os
import pty
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoring_runtime import Settings
from scoring_runtime.cli.main import _banner, _check_platform, _parser
from scoring_runtime.errors import ConfigurationError
from scoring_runtime.models.registry import register
from scoring_runtime.release import DOCUMENTATION, VERSION
from tests.hosts.standalone import clean_environ

ROOT = Path(__file__).parents[2]
MODULE = (sys.executable, "-m", "scoring_runtime")
SCRIPTED = " --entry-script s.py"
SCRIPT = 'def init(): pass\ndef run(data):\n    print("from the script")\n    return data\n'


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MODULE, *arguments],
        cwd=folder,
        env=clean_environ(**environ),
        input="x",
        capture_output=True,
        text=True,
        timeout=60,
    )


def at_a_terminal(folder: Path, *arguments: str, **environ: str) -> str:
    """What the command writes to standard output when that is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MODULE, *arguments],
        cwd=folder,
        env=clean_environ(TERM="xterm", COLUMNS="120", **environ),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    written = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while chunk := terminal.read(4096):
                written += chunk
        except OSError:  # Linux: the other side is closed
            pass
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return written.decode().replace("\r\n", "\n")


# --- helps ----------------------------------------------------------------------------------------


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


@pytest.mark.parametrize("parser", list(parsers(_parser())), ids=lambda each: each.prog)
def test_every_help_has_a_description_and_an_example(parser: argparse.ArgumentParser) -> None:
    text = parser.format_help()
    assert parser.description and parser.description in text
    [example, *_] = re.findall(rf"^  ({parser.prog} \S.*)$", text, re.MULTILINE) or [""]
    assert example or parser.prog == "scoring-runtime"


@pytest.mark.parametrize("words", [(), ("models",)])
def test_without_a_command_those_there_are_are_listed(words: tuple[str, ...], tmp_path: Path):
    done = run(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    commands = ("register", "list", "show", "delete") if words else ("serve", "score", "package")
    for command in commands:
        assert re.search(rf"^    {command} +\w.{{10,}}$", done.stdout, re.MULTILINE)


def test_the_version_is_said(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"scoring-runtime {VERSION}\n"


def test_the_documentation_is_where_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Documentation"] == DOCUMENTATION


# --- score ----------------------------------------------------------------------------------------


def test_score_says_what_the_script_says_and_with_v_the_log(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    quiet = run(tmp_path, "score", "--entry-script", "score.py").stderr
    assert [line.partition(" - ")[2] for line in quiet.splitlines()] == ["from the script"]
    loud = run(tmp_path, "score", "-v", "--entry-script", "score.py").stderr
    assert "Invoking user's init function" in loud and "from the script" in loud
    warned = run(tmp_path, "score", "--entry-script", "score.py", SCORING_TIMOUT_MS="1").stderr
    assert "SCORING_TIMOUT_MS (the nearest setting is SCORING_TIMEOUT_MS)" in warned


def test_only_at_a_terminal_a_line_end_follows_the_answer(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    words = ("score", "--entry-script", "score.py")
    assert at_a_terminal(tmp_path, *words) == '""\n'
    assert run(tmp_path, *words).stdout == '"x"'


@pytest.mark.parametrize(
    "words",
    ["--help", "settings", "models list", f"package --no-resolve{SCRIPTED}", f"score{SCRIPTED}"],
)
def test_a_reader_that_went_away_is_no_error(words: str, tmp_path: Path) -> None:
    """As in ``scoring-runtime settings | head -1``."""
    (tmp_path / "s.py").write_text(SCRIPT)
    (tmp_path / "m.bin").touch()
    register(tmp_path / "azureml-models", "m", tmp_path / "m.bin")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*MODULE, *words.split()],
        cwd=tmp_path,
        env=clean_environ(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


# --- settings -------------------------------------------------------------------------------------


def test_any_setting_is_set_by_its_name(tmp_path: Path) -> None:
    words = ("--set", "SCORING_NAN=raw", "--set", "REDIS_KEY=s3cr3t", "--set", "SERVER_PORT=1")
    done = run(tmp_path, "settings", *words, SCORING_NAN="null")
    assert "SCORING_NAN=raw  (command line)\n" in done.stdout
    assert "REDIS_PASSWORD=***  (command line)\n" in done.stdout
    assert "s3cr3t" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("SCORING_TIMOUT_MS=s3cr3t", "no setting SCORING_TIMOUT_MS: did you mean SCORING_TIMEOUT"),
        ("SCORING_TIMEOUT_SECONDS=s3cr3t", "SECONDS: did you mean SCORING_TIMEOUT_MS?"),
        ("QUITE_ELSE=s3cr3t", "no setting QUITE_ELSE; scoring-runtime settings lists them"),
        ("s3cr3t", "argument --set: expected is NAME=VALUE"),
        ("SCORING_NAN=s3cr3t", "SCORING_NAN has the value 's3cr3t' (from the command line)"),
    ],
)
def test_what_is_no_setting_is_refused(said: str, message: str, tmp_path: Path) -> None:
    done = run(tmp_path, "serve", "--set", said)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "s3cr3t" not in done.stderr.replace("the value 's3cr3t'", "")


# --- tables ---------------------------------------------------------------------------------------


def test_tables_have_colours_at_a_terminal_only(tmp_path: Path) -> None:
    (tmp_path / "m.bin").touch()
    register(tmp_path / "azureml-models", "iris", tmp_path / "m.bin", description="[red] lilies")
    assert "\x1b[" not in run(tmp_path, "models", "list").stdout
    shown = at_a_terminal(tmp_path, "models", "list")
    assert "\x1b[1m" in shown and "[red] lilies" in shown
    assert "\x1b[" in at_a_terminal(tmp_path, "settings")
    blocked = tmp_path / "without"
    (blocked / "rich").mkdir(parents=True)
    (blocked / "rich/__init__.py").write_text("raise ModuleNotFoundError('rich')")
    path = os.pathsep.join([str(blocked), *filter(None, sys.path)])
    plain = at_a_terminal(tmp_path, "models", "list", PYTHONPATH=path)
    assert plain == run(tmp_path, "models", "list").stdout


# --- serve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "whom"),
    [
        ("", "this machine only"),
        ("::1", "this machine only"),
        ("0.0.0.0", "every machine that reaches 0.0.0.0"),
    ],
)
def test_the_banner_says_what_is_open_to_whom(host: str, whom: str, capsys) -> None:
    _banner(Settings.from_environ({"SCORING_HOST": host, "BLOB_INPUT_FOLDER": "/in"}))
    said = capsys.readouterr().err
    assert "\nWatching:       /in\n" in said
    assert f"\nOpen to:        {whom} (SCORING_HOST), without a key and without TLS\n" in said
    assert f"\nDocumentation:  {DOCUMENTATION}\n" in said


def test_what_windows_cannot_do_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "azmlinfsrv"):
        _check_platform(Settings(), "linux")
        assert caplog.messages == []
        _check_platform(Settings(), "win32")
    [said] = caplog.messages
    assert said.startswith("On Windows one worker serves, and without uvloop slower: use WSL or ")
    with pytest.raises(ConfigurationError, match=r"^WORKER_COUNT is 2, but Windows cannot fork "):
        _check_platform(Settings(worker_count=2), "win32")
    _check_platform(Settings(worker_count=2), "linux")
