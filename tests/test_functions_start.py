"""Start-up of the function app in Microsoft's worker library: the grace, failures, bindings."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import WriteScript
from tests.functions_host import FunctionsHost
from tests.standalone_host import clean_environ

ROOT = Path(__file__).parent.parent
HOST_LIMIT_SECONDS = 10
"""What the Functions host allows for the import of function_app.py on Python 3.13."""

SLOW = """
import time
def init():
    global model
    time.sleep({seconds})
    model = "loaded"
def run(data):
    return model
"""
LATE_FAILURE = """
import time
def init():
    time.sleep(3)
    raise FileNotFoundError("model.pkl is not there")
def run(data):
    return data
"""


def host(script: Path, **settings: str) -> FunctionsHost:
    environ = clean_environ(AZUREML_ENTRY_SCRIPT=str(script), **settings)
    return FunctionsHost(ROOT, environ)


def test_an_init_of_20_seconds_goes_on_behind_the_start_and_requests_wait_for_it(
    write_script: WriteScript,
):
    """Indexed within the host's limit at the default grace and at a shorter one; then answered."""
    script = write_script(SLOW.format(seconds=20))
    began = time.monotonic()
    with ExitStack() as stack:
        short = stack.enter_context(host(script, SCORING_INIT_GRACE_SECONDS="2"))
        assert time.monotonic() - began < HOST_LIMIT_SECONDS
        second = time.monotonic()
        default = stack.enter_context(host(script))
        assert time.monotonic() - second < HOST_LIMIT_SECONDS
        for each in (short, default):
            assert httpx.get(f"{each.url}/health/live").json() == {"state": "Transitioning"}
            assert httpx.get(f"{each.url}/health/ready").status_code == 503
            assert "it goes on in the background" in each.log
        for each in (short, default):
            answer = httpx.post(f"{each.url}/score", content=b"x", timeout=60)
            assert (answer.status_code, answer.json()) == (200, "loaded")
            assert httpx.get(f"{each.url}/health/ready").json() == {"state": "Healthy"}
        assert time.monotonic() - began >= 20


def test_an_init_that_fails_late_ends_the_process(write_script: WriteScript):
    """So that the host starts another; a request that waits is not scored, the diagnosis says."""
    script = write_script(LATE_FAILURE)
    with host(script, SCORING_INIT_GRACE_SECONDS="0.5") as late:
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{late.url}/score", content=b"x", timeout=30)
        assert late.process.wait(20) == 3
        log = late.log
    assert "User's init function failed" in log
    assert f"{script}:5 in init" in log
    assert "Cause: FileNotFoundError: model.pkl is not there" in log


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("def init(): raise ValueError('no model')\ndef run(data): return data", {}, "no model"),
        ("import not_installed\ndef init(): ...\ndef run(d): ...", {}, "not_installed"),
        ("def init(): ...", {}, "does not have a run() function defined"),
        ("def init(): ...\ndef run(*data): ...", {}, "run() cannot accept positional-only"),
        ("def init(): ...\ndef run(d): ...", {"SCORING_NAN": "no"}, "SCORING_NAN"),
        ("def init(): ...\ndef run(d): ...", {"SCORING_AUTH_LEVEL": "key"}, "SCORING_AUTH_LEVEL"),
    ],
    ids=["init", "import", "no run", "signature", "setting", "auth level"],
)
def test_what_fails_at_once_registers_no_function_and_says_why(
    source: str, settings: dict[str, str], message: str, write_script: WriteScript
):
    with (
        pytest.raises(RuntimeError, match="exit code 1") as failed,
        host(write_script(source), **settings),
    ):
        pass
    assert message in str(failed.value)


def test_a_missing_script_is_named(tmp_path: Path):
    with pytest.raises(RuntimeError) as failed, host(tmp_path / "nowhere.py"):
        pass
    assert "No such file or directory: the entry script" in str(failed.value)


def test_names_routes_and_keys(write_script: WriteScript):
    """The catch-all sorts last: the host tries routes in the order of the functions' names."""
    script = write_script("def init(): ...\ndef run(data): return data")
    with host(script, SCORING_AUTH_LEVEL="admin", FUNCTIONS_HOST_CHECK_KEYS="1") as guarded:
        found = {f["name"]: (f["route"], f["authLevel"]) for f in guarded.functions}
        key = {"x-functions-key": "test-key"}
        assert httpx.post(f"{guarded.url}/score", content=b"x").status_code == 401
        assert httpx.get(f"{guarded.url}/swagger.json").status_code == 401
        assert httpx.post(f"{guarded.url}/score", content=b"x", headers=key).json() == "x"
        for path in ("/", "/health/live", "/health/ready"):
            assert httpx.get(guarded.url + path).status_code == 200
    assert found == {
        "score": ("score", "admin"),
        "swagger": ("swagger.json", "admin"),
        "health": ("health/{probe}", "anonymous"),
        "web": ("{*path}", "anonymous"),
    }
    assert sorted(found)[-1] == "web"


@pytest.mark.parametrize("level", ["anonymous", "function"])
def test_the_auth_level_is_that_of_the_setting(level: str, write_script: WriteScript):
    script = write_script("def init(): ...\ndef run(data): return data")
    with host(script, SCORING_AUTH_LEVEL=level) as started:
        levels = {f["name"]: f["authLevel"] for f in started.functions}
    assert (levels["score"], levels["swagger"]) == (level, level)


def test_host_json_keeps_the_urls():
    """No /api before the routes, and the extension bundle that later triggers need."""
    settings = json.loads((ROOT / "host.json").read_text())
    assert settings["extensions"]["http"]["routePrefix"] == ""
    assert settings["extensionBundle"]["id"] == "Microsoft.Azure.Functions.ExtensionBundle"
