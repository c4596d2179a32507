"""The rules of the house: layers, where the environment is read, what importing does, the names."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import scoring_runtime
from scoring_runtime import errors
from scoring_runtime.messages import ScoringRequest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "scoring_runtime"

# From the ground up. A package imports only from those above it in this list, and inside a package
# the modules form no cycle. A new package needs a place here.
PACKAGES = (
    "errors",
    "messages",
    "release",
    "values",
    "settings",
    "telemetry",
    "connections",
    "formats",
    "models",
    "script",
    "no_code",
    "scoring",
    "cache",
    "http",
    "recording",
    "triggers",
    "testing",
    "functions",
    "standalone",
    "batch",
    "packaging",
    "check",
    "local_services",
    "azureml",
    "mlflow_target",
    "cli",
    "__main__",
)
# local_host and check start a process, which gets the environment of this one. A script under test
# finds its model folder there.
READS_THE_ENVIRONMENT = {
    "function_app.py",
    "scoring_runtime/check/process.py",
    "scoring_runtime/cli/main.py",
    "scoring_runtime/local_services/host.py",
    "scoring_runtime/testing/under_test.py",
}
FRAMEWORKS: dict[str, str | tuple[str, ...]] = {
    "azure.functions": "functions",
    "azure.storage": ("standalone", "recording"),
    "uvicorn": "standalone",
    "httptools": "standalone",
    "uvloop": "standalone",
    "watchfiles": "standalone",
}


def module_name(path: Path) -> str:
    """``scoring_runtime/functions/app.py`` → ``functions.app``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def module_files() -> dict[str, Path]:
    found = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: path for name, path in found.items() if not name.endswith("__init__")}


MODULES = module_files()


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    """Absolute dotted names that a file imports anywhere, functions included."""
    package = ["scoring_runtime", *path.relative_to(PACKAGE).parent.parts]
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            found += (f"{start}.{alias.name}" for alias in node.names)
    return tuple(found)


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, by their names in ``MODULES``."""
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


# --- the packages ---------------------------------------------------------------------------------


def package(module: str) -> str:
    return module.partition(".")[0]


def test_the_root_has_the_ground_and_the_packages_only() -> None:
    """The list above names exactly what there is."""
    assert {package(each) for each in MODULES} == set(PACKAGES)
    assert {each for each in MODULES if "." not in each} == {
        "__main__", "errors", "messages", "release",
    }  # fmt: skip


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_imports_from_those_below_it_only(name: str) -> None:
    """Lazily in a function included."""
    below = set(PACKAGES[: PACKAGES.index(name) + 1])
    wrong = {
        module: sorted(each for each in own_imports(path) if package(each) not in below)
        for module, path in MODULES.items()
        if package(module) == name
    }
    assert {module: each for module, each in wrong.items() if each} == {}


@pytest.mark.parametrize("name", PACKAGES)
def test_the_modules_of_a_package_form_no_cycle(name: str) -> None:
    """Lazily in a function included."""
    inside = {module: path for module, path in MODULES.items() if package(module) == name}
    graph = {module: own_imports(path) & inside.keys() for module, path in inside.items()}
    list(TopologicalSorter(graph).static_order())


def test_the_layer_test_sees_the_imports_it_judges() -> None:
    """Relative, nested and module imports are all found: without that the rule is empty."""
    found = own_imports(MODULES["functions.app"])
    assert {"cache.build", "errors", "functions.blob", "scoring.runtime"} <= found
    assert "script.aml_http" in own_imports(MODULES["script.arguments"])  # inside a function
    assert "standalone.serve" in own_imports(MODULES["cli.main"])


@pytest.mark.parametrize(
    ("one", "other"), [("functions", "standalone"), ("standalone", "functions")]
)
def test_the_two_hosts_never_import_each_other(one: str, other: str) -> None:
    """Neither host knows of the other."""
    for name, path in MODULES.items():
        if name.startswith(f"{one}."):
            assert not {each for each in own_imports(path) if each.startswith(f"{other}.")}


@pytest.mark.parametrize(("framework", "home"), FRAMEWORKS.items())
def test_a_hosts_framework_is_imported_in_its_folder_only(
    framework: str, home: str | tuple[str, ...]
) -> None:
    """The core imports no host framework."""
    users = {name for name, path in MODULES.items() if _uses(path, framework)}
    assert users
    homes = (home,) if isinstance(home, str) else home
    assert {name for name in users if package(name) not in homes} == set()


def _uses(path: Path, framework: str) -> bool:
    return any(f"{name}.".startswith(f"{framework}.") for name in imported(path))


def test_the_service_bus_sdk_is_imported_by_the_senders_and_receivers_only() -> None:
    """A process without that trigger does not load it."""
    users = {name for name, path in MODULES.items() if _uses(path, "azure.servicebus")}
    assert users == {
        "connections.service_bus",
        "functions.service_bus",
        "standalone.locks",
        "standalone.received",
        "standalone.reception",
        "triggers.replies",
    }


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
    "AMLRequest": "scoring_runtime.script.aml_http",
    "AMLResponse": "scoring_runtime.script.aml_http",
    "InputError": "scoring_runtime.errors",
    "Model": "scoring_runtime.models.model",
    "ScoringRequest": "scoring_runtime.messages",
    "ScoringResponse": "scoring_runtime.messages",
    "Settings": "scoring_runtime.settings.settings",
    "batched": "scoring_runtime.script.batched",
    "build": "scoring_runtime.scoring.runtime",
    "load_model": "scoring_runtime.models.loading",
    "model_path": "scoring_runtime.models.folder",
    "rawhttp": "scoring_runtime.script.aml_http",
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
    assert len(classes) == 41


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
        *("", False, None),
    )


@pytest.mark.parametrize(
    ("name", "value"), [(b"a", b"1"), (b"b", b"2"), (b"A", b""), (b"missing", b"")]
)
def test_a_header_is_its_first_line(name: bytes, value: bytes) -> None:
    """The first of several lines; ``b""`` when there is none."""
    request = ScoringRequest(b"", ((b"a", b"1"), (b"b", b"2"), (b"a", b"3")))
    assert request.header(name) == value
