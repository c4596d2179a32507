"""The compatibility contract, row by row: what users of the old server rely on.

The number in a test's name is its row. `keep` marks what is reproduced exactly, `fix` what this
runtime does better: old inputs are accepted, and the defect is gone or behind a switch.
"""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import httpx
import pytest

from scoring_runtime.models.folder import model_path, registered
from scoring_runtime.settings.settings import Settings
from tests.conftest import WriteScript
from tests.hosts.standalone import StandaloneHost, clean_environ, free_port

SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
keep, fix = pytest.mark.keep, pytest.mark.fix
table = pytest.mark.parametrize
NOT_FOUND = (
    "The requested URL was not found on the server. If you entered the URL manually please check "
    "your spelling and try again."
)
NOT_ALLOWED = "The method is not allowed for the requested URL."
SCRIPT_FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."
JSON = {"Content-Type": "application/json"}
FAILED = "x-ms-run-function-failed"
STRICT = {"SCORING_STRICT_COMPAT": "true"}

# --- support ---------------------------------------------------------------------------------

Hosts = Callable[..., StandaloneHost]
Ask = Callable[..., httpx.Response]


class Host(StandaloneHost):
    """A host whose end the next test does not wait for; its log can still be read."""

    ending: ClassVar[list[StandaloneHost]] = []

    def __exit__(self, *exc_info: object) -> None:
        self.process.terminate()
        self.ending.append(self)


@pytest.fixture(scope="module", autouse=True)
def every_host_ends_with_0() -> Iterator[None]:
    yield
    try:
        assert {host.process.wait(15) for host in Host.ending} <= {0}
    finally:
        for host in Host.ending:
            host.stop()


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """``hosts(script, *options, **environ)``: one host for each of these, kept for the module."""
    with ExitStack() as stack:
        started: dict[object, StandaloneHost] = {}

        def host(script: str | Path, *options: str, **environ: str) -> StandaloneHost:
            key = (script, options, tuple(environ.items()))
            if key not in started:
                new = Host(SCRIPTS / script, *options, environ=environ)
                started[key] = stack.enter_context(new)
            return started[key]

        yield host


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """``ask(host, content=b"", path="/score", method="POST", headers=…)``: the response."""
    with httpx.Client(timeout=30) as client:

        def send(
            host: StandaloneHost,
            content: bytes | str | Iterator[bytes] = b"",
            path: str = "/score",
            method: str = "POST",
            headers: Mapping[str, str] | None = None,
        ) -> httpx.Response:
            return client.request(method, host.url + path, content=content, headers=headers)

        yield send


class Ended(NamedTuple):
    """How a process that was expected to end by itself has ended."""

    code: int
    output: str


def serve(*options: str, cwd: Path, **environ: str) -> Ended:
    """Run `scoring-runtime serve` with exactly these options until it ends."""
    command = [sys.executable, "-m", "scoring_runtime", "serve", *options]
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environ(**environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
    )
    return Ended(ended.returncode, ended.stdout.decode())


def cannot_serve(script: Path, *options: str, **environ: str) -> Ended:
    """Run `serve` for a script that cannot be started."""
    address = ("--host", "127.0.0.1", "--port", str(free_port()))
    place = ("--entry-script", str(script), *address)
    return serve(*place, *options, cwd=script.parent, **environ)


def message(response: httpx.Response) -> str:
    """The text of an error, whose document has nothing else."""
    document = response.json()
    assert list(document) == ["message"]
    assert response.headers["content-type"] == "application/json"
    return str(document["message"])


def without(host: StandaloneHost, option: str) -> StandaloneHost:
    """The host, not started yet, without this option and its value on the command line."""
    place = list(host._command).index(option)
    host._command = [*host._command[:place], *host._command[place + 2 :]]
    return host


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.01)


ECHO = "def init(): pass\ndef run(data): return data\n"


def run_with(parameters: str) -> str:
    return f"def init(): pass\ndef run({parameters}): return 1\n"


# --- 1 routes and methods --------------------------------------------------------------------


@keep
def test_row_01_health_is_the_word_healthy_and_leaves_no_line_in_the_log(
    hosts: Hosts, ask: Ask
) -> None:
    host = hosts("diff_json.py")
    healthy = ask(host, path="/", method="GET")
    assert (healthy.status_code, healthy.content) == (200, b"Healthy")
    assert healthy.headers["content-type"] == "text/html; charset=utf-8"
    assert ask(host, path="/", method="HEAD").status_code == 200
    options = ask(host, path="/", method="OPTIONS")
    assert options.status_code == 200
    assert set(options.headers["allow"].split(", ")) == {"OPTIONS", "HEAD", "GET"}
    assert [ask(host, path="/", method=each).status_code for each in ("POST", "DELETE")] == [
        405
    ] * 2
    ask(host, b'{"data": []}')
    eventually(lambda: "POST /score 200" in host.log)
    assert "GET / " not in host.log


@keep
@table("script", ["diff_text.py", "diff_raw.py"])
@table(
    ("method", "status"),
    [("GET", 200), ("POST", 200), ("OPTIONS", 200), ("PUT", 405), ("DELETE", 405), ("PATCH", 405)],
)
def test_row_02_score_takes_get_post_and_options(
    hosts: Hosts, ask: Ask, script: str, method: str, status: int
) -> None:
    assert ask(hosts(script), method=method).status_code == status
    assert ask(hosts(script), method=method, path="/score/").status_code == 404


@keep
def test_row_02_head_reaches_run_only_of_a_raw_script(hosts: Hosts, ask: Ask) -> None:
    assert ask(hosts("diff_text.py"), method="HEAD").status_code == 405
    answer = ask(hosts("diff_raw.py"), path="/score?answer=202", method="HEAD")
    assert (answer.status_code, answer.headers["x-method"]) == (202, "HEAD")


@keep
@table(
    ("query", "version"),
    [
        ("", ("swagger", "2.0")),
        ("?version=2", ("swagger", "2.0")),
        ("?version=2.0", ("swagger", "2.0")),
        ("?version=3", ("openapi", "3.0.3")),
        ("?version=3.0", ("openapi", "3.0.3")),
        ("?version=3.1", ("openapi", "3.1.0")),
    ],
)
def test_row_03_swagger_versions(
    hosts: Hosts, ask: Ask, query: str, version: tuple[str, str]
) -> None:
    document = ask(hosts("diff_text.py"), path=f"/swagger.json{query}", method="GET").json()
    assert next(iter(document.items())) == version
    assert ask(hosts("diff_text.py"), path=f"/swagger.json{query}").status_code == 405


@keep
@table(
    ("method", "path", "status", "text"),
    [
        ("GET", "/nope", 404, NOT_FOUND),
        ("POST", "/score/", 404, NOT_FOUND),
        ("DELETE", "/api/score", 404, NOT_FOUND),
        ("PUT", "/score", 405, NOT_ALLOWED),
        ("POST", "/", 405, NOT_ALLOWED),
        ("POST", "/swagger.json", 405, NOT_ALLOWED),
    ],
)
def test_row_04_other_paths_and_methods_get_the_texts_that_clients_know(
    hosts: Hosts, ask: Ask, method: str, path: str, status: int, text: str
) -> None:
    response = ask(hosts("diff_text.py"), path=path, method=method)
    assert (response.status_code, message(response)) == (status, text)


@keep
def test_row_05_the_path_prefix_is_in_the_swagger_alone(hosts: Hosts, ask: Ask) -> None:
    host = hosts("contract_echo.py", SERVICE_PATH_PREFIX="/p/q/")
    paths = ask(host, path="/swagger.json", method="GET").json()["paths"]
    assert list(paths) == ["/p/q/", "/p/q/score", "/p/q/swagger.json"]
    assert ask(host, path="/p/q/", method="GET").status_code == 404
    assert ask(host, path="/", method="GET").status_code == 200


@keep
@table(("method", "path"), [("GET", "/nope"), ("PUT", "/score")])
def test_row_06_404_and_405_did_not_come_from_run_and_have_ids(
    hosts: Hosts, ask: Ask, method: str, path: str
) -> None:
    response = ask(hosts("diff_text.py"), path=path, method=method, headers={"x-request-id": "me"})
    assert response.headers[FAILED] == "False"
    assert response.headers["x-request-id"] == "me"


# --- 2 entry script discovery and import -----------------------------------------------------


@keep
def test_row_07_all_options_by_their_old_spellings(tmp_path: Path, ask: Ask) -> None:
    config = tmp_path / "settings.json"
    config.write_text('{"SERVICE_NAME": "from the file"}')
    options = (
        "--model_dir", str(tmp_path), "--health_port", "5000", "--worker_count", "1",
        "--appinsights_instrumentation_key", str(uuid.uuid4()), "--rest",
        "--access_control_allow_origins", "https://a.example", "--config_file", str(config),
    )  # fmt: skip
    with Host(SCRIPTS / "contract_report.py", *options, cwd=tmp_path) as host:
        response = ask(host)
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        environ = response.json()["environ"]
        title = ask(host, path="/swagger.json", method="GET").json()["info"]["title"]
    assert environ["AZUREML_MODEL_DIR"] == str(tmp_path)
    assert environ["AML_APP_INSIGHTS_ENABLED"] == "true"
    assert title == "from the file"


@keep
@table(
    "options",
    [["--unknown"], ["--port", "x"], ["--port"], ["--worker_count", "two"], ["stray"]],
    ids=" ".join,
)
def test_row_07_wrong_options_end_with_usage_and_1(tmp_path: Path, options: list[str]) -> None:
    ended = serve(*options, cwd=tmp_path)
    assert ended.code == 1
    assert ended.output.startswith("usage: scoring-runtime")
    assert "Traceback" not in ended.output


@fix
def test_row_08_the_entry_script_may_come_from_the_environment_alone(
    write_script: WriteScript, ask: Ask
) -> None:
    script = write_script(ECHO, "app/score.py")
    host = Host(script, environ={"AZUREML_ENTRY_SCRIPT": "score.py"})
    with without(host, "--entry-script"):
        assert ask(host, b"x").json() == "x"


@keep
def test_row_08_without_any_entry_script_it_does_not_start(tmp_path: Path) -> None:
    ended = serve("--host", "127.0.0.1", "--port", str(free_port()), cwd=tmp_path)
    assert ended.code == 3
    assert "No score script found. Expected score script main.py." in ended.output


@keep
def test_row_09_app_root_is_the_working_folder_and_the_script_a_real_path(
    tmp_path: Path, ask: Ask
) -> None:
    (tmp_path / "link.py").symlink_to(SCRIPTS / "contract_report.py")
    with Host(Path("link.py"), cwd=tmp_path) as host:
        report = ask(host).json()
    assert report["environ"]["AZUREML_ENTRY_SCRIPT"] == str(SCRIPTS / "contract_report.py")
    assert report["environ"]["AML_APP_ROOT"] == str(tmp_path)
    assert str(tmp_path) in report["path"]
    assert report["cwd"] == str(tmp_path)


@keep
def test_row_09_without_the_command_line_app_root_is_that_of_images() -> None:
    assert Settings.from_environ({}).app_root == "/var/azureml-app"


@keep
@table("where", ["relative", "absolute"])
def test_row_10_the_script_is_relative_to_app_root_unless_absolute(
    write_script: WriteScript, ask: Ask, where: str
) -> None:
    script = write_script(ECHO, "root/code/score.py")
    other = write_script("raise ImportError", "cwd/code/score.py")
    named = "code/score.py" if where == "relative" else str(script)
    root = script.parent.parent if where == "relative" else other.parent.parent
    environ = {"AZUREML_ENTRY_SCRIPT": named, "AML_APP_ROOT": str(root)}
    host = Host(script, environ=environ, cwd=other.parent.parent)
    with without(host, "--entry-script"):
        assert ask(host, b"x").json() == "x"


@keep
def test_row_10_without_a_name_main_is_imported(write_script: WriteScript, ask: Ask) -> None:
    script = write_script(ECHO, "main.py")
    with without(Host(script), "--entry-script") as host:
        assert ask(host, b"x").json() == "x"


@fix
def test_row_11_source_directory_and_the_scripts_own_folder_can_be_imported_from(
    write_script: WriteScript, tmp_path: Path, ask: Ask
) -> None:
    write_script("name = 'source'", "root/source/in_source.py")
    write_script("name = 'sibling'", "elsewhere/sibling.py")
    write_script("name = 'root'", "root/in_both.py")
    write_script("name = 'elsewhere'", "elsewhere/in_both.py")
    script = write_script(
        """
        import in_both, in_source, sibling

        def init(): pass
        def run(data): return [in_both.name, in_source.name, sibling.name]
        """,
        "elsewhere/score.py",
    )
    environ = {"AZUREML_SOURCE_DIRECTORY": "source"}
    with Host(script, environ=environ, cwd=tmp_path / "root") as host:
        assert ask(host).json() == ["root", "source", "sibling"]


@keep
def test_row_12_the_module_is_entry_module_with_its_file_and_the_cwd_unchanged(
    hosts: Hosts, ask: Ask
) -> None:
    report = ask(hosts("contract_report.py")).json()
    assert report["name"] == "entry_module"
    assert report["file"] == str(SCRIPTS / "contract_report.py")
    assert report["cwd"] == str(SCRIPTS)


@fix
def test_row_12_the_module_can_be_found_by_its_name_for_pickle_and_dataclasses(
    hosts: Hosts, ask: Ask
) -> None:
    assert ask(hosts("contract_report.py")).json()["module"] is True


@keep
@table("missing", ["init", "run"])
def test_row_13_init_and_run_are_needed(write_script: WriteScript, missing: str) -> None:
    script = write_script(ECHO.replace(f"def {missing}(", "def other("))
    ended = cannot_serve(script)
    assert ended.code == 3
    expected = f"User script at {script} does not have a {missing}() function defined."
    assert expected in ended.output


@keep
def test_row_13_any_callable_will_do(write_script: WriteScript, ask: Ask) -> None:
    script = write_script(
        """
        class Model:
            def __call__(self, data):
                return self.name + data

        run = Model()
        init = lambda: setattr(run, "name", "m")
        """
    )
    with Host(script) as host:
        assert ask(host, b"x").json() == "mx"


@keep
def test_row_14_of_a_driver_script_the_outer_init_and_the_inner_run_are_used(
    write_script: WriteScript, ask: Ask
) -> None:
    write_script("state = []\ndef init(): 1/0\ndef run(data): return state + [data]", "inner.py")
    script = write_script(
        """
        import inner as driver_module

        def init(): driver_module.state.append("outer init")
        def run(data): 1/0
        """
    )
    with Host(script) as host:
        assert ask(host, b"x").json() == ["outer init", "x"]


@fix
@table("package", ["azureml.contrib.services", "azureml_inference_server_http.api"])
@table("form", ["from", "import"])
def test_row_15_old_import_names_work_without_their_packages(
    write_script: WriteScript, ask: Ask, package: str, form: str
) -> None:
    lines = {
        "from": f"from {package}.aml_request import rawhttp, AMLRequest\n"
        f"from {package}.aml_response import AMLResponse\n",
        "import": f"import {package}.aml_request as q\nimport {package}.aml_response as p\n"
        "rawhttp, AMLRequest, AMLResponse = q.rawhttp, q.AMLRequest, p.AMLResponse\n",
    }
    script = write_script(
        f"{lines[form]}\ndef init(): pass\n@rawhttp\ndef run(request):\n"
        "    return AMLResponse(request.method, 201) if isinstance(request, AMLRequest) else None\n"
    )
    with Host(script) as host:
        response = ask(host)
    assert (response.status_code, response.text) == (201, "POST")


@keep
@table(
    ("environ", "workers", "calls"),
    [({}, 1, 1), ({}, 2, 2), ({"WORKER_PRELOAD": "True"}, 2, 1), ({"WORKER_PRELOAD": "yes"}, 2, 2)],
)
def test_row_16_init_runs_once_in_each_worker_or_once_before_the_fork(
    tmp_path: Path, ask: Ask, environ: dict[str, str], workers: int, calls: int
) -> None:
    count = tmp_path / "count"
    environ = {**environ, "COUNT_FILE": str(count), "WORKER_COUNT": str(workers)}
    with Host(SCRIPTS / "contract_counter.py", environ=environ) as host:
        assert ask(host).json()[0] is True
        eventually(lambda: host.log.count("ready for serving traffic") == workers)
    pids = count.read_text().split()
    assert len(pids) == len(set(pids)) == calls


@fix
def test_row_16_an_async_init_is_awaited(tmp_path: Path, ask: Ask) -> None:
    environ = {"COUNT_FILE": str(tmp_path / "count"), "ASYNC_INIT": "1"}
    with Host(SCRIPTS / "contract_counter.py", environ=environ) as host:
        assert ask(host).json()[0] is True


# --- 3 run() signature -----------------------------------------------------------------------


@keep
@table(
    ("parameters", "text"),
    [
        ("data, /", "run() cannot accept positional-only arguments, *args, or **kwargs."),
        ("*args", "run() cannot accept positional-only arguments, *args, or **kwargs."),
        ("data, **more", "run() cannot accept positional-only arguments, *args, or **kwargs."),
        ("", "run() needs to accept an argument for input data."),
        ("request_headers", 'run() needs to accept an argument other than "request_headers".'),
    ],
)
def test_row_17_signatures_that_cannot_be_called_are_refused(
    write_script: WriteScript, parameters: str, text: str
) -> None:
    ended = cannot_serve(write_script(run_with(parameters)))
    assert (ended.code, text in ended.output) == (3, True)


@keep
def test_row_17_run_is_called_by_keyword(write_script: WriteScript, ask: Ask) -> None:
    with Host(write_script("def init(): pass\ndef run(*, x): return x\n")) as host:
        assert ask(host, b"y").json() == "y"


@keep
def test_row_18_request_headers_are_a_dict_in_title_case(hosts: Hosts, ask: Ask) -> None:
    headers = [("x-one-TWO", "1"), ("x-many", "a"), ("X-Many", "b")]
    with httpx.Client() as client:
        host = hosts("diff_headers.py")
        answer = client.post(f"{host.url}/score", content=b"in", headers=headers).json()
    assert (answer["data"], answer["type"]) == ("in", "dict")
    assert answer["headers"]["X-One-Two"] == "1"
    assert answer["headers"]["X-Many"] in ("a,b", "a, b")
    assert all(name == name.title() for name in answer["headers"])


@keep
def test_row_18_request_headers_are_never_the_input(write_script: WriteScript, ask: Ask) -> None:
    script = write_script("def init(): pass\ndef run(request_headers, body): return body\n")
    with Host(script) as host:
        assert ask(host, b"in").json() == "in"


@fix
def test_row_19_further_parameters_need_defaults_at_the_start(write_script: WriteScript) -> None:
    ended = cannot_serve(write_script(run_with("data, other, third=1")))
    assert ended.code == 3
    assert "run() gets its input as 'data'" in ended.output
    assert "'other' has none" in ended.output


@keep
def test_row_19_further_parameters_with_defaults_keep_them(
    write_script: WriteScript, ask: Ask
) -> None:
    script = write_script("def init(): pass\ndef run(data, k=7): return [data, k]\n")
    with Host(script) as host:
        assert ask(host, b'{"data": 1, "k": 2}').json() == ['{"data": 1, "k": 2}', 7]


@keep
def test_row_20_rawhttp_and_a_schema_do_not_go_together(write_script: WriteScript) -> None:
    script = write_script(
        """
        from azureml.contrib.services.aml_request import rawhttp
        from inference_schema.parameter_types.standard_py_parameter_type import (
            StandardPythonParameterType as Standard,
        )
        from inference_schema.schema_decorators import input_schema

        def init(): pass
        @rawhttp
        @input_schema("data", Standard(1))
        def run(data): return data
        """
    )
    ended = cannot_serve(script)
    assert ended.code == 3
    assert "run() cannot be decorated with both @rawhttp and @input_schema" in ended.output


@fix
def test_row_20_rawhttp_on_another_function_leaves_run_alone(
    write_script: WriteScript, ask: Ask
) -> None:
    script = write_script(
        f"""
        from azureml.contrib.services.aml_request import rawhttp

        @rawhttp
        def helper(request): pass
        {ECHO.splitlines()[0]}
        {ECHO.splitlines()[1]}
        """
    )
    with Host(script) as host:
        assert ask(host, b"text").json() == "text"


@keep
def test_row_21_output_schema_alone_takes_a_json_object(hosts: Hosts, ask: Ask) -> None:
    host = hosts("diff_output.py")
    assert ask(host, b'{"first": [1]}', headers=JSON).json() == [[1], 2]
    assert ask(host, b"text").status_code == 415


# --- 4 input ---------------------------------------------------------------------------------


@keep
@table(
    "kind",
    [None, "text/plain", "application/json", "text/csv; charset=latin-1", "image/png", "nonsense"],
)
def test_row_22_text_whatever_the_content_type(hosts: Hosts, ask: Ask, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    for text in ("", "plain", '{"ü": [1]}', "\ufeff1"):
        assert ask(hosts("diff_text.py"), text.encode(), headers=headers).json() == text


@keep
def test_row_22_what_is_not_utf_8_is_refused(hosts: Hosts, ask: Ask) -> None:
    response = ask(hosts("diff_text.py"), b"a\xff")
    assert response.status_code == 400
    assert message(response) == (
        "Input cannot be decoded as UTF-8: 'utf-8' codec can't decode byte 0xff in position 1: "
        "invalid start byte"
    )


@fix
@table("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=cut"])
def test_row_23_the_body_of_a_form_is_not_lost(hosts: Hosts, ask: Ask, kind: str) -> None:
    body = '--cut\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--cut--\r\n'
    response = ask(hosts("diff_text.py"), body.encode(), headers={"Content-Type": kind})
    assert response.json() == body


@fix
def test_row_24_gzip_is_decoded_within_the_limit(hosts: Hosts, ask: Ask) -> None:
    host = hosts("contract_echo.py", SCORING_MAX_BODY_BYTES="10000")
    coded = {"Content-Encoding": "gzip"}
    assert ask(host, gzip.compress(b"x" * 10000), headers=coded).json() == "x" * 10000
    bomb = ask(host, gzip.compress(b"x" * 10001), headers=coded)
    assert (bomb.status_code, "SCORING_MAX_BODY_BYTES" in message(bomb)) == (413, True)
    assert ask(host, b"plain", headers=coded).status_code == 400


@keep
def test_row_24_chunked_bodies(hosts: Hosts, ask: Ask) -> None:
    response = ask(hosts("diff_text.py"), iter([b"one,", b"", b"two"]))
    assert response.request.headers["transfer-encoding"] == "chunked"
    assert response.json() == "one,two"


@keep
@table(
    ("query", "values"),
    [
        ("", {}),
        ("?a=1&b=[1]&c=null&d=true", {"a": 1, "b": [1], "c": None, "d": True}),
        ("?a=01&b=&c=x%20y", {"a": "01", "b": "", "c": "x y"}),
        ("?a=1&a=x&b=2", {"a": [1, "x"], "b": 2}),
        ("?a=%7B%22b%22%3A1%7D", {"a": {"b": 1}}),
    ],
)
def test_row_25_a_query_is_the_text_of_a_json_object(
    hosts: Hosts, ask: Ask, query: str, values: dict[str, Any]
) -> None:
    text = ask(hosts("diff_text.py"), path=f"/score{query}", method="GET").json()
    assert text == json.dumps(values)


@keep
@table(
    ("kind", "body", "status", "text"),
    [
        ("text/plain", b"{}", 415, "Expects Content-Type to be application/json"),
        ("text/json", b"{}", 415, "Expects Content-Type to be application/json"),
        ("", b"{}", 415, "Expects Content-Type to be application/json"),
        ("application/json", b"", 400, "POST body is empty. Expecting a JSON dictionary."),
        ("application/json", b"[1]", 400, "POST body should be a JSON dictionary."),
        ("application/json", b"{}", 400, "A value is not provided for the 'first' parameter."),
    ],
)
def test_row_26_what_a_typed_script_refuses(
    hosts: Hosts, ask: Ask, kind: str, body: bytes, status: int, text: str
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    response = ask(hosts("diff_output.py"), body, headers=headers)
    assert response.status_code == status
    # A 415 goes on with what else can be read.
    assert message(response) == text or (status == 415 and message(response).startswith(f"{text}."))
    assert response.headers[FAILED] == "False"


@keep
def test_row_26_broken_json_is_refused_with_the_parsers_words(hosts: Hosts, ask: Ask) -> None:
    response = ask(hosts("diff_output.py"), b'{"first": }', headers=JSON)
    assert (response.status_code, message(response)) == (
        400,
        "POST body could not be decoded as JSON: Expecting value: line 1 column 11 (char 10)",
    )


@keep
@table("kind", ["application/json", "application/json; charset=x", "application/vnd.x+json"])
@table("coding", ["utf-8", "utf-16", "utf-32"])
def test_row_26_json_of_any_unicode_coding(hosts: Hosts, ask: Ask, kind: str, coding: str) -> None:
    body = '{"first": "ü", "second": NaN, "unknown": 1}'.encode(coding)
    host = hosts("diff_output.py", SCORING_NAN="string")
    assert ask(host, body, headers={"Content-Type": kind}).json() == ["ü", "NaN"]


@fix
def test_row_26_json_that_is_not_utf_8_is_the_clients_fault(hosts: Hosts, ask: Ask) -> None:
    response = ask(hosts("diff_output.py"), b'{"first": "\xff"}', headers=JSON)
    assert response.status_code == 400
    assert message(response).startswith("POST body could not be decoded as JSON: 'utf-8' codec")


@keep
def test_row_27_a_query_gives_typed_arguments_by_name(hosts: Hosts, ask: Ask) -> None:
    answer = ask(hosts("diff_numpy.py"), path="/score?data=[[1,2,3]]", method="GET")
    assert answer.json() == [321.0]
    missing = ask(hosts("diff_numpy.py"), path="/score?other=1", method="GET")
    assert message(missing) == "A value is not provided for the 'data' parameter."


@fix
@table(
    ("script", "body", "words"),
    [
        ("diff_numpy.py", {"data": [[1, 2]]}, ["'data'", "float64", "(any, 3)", "1 x 2"]),
        ("diff_numpy.py", {"data": [[1, 2, 3], [4]]}, ["'data'", "float64", "2 x 3"]),
        ("diff_numpy.py", {"data": "x"}, ["'data'", "float64", "str 'x'"]),
        (
            "diff_pandas.py",
            {"data": "x"},
            ["'data'", "size (float64)", "petals (int64)", "str 'x'"],
        ),
        (
            "diff_standard.py",
            {"count": "1", "ratio": 1.5, "flower": {}},
            ["'count'", "type int such as 3", "str '1'"],
        ),
        (
            "diff_standard.py",
            {"count": 1, "ratio": 1.5, "flower": 3},
            ["'flower'", "type dict", "'name': 'rose'", "int 3"],
        ),
    ],
)
def test_row_28_what_does_not_fit_the_schema_is_the_clients_fault(
    hosts: Hosts, ask: Ask, script: str, body: dict[str, Any], words: list[str]
) -> None:
    response = ask(hosts(script), json.dumps(body), headers=JSON)
    assert (response.status_code, response.headers[FAILED]) == (400, "False")
    text = message(response)
    assert [word for word in words if word not in text] == []
    assert " object at 0x" not in text and "..." not in text.split("such as")[0]


@keep
def test_row_28_strict_compat_blames_the_script_as_before(hosts: Hosts, ask: Ask) -> None:
    host = hosts("diff_numpy.py", **STRICT)
    response = ask(host, b'{"data": [[1, 2]]}', headers=JSON)
    assert (response.status_code, message(response)) == (500, SCRIPT_FAILED)
    assert response.headers[FAILED] == "True"


@keep
def test_row_29_options_is_answered_for_a_script_but_passed_to_a_raw_one(
    hosts: Hosts, ask: Ask
) -> None:
    plain = ask(hosts("diff_text.py"), method="OPTIONS")
    assert (plain.status_code, plain.content) == (200, b"")
    assert not [name for name in plain.headers if name.startswith("access-control-")]
    raw = ask(hosts("diff_raw.py"), path="/score?answer=202", method="OPTIONS")
    assert (raw.status_code, raw.headers["x-method"]) == (202, "OPTIONS")


@keep
@table("method", ["GET", "POST", "OPTIONS"])
def test_row_30_a_raw_script_sees_the_request(hosts: Hosts, ask: Ask, method: str) -> None:
    headers = {"Content-Type": "text/x; a=b", "Cookie": "c=d", "Host": "h.example"}
    body = b"\x00\xff" if method == "POST" else b""
    seen = ask(hosts("diff_raw.py"), body, "/score?a=1&a=2&b=%C3%BC", method, headers).json()
    assert (seen["method"], seen["path"], seen["query_string"]) == (
        method,
        "/score",
        "a=1&a=2&b=%C3%BC",
    )
    assert seen["url"] == "http://h.example/score?a=1&a=2&b=\u00fc"
    assert seen["args"] == {"a": ["1", "2"], "b": ["\u00fc"]}
    assert (seen["content_type"], seen["mimetype"]) == ("text/x; a=b", "text/x")
    assert (seen["cookies"], seen["remote_addr"]) == ({"c": "d"}, "127.0.0.1")
    assert ["Content-Type", "text/x; a=b"] in seen["headers"]
    assert seen["read"] == ("AP8=" if method == "POST" else "")


@keep
@table(
    ("read", "kind", "body", "expected"),
    [
        ("form", "application/x-www-form-urlencoded", b"a=1&a=2", {"a": ["1", "2"]}),
        ("data", "text/plain", b"x", "eA=="),
        ("stream", "", b"x", "eA=="),
        ("json", "application/json", b'{"a": [1]}', {"a": [1]}),
        ("get_json", "text/plain", b'{"a": [1]}', {"a": [1]}),
        (
            "files",
            "multipart/form-data; boundary=cut",
            b'--cut\r\nContent-Disposition: form-data; name="f"; filename="x.png"\r\n'
            b"Content-Type: image/png\r\n\r\n\x00\xff\r\n--cut--\r\n",
            {"f": ["x.png", "image/png", "AP8="]},
        ),
    ],
)
def test_row_30_a_raw_script_reads_the_body_in_every_way(
    hosts: Hosts, ask: Ask, read: str, kind: str, body: bytes, expected: object
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = ask(hosts("diff_raw.py"), body, path=f"/score?read={read}", headers=headers)
    assert answer.json()["read"] == expected


@fix
def test_row_30_json_of_another_content_type_is_refused_as_werkzeug_says(
    hosts: Hosts, ask: Ask
) -> None:
    response = ask(hosts("diff_raw.py"), b"{}", path="/score?read=json")
    assert (response.status_code, response.headers[FAILED]) == (415, "False")
    assert message(response).startswith("Did not attempt to load JSON data")


# --- 5 output --------------------------------------------------------------------------------

RESULTS = {
    "none": (b"{}", b"{}"),
    "true": (b"true", b"true"),
    "json-text": (b'"{\\"a\\": [1, 2]}"', b'"{\\"a\\": [1, 2]}"'),
    "tuple": (b"[1, [2, 3]]", b"[1,[2,3]]"),
    "list": (b'[1, 2.5, "x", null, [], {}]', b'[1,2.5,"x",null,[],{}]'),
    "dict": (
        b'{"b": {"\\u00fc": [true, false, null]}, "a": -0.0}',
        '{"b":{"ü":[true,false,null]},"a":-0.0}'.encode(),
    ),
    "big-integers": (
        b"[9223372036854775808, 18446744073709551616, -1180591620717411303424, 1%s]" % (b"0" * 40),
        b"[9223372036854775808,18446744073709551616,-1180591620717411303424,1%s]" % (b"0" * 40),
    ),
}


@keep
@table("name", RESULTS)
def test_row_31_results_are_json(hosts: Hosts, ask: Ask, name: str) -> None:
    """Byte for byte as before with SCORING_STRICT_COMPAT, compact UTF-8 without."""
    for environ, expected in zip((STRICT, {}), RESULTS[name], strict=True):
        response = ask(hosts("diff_text.py", **environ), f"case:result-{name}")
        assert (response.status_code, response.content) == (200, expected)
        assert response.headers["content-type"] == "application/json"
        assert response.headers[FAILED] == "False"


@fix
@table(
    ("name", "expected"),
    [
        ("array", [[0.0, 1.0], [2.0, 3.0]]),
        ("np-int64", {"n": 7}),
        ("frame", [{"a": 1}, {"a": 2}]),
        ("moment", "2026-01-02T03:04:05"),
        ("decimal", 1.1),
        ("bytes", "AP8="),
        ("set", [1, 2, 3]),
        ("generator", [0, 1, 2]),
    ],
)
def test_row_32_more_results_have_a_json_form(
    hosts: Hosts, ask: Ask, name: str, expected: object
) -> None:
    for environ in (STRICT, {}):
        response = ask(hosts("diff_text.py", **environ), f"case:result-{name}")
        assert (response.status_code, response.json()) == (200, expected)


@fix
def test_row_32_what_has_none_is_named_and_is_the_scripts_fault(hosts: Hosts, ask: Ask) -> None:
    host = hosts("diff_text.py")
    response = ask(host, b"case:result-no-form")
    assert (response.status_code, response.headers[FAILED]) == (500, "True")
    assert "result is of type object" in message(response)
    eventually(lambda: "result is of type object" in host.log)


@fix
@table(
    ("environ", "status", "body"),
    [
        ({}, 200, b'{"a":[null,null],"b":null}'),
        ({"SCORING_NAN": "null"}, 200, b'{"a":[null,null],"b":null}'),
        ({"SCORING_NAN": "string"}, 200, b'{"a":["Infinity","-Infinity"],"b":"NaN"}'),
        ({"SCORING_NAN": "raw"}, 200, b'{"a":[Infinity,-Infinity],"b":NaN}'),
        ({"SCORING_NAN": "error"}, 500, None),
        (STRICT, 200, b'{"a": [Infinity, -Infinity], "b": NaN}'),
    ],
    ids=str,
)
def test_row_33_nan_goes_by_the_policy(
    hosts: Hosts, ask: Ask, environ: dict[str, str], status: int, body: bytes | None
) -> None:
    response = ask(hosts("contract_echo.py", **environ), b"nan")
    assert response.status_code == status
    if body is None:
        assert "result['a'][0] is Infinity" in message(response)
    else:
        assert response.content == body


@keep
@table(
    ("name", "status", "kind", "body"),
    [
        ("nothing", 200, "application/json", b"{}"),
        ("nothing-404", 404, "application/json", b"{}"),
        ("json", 201, "application/json", b'{"\\u00fc": [1, null]}'),
        ("json-text", 200, "application/json", b'"plain"'),
        ("text", 200, "text/html; charset=utf-8", "Grüße".encode()),
        ("empty", 200, "text/html; charset=utf-8", b""),
        ("bytes", 200, "image/png", bytes(range(256))),
        ("list-of-bytes", 200, "text/html; charset=utf-8", b"ab"),
    ],
)
def test_row_34_aml_response(
    hosts: Hosts, ask: Ask, name: str, status: int, kind: str, body: bytes
) -> None:
    response = ask(hosts("diff_text.py"), f"case:response-{name}")
    assert (response.status_code, response.content) == (status, body)
    assert response.headers.get_list("content-type") == [kind]
    assert response.headers[FAILED] == "False"


@keep
def test_row_34_header_values_are_split_at_commas(hosts: Hosts, ask: Ask) -> None:
    headers = ask(hosts("diff_text.py"), b"case:response-headers").headers
    values = [headers.get_list(name) for name in ("x-one", "x-two", "x-one-2")]
    assert values == [["1"], ["a", "b", "c"], [""]]
    failed = ask(hosts("diff_text.py"), b"case:response-says-failed")
    assert (failed.status_code, failed.headers[FAILED]) == (200, "True")


@fix
@table(
    ("case", "name", "value"),
    [
        ("date", "expires", "Thu, 01 Dec 1994 16:00:00 GMT"),
        ("cookie", "set-cookie", "a=1; Expires=Thu, 01 Dec 1994"),
        ("type-in-lower-case", "content-type", "text/xml"),
        ("json-with-type", "content-type", "text/x"),
    ],
)
def test_row_34_dates_and_cookies_stay_whole_and_the_type_is_sent_once(
    hosts: Hosts, ask: Ask, case: str, name: str, value: str
) -> None:
    response = ask(hosts("diff_text.py"), f"case:response-{case}")
    assert response.headers.get_list(name) == [value]


@keep
def test_row_34_the_attributes_that_scripts_use(write_script: WriteScript, ask: Ask) -> None:
    script = write_script(
        """
        from azureml.contrib.services.aml_response import AMLResponse

        def init(): pass
        def run(data):
            response = AMLResponse("old", 200)
            assert (response.status_code, response.mimetype) == (200, "text/html")
            assert (response.data, response.get_data(as_text=True)) == (b"old", "old")
            response.set_data("new")
            response.headers["X-A"] = "b"
            response.mimetype = "text/csv"
            response.status_code = 203
            return response
        """
    )
    with Host(script) as host:
        response = ask(host)
    assert (response.status_code, response.text, response.headers["x-a"]) == (203, "new", "b")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"


@keep
@table(
    ("name", "status", "text", "failed"),
    [
        ("flask", 202, "hello", None),
        ("werkzeug", 202, "hello", None),
        ("flask-503", 503, "later", "True"),
        ("status-500", 500, "broken", "True"),
        ("status-599", 599, "broken", "True"),
        ("status-404", 404, "404!", "False"),
    ],
)
def test_row_35_responses_are_passed_through(
    hosts: Hosts, ask: Ask, name: str, status: int, text: str, failed: str | None
) -> None:
    response = ask(hosts("diff_text.py"), f"case:response-{name}")
    assert (response.status_code, response.text) == (status, text)
    assert response.headers.get(FAILED) == failed


@keep
def test_row_35_generators_stream_and_their_length_is_not_logged(hosts: Hosts, ask: Ask) -> None:
    host = hosts("diff_text.py")
    response = ask(host, b"case:response-generator", path="/score?stream")
    assert (response.text, response.headers["content-type"]) == ("one,two", "text/csv")
    assert response.headers["transfer-encoding"] == "chunked"
    eventually(lambda: re.search(r"POST /score\?stream 200 \d+\.\d{3}ms N/A\n", host.log))


@keep
def test_row_36_headers_of_every_answer_of_run(hosts: Hosts, ask: Ask) -> None:
    for body in (b"x", b"case:response-own-ids"):
        headers = ask(hosts("diff_text.py"), body, headers={"x-request-id": "mine"}).headers
        assert headers.get_list("x-request-id") == ["mine"]
        assert headers.get_list("x-ms-request-id") == ["mine"]
        assert re.fullmatch(r"scoring-runtime/\d+\.\d+.*", headers["x-ms-server-version"])
        assert re.fullmatch(r"\d+\.\d{3}", headers["x-ms-run-fn-exec-ms"])
        assert headers[FAILED] == "False"


# --- 6 request ids ---------------------------------------------------------------------------

NEW = "a new id"


@keep
@table(
    ("sent", "expected"),
    [
        ({}, (NEW, NEW, None)),
        ({"x-request-id": "A"}, ("A", "A", None)),
        ({"x-ms-request-id": "B"}, (NEW, "B", "B")),
        ({"x-ms-client-request-id": "C"}, (NEW, "C", "C")),
        ({"x-ms-request-id": "B", "x-ms-client-request-id": "C"}, (NEW, "B", "C")),
        ({"x-request-id": "A", "x-ms-client-request-id": "C"}, ("A", "C", "C")),
    ],
)
def test_row_37_ids_sent_and_returned(
    hosts: Hosts, ask: Ask, sent: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    headers = ask(hosts("diff_text.py"), headers={**sent, "TraceId": "T"}).headers
    names = ("x-request-id", "x-ms-request-id", "x-ms-client-request-id")
    values = [headers.get(name) for name in names]
    if expected[0] is NEW:
        made = str(values[0])
        assert uuid.UUID(made).version == 4
        values = [NEW if value == made else value for value in values]
    assert tuple(values) == expected
    assert headers["traceid"] == "T"


@keep
def test_row_37_the_deprecated_header_is_warned_of(hosts: Hosts, ask: Ask) -> None:
    host = hosts("diff_text.py")
    ask(host, headers={"x-ms-request-id": "B"})
    eventually(lambda: "x-ms-request-id header has been deprecated" in host.log)


@keep
@table(
    ("sent", "text", "echoed"),
    [
        ({"x-request-id": "r" * 101}, "x-request-id must not exceed 100 characters", {}),
        (
            {"x-request-id": "A", "x-ms-request-id": "r" * 101},
            "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters",
            {"x-request-id": "A"},
        ),
        (
            {"x-request-id": "A", "x-ms-request-id": "B", "x-ms-client-request-id": "r" * 101},
            "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters",
            {"x-request-id": "A"},
        ),
    ],
)
def test_row_38_ids_of_more_than_100_characters_are_refused(
    hosts: Hosts, ask: Ask, sent: dict[str, str], text: str, echoed: dict[str, str]
) -> None:
    response = ask(hosts("diff_text.py"), headers=sent)
    assert (response.status_code, message(response)) == (431, text)
    assert {name: response.headers[name] for name in sent if name in response.headers} == echoed


@keep
def test_row_38_100_characters_are_allowed(hosts: Hosts, ask: Ask) -> None:
    headers = {name: "r" * 100 for name in ("x-request-id", "x-ms-client-request-id")}
    response = ask(hosts("diff_text.py"), b"x", headers=headers)
    assert (response.status_code, response.headers["x-request-id"]) == (200, "r" * 100)


# --- 7 errors --------------------------------------------------------------------------------


@keep
def test_row_39_what_run_raises_is_told_to_the_log_alone(hosts: Hosts, ask: Ask) -> None:
    host = hosts("diff_text.py")
    response = ask(host, b"case:failure-error")
    assert (response.status_code, message(response)) == (500, SCRIPT_FAILED)
    assert response.headers[FAILED] == "True"
    eventually(lambda: "ValueError: wrong" in host.log)


@fix
@table(
    ("name", "status", "text", "failed"),
    [
        ("abort-418", 418, "This server is a teapot, not a coffee machine", "False"),
        ("abort-400-text", 400, "no such flower", "False"),
        ("abort-503", 503, None, "True"),
    ],
)
def test_row_39_abort_keeps_its_status(
    hosts: Hosts, ask: Ask, name: str, status: int, text: str | None, failed: str
) -> None:
    response = ask(hosts("diff_text.py"), f"case:failure-{name}")
    assert (response.status_code, response.headers[FAILED]) == (status, failed)
    assert message(response) == text or text is None


@keep
def test_row_40_a_timeout_is_an_error_of_run(hosts: Hosts, ask: Ask) -> None:
    host = hosts("contract_slow.py", SCORING_TIMEOUT_MS="200")
    began = time.monotonic()
    response = ask(host, b"1.5")
    assert time.monotonic() - began < 1.5
    assert (response.status_code, message(response)) == (500, "Scoring timeout after 200 ms")
    assert response.headers[FAILED] == "True"
    eventually(lambda: ask(host, b"0").status_code == 200)


@fix
def test_row_40_a_timeout_error_of_the_script_is_its_own(hosts: Hosts, ask: Ask) -> None:
    response = ask(hosts("contract_slow.py"), b"-1")
    assert (response.status_code, message(response)) == (500, SCRIPT_FAILED)


@fix
@table("kind", [b"-2", b"-3"], ids=["SystemExit", "KeyboardInterrupt"])
def test_row_41_a_script_that_exits_in_run_fails_that_request_alone(
    hosts: Hosts, ask: Ask, kind: bytes
) -> None:
    host = hosts("contract_slow.py")
    response = ask(host, kind)
    assert (response.status_code, message(response)) == (500, SCRIPT_FAILED)
    assert response.headers[FAILED] == "True"
    assert ask(host, b"0").json() == 0
    assert host.process.poll() is None


@fix
def test_row_42_worker_timeout_is_answered_in_json(hosts: Hosts, ask: Ask) -> None:
    response = ask(hosts("contract_slow.py", WORKER_TIMEOUT="0.2"), b"1")
    assert (response.status_code, message(response)) == (500, "Scoring timeout after 200 ms")


@keep
@table(("length", "status"), [(8100, 200), (8191, 431)], ids=["header of 8100", "header of 8191"])
def test_row_43_header_lines_have_the_old_limit(
    hosts: Hosts, ask: Ask, length: int, status: int
) -> None:
    response = ask(hosts("diff_text.py"), headers={"x-long": "x" * length})
    assert response.status_code == status


@keep
@table(("length", "status"), [(4000, 200), (4100, 414)])
def test_row_43_request_lines_have_the_old_limit(
    hosts: Hosts, ask: Ask, length: int, status: int
) -> None:
    response = ask(hosts("diff_text.py"), path=f"/score?{'a' * length}", method="GET")
    assert response.status_code == status


@fix
def test_row_43_refusals_are_json_and_bodies_have_a_limit(hosts: Hosts, ask: Ask) -> None:
    long_header = {"x-long": "x" * 9000}
    assert "8190" in message(ask(hosts("diff_text.py"), headers=long_header))
    assert "4094" in message(ask(hosts("diff_text.py"), path=f"/score?{'a' * 5000}", method="GET"))
    small = hosts("contract_echo.py", SCORING_MAX_BODY_BYTES="10000")
    assert ask(small, b"x" * 10000).status_code == 200
    too_large = ask(small, b"x" * 10001)
    assert (too_large.status_code, "10000 bytes" in message(too_large)) == (413, True)


# --- 8 environment and configuration ---------------------------------------------------------


@keep
def test_row_44_the_model_folder_is_passed_on_untouched(tmp_path: Path, ask: Ask) -> None:
    for options, environ, expected in (
        ((), {}, None),
        (("--model-dir", "not/there"), {}, "not/there"),
        ((), {"AZUREML_MODEL_DIR": "./rel/"}, "./rel/"),
        (("--model_dir", "wins"), {"AZUREML_MODEL_DIR": "loses"}, "wins"),
    ):
        script = SCRIPTS / "contract_report.py"
        with Host(script, *options, environ=environ, cwd=tmp_path) as host:
            report = ask(host).json()
        assert report["environ"].get("AZUREML_MODEL_DIR") == expected
        assert report["cwd"] == str(tmp_path)
        notice = "The environment variable 'AZUREML_MODEL_DIR' has not been set."
        assert (notice in host.log) == (expected is None)
    assert list(tmp_path.iterdir()) == []


@keep
def test_row_44_the_two_layouts_of_registered_models(tmp_path: Path) -> None:
    root = tmp_path / "azureml-models"
    for name, version in (("iris", "1"), ("iris", "12"), ("rose", "3")):
        (root / name / version).mkdir(parents=True)
        (root / name / version / "model.pkl").touch()
    several = [(each.name, each.version) for each in registered(root)]
    assert several == [("iris", 1), ("iris", 12), ("rose", 3)]
    assert [(e.name, e.version) for e in registered(root / "iris" / "12")] == [("iris", 12)]
    assert model_path("iris", root=root) == root / "iris" / "12" / "model.pkl"
    assert registered(tmp_path / "other") == []


@keep
def test_row_45_the_port_and_the_health_port(ask: Ask) -> None:
    second = free_port()
    environ = {"SEPERATE_HEALTH_ENDPOINT": "true", "HEALTH_PORT": str(second)}
    with Host(SCRIPTS / "contract_report.py", environ=environ) as host:
        report = ask(host).json()["environ"]
        assert (report["SERVER_PORT"], report["HEALTH_PORT"]) == (str(host.port), str(second))
        first, host.url = host.url, f"http://127.0.0.1:{second}"
        assert ask(host, path="/", method="GET").text == "Healthy"
        assert ask(host).status_code == 200
        host.url = first


@keep
def test_row_45_the_health_port_is_the_port_without_that_exact_setting(
    hosts: Hosts, ask: Ask
) -> None:
    host = hosts("contract_report.py", SEPERATE_HEALTH_ENDPOINT="True", HEALTH_PORT="5002")
    assert ask(host).json()["environ"]["HEALTH_PORT"] == str(host.port)


@keep
def test_row_45_defaults() -> None:
    settings = Settings.from_environ({})
    assert (settings.host, settings.port, settings.health_port) == ("0.0.0.0", 5001, 5000)


@fix
def test_row_45_the_port_of_the_environment_counts(write_script: WriteScript, ask: Ask) -> None:
    host = Host(write_script(ECHO))
    host._environ["SERVER_PORT"] = str(host.port)
    with without(host, "--port"):
        assert ask(host, b"x").json() == "x"


@keep
@table(
    "options",
    [
        ["--worker_count", "0"],
        ["--worker_count", "-1"],
        ["--port", "0"],
        ["--port", "65536"],
        ["--health_port", "70000"],
    ],
    ids=" ".join,
)
def test_row_46_impossible_numbers_on_the_command_line_end_with_1(
    tmp_path: Path, options: list[str]
) -> None:
    ended = serve("--entry_script", "score.py", *options, cwd=tmp_path)
    assert ended.code == 1
    assert f"{options[1]!r}" in ended.output


@fix
@table("value", ["x", "0", "-1", ""])
def test_row_46_an_impossible_worker_count_in_the_environment_ends_with_a_message(
    tmp_path: Path, value: str
) -> None:
    ended = serve("--entry_script", "score.py", cwd=tmp_path, WORKER_COUNT=value)
    assert ended.code == 3
    assert f"WORKER_COUNT has the value {value!r} (from the environment)" in ended.output
    assert "a whole number from 1" in ended.output


@keep
def test_row_46_defaults_of_the_workers() -> None:
    settings = Settings.from_environ({})
    assert (settings.worker_count, settings.worker_timeout) == (1, 300)
    assert settings.worker_preload is False
    assert Settings.from_environ({"WORKER_PRELOAD": "TRUE"}).worker_preload is True


@keep
def test_row_46_a_port_in_use_ends_with_1(write_script: WriteScript) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = cannot_serve(write_script(ECHO), "--port", port)
    assert ended.code == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in ended.output


@keep
def test_row_47_a_timeout_that_is_no_number_ends_with_the_banner(
    write_script: WriteScript,
) -> None:
    ended = cannot_serve(write_script(ECHO), SCORING_TIMEOUT_MS="abc")
    assert ended.code == 3
    assert "===============Configuration Error=================" in ended.output
    assert "(environment variable: SCORING_TIMEOUT_MS)" in ended.output


@keep
def test_row_47_zero_is_no_timeout_and_an_hour_the_default(hosts: Hosts, ask: Ask) -> None:
    assert Settings.from_environ({}).scoring_timeout_ms == 3_600_000
    host = hosts("contract_slow.py", SCORING_TIMEOUT_MS="0", WORKER_TIMEOUT="0")
    assert ask(host, b"0.1").json() == 0.1


@fix
def test_row_47_a_negative_timeout_is_refused_at_the_start(write_script: WriteScript) -> None:
    ended = cannot_serve(write_script(ECHO), SCORING_TIMEOUT_MS="-1")
    assert ended.code == 3
    assert "SCORING_TIMEOUT_MS has the value '-1'" in ended.output


@keep
def test_row_48_the_services_names(hosts: Hosts, ask: Ask) -> None:
    settings = Settings.from_environ({})
    assert (settings.service_name, settings.service_version) == ("ML service", "1.0")
    assert (settings.service_path_prefix, settings.hostname) == ("", "Unknown")
    host = hosts("contract_echo.py", service_Name="Roses", SERVICE_VERSION="7")
    info = ask(host, path="/swagger.json", method="GET").json()["info"]
    assert info == {
        "title": "Roses",
        "description": "API specification for the Azure Machine Learning service Roses",
        "version": "7",
    }


KEY = "0a1b2c3d-0000-4000-8000-00000000ABCD"


@keep
@table(
    ("environ", "seen"),
    [
        ({}, "false"),
        ({"AML_APP_INSIGHTS_ENABLED": "true", "AML_APP_INSIGHTS_KEY": KEY}, "true"),
        ({"AML_APP_INSIGHTS_ENABLED": "True", "AML_APP_INSIGHTS_KEY": KEY}, "false"),
        ({"AML_APP_INSIGHTS_ENABLED": "true", "AML_APP_INSIGHTS_KEY": "secret-1"}, "false"),
        ({"AML_APP_INSIGHTS_ENABLED": "true"}, "false"),
    ],
    ids=["nothing", "both", "another spelling", "no uuid", "no key"],
)
def test_row_49_app_insights_is_forced_off_unless_complete(
    hosts: Hosts, ask: Ask, environ: dict[str, str], seen: str
) -> None:
    host = hosts("contract_report.py", **environ)
    assert ask(host).json()["environ"]["AML_APP_INSIGHTS_ENABLED"] == seen
    refused = environ.get("AML_APP_INSIGHTS_KEY") == "secret-1"
    assert ("Application Insights has been disabled." in host.log) == refused
    assert "secret-1" not in host.log
    assert Settings.from_environ({}).app_insights_log_response is True


@keep
@table(
    ("origin", "allowed"),
    [
        (None, "https://a.example"),
        ("https://a.example", "https://a.example"),
        ("https://B.example", "https://B.example"),
        ("https://c.example", None),
    ],
)
@table("path", ["/score", "/", "/swagger.json"])
def test_row_50_cors_of_several_origins(
    hosts: Hosts, ask: Ask, path: str, origin: str | None, allowed: str | None
) -> None:
    host = hosts("contract_echo.py", AML_CORS_ORIGINS=" https://b.example , https://a.example ")
    headers = {"Origin": origin} if origin else {}
    for method in ("GET", "OPTIONS"):
        response = ask(host, path=path, method=method, headers=headers)
        assert response.status_code == 200
        assert response.headers.get("access-control-allow-origin") == allowed
        assert response.headers.get("vary") == ("Origin" if allowed else None)


@keep
def test_row_50_preflight_and_any_origin(hosts: Hosts, ask: Ask) -> None:
    asks = {
        "Origin": "https://x.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-b, content-type",
    }
    response = ask(hosts("contract_echo.py", AML_CORS_ORIGINS="*"), method="OPTIONS", headers=asks)
    assert response.headers["access-control-allow-origin"] == "https://x.example"
    assert response.headers["access-control-allow-methods"] == "GET, POST"
    assert response.headers["access-control-allow-headers"] == "content-type, x-b"


@keep
@table(
    ("environ", "sent"),
    [
        ({}, True),
        ({"SERVER_VERSION_LOG_RESPONSE_ENABLED": "TRUE"}, True),
        ({"SERVER_VERSION_LOG_RESPONSE_ENABLED": "false"}, False),
        ({"SERVER_VERSION_LOG_RESPONSE_ENABLED": "1"}, False),
    ],
)
def test_row_51_the_version_header_can_be_left_out(
    hosts: Hosts, ask: Ask, environ: dict[str, str], sent: bool
) -> None:
    response = ask(hosts("contract_echo.py", **environ))
    assert ("x-ms-server-version" in response.headers) is sent


@fix
def test_row_52_the_log_level_counts(hosts: Hosts, ask: Ask, write_script: WriteScript) -> None:
    quiet = hosts("contract_report.py", AZUREML_LOG_LEVEL="error")
    ask(quiet)
    loud = hosts("contract_report.py", AZUREML_LOG_LEVEL="DEBUG")
    ask(loud)
    eventually(lambda: "POST /score 200" in loud.log)
    assert "logged by the script" in loud.log
    assert "POST /score" not in quiet.log
    assert "logged by the script" not in quiet.log
    ended = cannot_serve(write_script(ECHO), AZUREML_LOG_LEVEL="BANANA")
    assert (ended.code, "DEBUG, INFO, WARNING, ERROR or CRITICAL" in ended.output) == (3, True)


@fix
@table("name", ["AML_MODEL_DC_STORAGE_ENABLED", "AML_MDC_STORAGE_ENABLED"])
def test_row_53_both_names_of_model_data_collection(name: str) -> None:
    assert Settings.from_environ({name: "true"}).model_data_collection is True
    assert Settings.from_environ({}).model_data_collection is False


@fix
def test_row_54_a_debug_port_without_debugpy_ends_with_a_message(
    write_script: WriteScript,
) -> None:
    write_script("raise ModuleNotFoundError(name='debugpy')", "debugpy.py")
    began = time.monotonic()
    script = write_script(ECHO)
    path = str(script.parent)
    ended = cannot_serve(script, AZUREML_DEBUG_PORT="5678", PYTHONPATH=path)
    assert ended.code == 3
    assert "AZUREML_DEBUG_PORT is 5678 but debugpy is not installed." in ended.output
    assert time.monotonic() - began < 10


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
    with Host(script, environ=environ) as host:
        assert "connecting to 5678" in host.log
        assert host.log.index("waiting") < host.log.index("ready for serving traffic")


@keep
def test_row_54_the_removed_debug_settings_do_no_harm(hosts: Hosts, ask: Ask) -> None:
    host = hosts("contract_echo.py", AML_DBG_MODEL_INFO="1", AML_DBG_RESOURCE_INFO="1")
    assert ask(host, b"x").json() == "x"


NAMED = {"AZUREML_CONFIG_FILE": "e.json"}


@keep
@table(
    ("option", "environ", "files", "title"),
    [
        (None, {}, {"root/config.json": "root", "code/config.json": "script"}, "root"),
        (None, {}, {"code/config.json": "script"}, "script"),
        (None, {}, {"root/config.json": None, "code/config.json": "script"}, "script"),
        (None, NAMED, {"root/e.json": "env", "root/config.json": "root"}, "env"),
        ("o.json", NAMED, {"root/o.json": "option", "root/e.json": "env"}, "option"),
        (None, {"SERVICE_NAME": "set"}, {"root/config.json": "root"}, "set"),
        (None, {}, {}, "ML service"),
    ],
)  # fmt: skip
def test_row_55_which_config_file_counts(
    write_script: WriteScript,
    tmp_path: Path,
    ask: Ask,
    option: str | None,
    environ: dict[str, str],
    files: dict[str, str | None],
    title: str,
) -> None:
    script = write_script(ECHO, "code/score.py")
    (tmp_path / "root").mkdir()
    for name, value in files.items():
        content = json.dumps({"SERVICE_NAME": value}) if value else ""
        (tmp_path / name).write_text(content)
    options = ("--config_file", option) if option else ()
    with Host(script, *options, environ=environ, cwd=tmp_path / "root") as host:
        document = ask(host, path="/swagger.json", method="GET").json()
    assert document["info"]["title"] == title


@keep
@table("content", ["{", "[1]", '{"SERVICE_NAME": []}'])
def test_row_55_an_invalid_config_file_ends_with_3(write_script: WriteScript, content: str) -> None:
    script = write_script(ECHO)
    (script.parent / "config.json").write_text(content)
    ended = cannot_serve(script)
    assert (ended.code, "Invalid config file!" in ended.output) == (3, True)


@keep
def test_row_55_an_invalid_value_in_the_file_ends_with_3(write_script: WriteScript) -> None:
    script = write_script(ECHO)
    (script.parent / "config.json").write_text('{"SCORING_TIMEOUT_MS": "soon"}')
    ended = cannot_serve(script)
    assert ended.code == 3
    assert "SCORING_TIMEOUT_MS has the value 'soon' (from the config file)" in ended.output


@fix
def test_row_55_every_documented_key_counts_and_unknown_ones_are_warned_of(
    write_script: WriteScript, tmp_path: Path, ask: Ask
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
    host = Host(tmp_path / "x", "--config_file", "config.json", cwd=tmp_path)
    with without(host, "--entry-script"):
        response = ask(host)
        environ = response.json()
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert environ["AML_APP_INSIGHTS_ENABLED"] == "true"
    assert environ["AML_APP_ROOT"] == str(tmp_path / "app")
    [warning] = [line for line in host.log.splitlines() if "UNKNOWN_KEY" in line]
    assert " W [" in warning and "AZUREML_ENTRY_SCRIPT" not in warning


LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [DIWEC] \[\d+\] [\w.]+ - .*"


@keep
def test_row_56_the_format_of_a_line(hosts: Hosts, ask: Ask) -> None:
    host = hosts("contract_report.py", TZ="Asia/Tokyo")
    ask(host)
    eventually(lambda: "POST /score" in host.log)
    [line] = [each for each in host.log.splitlines() if "POST /score" in each]
    assert re.fullmatch(LINE, line)
    pid, name = str(host.worker), "azmlinfsrv"
    assert f" I [{pid}] {name} - POST /score 200 " in line
    logged = time.strptime(line.partition(",")[0], "%Y-%m-%d %H:%M:%S")
    assert abs(time.mktime(logged) - time.mktime(time.gmtime())) < 120


@keep
@table("place", ["root", "code"])
def test_row_56_an_own_logging_configuration(
    write_script: WriteScript, tmp_path: Path, ask: Ask, place: str
) -> None:
    """In the app root, else next to the script; the old server's classes by their names."""
    script = write_script("def init(): print('hello')\ndef run(data): return data", "code/score.py")
    (tmp_path / "root").mkdir()
    config = {
        "version": 1,
        "formatters": {
            "own": {
                "class": "azureml_inference_server_http.log_config.AMLLogFormatter",
                "format": "OWN %(name)s: %(message)s",
            }
        },
        "filters": {
            "root": {"()": "azureml_inference_server_http.log_config.RootAccessFilter"},
        },
        "handlers": {
            "own": {
                "class": "logging.StreamHandler",
                "formatter": "own",
                "filters": ["root"],
                "stream": "ext://sys.stdout",
            },
        },
        "loggers": {"azmlinfsrv": {"level": "INFO", "handlers": ["own"], "propagate": False}},
    }
    (tmp_path / place / "logging.json").write_text(json.dumps(config))
    with Host(script, cwd=tmp_path / "root") as host:
        ask(host)
        eventually(lambda: "OWN azmlinfsrv: POST /score 200" in host.log)
    assert "OWN azmlinfsrv.print: hello" in host.log
    assert "OWN azmlinfsrv.user_script: Users's init has completed successfully" in host.log


@keep
def test_row_57_print_goes_to_its_logger(hosts: Hosts) -> None:
    log = hosts("contract_report.py").log
    assert re.search(r" I \[\d+\] azmlinfsrv\.print - printed while it was imported\n", log)
    assert re.search(r" I \[\d+\] azmlinfsrv\.print - printed-by init-1\n", log)
    assert re.search(r"^to stderr$", log, re.MULTILINE)


@fix
def test_row_57_what_a_script_logs_is_not_lost(hosts: Hosts) -> None:
    log = hosts("contract_report.py").log
    assert re.search(r" I \[\d+\] my\.model - logged by the script\n", log)


@keep
def test_row_58_one_line_for_each_scored_request(hosts: Hosts, ask: Ask) -> None:
    host = hosts("diff_text.py")
    ask(host, b"12345", path="/score?who=row58&x=1")
    pattern = r"azmlinfsrv - POST /score\?who=row58&x=1 200 \d+\.\d{3}ms 7\n"
    eventually(lambda: re.search(pattern, host.log))
    assert len(re.findall("row58", host.log)) == 1


# --- 9 swagger -------------------------------------------------------------------------------


@keep
def test_row_59_own_swagger_files_win(write_script: WriteScript, tmp_path: Path, ask: Ask) -> None:
    own = {"swagger2.json": ["two"], "swagger3.json": {"three": 3}, "swagger3.1.json": "3.1"}
    script = write_script(ECHO, "code/score.py")
    (tmp_path / "root").mkdir()
    for name, value in own.items():
        (tmp_path / "root" / name).write_text(json.dumps(value))
        (tmp_path / "code" / name).write_text('"not here"')
    with Host(script, cwd=tmp_path / "root") as host:
        (tmp_path / "root" / "swagger3.json").write_text('"changed since"')
        answers = [
            ask(host, path=f"/swagger.json?version={version}", method="GET").json()
            for version in ("2", "3", "3.1")
        ]
    assert answers == list(own.values())


@keep
def test_row_59_swagger_json_comes_before_swagger2_json(
    write_script: WriteScript, ask: Ask
) -> None:
    script = write_script(ECHO)
    (script.parent / "swagger.json").write_text('{"first": true}')
    (script.parent / "swagger2.json").write_text('{"first": false}')
    with Host(script) as host:
        assert ask(host, path="/swagger.json", method="GET").json() == {"first": True}


@keep
def test_row_59_an_own_file_that_is_not_json_ends_with_3(write_script: WriteScript) -> None:
    script = write_script(ECHO)
    (script.parent / "swagger3.json").write_text("{")
    ended = cannot_serve(script)
    assert (ended.code, "swagger3.json is not JSON" in ended.output) == (3, True)


NOTHING = {"type": "object", "example": {}}
NUMBERS = {
    "type": "object",
    "properties": {
        "data": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number", "format": "double"}},
            "format": "numpy.ndarray",
        }
    },
    "example": {"data": [[1.0, 2.0, 3.0]]},
}


@keep
@table("version", ["2", "3", "3.1"])
@table(("script", "expected"), [("diff_text.py", NOTHING), ("diff_numpy.py", NUMBERS)])
def test_row_60_generated_documents(
    hosts: Hosts, ask: Ask, script: str, expected: dict[str, Any], version: str
) -> None:
    path = f"/swagger.json?version={version}"
    document = ask(hosts(script), path=path, method="GET").json()
    three = version != "2"
    schemas = document["components"]["schemas"] if three else document["definitions"]
    assert list(schemas) == ["ServiceInput", "ServiceOutput", "ErrorResponse"]
    assert schemas["ServiceInput"] == expected
    operations = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert operations == ["ServiceHealthCheck", "RunMLService", "GetSwaggerSpec"]
    security = (
        document["components"]["securitySchemes"] if three else document["securityDefinitions"]
    )
    assert list(security) == ["Bearer"]


@keep
def test_row_61_versions_that_are_unknown_or_impossible(hosts: Hosts, ask: Ask) -> None:
    unknown = ask(hosts("diff_text.py"), path="/swagger.json?version=4", method="GET")
    assert (unknown.status_code, message(unknown)) == (
        404,
        "Swagger version [4] is not valid. Supported versions: [2, 3, 3.1].",
    )
    impossible = ask(hosts("diff_standard.py"), path="/swagger.json", method="GET")
    assert (impossible.status_code, message(impossible)) == (
        404,
        "Swagger version [2] is not supported for the scoring script. "
        "Supported swagger versions: [3, 3.1].",
    )


# --- 10 process life -------------------------------------------------------------------------


@keep
@table(
    ("source", "cause"),
    [
        ("def init(:\n", "SyntaxError"),
        ("import no_such_package_anywhere\n", "No module named 'no_such_package_anywhere'"),
        ("raise SystemExit(0)\n", "SystemExit"),
        (ECHO.replace("pass", "1/0"), "ZeroDivisionError"),
        ("import sys\n" + ECHO.replace("pass", "sys.exit(0)"), "SystemExit"),
        ("async def init(): 1/0\ndef run(data): pass\n", "ZeroDivisionError"),
    ],
    ids=["syntax", "import", "exit while importing", "init raises", "init exits", "async init"],
)
def test_row_62_a_script_that_cannot_start_ends_the_server_with_3(
    write_script: WriteScript, source: str, cause: str
) -> None:
    ended = cannot_serve(write_script(source))
    assert ended.code == 3
    assert cause in ended.output.strip().splitlines()[-1]


@keep
@table("workers", ["1", "2"])
def test_row_62_a_missing_script_ends_the_server_with_3(tmp_path: Path, workers: str) -> None:
    ended = cannot_serve(tmp_path / "gone.py", "--workers", workers)
    assert (ended.code, "No such file or directory" in ended.output) == (3, True)


@keep
@table("workers", ["1", "2"])
def test_row_62_sigterm_lets_what_is_in_flight_finish(ask: Ask, workers: str) -> None:
    script = SCRIPTS / "contract_slow.py"
    with StandaloneHost(script, "--workers", workers) as host, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, host, b"0.5")
        eventually(lambda: "sleeping 0.5" in host.log)
        host.process.send_signal(signal.SIGTERM)
        assert (answer.result().status_code, answer.result().json()) == (200, 0.5)
        assert host.process.wait(10) == 0


@keep
def test_row_63_a_failed_init_shows_why_and_what_the_model_folder_holds(
    write_script: WriteScript, tmp_path: Path
) -> None:
    for number in range(250):
        (tmp_path / "models" / f"{number:03d}").mkdir(parents=True)
    script = write_script("def init():\n    open('model.pkl')\ndef run(data): pass\n", "a/score.py")
    began = time.monotonic()
    environ = {"AML_APP_INSIGHTS_ENABLED": "true", "AML_APP_INSIGHTS_KEY": KEY}
    ended = cannot_serve(script, "--model-dir", str(tmp_path / "models"), **environ)
    assert time.monotonic() - began < 15
    assert ended.code == 3
    order = [
        "User's init function failed",
        "line 2, in init",
        "FileNotFoundError",
        "Model Directory Contents:",
        "    000/",
        "    198/",
        "Output Truncated. First 200 lines shown.",
    ]
    places = [ended.output.find(each) for each in order]
    assert -1 not in places and places == sorted(places)
    assert "    199/" not in ended.output


@keep
def test_row_64_messages_that_people_grep_for(hosts: Hosts) -> None:
    host = hosts("diff_text.py")
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


@keep
def test_row_65_health_is_answered_once_init_is_done(
    write_script: WriteScript, tmp_path: Path, ask: Ask
) -> None:
    """Until then the probe waits; it is not refused."""
    source = """
        import pathlib, time

        def init():
            while not pathlib.Path("go").exists():
                time.sleep(0.01)

        def run(data): return data
        """
    host = Host(write_script(source), cwd=tmp_path)
    host.start()
    with ThreadPoolExecutor(1) as pool:
        try:
            eventually(lambda: _accepts(host.port))
            probe = pool.submit(ask, host, path="/", method="GET")
            time.sleep(0.3)
            assert not probe.done()
            (tmp_path / "go").touch()
            assert (probe.result().status_code, probe.result().text) == (200, "Healthy")
        finally:
            (tmp_path / "go").touch()
            assert host.stop() == 0


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


# --- the contract as a whole -----------------------------------------------------------------


def test_every_row_has_a_test_that_is_marked_keep_or_fix() -> None:
    rows = set()
    for name, test in globals().items():
        if row := re.match(r"test_row_(\d\d)_", name):
            marks = {mark.name for mark in test.pytestmark} & {"keep", "fix"}
            assert len(marks) == 1, name
            rows.add(int(row[1]))
    assert rows == set(range(1, 66))
