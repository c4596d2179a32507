"""The rules of the house: layers, where the environment is read, what importing does, the names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import scoring_runtime
from scoring_runtime import errors
from scoring_runtime.messages import ScoringRequest, ScoringResponse

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "scoring_runtime"

# A module imports only from rows with a smaller number: never from its own row, never from below.
# A new module needs a place here.
LAYERS = {
    "azureml.core.authentication": 0,
    "azureml.core.container_registry": 0,
    "azureml.core.resource_configuration": 0,
    "errors": 0,
    "formats.mlflow_answers": 0,
    "functions.invocations": 0,
    "local_process": 0,
    "messages": 0,
    "model_kinds": 1,
    "no_code.fitted": 0,
    "pickled": 0,
    "no_code.onnx_options": 0,
    "packaging.document": 0,
    "packaging.environments_names": 0,
    "packaging.import_statements": 0,
    "packaging.specification": 0,
    "payloads": 0,
    "release": 0,
    "setting_kinds": 0,
    "secret_values": 0,
    "stand_ins": 0,
    "standalone.files": 0,
    "standalone.place": 0,
    "standard_streams": 0,
    "stores": 0,
    "value_texts": 0,
    "aml_http": 1,
    "array_values": 1,
    "azureml.exceptions": 1,
    "conversion": 1,
    "formats.arrow_flatbuffers": 1,
    "formats.binary_tensors": 1,
    "formats.json_tensors": 1,
    "formats.npy": 1,
    "http_messages": 1,
    "import_aliases": 1,
    "local_record": 1,
    "manifest": 1,
    "mlflow_config": 1,
    "models": 1,
    "named_outputs": 1,
    "packaging.azure_commands": 1,
    "packaging.dockerfile": 1,
    "packaging.environments_files": 1,
    "packaging.ignore_rules": 1,
    "packaging.image": 1,
    "results": 1,
    "scoring_thread": 1,
    "settings": 1,
    "telemetry": 1,
    "azureml.contrib.services.aml_request": 2,
    "azureml.contrib.services.aml_response": 2,
    "azureml.core.conda_dependencies": 2,
    "azureml.core.virtual_environment": 2,
    "blob_paths": 2,
    "cache_values": 2,
    "coercion": 2,
    "connections": 2,
    "cors": 2,
    "formats.arrow_messages": 2,
    "formats.guarded_json": 2,
    "model_loading": 2,
    "no_code.mlflow_signature": 2,
    "packaging.environments_conda": 2,
    "packaging.environments_wheels": 2,
    "packaging.host_files": 2,
    "packaging.imported_modules": 2,
    "packaging.instructions": 2,
    "packaging.resolution_output": 2,
    "packaging.source_folder": 2,
    "redis_clients": 2,
    "registry": 2,
    "request_ids": 2,
    "scorer": 2,
    "settings_table": 2,
    "standalone.framing": 2,
    "standalone.supervisor": 2,
    "standard_values": 2,
    "arguments": 3,
    "azureml_model": 3,
    "formats.arrow_stream": 3,
    "formats.csv_records": 3,
    "formats.infer_tensors": 3,
    "formats.json_lines": 3,
    "formats.mlflow_json": 3,
    "formats.table": 3,
    "models_cli": 3,
    "no_code.mlflow_columns": 3,
    "no_code.mlflow_onnx": 3,
    "no_code.mlflow_tensors": 3,
    "no_code.onnx": 3,
    "packaging.environments_lines": 3,
    "packaging.model_files": 3,
    "packaging.resolution": 3,
    "packaging.secret_texts": 3,
    "packaging.sources": 3,
    "redis_store": 3,
    "service_bus_client": 3,
    "standalone.folder": 11,
    "standalone.storage_errors": 3,
    "stored_inputs": 3,
    "typed_arrays": 3,
    "typed_frames": 3,
    "azureml.core.workspace_folders": 4,
    "diagnosis": 3,
    "entry_script": 4,
    "formats.answers": 4,
    "formats.csv_table": 4,
    "formats.open_inference": 4,
    "mlflow_sources": 4,
    "no_code.input_frame": 4,
    "no_code.mlflow_flavours": 4,
    "no_code.sample": 4,
    "packaging.app_settings": 4,
    "packaging.environments": 4,
    "schema": 4,
    "azureml.core.environment_sections": 5,
    "no_code.mlflow_model": 5,
    "no_code.scikit_learn": 5,
    "packaging.inference_config": 5,
    "packaging.requirements_mlflow": 5,
    "served": 5,
    "typed_calls": 5,
    "azureml.core.environment": 6,
    "invocation": 6,
    "no_code.loading": 6,
    "packaging.requirements": 6,
    "azureml.core.inference_config": 7,
    "error_responses": 7,
    "model_invocation": 7,
    "packaging.contents": 7,
    "streams": 7,
    "azureml.core.local_deployment": 8,
    "model_schema": 8,
    "packaging.context": 8,
    "azureml.core.model_package": 9,
    "local_host": 9,
    "package_command": 9,
    "runtime": 9,
    "azureml.contrib.functions": 10,
    "cache": 10,
    "local_service": 10,
    "model_routes": 10,
    "outcomes": 10,
    "package_cli": 10,
    "standalone.connection": 10,
    "azureml.core.local_description": 11,
    "azureml.core.local_scoring": 11,
    "caching": 11,
    "endpoint": 11,
    "functions.blob": 11,
    "mlflow_deployments": 11,
    "queue_messages": 11,
    "standalone.blob": 11,
    "standalone.container": 11,
    "standalone.http": 11,
    "azureml.core.webservice": 12,
    "functions.http": 12,
    "replies": 12,
    "azureml.core.model": 13,
    "functions.links": 13,
    "queue_scoring": 13,
    "standalone.received": 13,
    "azureml.core.workspace": 14,
    "functions.service_bus": 14,
    "standalone.reception": 14,
    "functions.app": 15,
    "standalone.service_bus": 15,
    "standalone.triggers": 16,
    "standalone.worker": 17,
    "standalone.serve": 18,
    "cli": 19,
    "__main__": 20,
}
# local_host starts a process, which gets the environment of this one.
READS_THE_ENVIRONMENT = {
    "function_app.py",
    "scoring_runtime/cli.py",
    "scoring_runtime/local_host.py",
}
FRAMEWORKS = {
    "azure.functions": "functions",
    "azure.storage": "standalone",
    "uvicorn": "standalone",
    "httptools": "standalone",
    "uvloop": "standalone",
}


def module_name(path: Path) -> str:
    """``scoring_runtime/functions/app.py`` → ``functions.app``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def module_files() -> dict[str, Path]:
    found = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: path for name, path in found.items() if not name.endswith("__init__")}


MODULES = module_files()


def imported(path: Path) -> Iterator[str]:
    """Absolute dotted names that a file imports anywhere, functions included."""
    package = ["scoring_runtime", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, by their names in ``LAYERS``."""
    found = set()
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "scoring_runtime":
            continue
        candidates = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
        match = next((each for each in candidates if each in MODULES), None)
        assert match is not None, f"{path.name} imports {name}, which is no module of the package"
        found.add(match)
    return found


# --- the layers -----------------------------------------------------------------------------------


def test_every_module_has_a_place_in_a_layer() -> None:
    """The table above names exactly the modules there are."""
    assert set(LAYERS) == set(MODULES)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_a_module_imports_from_lower_layers_only(name: str) -> None:
    """Neither from a higher layer nor from a sibling of its own, lazily in a function included."""
    layer = LAYERS[name]
    wrong = {each: LAYERS[each] for each in own_imports(MODULES[name]) if LAYERS[each] >= layer}
    assert wrong == {}


def test_the_layer_test_sees_the_imports_it_judges() -> None:
    """Relative, nested and module imports are all found: without that the rule is empty."""
    assert own_imports(MODULES["functions.app"]) == {
        "caching",
        "connections",
        "diagnosis",
        "errors",
        "messages",
        "outcomes",
        "runtime",
        "settings",
        "standard_streams",
        "telemetry",
        "functions.blob",
        "functions.http",
        "functions.service_bus",
    }
    assert "aml_http" in own_imports(MODULES["arguments"])  # inside a function
    assert "standalone.serve" in own_imports(MODULES["cli"])


@pytest.mark.parametrize(
    ("one", "other"), [("functions", "standalone"), ("standalone", "functions")]
)
def test_the_two_hosts_never_import_each_other(one: str, other: str) -> None:
    """Neither host knows of the other."""
    for name, path in MODULES.items():
        if name.startswith(f"{one}."):
            assert not {each for each in own_imports(path) if each.startswith(f"{other}.")}


@pytest.mark.parametrize(("framework", "home"), sorted(FRAMEWORKS.items()))
def test_a_hosts_framework_is_imported_in_its_folder_only(framework: str, home: str) -> None:
    """The core imports no host framework."""
    users = {name for name, path in MODULES.items() if _uses(path, framework)}
    assert users
    assert {name for name in users if not name.startswith(f"{home}.")} == set()


def _uses(path: Path, framework: str) -> bool:
    return any(f"{name}.".startswith(f"{framework}.") for name in imported(path))


def test_the_service_bus_sdk_is_imported_by_the_senders_and_receivers_only() -> None:
    """A process without that trigger does not load it."""
    users = {name for name, path in MODULES.items() if _uses(path, "azure.servicebus")}
    assert users == {
        "functions.links",
        "replies",
        "service_bus_client",
        "standalone.received",
        "standalone.reception",
    }


def test_the_packages_of_the_hosts_import_nothing() -> None:
    """``scoring_runtime.functions`` and ``.standalone`` are folders, not code."""
    for folder in ("functions", "standalone"):
        assert list(imported(PACKAGE / folder / "__init__.py")) == []


# --- the environment ------------------------------------------------------------------------------


def _environment_uses(path: Path) -> list[int]:
    names = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in names:
            lines += [node.lineno] if getattr(node.value, "id", "") == "os" else []
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            lines += [node.lineno for alias in node.names if alias.name in names]
    return lines


def test_the_environment_is_read_in_the_two_composition_roots_only() -> None:
    """``os.environ`` is handed down as a mapping from function_app.py and cli.py."""
    files = [REPOSITORY / "function_app.py", *PACKAGE.rglob("*.py")]
    users = {str(path.relative_to(REPOSITORY)) for path in files if _environment_uses(path)}
    assert users == READS_THE_ENVIRONMENT


# --- what importing does --------------------------------------------------------------------------


def _answer(code: str) -> object:
    """What ``code`` prints as JSON, run by a fresh interpreter in which warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer: object = json.loads(done.stdout)
    return answer


def test_importing_the_package_imports_no_framework_and_no_model_library() -> None:
    """``import scoring_runtime`` brings none of its own modules and none of these in."""
    loaded = _answer(
        "import sys, json; before = set(sys.modules); import scoring_runtime;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert isinstance(loaded, list)
    assert [name for name in loaded if name.startswith("scoring_runtime.")] == []
    heavy = {"numpy", "pandas", "azure", "werkzeug", "flask", "uvicorn", "orjson", "asyncio"}
    assert {name.partition(".")[0] for name in loaded} & heavy == set()


_STATE = """
import builtins, importlib, json, logging, os, signal, sys, threading

def state():
    loggers = sorted(
        (name, each.level, len(each.handlers), each.propagate, len(each.filters))
        for name, each in logging.root.manager.loggerDict.items()
        if name.startswith("azmlinfsrv") and isinstance(each, logging.Logger)
        and (each.level, each.handlers, each.propagate, each.filters) != (0, [], True, [])
    )
    return [
        threading.active_count(), list(sys.path), [repr(type(f)) for f in sys.meta_path],
        dict(os.environ), os.getcwd(), builtins.print.__module__, len(logging.root.handlers),
        logging.root.level, loggers, str(signal.getsignal(signal.SIGTERM)), sorted(os.listdir()),
    ]
"""


def test_importing_any_module_does_no_work() -> None:
    """No thread, path, import hook, variable, logger, signal handler or file is touched."""
    names = [f"scoring_runtime.{name}" for name in sorted(MODULES)]
    changed = _answer(
        f"{_STATE}\nbefore = state()\n"
        f"for name in {names!r}:\n    importlib.import_module(name)\n"
        "after = state()\n"
        "print(json.dumps([[b, a] for b, a in zip(before, after) if b != a]))"
    )
    assert changed == []


# --- the public names -----------------------------------------------------------------------------

PUBLIC = {
    "AMLRequest": "scoring_runtime.aml_http",
    "AMLResponse": "scoring_runtime.aml_http",
    "InputError": "scoring_runtime.errors",
    "Model": "scoring_runtime.azureml_model",
    "ScoringRequest": "scoring_runtime.messages",
    "ScoringResponse": "scoring_runtime.messages",
    "Settings": "scoring_runtime.settings",
    "build": "scoring_runtime.runtime",
    "load_model": "scoring_runtime.model_loading",
    "model_path": "scoring_runtime.models",
    "rawhttp": "scoring_runtime.aml_http",
}


def test_the_public_names_are_these() -> None:
    """A name more or less is a decision, not an accident."""
    assert scoring_runtime.__all__ == sorted([*PUBLIC, "redis_client"])
    assert scoring_runtime.redis_client is None  # without settings there is none


@pytest.mark.parametrize(("name", "home"), PUBLIC.items())
def test_a_public_name_is_the_one_of_its_module(name: str, home: str) -> None:
    """Each resolves to the object its module defines."""
    assert getattr(scoring_runtime, name) is getattr(import_module(home), name)
    assert getattr(scoring_runtime, name).__module__ == home


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """As of any module, so that hasattr() and ``from … import`` work."""
    with pytest.raises(AttributeError, match=r"^module 'scoring_runtime' has no attribute 'nope'$"):
        _ = scoring_runtime.nope


# --- the errors -----------------------------------------------------------------------------------


def _drawn_tree() -> dict[str, str]:
    """Class → base, as the docstring of errors.py draws them."""
    parents: list[tuple[int, str]] = []
    found: dict[str, str] = {}
    for line in str(errors.__doc__).splitlines():
        match = re.match(r"( {4}[ │├└─]*)([A-Z]\w+)", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        while parents and parents[-1][0] >= depth:
            parents.pop()
        found[name] = parents[-1][1] if parents else "Exception"
        parents.append((depth, name))
    return found


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    """What errors.py draws is what it defines."""
    classes = {
        name: each.__bases__[0].__name__
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, Exception)
    }
    assert _drawn_tree() == classes
    assert len(classes) == 37


def test_no_error_knows_an_http_status() -> None:
    """Each trigger turns errors into its own outcome; none is written in the tree."""
    source = (PACKAGE / "errors.py").read_text(encoding="utf-8")
    assert re.findall(r"\b[1-5]\d\d\b", source) == ["100"]  # characters of a request id
    assert [
        name for name in dir(errors.InputError("x")) if "status" in name or "code" in name
    ] == []


# --- the messages ---------------------------------------------------------------------------------


def test_a_request_needs_only_a_body() -> None:
    """A queue message is a POST to /score without headers."""
    assert ScoringRequest(b"x") == (
        *(b"x", (), "POST", "/score", b"", "", "http", "", None),
        *("", False),
    )


@pytest.mark.parametrize(
    ("name", "value"), [(b"a", b"1"), (b"b", b"2"), (b"A", b""), (b"missing", b"")]
)
def test_a_header_is_its_first_line(name: bytes, value: bytes) -> None:
    """The first of several lines; ``b""`` when there is none."""
    request = ScoringRequest(b"", ((b"a", b"1"), (b"b", b"2"), (b"a", b"3")))
    assert request.header(name) == value


def test_messages_cannot_be_changed() -> None:
    """Wrappers of the same shape may share them."""
    with pytest.raises(AttributeError):
        ScoringRequest(b"").body = b"other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        ScoringResponse(200, b"", (), 0.0).status = 500  # type: ignore[misc]
