"""The entry script: found, imported, checked, and called in the way its run() asks (rows 7-28)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scoring_runtime.errors import (
    EntryScriptContract,
    EntryScriptFailed,
    EntryScriptNotFound,
    InputTooLarge,
    UndecodableInput,
    UnsupportedContentType,
    UnsupportedMethod,
)
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.script import entry_script
from scoring_runtime.script.aml_http import AMLRequest
from scoring_runtime.script.call import Invocation
from scoring_runtime.script.entry_script import EntryScript
from scoring_runtime.settings.settings import Settings

WriteScript = Callable[..., Path]
JSON = ((b"content-type", b"application/json"),)
INIT = "def init(): ...\n"
SCHEMA_IMPORTS = """
import numpy as np
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
"""


def settings_for(path: Path, **environ: str) -> Settings:
    said = {"AML_APP_ROOT": str(path.parent), "AZUREML_ENTRY_SCRIPT": path.name}
    return Settings.from_environ({**said, **environ})


def loaded(path: Path, **environ: str) -> EntryScript:
    return entry_script.load(settings_for(path, **environ))


def answer(script: EntryScript, request: ScoringRequest, **environ: str) -> Any:
    """What the client gets: the JSON value of run()'s result."""
    invocation = Invocation(script, Settings.from_environ(environ))
    response = asyncio.run(_called(invocation, request))
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


async def _called(invocation: Invocation, request: ScoringRequest) -> Any:
    return await invocation.awaited(request) if invocation.is_async else invocation(request)


# --- good scripts ---------------------------------------------------------------------------------

RAW = "from scoring_runtime import rawhttp\n"
TYPED = "@input_schema('data', StandardPythonParameterType(1))\n"
BYTES = "(request): return request.get_data(as_text=True)"
OBJECT = "(data): return {'data': data}"
PLAIN_DECORATOR = (
    "def timed(f):\n    def call(data): return f(data=data)\n    return call\n@timed\n"
)
WRAPPING = """
import functools, logging
def timed(f, logger=logging.getLogger("x")):
    @functools.wraps(f)
    def call(*args, **kwargs):
        try:
            logger.debug("x")
            return f(*args, **kwargs)
        except OSError:
            return call(*args, **kwargs)
    return call
@timed
"""
BLOCKING = """
import functools, threading, asyncio
def blocking(f):
    @functools.wraps(f)
    def call(data):
        found = []
        thread = threading.Thread(target=lambda: found.append(asyncio.run(f(data))))
        thread.start()
        thread.join()
        return found[0]
    return call
@blocking
"""

# name: source beside init(), kind, is it async; each answers b'{"data": 5}' as its kind has it
GOOD: dict[str, tuple[str, str, bool]] = {
    "a function": ("def run(data): return data", "text", False),
    "keyword only": ("def run(*, data): return data", "text", False),
    "further parameters with defaults": (
        "def run(data, scale=1, *, more=None): return data if scale == 1 else None", "text", False
    ),
    "request_headers first": ("def run(request_headers, data): return data", "text", False),
    "lambdas": ("init = lambda: None\nrun = lambda data: data", "text", False),
    "a partial": ("import functools\ndef both(a, data): return data\n"
                  "run = functools.partial(both, 1)", "text", False),
    "a class": ("class run(str):\n    def __new__(cls, data): return data", "text", False),
    "async def": ("async def run(data): return data", "text", True),
    "an object with async def __call__": (
        "class Run:\n    async def __call__(self, data): return data\nrun = Run()", "text", True
    ),
    "a decorator with wraps": (WRAPPING + "def run(data): return data", "text", False),
    "a decorator without wraps": (PLAIN_DECORATOR + "def run(data): return data", "text", False),
    "wraps around async def": (WRAPPING + "async def run(data): return data", "text", True),
    "no wraps around async def": (
        PLAIN_DECORATOR + "async def run(data): return data", "text", True
    ),
    "async decorator around def": (
        PLAIN_DECORATOR.replace("def call", "async def call") + "def run(data): return data",
        "text", True,
    ),
    "a decorator that awaits by itself": (
        BLOCKING + "async def run(data): return data", "text", True
    ),
    "rawhttp": (RAW + "@rawhttp\ndef run" + BYTES, "raw", False),
    "rawhttp by an old name": (
        "from azureml.contrib.services.aml_request import rawhttp\n@rawhttp\ndef run" + BYTES,
        "raw", False,
    ),
    "rawhttp below a decorator without wraps": (
        RAW + PLAIN_DECORATOR.replace("data", "request") + "@rawhttp\ndef run" + BYTES, "raw", False
    ),
    "rawhttp async": (RAW + "@rawhttp\nasync def run" + BYTES, "raw", True),
    "rawhttp on another function": (
        RAW + "@rawhttp\ndef other(request): ...\ndef run(data): return data", "text", False
    ),
    "input_schema": (SCHEMA_IMPORTS + TYPED + "def run" + OBJECT, "schema", False),
    "output_schema alone": (
        SCHEMA_IMPORTS + "@output_schema(StandardPythonParameterType({'data': 1}))\ndef run"
        + OBJECT, "schema", False,
    ),
    "input_schema, headers and a default": (
        SCHEMA_IMPORTS + TYPED + "def run(data, request_headers, more=2):\n"
        "    return {'data': data} if more == 2 else None", "schema", False,
    ),
    "input_schema below wraps": (
        SCHEMA_IMPORTS + WRAPPING + TYPED + "def run" + OBJECT, "schema", False
    ),
    "input_schema below no wraps": (
        SCHEMA_IMPORTS + PLAIN_DECORATOR + TYPED + "def run" + OBJECT, "schema", False
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_good_scripts(case: str, write_script: WriteScript) -> None:
    """The kind is chosen at load, and one call gives run() what its kind gets."""
    source, kind, is_async = GOOD[case]
    script = loaded(write_script(INIT + source))
    assert (script.kind, script.is_async) == (kind, is_async)
    assert script.schema_decorated is (kind == "schema")
    request = ScoringRequest(b'{"data": 5}', JSON)
    expected = {"data": 5} if kind == "schema" else '{"data": 5}'
    assert answer(script, request) == expected


# --- bad scripts ----------------------------------------------------------------------------------

STARS = "run() cannot accept positional-only arguments, *args, or **kwargs."
NO_DATA = "run() needs to accept an argument for input data."
ONLY_HEADERS = 'run() needs to accept an argument other than "request_headers".'
NO_INIT = "User script at {path} does not have a init() function defined."
NO_RUN = "User script at {path} does not have a run() function defined."
RAW_AND_SCHEMA = "run() cannot be decorated with both @rawhttp and @input_schema"

BAD = {
    "no init": ("def run(data): ...", NO_INIT),
    "no run": (INIT, NO_RUN),
    "init is not callable": ("init = 1\ndef run(data): ...", NO_INIT),
    "run is not callable": (INIT + "run = 'model'", NO_RUN),
    "positional only": (INIT + "def run(data, /): ...", STARS),
    "star args": (INIT + "def run(*args): ...", STARS),
    "star kwargs": (INIT + "def run(data, **kwargs): ...", STARS),
    "no parameter": (INIT + "def run(): ...", NO_DATA),
    "only request_headers": (INIT + "def run(request_headers): ...", ONLY_HEADERS),
    "rawhttp without a parameter": (INIT + RAW + "@rawhttp\ndef run(): ...", NO_DATA),
    "two parameters": (
        INIT + "def run(data, scale): ...",
        "run() gets its input as 'data'; its other parameters need defaults, but 'scale' has none. "
        "Declare typed arguments with @input_schema.",
    ),
    "rawhttp and schema": (
        SCHEMA_IMPORTS + INIT + RAW + "@rawhttp\n" + TYPED + "def run(data): ...", RAW_AND_SCHEMA
    ),
    "no signature": (INIT + "run = type", "The parameters of run() cannot be read: "),
}  # fmt: skip


@pytest.mark.keep
@pytest.mark.parametrize("case", BAD)
def test_bad_scripts_are_refused_at_start(case: str, write_script: WriteScript) -> None:
    """Rows 13, 17, 19, 20: with the old server's sentences."""
    source, message = BAD[case]
    path = write_script(source)
    with pytest.raises(EntryScriptContract) as caught:
        loaded(path)
    expected, said = message.format(path=path), str(caught.value)
    assert said.startswith(expected) if expected.endswith(": ") else said == expected


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_package", "No module named 'no_such_package'"),
        ("import sys; sys.exit(2)", "2"),
        ("x = '\0'", "source code string cannot contain null bytes"),
    ],
)
def test_importing_the_script_raised(source: str, cause: str, write_script: WriteScript) -> None:
    """Whatever it raised, SystemExit included, is the cause."""
    path = write_script(source)
    with pytest.raises(EntryScriptFailed) as caught:
        loaded(path)
    assert str(caught.value) == f"Importing the entry script {path} failed"
    assert str(caught.value.__cause__) == cause


# --- where it is found ----------------------------------------------------------------------------


@pytest.mark.keep
def test_relative_to_the_app_root_or_absolute(write_script: WriteScript, tmp_path: Path) -> None:
    """Row 10: an absolute path wins over the app root."""
    path = write_script(INIT + "def run(data): return __file__", "deep/er/score.py")
    root = {"AML_APP_ROOT": str(tmp_path)}
    for name, other in (("deep/er/score.py", root), (str(path), {"AML_APP_ROOT": "elsewhere"})):
        script = entry_script.load(Settings.from_environ({**other, "AZUREML_ENTRY_SCRIPT": name}))
        assert script.path == path
        assert answer(script, ScoringRequest(b"")) == str(path)


def test_no_such_script(write_script: WriteScript, tmp_path: Path) -> None:
    """The message shows what is in the folder instead."""
    write_script("", "main.py")
    write_script("", "other.py")
    (tmp_path / "empty").mkdir()
    contents = {
        "": "contains: empty, main.py, other.py.",
        "empty": "contains: nothing.",
        "missing": "does not exist.",
    }
    for folder, content in contents.items():
        path = tmp_path / folder / "score.py"
        with pytest.raises(EntryScriptNotFound) as caught:
            loaded(path)
        assert str(caught.value).startswith(
            f"No such file or directory: the entry script {path} (AZUREML_ENTRY_SCRIPT or "
            "--entry-script)."
        )
        assert str(caught.value).endswith(f"{path.parent} {content}")


@pytest.mark.keep
def test_without_an_entry_script_main_is_imported(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """Row 10: from sys.path, on which the app root is."""
    path = write_script(INIT + "def run(data): return __name__", "main.py")
    script = entry_script.load(Settings.from_environ({"AML_APP_ROOT": str(tmp_path)}))
    assert script.path == path
    assert answer(script, ScoringRequest(b"")) == "main"


@pytest.mark.keep
def test_no_main(tmp_path: Path) -> None:
    """Row 64: the sentence people search for, and where it was looked for."""
    (tmp_path / "score.py").touch()
    with pytest.raises(EntryScriptNotFound) as caught:
        entry_script.load(Settings.from_environ({"AML_APP_ROOT": str(tmp_path)}))
    message = str(caught.value)
    assert message.startswith("No score script found. Expected score script main.py. ")
    assert str(sys.path) in message
    assert message.endswith(f". {tmp_path} contains: score.py.")
    assert caught.value.__suppress_context__


def test_no_main_and_no_model_folder(tmp_path: Path) -> None:
    """A wrong --model-dir is the usual cause; without a script nothing else is asked for."""
    away = str(tmp_path / "away")
    environ = {"AML_APP_ROOT": str(tmp_path), "AZUREML_MODEL_DIR": away}
    with pytest.raises(EntryScriptNotFound, match=f"^The model folder {away} .* does not exist"):
        entry_script.load(Settings.from_environ(environ))


def test_main_that_fails(write_script: WriteScript, tmp_path: Path) -> None:
    """A package that main.py does not find is not taken for main.py itself."""
    write_script("import no_such_package", "main.py")
    with pytest.raises(EntryScriptFailed, match=r"^Importing main\.py failed$") as caught:
        entry_script.load(Settings.from_environ({"AML_APP_ROOT": str(tmp_path)}))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# --- what it sees ---------------------------------------------------------------------------------


@pytest.mark.keep
def test_the_module(write_script: WriteScript, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 12: its name is entry_module, it knows its file, and the folder is not changed."""
    elsewhere = write_script("", "elsewhere/keep").parent
    monkeypatch.chdir(elsewhere)
    path = write_script(
        "import os\ndef init(): ...\n"
        "def run(data): return [__name__, __file__, os.getcwd(), __name__ == '__main__']"
    )
    seen = answer(loaded(path), ScoringRequest(b""))
    assert seen == ["entry_module", str(path), str(elsewhere), False]


@pytest.mark.fix
def test_siblings_can_be_imported(write_script: WriteScript, tmp_path: Path) -> None:
    """Row 11: the script's folder, the app root and the source folder are on sys.path, last."""
    write_script("where = 'beside'", "app/sub/unit_sibling.py")
    write_script("where = 'root'", "app/unit_of_root.py")
    write_script("where = 'source'", "app/src/unit_of_source.py")
    write_script("raise RuntimeError('shadowed')", "app/sub/json.py")
    write_script(
        "import json, unit_sibling, unit_of_root, unit_of_source\ndef init(): ...\n"
        "def run(data): return [unit_sibling.where, unit_of_root.where, unit_of_source.where]",
        "app/sub/score.py",
    )
    before, app = list(sys.path), tmp_path / "app"
    said = {"AML_APP_ROOT": str(app), "AZUREML_SOURCE_DIRECTORY": "src"}
    settings = Settings.from_environ({**said, "AZUREML_ENTRY_SCRIPT": "sub/score.py"})
    for _ in range(2):
        script = entry_script.load(settings)
        assert answer(script, ScoringRequest(b"")) == ["beside", "root", "source"]
        assert sys.path == [*before, str(app), str(app / "src"), str(app / "sub")]


def test_dataclasses_with_future_annotations(write_script: WriteScript) -> None:
    """They look their module up by name: it is there."""
    path = write_script(
        """
        from __future__ import annotations
        import dataclasses, pickle, typing

        @dataclasses.dataclass
        class Row:
            name: str
            size: typing.ClassVar[int] = 3
            wide: float = 1.5

        def init(): ...

        def run(data):
            row = pickle.loads(pickle.dumps(Row("a")))
            return [row, sorted(typing.get_type_hints(Row)), Row.__module__]
        """
    )
    assert answer(loaded(path), ScoringRequest(b"")) == [
        {"name": "a", "wide": 1.5},
        ["name", "size", "wide"],
        "entry_module",
    ]


@pytest.mark.keep
@pytest.mark.parametrize("inner_has_run", [True, False])
def test_driver_module(inner_has_run: bool, write_script: WriteScript) -> None:
    """Row 14: run() of the inner module, init() of the outer one; without run() the outer's."""
    inner = "def run(data): return 'inner ' + state[0]\n" if inner_has_run else ""
    write_script("state = []\ndef init(): state.append('inner init')\n" + inner, "unit_inner.py")
    path = write_script(
        "import unit_inner as driver_module\n"
        "def init(): driver_module.state.append('outer init')\n"
        "def run(data): return 'outer ' + driver_module.state[0]"
    )
    try:
        script = loaded(path)
        script.init()
        expected = "inner outer init" if inner_has_run else "outer outer init"
        assert answer(script, ScoringRequest(b"")) == expected
    finally:
        sys.modules.pop("unit_inner", None)


@pytest.mark.keep
def test_a_driver_module_that_is_no_module_is_ignored(write_script: WriteScript) -> None:
    """Row 14."""
    fake = "driver_module = type('Fake', (), {'run': print})()"
    path = write_script(f"{fake}\n{INIT}def run(data): return 'own'")
    assert answer(loaded(path), ScoringRequest(b"")) == "own"


def test_schemas_do_not_leak_into_the_next_script(write_script: WriteScript) -> None:
    """inference-schema keeps them by module and function name, which all scripts share."""
    decorated = (
        SCHEMA_IMPORTS + INIT + "@input_schema('data', StandardPythonParameterType(1))\n"
        "@output_schema(StandardPythonParameterType(1))\ndef run(data): return data"
    )
    assert loaded(write_script(decorated, "one.py")).kind == "schema"
    assert loaded(write_script(INIT + "def run(data): ...", "two.py")).kind == "text"
    # The same output schema again would be refused if the first were still known.
    assert loaded(write_script(decorated, "three.py")).kind == "schema"


def test_the_flag_of_an_installed_package_switches_raw_mode(
    write_script: WriteScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 20: a really installed azureml package marks no function, it sets a flag."""
    module = ModuleType("azureml.contrib.services.aml_request")
    module.__dict__["_rawHttpRequested"] = True
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert loaded(write_script(INIT + "def run(request): ...")).kind == "raw"


def test_a_decorator_with_an_empty_cell_or_a_circle_can_be_read(write_script: WriteScript) -> None:
    """Closures are looked through for the raw mark; these must not break it."""
    path = write_script(
        """
        def init(): ...

        def timed(f):
            def call(data):
                if data == "never":
                    return call(data), later
                return f(data)
            if f is None:
                later = 1
            return call

        @timed
        def run(data): return data
        """
    )
    script = loaded(path)
    assert (script.kind, answer(script, ScoringRequest(b"x"))) == ("text", "x")


def test_the_log_says_how_run_is_called(
    write_script: WriteScript, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for where the script is, one for what run() gets."""
    caplog.set_level("INFO", "azmlinfsrv")
    path = write_script(INIT + "def run(data): ...")
    loaded(path)
    typed = "@input_schema('a', StandardPythonParameterType(1))\n"
    typed += "def run(a, b=1, request_headers={}): ..."
    loaded(write_script(SCHEMA_IMPORTS + INIT + typed, "typed.py"))
    assert [record.getMessage() for record in caplog.records] == [
        f"Found user script at {path}",
        "run() is not decorated. Server will invoke it with the input in JSON string.",
        f"Found user script at {path.parent / 'typed.py'}",
        "run() is decorated with @input_schema. Server will invoke it with the following "
        "arguments: a, b.",
    ]


# --- the arguments of text scripts ----------------------------------------------------------------


@pytest.fixture
def text(write_script: WriteScript) -> EntryScript:
    """A script that echoes what it gets."""
    return loaded(write_script(INIT + "def run(data): return data"), SCORING_MAX_BODY_BYTES="100")


@pytest.mark.fix
@pytest.mark.parametrize(
    "kind",
    [None, "text/plain; charset=latin-1", "application/json", "multipart/form-data; b=x",
     "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_the_body_is_utf8_text_whatever_its_type(text: EntryScript, kind: str | None) -> None:
    """Rows 22, 23: forms were lost."""
    headers = [(b"content-type", kind.encode())] if kind else []
    for body in ("\ufeffgrüße&b=2", ""):
        assert text.arguments(ScoringRequest(body.encode(), headers)) == {"data": body}


@pytest.mark.fix
@pytest.mark.parametrize("kind", ["text", "schema"])
def test_content_encodings_are_undone_within_the_limit(
    kind: str, write_script: WriteScript
) -> None:
    """Row 24: gzip, up to SCORING_MAX_BODY_BYTES."""
    import gzip

    source = GOOD["a function" if kind == "text" else "input_schema"][0]
    script = loaded(write_script(INIT + source), SCORING_MAX_BODY_BYTES="100")
    headers = (*JSON, (b"content-encoding", b"gzip"))
    body = gzip.compress(b'{"data": 5}')
    expected: Any = 5 if kind == "schema" else '{"data": 5}'
    assert script.arguments(ScoringRequest(body, headers)) == {"data": expected}
    with pytest.raises(InputTooLarge, match=r"^The body is larger than 100 bytes"):
        script.arguments(ScoringRequest(gzip.compress(b'{"data": 5}' + b" " * 100), headers))
    with pytest.raises(UnsupportedContentType, match=r"^Content-Encoding br cannot be read"):
        script.arguments(ScoringRequest(body, (*JSON, (b"content-encoding", b"br"))))


@pytest.mark.keep
def test_the_query_of_a_get_is_json_text(text: EntryScript) -> None:
    """Row 25."""
    request = ScoringRequest(b"", method="GET", query=b"a=1&b=x&b=[2]")
    assert text.arguments(request) == {"data": '{"a": 1, "b": ["x", [2]]}'}
    assert text.arguments(ScoringRequest(b"ignored", method="GET")) == {"data": "{}"}


@pytest.mark.parametrize("kind", ["a function", "input_schema"])
def test_other_methods_do_not_score(kind: str, write_script: WriteScript) -> None:
    """The message says which do."""
    script = loaded(write_script(INIT + GOOD[kind][0]))
    with pytest.raises(UnsupportedMethod) as caught:
        script.arguments(ScoringRequest(b'{"data": 1}', JSON, method="HEAD"))
    assert str(caught.value) == "Method not allowed"


@pytest.mark.keep
@pytest.mark.parametrize("case", ["text", "raw", "schema"])
def test_request_headers(case: str, write_script: WriteScript) -> None:
    """Row 18: a dict, title-cased, for every kind of script; it is not counted as input."""
    decorator, start = {
        "text": ("", ""),
        "raw": ("@rawhttp\n", "from scoring_runtime import rawhttp\n"),
        "schema": ("@input_schema('data', StandardPythonParameterType(1))\n", SCHEMA_IMPORTS),
    }[case]
    source = f"{start}{INIT}{decorator}def run(data, request_headers): return request_headers"
    script = loaded(write_script(source))
    request = ScoringRequest(b'{"data": 1}', (*JSON, (b"x-a", b"1"), (b"x-a", b"2")))
    assert answer(script, request) == {"Content-Type": "application/json", "X-A": "1,2"}


# --- the arguments of raw scripts -----------------------------------------------------------------


@pytest.mark.keep
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
def test_a_raw_script_gets_the_request_itself(method: str, write_script: WriteScript) -> None:
    """Row 30: whatever its method, with the bytes as they were sent, compressed or not."""
    script = loaded(write_script(INIT + GOOD["rawhttp"][0]))
    sent = ScoringRequest(b"\x1f\x8b\xff", ((b"content-encoding", b"gzip"),), method, query=b"a=1")
    request = script.arguments(sent)["request"]
    assert isinstance(request, AMLRequest)
    assert (request.method, request.get_data(), request.args["a"]) == (method, b"\x1f\x8b\xff", "1")


# --- the arguments of typed scripts ---------------------------------------------------------------


@pytest.fixture
def typed(write_script: WriteScript) -> EntryScript:
    """Three parameters, one with a default."""
    return loaded(
        write_script(
            SCHEMA_IMPORTS + INIT + "sample = np.array([[1.0, 2.0]])\n"
            "@input_schema('data', NumpyParameterType(sample))\n"
            "@input_schema('name', StandardPythonParameterType('x'))\n"
            "def run(data, name, scale=2.0):\n"
            "    return [type(data).__name__, data.shape, data.dtype.name, name, scale]"
        )
    )  # fmt: skip


@pytest.mark.keep
def test_an_object_is_given_by_name(typed: EntryScript) -> None:
    """Rows 26, 27: extra keys are ignored, defaults are used, null is a value, a query counts."""
    body = b'{"name": "n", "data": [[1, 2], [3, 4]], "extra": 1}'
    request = ScoringRequest(body, JSON)
    assert typed.arguments(request) == {"data": [[1, 2], [3, 4]], "name": "n", "scale": 2.0}
    assert answer(typed, request) == ["ndarray", [2, 2], "float64", "n", 2.0]
    nothing = ScoringRequest(b'{"data": null, "name": null, "scale": null}', JSON)
    assert typed.arguments(nothing) == {"data": None, "name": None, "scale": None}
    queried = ScoringRequest(b"", method="GET", query=b"data=[[1,2]]&name=n&scale=3")
    assert typed.arguments(queried) == {"data": [[1, 2]], "name": "n", "scale": 3}


@pytest.mark.keep
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "POST body is empty. Expecting a JSON dictionary."),
        (b"[1]", "POST body should be a JSON dictionary."),
        (b'{"data": 1}', "A value is not provided for the 'name' parameter."),
    ],
)
def test_what_a_typed_script_refuses(body: bytes, message: str, typed: EntryScript) -> None:
    """Row 26."""
    with pytest.raises(UndecodableInput) as caught:
        typed.arguments(ScoringRequest(body, JSON))
    assert str(caught.value) == message


@pytest.mark.keep
@pytest.mark.parametrize("headers", [(), ((b"content-type", b"text/plain"),)])
def test_a_typed_script_wants_json(headers: Any, typed: EntryScript) -> None:
    """Row 26: 415, and nothing is asked of a GET."""
    with pytest.raises(UnsupportedContentType) as caught:
        typed.arguments(ScoringRequest(b'{"data": [[1, 2]], "name": "n"}', headers))
    assert str(caught.value) == "Expects Content-Type to be application/json"
    got = ScoringRequest(b"", headers, method="GET", query=b"data=[[1,2]]&name=n")
    assert typed.arguments(got)["name"] == "n"


# --- loading twice --------------------------------------------------------------------------------
