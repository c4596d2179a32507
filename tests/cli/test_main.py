"""The command line: exit codes, what is on standard output, spellings, usage errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.standalone import clean_environ

ALL_BYTES = bytes(range(256))
MODULE = (sys.executable, "-m", "scoring_runtime")
CONSOLE = (str(Path(sys.executable).with_name("scoring-runtime")),)
ECHO = "def init(): pass\ndef run(data): return data"
Done = subprocess.CompletedProcess[bytes]


def run_in(
    folder: Path,
    *arguments: str | Path,
    stdin: bytes = b"",
    environ: dict[str, str] | None = None,
    command: tuple[str, ...] = MODULE,
) -> Done:
    """The finished process; ``folder`` is where it ran."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=clean_environ(**(environ or {})),
        cwd=folder,
        timeout=60,
    )


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Done]:
    """``cli("score", "--entry-script", …, stdin=b"…", environ={…})`` → the finished process."""
    return partial(run_in, tmp_path)


@pytest.fixture
def score(cli: Any, write_script: Any) -> Callable[..., Done]:
    """``score(source, *arguments, stdin=…)``: the sub-command on a script of this source."""

    def run(source: str, *arguments: str | Path, **options: Any) -> Done:
        done: Done = cli("score", "--entry-script", write_script(source), *arguments, **options)
        return done

    return run


# --- score: the answer ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [MODULE, CONSOLE], ids=["python -m", "console script"])
def test_the_answer_is_all_that_is_on_standard_output(score, command):
    done = score("def init(): pass\ndef run(data): return [data]", stdin=b"in", command=command)
    assert (done.returncode, done.stdout) == (0, b'["in"]')


@pytest.mark.parametrize("how", ["file", "-", "default"])
def test_input_from_a_file_or_standard_input(score, tmp_path, how):
    (tmp_path / "input.json").write_bytes("ä".encode())
    arguments = {"file": ["input.json"], "-": ["-"], "default": []}[how]
    done = score(ECHO, *arguments, stdin=b"from stdin")
    assert done.returncode == 0
    assert json.loads(done.stdout) == ("ä" if how == "file" else "from stdin")


NOISY = """
import logging, os, subprocess, sys, warnings
print("NOISE import")
logging.warning("NOISE root")
def init():
    print("NOISE init")
    os.write(1, b"NOISE descriptor\\n")
def run(data):
    print("NOISE run")
    print("NOISE to stdout", file=sys.stdout)
    sys.stdout.write("NOISE write\\n")
    sys.__stdout__.write("NOISE unflushed")
    sys.stdout.buffer.write(b"NOISE buffer\\n")
    logging.getLogger("mine").info("NOISE logger")
    subprocess.run([sys.executable, "-c", "print('NOISE child')"])
    return 1
"""


def test_what_the_script_and_its_libraries_print_or_log_is_on_standard_error(score):
    done = score(NOISY)
    assert (done.returncode, done.stdout) == (0, b"1")
    for noise in (b"import", b"root", b"init", b"descriptor", b"run", b"to stdout", b"write",
                  b"unflushed", b"buffer", b"logger", b"child"):  # fmt: skip
        assert b"NOISE " + noise in done.stderr, noise


RAW = """
from scoring_runtime import AMLResponse, rawhttp
def init(): pass
@rawhttp
def run(request): return AMLResponse({}, {})
"""


def test_bytes_in_and_bytes_out(score):
    stream = "(bytes([b]) for b in request.get_data())"
    done = score(RAW.format(stream, 200), stdin=ALL_BYTES)
    assert (done.returncode, done.stdout) == (0, ALL_BYTES)


def test_the_content_type_is_that_of_the_input(score):
    source = RAW.format("request.headers['Content-Type']", 200)
    assert score(source).stdout == b"application/json"
    assert score(source, "--content-type", "text/xml").stdout == b"text/xml"


# --- score: exit codes ----------------------------------------------------------------------------

FAILS = "from scoring_runtime import *\ndef init(): pass\ndef run(data): {}"
# source, stdin, exit code, what standard error says
EXITS = {
    "refused by the script": (FAILS.format("raise InputError('no age')"), b"", 2, b"no age\n"),
    "not UTF-8": (ECHO, b"\xff", 2, b"Input cannot be decoded as UTF-8"),
    "init raises": ("def init(): 1 / 0\ndef run(data): pass", b"", 3, b"Cause: ZeroDivisionError"),
    "run raises": (FAILS.format("1 / 0"), b"", 4, b"\nCause: ZeroDivisionError: division by zero"),
    "run() answers 500": (
        FAILS.format("return AMLResponse((1 / n for n in (1, 0)), 200)"),
        b"",
        4,
        b"An unexpected error occurred",
    ),
}


@pytest.fixture(scope="module")
def exits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Done]]]:
    """How `score` ends, a few processes at a time."""

    def end(source: str, stdin: bytes) -> Done:
        folder = tmp_path_factory.mktemp("exits")
        (folder / "score.py").write_text(source)
        return run_in(folder, "score", "--entry-script", "score.py", stdin=stdin)

    with ThreadPoolExecutor(3) as executor:
        yield {name: executor.submit(end, *EXITS[name][:2]) for name in EXITS}


@pytest.mark.parametrize("name", EXITS)
def test_exit_codes_of_score(exits, name):
    """0 scored, 1 usage, 2 the input was refused, 3 cannot start, 4 run() failed."""
    _, _, code, text = EXITS[name]
    done = exits[name].result()
    assert done.returncode == code
    assert done.stdout == b""
    assert text in done.stderr


@pytest.mark.parametrize("command", ["score", "serve"])
def test_a_model_dir_that_is_a_file_is_said_at_once(cli, tmp_path, command):
    (tmp_path / "model.pkl").touch()
    done = cli(command, "--model-dir", tmp_path / "model.pkl")
    assert (done.returncode, done.stdout) == (1, b"")
    said = f"--model-dir names the file {tmp_path / 'model.pkl'}: name its folder, {tmp_path}\n"
    assert done.stderr == f"scoring-runtime: {said}".encode()


def test_a_wrong_setting_in_the_environment_is_exit_3(score):
    done = score(ECHO, environ={"SCORING_NAN": "never"})
    assert (done.returncode, done.stdout) == (3, b"")
    last = done.stderr.decode().rstrip().splitlines()[-1]
    assert last.startswith("Cause: SCORING_NAN has the value 'never' (from the environment)")


def test_a_file_may_be_larger_than_the_body_of_a_request(score):
    """The limit protects a server from its clients."""
    done = score(
        "def init(): pass\ndef run(data): return len(data)",
        stdin=b"x" * 2000,
        environ={"SCORING_MAX_BODY_BYTES": "1000"},
    )
    assert (done.returncode, done.stdout) == (0, b"2000")


# --- usage ----------------------------------------------------------------------------------------


USAGE = [
    ((), "the following arguments are required: COMMAND"),
    (("brew",), "invalid choice: 'brew'"),
    (("serve", "--no-such-option"), "unrecognized arguments: --no-such-option"),
    (("serve", "--port", "0"), "SERVER_PORT has the value '0' (from the command line)"),
    (("score", "no such file"), "no such file: No such file or directory"),
    (("settings", "--json", "--markdown"), "not allowed with argument"),
]


@pytest.fixture(scope="module")
def usage_errors(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[tuple[str, ...], Future[Done]]]:
    """How each wrong command line ends, a few processes at a time."""
    folder = tmp_path_factory.mktemp("usage")
    with ThreadPoolExecutor(3) as executor:
        yield {words: executor.submit(run_in, folder, *words) for words, _ in USAGE}


@pytest.mark.parametrize(("arguments", "text"), USAGE, ids=[" ".join(words) for words, _ in USAGE])
def test_usage_errors_are_exit_1_on_standard_error(usage_errors, arguments, text):
    """As with the old server, and unlike argparse's own 2."""
    done = usage_errors[arguments].result()
    assert (done.returncode, done.stdout) == (1, b"")
    last = done.stderr.decode().rstrip().splitlines()[-1]
    assert last.startswith("scoring-runtime")
    assert text in last
    assert "Traceback" not in done.stderr.decode()


def test_serve_without_its_packages_says_what_to_install_and_score_needs_none(
    score, cli, write_script, tmp_path
):
    """The core is installed without [server] where Azure Functions is the host."""
    missing = 'raise ModuleNotFoundError("No module named httptools", name="httptools")'
    write_script(missing, "without/httptools.py")
    environ = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "without"), *sys.path])}
    done = cli("serve", "--entry-script", write_script(ECHO), environ=environ)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        "scoring-runtime: serve needs httptools: pip install 'scoring-runtime[server]'\n"
    )
    done = score(ECHO, stdin=b"x", environ=environ)
    assert (done.returncode, done.stdout) == (0, b'"x"')


@pytest.mark.parametrize(
    "arguments", [["--help"], ["serve", "--help"], ["score", "-h"], ["settings", "-h"]]
)
def test_help_is_exit_0_on_standard_output(cli, arguments):
    done = cli(*arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: scoring-runtime")
    if arguments[0] == "serve":
        for option in (b"--entry-script", b"--model-dir", b"--port", b"--workers", b"SERVER_PORT"):
            assert option in done.stdout
        assert b"--rest" not in done.stdout


# --- spellings and precedence ---------------------------------------------------------------------

SPELLINGS = [
    ("entry_script", "AZUREML_ENTRY_SCRIPT", "score.py"),
    ("model_dir", "AZUREML_MODEL_DIR", "models"),
    ("config_file", "AZUREML_CONFIG_FILE", "own.json"),
]
SERVE_SPELLINGS = [
    *SPELLINGS,
    ("port", "SERVER_PORT", "6001"),
    ("host", "SCORING_HOST", "127.0.0.1"),
    ("workers", "WORKER_COUNT", "3"),
    ("worker_count", "WORKER_COUNT", "3"),
    ("health_port", "HEALTH_PORT", "6002"),
    ("access_control_allow_origins", "AML_CORS_ORIGINS", "https://a"),
    ("appinsights_instrumentation_key", "AML_APP_INSIGHTS_KEY", "x"),
]


@pytest.mark.parametrize("dash", ["-", "_"])
@pytest.mark.parametrize(("option", "variable", "value"), SERVE_SPELLINGS)
def test_options_are_spelled_with_dashes_or_as_the_old_server_s(option, variable, value, dash):
    from scoring_runtime.cli.main import _parser

    if option == "worker_count" and dash == "-":
        option = "workers"  # only the old name has the underscore
    flag = f"--{option.replace('_', dash)}"
    for form in ([flag, value], [f"{flag}={value}"]):
        parsed = vars(_parser().parse_args(["serve", *form]))
        assert str(parsed[variable]) == value
    if (option, variable, value) in SPELLINGS:
        for command in ("score", "settings"):
            assert vars(_parser().parse_args([command, flag, value]))[variable] == value


def shown(done: Done) -> dict[str, tuple[str, str]]:
    assert done.returncode == 0, done.stderr
    return {row["name"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}


def test_settings_show_values_and_where_they_come_from(cli, tmp_path, write_script):
    script = write_script(ECHO)
    (tmp_path / "config.json").write_text('{"WORKER_COUNT": 4, "SCORING_NAN": "string"}')
    rows = shown(
        cli(
            "settings", "--json", "--entry-script", script,
            environ={"SCORING_NAN": "raw", "scoring_timeout_ms": "77"},
        )
    )  # fmt: skip
    assert rows["AZUREML_ENTRY_SCRIPT"] == (os.path.realpath(script), "command line")
    assert rows["SCORING_NAN"] == ("raw", "environment")
    assert rows["SCORING_TIMEOUT_MS"] == ("77", "environment")
    assert rows["WORKER_COUNT"] == ("4", "config file")
    assert rows["AML_APP_ROOT"] == (str(tmp_path), "host default")
    assert rows["SERVER_PORT"] == ("5001", "default")


def test_settings_as_text_hide_secrets(cli):
    key = "12345678-1234-1234-1234-123456789012"
    done = cli("settings", environ={"AML_APP_INSIGHTS_KEY": key})
    assert done.returncode == 0
    assert key.encode() not in done.stdout + done.stderr
    assert b"AML_APP_INSIGHTS_KEY=***  (environment)\n" in done.stdout
    assert b"SERVER_PORT=5001  (default)\n" in done.stdout


def test_settings_name_what_is_none_of_them(cli):
    done = cli("settings", "--json", environ={"SCORING_TIMOUT_MS": "hunter2"})
    assert done.returncode == 0
    assert json.loads(done.stdout)
    assert done.stderr.decode() == (
        "scoring-runtime: The environment has names that are not settings: "
        "SCORING_TIMOUT_MS (the nearest setting is SCORING_TIMEOUT_MS).\n"
    )


def test_importing_the_command_line_does_no_work():
    code = (
        "import sys, scoring_runtime.cli.main\n"
        "others = {'uvicorn', 'httptools', 'uvloop', 'azure', 'numpy', 'pandas'}\n"
        "sys.exit(str(others & set(sys.modules)) if others & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
