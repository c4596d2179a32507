"""Start-up of the function app in Microsoft's worker library: the grace, failures, bindings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import WriteScript
from tests.hosts.functions import FunctionsHost, blob_event, host_of
from tests.hosts.redis import RedisServer
from tests.hosts.standalone import clean_environ

ROOT = Path(__file__).parents[2]
HOST_LIMIT_SECONDS = 10
"""What the Functions host allows for the import of function_app.py on Python 3.13."""

SLOW = """
import time
def init():
    global model
    time.sleep(20)
    model = "loaded"
def run(data):
    return [model, data]
"""
LATE_FAILURE = """
import time
def init():
    time.sleep(3)
    raise FileNotFoundError("model.pkl is not there")
def run(data):
    return data
"""
STORAGE = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=a2V5;EndpointSuffix=x.net"
PLAIN = "def init(): ...\ndef run(data): return data"
METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]

KEYED = (
    "score",
    "score_model",
    "swagger",
    "v2_server",
    "v2_models",
    "metrics",
    "docs",
    "status",
    "results",
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionsHost]:
    """As it is without settings, behind a host that asks for keys."""
    script = tmp_path_factory.mktemp("guarded") / "score.py"
    script.write_text(PLAIN)
    with host_of(script, FUNCTIONS_HOST_CHECK_KEYS="1") as started:
        yield started


@pytest.mark.long
def test_an_init_of_20_seconds_goes_on_behind_the_start_and_requests_wait_for_it(
    write_script: WriteScript,
):
    script = write_script(SLOW)
    began = time.monotonic()
    with host_of(script, SCORING_INIT_GRACE_SECONDS="2") as started, ThreadPoolExecutor() as pool:
        assert {f["name"] for f in started.functions} == {*KEYED, "v2_health", "health", "web"}
        assert httpx.get(f"{started.url}/health/live").json() == {"state": "Transitioning"}
        assert httpx.get(f"{started.url}/health/ready").status_code == 503
        assert "it goes on in the background" in started.log
        url = f"{started.url}/score"
        waiting = [pool.submit(httpx.post, url, content=each, timeout=90) for each in (b"a", b"b")]
        waiting.append(pool.submit(httpx.get, started.url, timeout=90))
        answers = [each.result() for each in waiting]
        assert time.monotonic() - began >= 20
        assert [each.status_code for each in answers] == [200] * 3
        scored = [b'["loaded","a"]', b'["loaded","b"]', b"Healthy"]
        assert [each.content for each in answers] == scored
        assert httpx.get(f"{started.url}/health/ready").json() == {"state": "Healthy"}


@pytest.mark.long
def test_on_a_busy_machine_the_start_stays_within_the_hosts_limit(write_script: WriteScript):
    """With three triggers and three busy loops beside it; the limit counts from the process start.

    What the machine takes for all but the wait is measured first: it may be more than the limit.
    """
    triggers = {
        "SCORING_INIT_GRACE_SECONDS": "8",
        "TriggerConnectionString": STORAGE,
        "ServiceBusConnectionString": "Endpoint=sb://127.0.0.1;SharedAccessKeyName=a;"
        "SharedAccessKey=a2V5;UseDevelopmentEmulator=true",
    }
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        with host_of(write_script(PLAIN, "plain.py"), **triggers) as plain:
            least = plain.seconds_to_start
        with host_of(write_script(SLOW), **triggers) as slow:
            assert {"score_blob", "score_message"} <= {f["name"] for f in slow.functions}
            assert "it goes on in the background" in slow.log
            assert slow.seconds_to_start < max(HOST_LIMIT_SECONDS, 2 * least)
    finally:
        for each in busy:
            each.kill()
            each.wait()


def test_the_grace_counts_from_the_start_of_the_process():
    """What is left of it, less what the host has still to do."""
    child = (
        "import time; time.sleep(0.5)\n"
        "from scoring_runtime.functions import app; print(app._process_seconds(), app._left_of(8))"
    )
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", child], stdout=subprocess.PIPE, check=True).stdout
    age, left = map(float, said.split())
    assert 0.5 <= age <= time.monotonic() - began
    assert left == pytest.approx(max(0, 8 - 1.2 * age), abs=0.5)


def test_an_init_within_the_grace_is_waited_for(write_script: WriteScript):
    script = write_script("import time\ndef init(): time.sleep(1)\ndef run(data): return data")
    with host_of(script) as started:
        assert httpx.get(f"{started.url}/health/ready").json() == {"state": "Healthy"}
        assert "in the background" not in started.log


def test_a_failing_init_runs_once_though_the_app_is_imported_for_each_function(
    write_script: WriteScript, tmp_path: Path
):
    """As workers for Python up to 3.12 do; and the diagnosis is written once."""
    script = write_script(
        "import pathlib\n"
        f"def init():\n  with open({str(tmp_path / 'runs')!r}, 'a') as f: f.write('run\\n')\n"
        "  raise ValueError('no model')\ndef run(data): ...\n"
    )
    child = (
        "for _ in range(3):\n  try: import function_app\n"
        "  except Exception as error: print(error)\n"
    )
    environ = clean_environ(AZUREML_ENTRY_SCRIPT=str(script), SCORING_INIT_GRACE_SECONDS="60")
    command = [sys.executable, "-c", child]
    done = subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "runs").read_text() == "run\n"
    assert (
        done.stdout.splitlines() == ["User's init function failed. Cause: ValueError: no model"] * 3
    )
    assert done.stderr.count("Cause: ValueError: no model") == 1


def test_warnings_of_a_start_up_are_on_standard_error(write_script: WriteScript, tmp_path: Path):
    """The host drops the records of a start-up: settings that are none, the script's own."""
    script = write_script(
        "import logging\ndef init(): logging.warning('an old model')\ndef run(data): return data"
    )
    (tmp_path / "config.json").write_text('{"SCORING_NANN": "null"}')
    with host_of(script, AZUREML_CONFIG_FILE=str(tmp_path / "config.json")) as started:
        httpx.post(f"{started.url}/score", content=b"1")
        log = started.log
    assert re.search(r" W \[\d+\] azmlinfsrv - .*SCORING_NANN", log)
    assert re.search(r" W \[\d+\] root - an old model", log)


def test_an_init_that_fails_late_ends_what_waits_with_its_cause_and_then_the_process(
    write_script: WriteScript,
):
    """So that the host starts another; what operators get is standard error, and the messages."""
    script = write_script(LATE_FAILURE)
    settings = {"SCORING_INIT_GRACE_SECONDS": "0.5", "TriggerConnectionString": STORAGE}
    with host_of(script, **settings) as late, ThreadPoolExecutor() as pool:
        blob = pool.submit(late.deliver, "score_blob", blob_event("input/a.json", b"1"))
        answer = httpx.post(f"{late.url}/score", content=b"x", timeout=60)
        assert answer.status_code == 503
        assert "model.pkl" not in answer.text  # that is for operators
        assert "Cause: FileNotFoundError: model.pkl is not there" in blob.result().failure
        assert late.process.wait(60) == 3
        log = late.log
    assert re.search("^={51}\nUser's init function failed$", log, re.MULTILINE)
    assert f"Where: {script}:5 in init" in log
    assert "it goes on in the background" in log


FAILING = "def init(): raise ValueError('no model')\ndef run(data): ..."
MISSING = "import not_installed\ndef init(): ...\ndef run(d): ..."
HIDING = "import sys\nsys.modules['azure.servicebus'] = None"
KEY = "s3cr3t"
BUS = f"Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey={KEY}"


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (FAILING, {}, "ValueError: no model"),
        (MISSING, {}, "'not_installed' is not inst"),
        (
            PLAIN,
            {"SCORING_AUTH_LEVEL": "key"},
            "SCORING_AUTH_LEVEL has the value 'key' (from the environment), which is not allowed. "
            "Allowed: anonymous, function or admin.",
        ),
        (PLAIN, {"SCORING_TRIGGERS": "blob"}, "TriggerConnectionString"),
        (
            PLAIN,
            {"SCORING_TRIGGERS": "service_bus", "ServiceBusConnectionString": f"Endpoint=sb://a;{KEY}"},
            "SERVICEBUS_CONNECTION",
        ),
        (
            HIDING + "\n" + PLAIN,
            {"ServiceBusConnectionString": BUS},
            "The service_bus trigger (SCORING_TRIGGERS) needs azure.servicebus: add "
            "azure-servicebus to requirements.txt.",
        ),
    ],
    ids=["init", "import", "setting", "no connection", "no key name", "no package"],
)  # fmt: skip
def test_what_fails_at_once_registers_no_function_and_says_why(
    source: str, settings: dict[str, str], message: str, write_script: WriteScript
):
    """Also the message of what the import raises; no secret is shown."""
    script = write_script(source)
    if source.startswith(HIDING):  # as where requirements.txt lacks it
        write_script(HIDING, "sitecustomize.py")
        settings = {**settings, "PYTHONPATH": str(script.parent)}
    with pytest.raises(RuntimeError, match="exit code 1") as failed, host_of(script, **settings):
        pass
    log = str(failed.value)
    assert message in log
    [raised] = re.findall(r'^(\{"error": .*)$', log, re.MULTILINE)
    assert message in json.loads(raised)["error"].partition("Traceback")[0]
    assert '"functions":' not in log
    assert KEY not in log
    if source in (FAILING, MISSING):  # the diagnosis on standard error
        assert re.search("^={51}$", log, re.MULTILINE)


def test_a_relative_script_is_found_next_to_function_app_py():
    """As local.settings.example.json has them."""
    with host_of("examples/raw-image/score.py", SCORING_AUTH_LEVEL="anonymous") as started:
        answer = httpx.get(f"{started.url}/score")
    assert answer.text == "POST the bytes of a PNG and I will describe it.\n"


def test_garbage_collection_does_not_look_at_what_is_loaded(write_script: WriteScript):
    script = write_script(
        "import gc\ndef init(): pass\n"
        "def run(data): return [gc.get_freeze_count(), len(gc.get_objects())]"
    )
    with host_of(script) as host:
        aside, looked_at = httpx.post(f"{host.url}/score", timeout=60).json()
    assert aside > 5 * looked_at


def test_names_routes_methods_and_keys(write_script: WriteScript):
    """Health and the rest ask for no key: probes have none."""
    settings = {"SCORING_AUTH_LEVEL": "admin", "FUNCTIONS_HOST_CHECK_KEYS": "1"}
    with host_of(write_script(PLAIN), **settings) as guarded:
        functions = guarded.functions
        key = {"x-functions-key": "test-key"}
        assert httpx.post(f"{guarded.url}/score", content=b"x").status_code == 401
        for path in ("/swagger.json", "/metrics", "/%2Fmetrics"):
            assert httpx.get(guarded.url + path).status_code in (401, 404)
        assert httpx.post(f"{guarded.url}/score", content=b"x", headers=key).json() == "x"
        assert httpx.get(f"{guarded.url}/swagger.json?code=test-key").status_code == 200
        for path in ("/", "/health/live", "/health/ready"):
            assert httpx.get(guarded.url + path).status_code == 200
        assert httpx.get(f"{guarded.url}/elsewhere").status_code == 404
        for path in ("/docs", "/status"):
            assert httpx.get(guarded.url + path).status_code == 401
            assert httpx.get(f"{guarded.url}{path}?code=test-key").status_code == 200
        # The page itself holds nothing: it asks for the key that /status wants.
        shown = httpx.get(f"{guarded.url}/", headers={"accept": "text/html"})
        assert (shown.status_code, shown.text[:15]) == (200, "<!doctype html>")
        document = httpx.get(f"{guarded.url}/swagger.json?code=test-key&version=3").json()
        scheme = document["components"]["securitySchemes"]["FunctionKey"]
        assert (scheme["in"], scheme["name"]) == ("header", "x-functions-key")
    found = {f["name"]: (f["route"], f["authLevel"]) for f in functions}
    assert found == {
        "score": ("score", "admin"),
        "score_model": ("score/{name}/{version?}", "admin"),
        "v2_server": ("v2", "admin"),
        "v2_models": ("v2/models/{*path}", "admin"),
        "v2_health": ("v2/health/{probe}", "anonymous"),
        "swagger": ("swagger.json", "admin"),
        "metrics": ("metrics", "admin"),
        "docs": ("docs", "admin"),
        "status": ("status", "admin"),
        "results": ("results/{id}", "admin"),
        "health": ("health/{probe}", "anonymous"),
        "web": ("{*path}", "anonymous"),
    }
    assert all(sorted(f["methods"]) == METHODS for f in functions)
    for function in functions:
        kinds = [(each["type"], each["direction"].lower()) for each in function["bindings"]]
        assert sorted(kinds) == [("http", "out"), ("httpTrigger", "in")]
    # The host tries routes in the order of the functions' names: the catch-all is the last.
    assert sorted(found)[-1] == "web"


def test_no_other_spelling_of_a_path_goes_round_its_key(guarded: FunctionsHost):
    """Escaped twice, a path matches the catch-all, which asks for no key, and comes unescaped."""
    below = ("/%2576%2532/models/model", "/v2%252Fmodels%252Fmodel/infer", "/score%252Fmodel")
    paths = ("/%2573core", "/score%253Fa", "/%2Fscore", "//score", "/score/", "/SCORE")
    found = {
        (method, path): httpx.request(method, guarded.url + path).status_code
        for path in (
            *paths,
            *below,
            "/swagger%252Ejson",
            "/%2573wagger.json",
            "/health%252F../score",
            "/%2572esults/AAAAAAAAAAAAAAAAAAAAAA",
        )
        for method in ("GET", "POST", "OPTIONS")
    }
    assert {each: status for each, status in found.items() if status not in (401, 404)} == {}


def test_the_auth_level_is_function_or_that_of_the_setting(
    guarded: FunctionsHost, write_script: WriteScript
):
    settings = {"FUNCTIONS_HOST_CHECK_KEYS": "1", "SCORING_AUTH_LEVEL": "Anonymous"}
    with host_of(write_script(PLAIN), **settings) as free:
        for host, level, status in ((guarded, "function", 401), (free, "anonymous", 200)):
            levels = {f["name"]: f["authLevel"] for f in host.functions}
            anybody = dict.fromkeys(("v2_health", "health", "web"), "anonymous")
            assert levels == {**dict.fromkeys(KEYED, level), **anybody}
            assert httpx.post(f"{host.url}/score", content=b"x").status_code == status


def test_host_json_keeps_the_urls():
    """No /api before the routes, and the extension bundle that later triggers need."""
    settings = json.loads((ROOT / "host.json").read_text())
    assert settings["extensions"]["http"]["routePrefix"] == ""
    assert settings["extensionBundle"]["id"] == "Microsoft.Azure.Functions.ExtensionBundle"


def test_no_text_of_a_client_looks_like_a_record_of_the_log(write_script: WriteScript):
    """In what run() raises, and in a blob's name; the worker's own handler writes the records."""
    script = write_script("def init(): ...\ndef run(data): raise ValueError(data)")
    forged = "x\nERROR:azmlinfsrv:forged\x1b[31m\u2028"
    with host_of(script, TriggerConnectionString=STORAGE) as started:
        httpx.post(f"{started.url}/score", content=forged.encode())
        started.deliver("score_blob", blob_event(f"input/{forged}.json", forged.encode()))
        log = started.log
    assert log.count("ERROR:azmlinfsrv.user_script:Encountered Exception: Traceback") == 2
    assert log.count("    ERROR:azmlinfsrv:forged\\x1b[31m\\u2028") == 2
    assert not re.search("^ERROR:azmlinfsrv:forged|[\x1b\u2028]", log, re.MULTILINE)


def test_answers_come_later_with_redis_only(
    guarded: FunctionsHost, write_script: WriteScript
) -> None:
    prefer = {"prefer": "respond-async"}
    key = {"x-functions-key": "test-key"}
    refused = httpx.post(f"{guarded.url}/score", content=b"a", headers=prefer | key)
    assert refused.status_code == 400 and "CACHE_URL" in refused.json()["message"]
    script = write_script(PLAIN)
    with RedisServer() as server, host_of(script, CACHE_URL=server.url) as started:
        accepted = httpx.post(f"{started.url}/score", content=b"a", headers=prefer)
        assert accepted.status_code == 202
        result = started.url + accepted.headers["location"]
        until = time.monotonic() + 60
        while (answer := httpx.get(result)).status_code == 202:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert (answer.status_code, answer.json()) == (200, "a")
        assert httpx.delete(result).status_code == 204
        assert httpx.get(result).status_code == 404
