"""The compatibility contract: the rows that take a whole program; all else is tested below.

What users of the old server rely on has 65 rows. A test that holds one names it ("Row 30"), in its
docstring or its name; what both servers answer is compared in test_differential. `keep` marks what
is reproduced exactly, `fix` what this runtime does better: old inputs are accepted, and the defect
is gone or behind a switch.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import httpx
import pytest

from scoring_runtime.settings.settings import Settings
from tests.conftest import WriteScript
from tests.hosts.standalone import StandaloneHost, free_port
from tests.hosts.waiting import until

SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
keep, fix = pytest.mark.keep, pytest.mark.fix

# --- support ---------------------------------------------------------------------------------


def ask(
    host: StandaloneHost, content: bytes = b"", path: str = "/score", method: str = "POST"
) -> httpx.Response:
    return httpx.request(method, host.url + path, content=content, timeout=30)


def without(host: StandaloneHost, option: str) -> StandaloneHost:
    """The host, not started yet, without this option and its value on the command line."""
    place = list(host._command).index(option)
    host._command = [*host._command[:place], *host._command[place + 2 :]]
    return host


ECHO = "def init(): pass\ndef run(data): return data\n"


# --- 1 routes and methods --------------------------------------------------------------------


@keep
def test_row_01_health_is_the_word_healthy_and_leaves_no_line_in_the_log() -> None:
    with StandaloneHost(SCRIPTS / "diff_json.py") as host:
        healthy = ask(host, path="/", method="GET")
        assert (healthy.status_code, healthy.content) == (200, b"Healthy")
        assert healthy.headers["content-type"] == "text/html; charset=utf-8"
        options = ask(host, path="/", method="OPTIONS")
        assert options.status_code == 200
        assert set(options.headers["allow"].split(", ")) == {"OPTIONS", "HEAD", "GET"}
        assert ask(host, path="/", method="POST").status_code == 405
        ask(host, b'{"data": []}')
        until(lambda: "POST /score 200" in host.log)
        assert "GET / " not in host.log


# --- 2 entry script discovery and import -----------------------------------------------------


@keep
def test_row_07_all_options_by_their_old_spellings(tmp_path: Path) -> None:
    config = tmp_path / "settings.json"
    config.write_text('{"SERVICE_NAME": "from the file"}')
    options = (
        "--model_dir", str(tmp_path), "--health_port", "5000", "--worker_count", "1",
        "--appinsights_instrumentation_key", str(uuid.uuid4()), "--rest",
        "--access_control_allow_origins", "https://a.example", "--config_file", str(config),
    )  # fmt: skip
    with StandaloneHost(SCRIPTS / "contract_report.py", *options, cwd=tmp_path) as host:
        response = ask(host)
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        environ = response.json()["environ"]
        title = ask(host, path="/swagger.json", method="GET").json()["info"]["title"]
    assert environ["AZUREML_MODEL_DIR"] == str(tmp_path)
    assert environ["AML_APP_INSIGHTS_ENABLED"] == "true"
    assert title == "from the file"


@fix
def test_row_08_the_entry_script_may_come_from_the_environment_alone(
    write_script: WriteScript,
) -> None:
    script = write_script(ECHO, "app/score.py")
    host = StandaloneHost(script, environ={"AZUREML_ENTRY_SCRIPT": "score.py"})
    with without(host, "--entry-script"):
        assert ask(host, b"x").json() == "x"


@keep
def test_row_09_app_root_is_the_working_folder_and_the_script_a_real_path(tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to(SCRIPTS / "contract_report.py")
    with StandaloneHost(Path("link.py"), cwd=tmp_path) as host:
        report = ask(host).json()
    assert report["environ"]["AZUREML_ENTRY_SCRIPT"] == str(SCRIPTS / "contract_report.py")
    assert report["environ"]["AML_APP_ROOT"] == str(tmp_path)
    assert report["environ"]["AML_APP_INSIGHTS_ENABLED"] == "false"
    assert "Application Insights has been disabled." not in host.log
    assert str(tmp_path) in report["path"]
    assert report["cwd"] == str(tmp_path)


# --- 8 environment and configuration ---------------------------------------------------------


@keep
def test_row_44_the_model_folder_is_passed_on_untouched(tmp_path: Path) -> None:
    for options, environ, expected in (
        ((), {}, None),
        (("--model-dir", "not/there"), {"AZUREML_MODEL_DIR": "loses"}, "not/there"),
        ((), {"AZUREML_MODEL_DIR": "./rel/"}, "./rel/"),
    ):
        script = SCRIPTS / "contract_report.py"
        with StandaloneHost(script, *options, environ=environ, cwd=tmp_path) as host:
            report = ask(host).json()
        assert report["environ"].get("AZUREML_MODEL_DIR") == expected
        assert report["cwd"] == str(tmp_path)
        notice = "The environment variable 'AZUREML_MODEL_DIR' has not been set."
        assert (notice in host.log) == (expected is None)
    assert list(tmp_path.iterdir()) == []


@fix
def test_row_45_the_port_and_the_health_port() -> None:
    """The second one has health and metrics only, so that it can be open where scoring is not."""
    second = free_port()
    environ = {"SEPERATE_HEALTH_ENDPOINT": "true", "HEALTH_PORT": str(second)}
    with StandaloneHost(SCRIPTS / "contract_report.py", environ=environ) as host:
        report = ask(host).json()["environ"]
        assert (report["SERVER_PORT"], report["HEALTH_PORT"]) == (str(host.port), str(second))
        first, host.url = host.url, f"http://127.0.0.1:{second}"
        assert ask(host, path="/", method="GET").text == "Healthy"
        assert ask(host).status_code == 404
        host.url = first


@keep
def test_row_45_the_health_port_is_the_port_without_that_exact_setting() -> None:
    said = {"SEPERATE_HEALTH_ENDPOINT": "True", "HEALTH_PORT": "5002"}
    with StandaloneHost(SCRIPTS / "contract_report.py", environ=said) as host:
        assert ask(host).json()["environ"]["HEALTH_PORT"] == str(host.port)


@fix
def test_row_45_the_port_of_the_environment_counts(write_script: WriteScript) -> None:
    host = StandaloneHost(write_script(ECHO))
    host._environ["SERVER_PORT"] = str(host.port)
    with without(host, "--port"):
        assert ask(host, b"x").json() == "x"


KEY = "0a1b2c3d-0000-4000-8000-00000000ABCD"


@keep
def test_row_49_app_insights_is_forced_off_unless_complete() -> None:
    """Which the settings' own tests say in full; row 9 has nothing set, rows 7 and 55 all."""
    incomplete = {"AML_APP_INSIGHTS_ENABLED": "true", "AML_APP_INSIGHTS_KEY": "secret-1"}
    with StandaloneHost(SCRIPTS / "contract_report.py", environ=incomplete) as host:
        assert ask(host).json()["environ"]["AML_APP_INSIGHTS_ENABLED"] == "false"
        assert "Application Insights has been disabled." in host.log
        assert "secret-1" not in host.log
        assert Settings.from_environ({}).app_insights_log_response is True


@keep
def test_row_54_a_debug_port_connects_to_the_debugger_and_waits(write_script: WriteScript) -> None:
    write_script(
        """
        def connect(port): print("connecting to", port, flush=True)
        def wait_for_client(): print("waiting", flush=True)
        """,
        "debugpy.py",
    )
    script = write_script(ECHO)
    environ = {"AZUREML_DEBUG_PORT": "5678", "PYTHONPATH": str(script.parent)}
    with StandaloneHost(script, environ=environ) as host:
        assert "connecting to 5678" in host.log
        assert host.log.index("waiting") < host.log.index("ready for serving traffic")


@fix
def test_row_55_every_documented_key_counts_and_unknown_ones_are_warned_of(
    write_script: WriteScript, tmp_path: Path
) -> None:
    source = "import os\ndef init(): pass\ndef run(data): return dict(os.environ)\n"
    write_script(source, "app/score.py")
    config = {
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AML_APP_ROOT": str(tmp_path / "app"),
        "AML_CORS_ORIGINS": "https://a.example",
        "AML_APP_INSIGHTS_ENABLED": True,
        "AML_APP_INSIGHTS_KEY": KEY,
        "UNKNOWN_KEY": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    host = StandaloneHost(tmp_path / "x", "--config_file", "config.json", cwd=tmp_path)
    with without(host, "--entry-script"):
        response = ask(host)
        environ = response.json()
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert environ["AML_APP_INSIGHTS_ENABLED"] == "true"
    assert environ["AML_APP_ROOT"] == str(tmp_path / "app")
    [warning] = [line for line in host.log.splitlines() if "UNKNOWN_KEY" in line]
    assert " W [" in warning and "AZUREML_ENTRY_SCRIPT" not in warning


# --- 10 process life -------------------------------------------------------------------------


@keep
def test_row_64_messages_that_people_grep_for() -> None:
    with StandaloneHost(SCRIPTS / "diff_text.py") as host:
        for text in (
            "Users's init has completed successfully",
            f"Worker with pid {host.worker} ready for serving traffic",
            "Scoring timeout is set to ",
            "Server Settings",
            "Server Routes",
            "Invoking user's init function",
            f"Found user script at {SCRIPTS / 'diff_text.py'}",
        ):
            assert text in host.log


# --- the contract as a whole -----------------------------------------------------------------


ROW = re.compile(r"\bRows? (\d+(?:(?:, | and )\d+)*)|def test_row_(\d+)_")


def test_every_row_has_a_test() -> None:
    """Here, or where it is decided: the tests there name their row."""
    rows = set()
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for named in ROW.finditer(path.read_text(encoding="utf-8")):
            rows |= {int(each) for each in re.findall(r"\d+", named[0])}
    assert set(range(1, 66)) - rows == set()
